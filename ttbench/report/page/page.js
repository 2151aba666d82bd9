// What moves on a page of `ttbench report`: charts, tables that sort and filter, samples that open, the theme.
// Every text from the data is put in as text, never as HTML.

const root = document.documentElement;
const unpacked = new Map();

function unpack(id) {
  if (!unpacked.has(id)) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    unpacked.set(id, new Response(stream).json());
  }
  return unpacked.get(id);
}

function make(tag, attributes = {}, ...children) {
  const found = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) found.setAttribute(name, value);
  }
  found.append(...children.filter((child) => child !== null && child !== undefined));
  return found;
}

const HIDDEN = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const escape = (text) => String(text).replace(/[&<>"']/g, (letter) => HIDDEN[letter]);

// Charts

const LIGHT = ["#0072B2", "#C24E00", "#00815F", "#B0468A", "#8A6100", "#3A87BD", "#5B5B5B", "#7A3DB8", "#8C2D04", "#1B6B75"];
const DARK = ["#4FB3F0", "#FF8A3D", "#2CCB9A", "#E79AC8", "#F0B73F", "#9AD4FF", "#BDBDBD", "#C39BFF", "#FF7B6B", "#5FD0DC"];

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function dress() {
  const css = getComputedStyle(root);
  const of = (name) => css.getPropertyValue(name).trim();
  const [ink, soft, line] = [of("--ink"), of("--soft"), of("--line")];
  const font = getComputedStyle(document.body).fontFamily;
  return {
    background: "transparent",
    font,
    view: { stroke: null },
    axis: {
      labelColor: soft, titleColor: soft, gridColor: line, domainColor: soft, tickColor: soft, labelFontSize: 12,
      titleFontSize: 12, titleFontWeight: 500, labelFont: font, titleFont: font, titlePadding: 8, tickCount: 6,
    },
    axisY: { titleAnchor: "end", titleAngle: 0, titleAlign: "left", titleX: 0, titleY: -12, domain: false, ticks: false },
    legend: {
      labelColor: ink, titleColor: ink, labelFontSize: 12.5, labelFont: font, orient: "bottom", direction: "horizontal",
      columns: 0, symbolSize: 90, symbolStrokeWidth: 2, labelLimit: 320,
    },
    text: { font },
    range: { category: isDark() ? DARK : LIGHT },
  };
}

const tip = document.getElementById("tip");

function hover(_, event, __, value) {
  if (!value || typeof value !== "object") {
    tip.hidden = true;
    return;
  }
  const rows = Object.entries(value).filter(([, text]) => text !== "" && text !== null);
  tip.replaceChildren(make("dl", {}, ...rows.map(([term, text]) => make("div", {}, make("dt", {}, term), make("dd", {}, String(text))))));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = event.clientX + 16 + width > innerWidth ? event.clientX - 16 - width : event.clientX + 16;
  const top = event.clientY + 16 + height > innerHeight ? event.clientY - 16 - height : event.clientY + 16;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

const views = new Map(); // by the id of their place, in the order in which they were asked for
let turn = Promise.resolve();

async function draw(id) {
  const place = document.getElementById(id);
  views.get(id)?.finalize();
  try {
    const spec = (await unpack("data-charts"))[id];
    const options = { mode: "vega-lite", ast: true, actions: false, renderer: "svg", tooltip: hover, config: dress(), defaultStyle: false };
    views.set(id, await ttbenchEmbed(place, structuredClone(spec), options));
  } catch (error) {
    views.set(id, null);
    place.textContent = "This chart could not be drawn; its numbers are beneath.";
    console.error(`chart ${id}: ${error}`);
  }
}

// One after another, and those that can be seen first.
function drawNext(id) {
  if (!views.has(id)) {
    views.set(id, null);
    turn = turn.then(() => draw(id));
  }
  return turn;
}

function redraw() {
  for (const id of views.keys()) turn = turn.then(() => draw(id));
  return turn;
}

const places = [...document.querySelectorAll(".chart")];
const near = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) {
        near.unobserve(target);
        drawNext(target.id);
      }
    }
  },
  { rootMargin: "900px" },
);
places.forEach((place) => near.observe(place));
addEventListener("beforeprint", () => places.forEach((place) => drawNext(place.id)));

