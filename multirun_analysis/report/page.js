// Puts the page together: what is chosen, in the address's fragment, and the sections that follow from it.

const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const controls = { block: at("block"), y: at("metric"), x: at("cost"), logX: at("log-cost"), logY: at("log-metric"), runs: at("show-runs"), trials: at("show-trials") };

/** Whether a cost's axis is better logarithmic: it spans more than a factor of ten. */
function wide(block, column) {
  const values = (block.means[column] || []).filter((value) => value !== null);
  return values.length > 0 && Math.min(...values) > 0 && Math.max(...values) / Math.min(...values) > 10;
}

function stateOf(fragment) {
  const given = new URLSearchParams(fragment.includes("=") ? fragment.slice(1) : "");
  const number = Number(given.get("block") || 0);
  const at = data.blocks[number] ? number : 0;
  const block = data.blocks[at];
  const one = (name, known, otherwise) => (known.includes(given.get(name)) ? given.get(name) : otherwise);
  const flag = (name, otherwise) => (given.has(name) ? given.get(name) === "1" : otherwise);
  const x = one("x", data.costs, data.chosen[0] || data.costs[0] || null);
  return { block: at, y: one("y", data.metrics, block.accuracy), x, logX: flag("log", wide(block, x)), logY: flag("logy", false), runs: flag("runs", false), trials: flag("trials", false) };
}

function keep(state) {
  const flags = { log: state.logX, logy: state.logY, runs: state.runs, trials: state.trials };
  const pairs = new URLSearchParams({ ...(data.blocks.length > 1 ? { block: state.block } : {}), y: state.y, ...(state.x ? { x: state.x } : {}) });
  for (const [name, value] of Object.entries(flags)) if (value || name === "log") pairs.set(name, value ? "1" : "0");
  history.replaceState(null, "", `#${pairs}`);
}

function appear(id, visible) {
  at(id).hidden = !visible;
  for (const link of document.querySelectorAll(`nav a[href="#${id}"]`)) link.parentElement.hidden = !visible;
}

let state = stateOf(location.hash);

function drawFront() {
  const block = data.blocks[state.block];
  const quantity = (column) => [column, data.quantities[column].label];
  appear("pareto", data.costs.length > 0);
  if (!data.costs.length) return;
  options(controls.y, data.metrics.map(quantity), state.y);
  options(controls.x, data.costs.map(quantity), state.x);
  for (const name of ["logX", "logY", "runs", "trials"]) controls[name].checked = state[name];
  at("pareto-plot").setAttribute("aria-label", `${data.quantities[state.y].label} against ${data.quantities[state.x].label}`);
  drawPareto(data, block, state);
  for (const part of document.querySelectorAll("[data-findings]")) part.hidden = part.dataset.findings !== state.x;
  const missing = document.querySelector(".no-findings");
  missing.hidden = !(block.headlines.length && !block.headlines.includes(state.x));
  at("untested-cost").textContent = data.quantities[state.x].label;
}

/** The tables of a section: those of this block, and those of all. */
const tablesOf = (section) => data.tables.filter((table) => table.section === section && (table.block === null || table.block === state.block));

function drawTables(host, tables, folded = false) {
  host.replaceChildren(
    ...tables.map((table) => {
      const body = make("div");
      drawSentTable(body, table);
      const title = named(table.title);
      return folded ? make("details", {}, make("summary", {}, title), body) : make("article", {}, make("h3", {}, title), body);
    }),
  );
}

function drawBlock() {
  const block = data.blocks[state.block];
  document.querySelectorAll("[data-block]").forEach((part) => (part.hidden = Number(part.dataset.block) !== state.block));
  drawFront();

  const pairs = comparable(block);
  appear("compare", pairs.length > 1);
  if (pairs.length > 1) {
    const entries = pairs.map((i) => [i, block.candidates[i].label]);
    const redrawPair = () => plot(at("compare-body"), () => drawComparison(data, block, Number(at("first").value), Number(at("second").value)));
    const [one, other] = block.pairs[0] || pairs;
    options(at("first"), entries, one);
    options(at("second"), entries, other);
    at("first").onchange = at("second").onchange = redrawPair;
    redrawPair();
  }

  const matrices = block.errors ? Object.keys(block.errors.recall).map(Number) : [];
  appear("confusion", matrices.length > 0);
  if (matrices.length) {
    options(at("confusion-model"), matrices.map((i) => [i, block.candidates[i].label]), matrices[0]);
    at("confusion-model").onchange = () => drawConfusion(block.errors, Number(at("confusion-model").value));
    drawConfusion(block.errors, matrices[0]);
  }

  const reliable = Object.keys(block.reliability).map(Number);
  appear("calibration", reliable.length > 0);
  if (reliable.length) drawReliability(block, reliable.slice(0, MOST_CURVES));
  drawTables(at("calibration-table"), tablesOf("calibration"), true);

  const curves = Object.keys(block.epochs).map(Number);
  appear("curves", curves.length > 0);
  if (curves.length) {
    options(at("curves-model"), [["front", "models on a front"], ["best", "the most accurate"], ...curves.map((i) => [i, block.candidates[i].label])], "front");
    at("curves-model").onchange = () => drawCurves(data, block, at("curves-model").value);
    drawCurves(data, block, "front");
  }

  const families = block.families.filter((family) => family.members.length > 1);
  appear("scaling", families.length > 0);
  if (families.length) drawScaling(data, { ...block, families });
  for (const part of document.querySelectorAll(".only-some")) part.hidden = !block.detailed;

  drawTables(at("tables-body"), tablesOf("tables"));
  drawTables(at("fronts-body"), tablesOf("fronts"), true);
  appear("tables", tablesOf("tables").length + tablesOf("fronts").length > 0);
  drawTables(at("comparisons-table"), tablesOf("compare"));
  drawTables(at("scaling-table"), tablesOf("scaling"));
  drawTables(at("tuning-body"), tablesOf("tuning"));
  appear("tuning", tablesOf("tuning").length > 0);
  const tuned = Object.keys(block.tuning).map(Number);
  at("tuning-curves").hidden = tuned.length === 0;
  if (tuned.length) drawTuning(block, tuned.slice(0, MOST_CURVES));
  at("tuning-settings").hidden = !block.settings.names.length;
  if (block.settings.names.length) drawSettings(block);
}

