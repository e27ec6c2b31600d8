"use strict";

const root = document.documentElement;

// ---- theme: the system's, unless the reader has chosen
function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function remember(storage, key, value) {
  try { storage.setItem(key, value); } catch { /* the browser keeps nothing for this page */ }
}

function recall(storage, key) {
  try { return storage.getItem(key); } catch { return null; }
}

function nameTheme() {
  document.getElementById("theme").textContent = isDark() ? "Light" : "Dark";
}

document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  remember(localStorage, "partrain-theme", root.dataset.theme);
  nameTheme();
  draw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { nameTheme(); draw(); });
nameTheme();

// ---- figures: their data wait in script elements; black there is the page's ink, white its panels
function themed(text) {
  const style = getComputedStyle(root);
  const colour = (name) => style.getPropertyValue(name).trim();
  const swapped = { '"#000000"': colour("--black"), '"#ffffff"': colour("--panel") };
  const figure = JSON.parse(text.replace(/"#(000000|ffffff)"/g, (found) => JSON.stringify(swapped[found])));
  const layout = figure.layout;
  Object.assign(layout, { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true });
  layout.font = { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: colour("--ink") };
  layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: colour("--muted"), activecolor: colour("--ink") };
  layout.hoverlabel = { bgcolor: colour("--panel"), bordercolor: colour("--line"), font: { color: colour("--ink") } };
  for (const axis of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
    layout[axis] = { gridcolor: colour("--grid"), linecolor: colour("--line"), zeroline: false, tickcolor: colour("--line"),
      tickfont: { color: colour("--muted") }, ...layout[axis] };
  }
  return figure;
}

const hovers = matchMedia("(hover: hover)").matches; // no tool bar over the figures where nothing can hover

function draw() {
  if (!window.Plotly) return;
  for (const place of document.querySelectorAll(".plot")) {
    const { data, layout } = themed(place.nextElementSibling.textContent);
    Plotly.react(place, data, layout, { displaylogo: false, responsive: true, displayModeBar: hovers ? "hover" : false,
      modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] });
  }
}

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

async function start() {
  const packed = document.getElementById("plotly");
  if (!packed) return;
  const script = document.createElement("script");
  script.textContent = await unpack(packed.textContent);
  document.head.append(script);
  draw();
}

start().catch((error) => {
  for (const place of document.querySelectorAll(".plot")) {
    place.innerHTML = "<p>This browser cannot unpack the figures; a newer one can.</p>";
  }
  console.error(error);
});

// ---- tables: a click on a column's head sorts by it, numbers as numbers, what is empty last
function key(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.value ?? cell.textContent.trim();
  return text !== "" && !isNaN(text) ? Number(text) : text;
}

function compare(a, b) {
  if (a === "" || b === "") return 0;
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
}

function sort(head) {
  const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const body = head.closest("table").tBodies[0];
  const sign = order === "ascending" ? 1 : -1;
  const keyed = [...body.rows].map((row) => [key(row, head.cellIndex), row]);
  keyed.sort(([a], [b]) => (a === "") - (b === "") || sign * compare(a, b));
  body.append(...keyed.map(([, row]) => row));
}

for (const head of document.querySelectorAll("th")) {
  head.querySelector("button").addEventListener("click", () => sort(head));
}

// ---- the command's copy button
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const text = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}

// ---- a page that is written anew while training goes on stays where it was read
const place = "partrain-place " + location.pathname;
const found = JSON.parse(recall(sessionStorage, place) ?? "null");
if (found) {
  for (const [index, details] of document.querySelectorAll("details").entries()) details.open = found.open[index] ?? details.open;
  history.scrollRestoration = "manual";
  if (!location.hash || found.live) scrollTo({ top: found.top, behavior: "instant" });
}
addEventListener("pagehide", () => {
  const open = [...document.querySelectorAll("details")].map((details) => details.open);
  remember(sessionStorage, place, JSON.stringify({ top: scrollY, open, live: "live" in root.dataset }));
});