// Tables

const DataTable = globalThis.ttbenchTables;
const bare = { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null };
const ARIA = { sortAscending: "", sortDescending: "" };

function text(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "boolean" ? (value ? "yes" : "no") : String(value);
}

function columnOf(column, place, rows) {
  const render = (value, kind, row) => {
    const shown = text(column.shown === null ? value : row[column.shown]);
    if (kind === "display") return `<bdi>${escape(shown)}</bdi>`;
    if (kind === "filter") return shown;
    return column.numeric ? (value === null ? -Infinity : value) : text(value);
  };
  return {
    data: place, render, title: escape(column.title), type: column.numeric ? "num" : "string",
    className: column.numeric ? "number" : column.style, visible: rows.some((row) => text(row[place]) !== ""),
  };
}

function opener() {
  return {
    data: null, orderable: false, searchable: false, title: '<span class="unseen">open</span>',
    render: (_, kind, row) => {
      if (kind !== "display") return "";
      const [cell, place] = row.slice(-2);
      const named = `<span class="unseen"> sample ${escape(place)} of cell ${escape(String(cell).slice(0, 8))}</span>`;
      return `<button type="button" class="open">open${named}</button>`;
    },
  };
}

async function fill(place) {
  const key = place.dataset.table;
  if (place.dataset.filled) return;
  place.dataset.filled = "yes";
  const { tables } = await unpack("data-tables");
  const { columns, rows } = tables[key];
  const samples = key.startsWith("samples-");
  const shown = columns.map((column, index) => columnOf(column, index, rows));
  const shift = samples ? 1 : 0;
  if (samples) shown.unshift(opener());
  const table = make("table");
  const title = place.closest("details").querySelector("summary").firstChild.textContent;
  place.append(table);
  const grid = new DataTable(table, {
    data: rows, columns: shown, order: [], pageLength: 12, autoWidth: false, deferRender: true, searching: true,
    layout: { ...bare, bottomStart: "info", bottomEnd: "paging" },
    language: { aria: ARIA, info: "_START_ to _END_ of _TOTAL_", infoFiltered: "(_MAX_ in all)", infoEmpty: "none", zeroRecords: "no row has this" },
  });
  const box = place.querySelector(".dt-layout-table");
  for (const [name, value] of Object.entries({ tabindex: "0", role: "region", "aria-label": title })) box.setAttribute(name, value);
  const filter = make("input", { type: "search", autocomplete: "off", spellcheck: "false" });
  filter.addEventListener("input", () => grid.search(filter.value).draw());
  const tools = make("div", { class: "tools" }, make("label", {}, "filter rows", filter));
  columns.forEach((column, index) => {
    const values = column.choose ? [...new Set(rows.map((row) => text(row[index])))] : [];
    if (values.length < 2 || values.length > 200) return;
    const list = make("select", {}, make("option", { value: "-1" }, "all"));
    values.forEach((value, number) => list.append(make("option", { value: number }, value || "(none)")));
    list.addEventListener("change", () => {
      const wanted = values[Number(list.value)];
      const only = (_, __, row) => text(rows[row][index]) === wanted;
      grid.column(index + shift).search.fixed("only", Number(list.value) < 0 ? null : (found, data, row) => only(found, data, row)).draw();
    });
    tools.append(make("label", {}, column.title, list));
  });
  place.prepend(tools);
  if (samples) {
    table.addEventListener("click", (event) => {
      const button = event.target.closest("button.open");
      if (button) open(key, columns, grid.row(button.closest("tr")).data());
    });
  }
}

function rank() {
  for (const table of document.querySelectorAll("table.ranking")) {
    new DataTable(table, { order: [], paging: false, searching: false, info: false, autoWidth: false, layout: bare, language: { aria: ARIA } });
  }
}

// Samples

function facts(entries) {
  return make("dl", { class: "facts" }, ...entries.map(([term, value]) => make("div", {}, make("dt", {}, term), make("dd", {}, make("bdi", {}, told(value))))));
}

function told(value) {
  if (Array.isArray(value)) return value.map(told).join(" ");
  return value !== null && typeof value === "object" ? JSON.stringify(value) : text(value);
}

