const body=document.querySelector('tbody'),box=document.querySelector('input'),rows=[...body.rows];
const heads=[...document.querySelectorAll('th')];
function show(){const words=box.value.toLowerCase().split(/\s+/).filter(Boolean);let n=0;
for(const row of rows){const text=row.textContent.toLowerCase();row.hidden=!words.every(word=>text.includes(word));n+=!row.hidden}
document.querySelector('output').value=n+' of '+rows.length+' targets'}
function key(row,column){const cell=row.cells[column];
return 'key' in cell.dataset?(cell.dataset.key===''?-Infinity:+cell.dataset.key):cell.textContent.trim().toLowerCase()}
heads.forEach((head,column)=>{const button=head.querySelector('button');if(!button)return;
button.addEventListener('click',()=>{const down=head.getAttribute('aria-sort')==='ascending'?-1:1;
for(const each of heads)if(each.hasAttribute('aria-sort'))each.setAttribute('aria-sort','none');
head.setAttribute('aria-sort',down>0?'ascending':'descending');
const order=[...rows].sort((a,b)=>{const x=key(a,column),y=key(b,column);return (x<y?-1:x>y?1:0)*down});
body.append(...order)})});
box.addEventListener('input',show);show();
