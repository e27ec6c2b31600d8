"use strict";

const root = document.documentElement;

// ---- The theme: the system's, unless the reader has chosen one.
function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

// Browsers may refuse to store anything for a local file. The page works without it.
function store(storage, key, value) {
  try { storage.setItem(key, value); } catch { /* See above. */ }
}

function load(storage, key) {
  try { return storage.getItem(key); } catch { return null; }
}

function labelThemeButton() {
  document.getElementById("theme").textContent = isDark() ? "Light" : "Dark";
}

document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  store(localStorage, "partrain-theme", root.dataset.theme);
  labelThemeButton();
  drawFigures();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { labelThemeButton(); drawFigures(); });
labelThemeButton();

// ---- The figures: each one's JSON is in a script element. Black in it stands for the colour of text, white for that of panels.
function withThemeColours(text) {
  const style = getComputedStyle(root);
  const colour = (name) => style.getPropertyValue(name).trim();
  const swapped = { '"#000000"': colour("--black"), '"#ffffff"': colour("--panel") };
  const figure = JSON.parse(text.replace(/"#(000000|ffffff)"/g, (match) => JSON.stringify(swapped[match])));
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

const canHover = matchMedia("(hover: hover)").matches; // Touch screens get no tool bar over the figures.

function drawFigures() {
  if (!window.Plotly) return;
  for (const place of document.querySelectorAll(".plot")) {
    const { data, layout } = withThemeColours(place.nextElementSibling.textContent);
    Plotly.react(place, data, layout, { displaylogo: false, responsive: true, displayModeBar: canHover ? "hover" : false,
      modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] });
  }
}

async function decompress(packed) {
  const letters = atob(packed);
  const bytes = new Uint8Array(letters.length);
  for (let index = 0; index < letters.length; index++) bytes[index] = letters.charCodeAt(index);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

async function loadPlotly() {
  const packed = document.getElementById("plotly");
  if (!packed) return;
  const script = document.createElement("script");
  script.textContent = await decompress(packed.textContent);
  document.head.append(script);
  script.remove(); // It has run, and its 5 MB of text are not needed any more.
  drawFigures();
}

loadPlotly().catch((error) => {
  for (const place of document.querySelectorAll(".plot")) {
    place.innerHTML = "<p>This browser is too old to draw the figures. Please open the page in a newer one.</p>";
  }
  console.error(error);
});

// ---- The tables: a click on a heading sorts by its column, numbers as numbers. Empty cells are last.
function sortKey(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.value ?? cell.textContent.trim();
  return text !== "" && !isNaN(text) ? Number(text) : text;
}

function compareKeys(a, b) {
  if (a === "" || b === "") return 0;
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
}

function sortByColumn(heading) {
  const order = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  const body = heading.closest("table").tBodies[0];
  const sign = order === "ascending" ? 1 : -1;
  const keyed = [...body.rows].map((row) => [sortKey(row, heading.cellIndex), row]);
  keyed.sort(([a], [b]) => (a === "") - (b === "") || sign * compareKeys(a, b));
  body.append(...keyed.map(([, row]) => row));
}

for (const heading of document.querySelectorAll("th")) {
  heading.querySelector("button").addEventListener("click", () => sortByColumn(heading));
}

// ---- The button that copies the command.
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

// ---- The scroll position and the open details, which stay the same when a page reloads during training.
const storageKey = "partrain-place " + location.pathname;
const saved = JSON.parse(load(sessionStorage, storageKey) ?? "null");
if (saved) {
  for (const [index, details] of document.querySelectorAll("details").entries()) details.open = saved.open[index] ?? details.open;
  history.scrollRestoration = "manual";
  if (!location.hash || saved.live) scrollTo({ top: saved.top, behavior: "instant" });
}
addEventListener("pagehide", () => {
  const open = [...document.querySelectorAll("details")].map((details) => details.open);
  store(sessionStorage, storageKey, JSON.stringify({ top: scrollY, open, live: "live" in root.dataset }));
});
