// Filters the rows. The count is spoken a while after the rows have changed: screen readers drop what comes in the same
// burst of events.
const words = document.getElementById("words"), verdict = document.getElementById("verdict");
const found = document.getElementById("found"), said = document.getElementById("said");
const rows = [...document.querySelectorAll("tr[data-verdict]")];
let later;
function filter() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const text = (row.parentNode.dataset.name + " " + row.textContent).toLowerCase();
    row.hidden = !((!verdict.value || row.dataset.verdict === verdict.value) && wanted.every((word) => text.includes(word)));
    shown += !row.hidden;
  }
  for (const body of document.querySelectorAll("tbody")) body.hidden = !body.querySelector("tr[data-verdict]:not([hidden])");
  found.textContent = shown + " of " + rows.length + " claims";
  clearTimeout(later);
  later = setTimeout(() => { said.textContent = found.textContent; }, 1500);
}
words.oninput = verdict.onchange = filter;
words.form.onsubmit = () => false;
filter();
