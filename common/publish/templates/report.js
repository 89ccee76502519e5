// Shows one view at a time: the section or result that the address names, a page inside a frame, or what was searched
// for. Files are unpacked when they are needed.
"use strict";

const main = document.getElementById("main"), page = document.getElementById("page"), search = document.getElementById("search");
const said = document.getElementById("said"), words = document.getElementById("words");
const stored = Object.fromEntries([...document.querySelectorAll("script[data-name]")].map((node) => [node.dataset.name, node]));
const addresses = {};

async function unpacked(name) {
  const { textContent, dataset } = stored[name];
  const bytes = Uint8Array.from(atob(textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Blob([await new Response(stream).arrayBuffer()], { type: dataset.type });
}

async function address(name) {
  addresses[name] ??= URL.createObjectURL(await unpacked(name));
  return addresses[name];
}

async function download(name) {
  const link = document.createElement("a");
  link.href = await address(name);
  link.download = name.replaceAll("/", "-");
  link.click();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-file]");
  if (button) download(button.dataset.file);
});

const titleOf = (article) => article.querySelector("h2, h3").textContent;
const article = (name) => document.querySelector(`article[data-name="${CSS.escape(name)}"]`);

let started = false;
function view(section, title) {
  for (const other of main.querySelectorAll(":scope > section")) other.hidden = other !== section;
  const heading = section.querySelector("h1");
  if (title) heading.textContent = title;
  document.title = section.id === "front" ? "Landmarks" : `${heading.textContent} – Landmarks`;
  for (const link of document.querySelectorAll("nav a")) {
    if ([`#${section.id}`, location.hash].includes(link.getAttribute("href"))) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  for (const image of section.querySelectorAll("img[data-name]:not([src])")) {
    address(image.dataset.name).then((found) => { image.src = found; });
  }
  if (started && section !== search) heading.focus(); // what was pressed may be gone, and the focus with it
}

async function showPage(name) {
  page.querySelector("iframe")?.remove();
  page.querySelector("button").dataset.file = name;
  const frame = document.createElement("iframe");
  frame.title = titleOf(article(name));
  frame.src = await address(name);
  page.append(frame);
  view(page, frame.title);
}

function route() {
  const wanted = decodeURIComponent(location.hash.slice(1)) || "front";
  if (wanted.startsWith("show=") && stored[wanted.slice(5)]) return showPage(wanted.slice(5));
  const target = document.getElementById(wanted);
  const section = target?.closest("main > section") || document.getElementById("front");
  view(section);
  if (target && target !== section) target.scrollIntoView();
  else main.scrollTop = 0;
  return undefined;
}

let later;
function find() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  if (!wanted.length) return route();
  const list = search.querySelector("ul");
  list.replaceChildren();
  for (const one of document.querySelectorAll("article")) {
    const caption = one.querySelector(".caption").textContent;
    const text = `${titleOf(one)} ${caption} ${one.dataset.name}`.toLowerCase();
    if (!wanted.every((word) => text.includes(word))) continue;
    const link = document.createElement("a");
    link.href = `#${one.id}`;
    link.textContent = `${one.closest("section").querySelector("h1").textContent}: ${titleOf(one)}`;
    list.append(document.createElement("li"));
    list.lastChild.append(link);
  }
  const count = `${list.children.length} found`;
  document.getElementById("count").textContent = count;
  clearTimeout(later);
  later = setTimeout(() => { said.textContent = count; }, 1500); // in the same burst of changes it would not be spoken
  return view(search);
}

words.oninput = find;
words.form.onsubmit = () => { find(); return false; };
document.querySelector("a.skip").onclick = (event) => {
  event.preventDefault();
  main.focus();
};
addEventListener("hashchange", route);
route();
started = true;
