// Laid over Snakemake's report: unpacks the figures and pages, hands out the data behind them, and names everything for
// screen readers. What it adds to the page stands beside React's own nodes, which may be replaced at any time.
"use strict";

const packed = JSON.parse(document.getElementById("packed").textContent);
const ICONS = { "M10 12a2": "Show", "M18 10a8": "About", "M10.707 2": "Front page" };
const TITLES = { metadata: "", rulegraph: "Workflow", stats: "Statistics", text: "Licence" };

async function unpacked(text, type) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Blob([await new Response(stream).arrayBuffer()], { type });
}

// Figures and pages: the report reads `data_uri` when one is opened.
const ready = Promise.all(
  Object.entries(packed.results).map(async ([path, text]) => {
    const blob = await unpacked(text, results[path].mime_type);
    results[path].data_uri = URL.createObjectURL(blob);
  }),
).then(() => {
  const { content, contentPath, resultPath } = app.state;
  if (["img", "html"].includes(content) && !contentPath) showResult(resultPath);
});

async function showResult(path) {
  await ready;
  const kinds = { "text/html": "html", "application/pdf": "pdf" };
  const content = kinds[results[path].mime_type] || "img";
  app.setView({ content, contentPath: results[path].data_uri, resultPath: path });
}

async function download(name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await unpacked(packed.files[name], "application/octet-stream"));
  link.download = name.replaceAll("/", "-");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-file], [data-result]");
  if (button?.dataset.file) download(button.dataset.file);
  if (button?.dataset.result) showResult(button.dataset.result);
});

function made(tag, text, attributes = {}) {
  const node = document.createElement(tag);
  node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null) node.removeAttribute(name);
    else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  }
}

// What a result is called: its labels, with a figure that has only a file name made readable.
function about(path) {
  const { figure, ...others } = results[path].labels || {};
  const labels = Object.values(others);
  const name = figure || (labels.length ? "" : path.split("/").pop().replace(/\.\w+$/, ""));
  const readable = name.replaceAll("_", " ");
  return [readable.charAt(0).toUpperCase() + readable.slice(1), ...labels].filter(Boolean).join(", ");
}

const plain = (html) => new DOMParser().parseFromString(html, "text/html").body.textContent.trim();

// The result that is shown. The menu may meanwhile be about another one, so its path alone does not tell.
function shown() {
  const { content, contentPath, resultPath } = app.state;
  if (!["img", "html", "pdf"].includes(content) || !contentPath) return null;
  if (results[resultPath]?.data_uri === contentPath) return resultPath;
  return Object.keys(results).find((path) => results[path].data_uri === contentPath) || null;
}

// When the menu shows another part, React removes the link that was pressed, and the focus with it: it goes to the line that
// says where one is. Only after a key or a click, so that nothing moves while the page loads.
let used = false, place;
for (const kind of ["keydown", "pointerdown"]) addEventListener(kind, () => { used = true; }, true);
function follow(where) {
  const now = [...where.querySelectorAll("li")].map((item) => item.textContent.trim()).filter(Boolean).join(", ");
  set(where, { "aria-label": `Menu: ${now || "front page"}`, tabindex: "-1" });
  if (place !== undefined && place !== now && used && document.activeElement?.tagName !== "INPUT") where.focus();
  place = now;
}