function drawRuns() {
  const { runs } = data;
  const kinds = [["run", "id"], ["name", "name"], ["seed", "seed"], ["status", "status"]];
  const shown = [...new Set([...data.blocks.map((block) => block.accuracy), ...data.metrics.slice(0, 1), ...data.chosen, ...data.costs.slice(0, 6)])].filter((column) => runs.values[column]);
  const texts = runs.id.map((id, row) => [id, runs.name[row], runs.status[row], runs.source[row], `seed ${runs.seed[row]}`].join("\n").toLowerCase());
  const filter = drawTable(at("runs-table"), {
    title: "All runs",
    columns: [...kinds.map(([text]) => text), ...shown.map((column) => data.quantities[column].label), "source"],
    count: runs.id.length,
    cell: (row, column) => {
      if (column < kinds.length) {
        const value = runs[kinds[column][1]][row];
        return { value, text: value === null ? "-" : String(value), url: column === 0 ? runs.url[row] : null };
      }
      if (column === kinds.length + shown.length) return { value: runs.source[row], text: runs.source[row] };
      const name = shown[column - kinds.length];
      return { value: runs.values[name][row], text: textOf(data.quantities[name], runs.values[name][row]) };
    },
  });
  let waiting = 0;
  at("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      const words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
      const left = filter((row) => words.every((word) => texts[row].includes(word)));
      at("found").textContent = words.length ? plural(left, "run") : "";
    }, 80);
  });
}

function change(part) {
  state = { ...state, ...part };
  keep(state);
}

controls.y.addEventListener("change", () => { change({ y: controls.y.value }); drawFront(); });
controls.x.addEventListener("change", () => {
  change({ x: controls.x.value, logX: wide(data.blocks[state.block], controls.x.value) });
  drawFront();
});
for (const name of ["logX", "logY", "runs", "trials"]) {
  controls[name].addEventListener("change", () => { change({ [name]: controls[name].checked }); drawFront(); });
}
if (controls.block) {
  options(controls.block, data.blocks.map((block, i) => [i, block.name || "all"]), state.block);
  controls.block.addEventListener("change", () => {
    const block = Number(controls.block.value);
    change({ block, y: data.blocks[block].accuracy, logX: wide(data.blocks[block], state.x) });
    drawBlock();
  });
}
// The fragment holds the state, so a link within the page only scrolls.
document.querySelectorAll('a[href^="#"]').forEach((link) =>
  link.addEventListener("click", (event) => {
    const target = document.querySelector(link.getAttribute("href"));
    event.preventDefault();
    target.scrollIntoView();
    target.focus({ preventScroll: true });
  }),
);
addEventListener("hashchange", () => {
  if (!location.hash.includes("=")) return;
  state = stateOf(location.hash);
  if (controls.block) controls.block.value = state.block;
  drawBlock();
});
addEventListener("scroll", () => (at("tip").hidden = true), { passive: true });
addEventListener("keydown", (event) => { if (event.key === "Escape") at("tip").hidden = true; });

// Paper is white, and narrower than a screen.
function onPaper(printing) {
  for (const part of document.querySelectorAll("details")) {
    if (printing) part.dataset.was = part.open ? "open" : "";
    part.open = printing || part.dataset.was === "open";
  }
  document.documentElement.classList.toggle("printing", printing);
  at("tip").hidden = true;
  redraw();
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
matchMedia("print").addEventListener("change", (event) => onPaper(event.matches));
addEventListener("beforeprint", () => onPaper(true));
addEventListener("afterprint", () => onPaper(false));

drawBlock();
drawRuns();
appear("runs", data.runs.id.length > 0);
document.documentElement.dataset.ready = "yes";
