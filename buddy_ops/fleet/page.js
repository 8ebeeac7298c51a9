const body=document.querySelector('tbody'),box=document.querySelector('input'),rows=[...body.rows];
const heads=[...document.querySelectorAll('th')],kept=new URLSearchParams(location.hash.slice(1));
function keep(name,value){kept.set(name,value);history.replaceState(null,'','#'+kept)}
function show(){const words=box.value.toLowerCase().split(/\s+/).filter(Boolean);let n=0;
for(const row of rows){const text=row.textContent.toLowerCase();row.hidden=!words.every(word=>text.includes(word));n+=!row.hidden}
document.querySelector('output').value=n+' of '+rows.length+' targets'}
function key(row,column){const cell=row.cells[column];
return 'key' in cell.dataset?(cell.dataset.key===''?-Infinity:+cell.dataset.key):cell.textContent.trim().toLowerCase()}
function sort(column,down){
for(const each of heads)if(each.hasAttribute('aria-sort'))each.setAttribute('aria-sort','none');
heads[column].setAttribute('aria-sort',down>0?'ascending':'descending');
const order=[...rows].sort((a,b)=>{const x=key(a,column),y=key(b,column);return (x<y?-1:x>y?1:0)*down});
body.append(...order)}
heads.forEach((head,column)=>{const button=head.querySelector('button');if(!button)return;
button.addEventListener('click',()=>{const down=head.getAttribute('aria-sort')==='ascending'?-1:1;
sort(column,down);keep('sort',down*(column+1))})});
box.addEventListener('input',()=>{show();keep('filter',box.value)});
box.value=kept.get('filter')||'';const by=+kept.get('sort')||0;
if(heads[Math.abs(by)-1]?.querySelector('button'))sort(Math.abs(by)-1,Math.sign(by));
show();const again=+document.querySelector('main').dataset.reload;
if(again)setInterval(()=>document.querySelector('details[open]')||location.reload(),again*1000);