// The heading above what is shown and, below a figure, its caption and data.
let last;
function frame(main) {
  const { content } = app.state;
  const path = shown();
  const key = `${content} ${path}`;
  if (key === last && (content === "metadata" || main.querySelector(".ours"))) return;
  last = key;
  main.querySelectorAll(".ours").forEach((node) => node.remove());
  const title = path ? about(path) : TITLES[content] || "";
  document.title = title ? `${title} – Landmarks` : "Landmarks";
  live.textContent = title ? `Showing ${title}` : "";
  if (!title) return;
  main.prepend(made("h1", title, { class: "ours" }));
  if (content !== "img" || !path) return;
  const below = made("div", "", { class: "ours caption" });
  below.append(made("p", plain(results[path].caption || ""), { "aria-hidden": "true" })); // the image is read as this
  const stem = path.replace(/^results\/[^/]+\//, "").replace(/\.[^.]+$/, "");
  for (const [ending, text] of Object.entries({ csv: "Data (CSV)", json: "Caption and sources (JSON)" })) {
    const name = `${stem}.${ending}`;
    if (packed.files[name]) below.append(made("button", text, { type: "button", "data-file": name }));
  }
  main.append(below);
}

function nameControls(nav, hidden) {
  for (const link of nav.querySelectorAll("a[type=button], nav a")) {
    const start = link.querySelector("svg path")?.getAttribute("d") || "";
    const found = Object.keys(ICONS).find((icon) => start.startsWith(icon));
    if (!found || link.textContent.trim()) continue;
    const row = link.closest("tr");
    const cells = row ? [...row.querySelectorAll("td")].map((cell) => cell.textContent.trim()).filter(Boolean) : [];
    const what = cells.join(", ") || "this step";
    set(link, { "aria-label": found === "M10.707 2" ? ICONS[found] : `${ICONS[found]} ${what}` });
    if (found === "M10 12a2") set(link, { "aria-current": row?.querySelector(".bg-slate-700") ? "true" : null });
  }
  for (const link of document.querySelectorAll("#app a[type=button]")) set(link, { role: "button", type: null });
  const [hide, show] = [nav.querySelector("h1 a"), document.querySelector("#app .fixed.z-50 a")];
  set(hide, { "aria-label": "Hide the menu", "aria-expanded": "true", role: "button" });
  set(show, { "aria-label": "Show the menu", "aria-expanded": "false", role: "button" });
  nav.inert = hidden;
  show.inert = !hidden;
}

function mend() {
  const nav = document.querySelector("#app nav");
  const main = document.querySelector("#app .grow.h-screen");
  if (!nav || !main) return;
  set(main, { role: "main", id: "main", tabindex: "0" }); // it scrolls, so keys must reach it
  set(nav, { "aria-label": "Report" });
  set(nav.querySelector("h1"), { role: "none" });
  for (const list of document.querySelectorAll("#app .gap-3 > ul")) set(list, { role: "none" }); // it holds no list items
  set(nav.querySelector("h1 img"), { alt: "" });
  for (const inner of nav.querySelectorAll("nav")) follow(inner);
  for (const button of main.querySelectorAll("[data-result]")) { // a file that older settings left is no result
    button.closest("li").hidden = !(button.dataset.result in results);
  }
  for (const input of nav.querySelectorAll("nav input")) {
    set(input, { "aria-label": "Search all results", type: "search", placeholder: null });
  }
  for (const icon of document.querySelectorAll("#app svg.h-4")) set(icon, { "aria-hidden": "true" });
  for (const table of nav.querySelectorAll("table")) set(table, { "aria-label": "Results" });
  for (const cell of nav.querySelectorAll("th")) {
    set(cell, { scope: "col", ...(cell.textContent ? {} : { "aria-label": "Show or explain" }) });
  }
  for (const [id, text] of Object.entries({ rulegraph: "All rules and how they depend on each other",
    runtimes: "Seconds that each rule took", timeline: "When each result was made" })) {
    for (const chart of document.querySelectorAll(`#${id} :is(canvas, svg.marks)`)) set(chart, { role: "img", "aria-label": text });
    for (const menu of document.querySelectorAll(`#${id} summary`)) {
      set(menu, { "aria-label": "Save the chart" });
      set(menu.querySelector("svg"), { "aria-hidden": "true" });
    }
  }
  const path = shown();
  for (const image of main.querySelectorAll(":scope > .p-3 > img")) {
    if (path) set(image, { alt: `${about(path)}. ${plain(results[path].caption || "")}` });
  }
  for (const inner of main.querySelectorAll(":scope > iframe")) set(inner, { title: path ? about(path) : "Page" });
  nameControls(nav, app.state.hideNavbar);
  frame(main);
}

const live = made("div", "", { role: "status", class: "unseen" });
document.body.prepend(made("a", "Skip to the content", { href: "#main", class: "skip" }));
document.body.append(live);
document.querySelector("a.skip").onclick = (event) => {
  event.preventDefault();
  document.getElementById("main").focus();
};
new MutationObserver(mend).observe(document.getElementById("app"), { childList: true, subtree: true, attributes: true, attributeFilter: ["class", "src"] });
mend();
