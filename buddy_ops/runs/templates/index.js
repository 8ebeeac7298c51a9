const body=document.querySelector('tbody'),boxes=[...document.querySelectorAll('input')];
const rows=[...body.rows].reverse();body.append(...rows);
const has=(row,column,text)=>row.cells[column].textContent.toLowerCase().includes(text);
function show(){let n=0;for(const row of rows){row.hidden=!boxes.every(box=>{const text=box.value.trim().toLowerCase();
if(!text)return true;const at=row.cells[0].textContent.slice(0,10);
return box.name==='from'?at>=text:box.name==='to'?at<=text:has(row,+box.name,text)});n+=!row.hidden}
document.querySelector('output').value=n+' of '+rows.length+' runs'}
for(const box of boxes)box.addEventListener('input',show);show();