function tokens(part) {
  const [at, cost] = [part.heads.indexOf("text"), part.heads.indexOf("nats")];
  if (at < 0 || cost < 0 || part.rows.some((row) => typeof row[cost] !== "number")) return null;
  const most = Math.max(...part.rows.map((row) => row[cost]), 1e-9);
  const line = make("pre", { class: "tokens" });
  for (const row of part.rows) {
    const letter = make("span", { title: `${row[cost]} nats` }, String(row[at]));
    letter.style.setProperty("--heat", (0.45 * Math.max(0, row[cost]) / most).toFixed(3));
    line.append(letter);
  }
  return make("div", {}, make("p", { class: "note" }, "The darker a token, the more nats it cost: the more it surprised the model."), line);
}

function grid(part) {
  const head = make("tr", {}, ...part.heads.map((title) => make("th", { scope: "col" }, title || "#")));
  const body = part.rows.map((row) => make("tr", {}, ...row.map((value) => make("td", {}, make("bdi", {}, told(value))))));
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
  const box = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": part.title }, table);
  return part.rows.length > 40 ? make("details", {}, make("summary", {}, `all ${part.rows.length} rows`), box) : box;
}

function partOf(part) {
  if ("text" in part) return [make("p", {}, part.text)];
  if (!part.rows.length) return [];
  const title = make("h3", {}, part.title);
  return "heads" in part ? [title, tokens(part), grid(part)] : [title, facts(part.rows)];
}

async function open(key, columns, row) {
  const { same } = await unpack("data-tables");
  const [cell, place] = row.slice(-2);
  const sample = (await unpack("data-samples"))[cell]?.[place] ?? {};
  const dialog = document.getElementById("sample");
  const close = make("button", { type: "button" }, "close");
  close.addEventListener("click", () => dialog.close());
  const heading = make("h2", { id: "sample-title" }, `Sample ${place} of cell ${String(cell).slice(0, 8)}`);
  const body = make("div", { class: "body" });
  const prompt = Object.entries(sample.prompt ?? {});
  for (const [name, value] of prompt) {
    const title = name.replaceAll("_", " ");
    body.append(make("h3", {}, title), typeof value === "string" ? make("pre", { dir: "auto" }, value) : make("p", { class: "note" }, told(value)));
  }
  for (const part of sample.parts ?? []) body.append(...partOf(part).filter(Boolean));
  if (!prompt.length && !(sample.parts ?? []).length) {
    const why = sample.why ? `The text cannot be shown: ${sample.why}` : "No prompt, answer or nats of single tokens of this sample are in the page.";
    body.append(make("p", { class: "note" }, why));
  } else if (sample.why) {
    body.append(make("p", { class: "note" }, `The text cannot be shown: ${sample.why}`));
  }
  if (sample.recipe) body.append(make("h3", {}, "Recipe"), typeof sample.recipe === "object" ? facts(Object.entries(sample.recipe)) : make("pre", {}, sample.recipe));
  const values = columns.map((column, index) => [column.title, row[index]]).filter(([, value]) => value !== null && value !== "");
  body.append(make("h3", {}, "Row"), facts(values), make("h3", {}, "The same in all rows of this task"), facts(Object.entries(same[key])));
  dialog.replaceChildren(make("header", {}, heading, close), body);
  dialog.showModal();
  dialog.scrollTop = 0;
  close.focus();
}

// Theme

const THEMES = { "": "auto", light: "light", dark: "dark" };

function dressUp(theme) {
  if (theme) root.dataset.theme = theme;
  else delete root.dataset.theme;
  document.getElementById("theme").textContent = `Theme: ${THEMES[theme]}`;
}

const button = document.getElementById("theme");
button.hidden = false;
button.addEventListener("click", async () => {
  const names = Object.keys(THEMES);
  dressUp(names[(names.indexOf(root.dataset.theme ?? "") + 1) % names.length]);
  await redraw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

for (const details of document.querySelectorAll("details.listed")) {
  details.addEventListener("toggle", () => details.open && fill(details.querySelector(".listing")));
}
rank();
const first = places.filter((place) => place.getBoundingClientRect().top < innerHeight);
await Promise.all(first.map((place) => drawNext(place.id)));
root.dataset.ready = "yes";
