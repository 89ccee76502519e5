// Filters the rows. The count is spoken a while after the rows have changed: screen readers drop what comes in the same
// burst of events.
const [words, amended, ...choices] = ["words", "amended", "replication", "verdict", "tier"].map((id) => document.getElementById(id));
const found = document.getElementById("found"), said = document.getElementById("said");
const rows = [...document.querySelectorAll("tr[data-verdict]")];
let later;
function filter() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const text = (row.parentNode.dataset.name + " " + row.textContent).toLowerCase();
    const chosen = choices.every((choice) => !choice.value || row.dataset[choice.id] === choice.value);
    row.hidden = !(chosen && (!amended.checked || "amended" in row.dataset) && wanted.every((word) => text.includes(word)));
    shown += !row.hidden;
  }
  for (const body of document.querySelectorAll("tbody")) body.hidden = !body.querySelector("tr[data-verdict]:not([hidden])");
  found.textContent = shown + " of " + rows.length + " claims";
  clearTimeout(later);
  later = setTimeout(() => { said.textContent = found.textContent; }, 1500);
}
words.oninput = filter;
for (const control of [amended, ...choices]) control.onchange = filter;
words.form.onsubmit = () => false;
filter();
