// What all plots share: colours and shapes, axes, labels that do not overlap, the box that explains a point.

// Okabe and Ito's colours, those that stand out most first; shapes tell families apart in grey too.
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
const DARK_COLOURS = ["#56B4E9", "#E69F00", "#2FC79B", "#E59AC4", "#F0E442", "#6FA8FF"];
const SHAPES = ["circle", "square", "diamond", "triangle-up", "triangle-down", "star"];
const GLYPHS = ["●", "■", "◆", "▲", "▼", "★"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif';

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colours = () => (css("--scheme") === "dark" ? DARK_COLOURS : COLOURS);

const drawn = new Map(); // host -> how to draw it: again when its width or the colours change

/** Draw with `draw` now, and again when the page's width or colours change. */
function plot(host, draw) {
  if (!drawn.has(host)) {
    let width = host.clientWidth;
    new ResizeObserver(() => {
      if (host.clientWidth === width || host.clientWidth === 0) return;
      width = host.clientWidth;
      requestAnimationFrame(() => drawn.get(host)());
    }).observe(host);
  }
  drawn.set(host, draw);
  draw();
}

const redraw = () => drawn.forEach((draw) => draw());

async function show(host, traces, layout, revision) {
  const width = host.clientWidth;
  const ink = css("--ink");
  const axis = {
    gridcolor: css("--grid"),
    linecolor: css("--line"),
    zeroline: false,
    showline: true,
    ticks: "outside",
    ticklen: 4,
    tickcolor: css("--line"),
    automargin: true,
  };
  const heading = { standoff: 12, font: { size: 13, color: css("--muted") } };
  const { xaxis, yaxis, ...rest } = layout;
  await Plotly.react(
    host,
    traces,
    {
      width,
      height: Math.round(Math.min(540, Math.max(340, width * 0.58))),
      font: { family: FONT, size: 13, color: ink },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 52, r: 16, t: 14, b: 48 },
      hovermode: "closest",
      showlegend: false,
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      uirevision: revision,
      ...rest,
      xaxis: { ...axis, ...xaxis, title: { ...xaxis.title, ...heading } },
      yaxis: { ...axis, ...yaxis, title: { ...yaxis.title, ...heading } },
    },
    { displayModeBar: false, displaylogo: false, doubleClick: "reset", scrollZoom: false },
  );
}

/** An axis, so many pixels long, for a quantity's values (scaled as `axis` says); ticks have units where it is logarithmic. */
function axisOf(quantity, values, log, length) {
  const better = quantity.goal === "min" ? "less is better" : "more is better";
  if (!log) {
    return {
      type: "linear",
      tickformat: ["count", "rate", "joules"].includes(quantity.kind) ? "~s" : "",
      title: { text: `${plain(short(quantity.axis, 48))}  ·  ${better}` },
    };
  }
  const units = ["count", "seconds", "joules", "rate"].includes(quantity.kind);
  const known = values.filter((value) => value > 0);
  const low = Math.log10(Math.min(...known));
  const high = Math.log10(Math.max(...known));
  const room = length / 70 / Math.max(high - low, 0.5); // ticks a decade
  const steps = room < 2 ? [1] : room < 3 ? [1, 3] : [1, 2, 5];
  const tickvals = [];
  if (known.length) {
    for (let decade = Math.floor(low) - 1; decade <= Math.ceil(high); decade += 1) {
      for (const step of steps) tickvals.push(Number(`${step}e${decade}`));
    }
  }
  return {
    type: "log",
    tickvals,
    ticktext: tickvals.map((value) => (units ? textOf(quantity, value / quantity.scale) : String(Number(value.toPrecision(2))))),
    title: { text: `${plain(short(units ? quantity.label : quantity.axis, 48))}  ·  ${better}` },
  };
}

const canvas = document.createElement("canvas").getContext("2d");

/**
 * Put labels beside their points so that they cover neither one another nor the points; a label that finds no room is left out.
 * labels: [{x, y, text, colour}] in the axes' own values, the most important first; points: [{x, y, low, high}], the last
 * two those of an error bar; lines: the corners of each.
 * `towards` [-1|1, -1|1] is the side (right, down) that is emptiest: where a better candidate would be.
 */
function placeLabels(host, labels, points, lines, towards, size = 12) {
  const { xaxis, yaxis } = host._fullLayout;
  const [width, height] = [xaxis._length, yaxis._length];
  const pixel = ({ x, y }) => ({ x: xaxis.d2p(x), y: yaxis.d2p(y) });
  const inside = ({ x, y }) => x >= 0 && x <= width && y >= 0 && y <= height;
  const taken = points.map(pixel).filter(inside).map(({ x, y }) => [x - 6, y - 6, x + 6, y + 6]);
  const pieces = [
    ...lines.flatMap((line) => line.slice(1).map((corner, i) => [pixel(line[i]), pixel(corner)])),
    ...points.filter(({ low }) => low !== undefined).map(({ x, low, high }) => [pixel({ x, y: low }), pixel({ x, y: high })]),
  ];
  const placed = [];
  canvas.font = `${size}px ${FONT}`;
  const overlap = (a, b) => Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const annotations = [];
  for (const label of labels) {
    const at = pixel(label);
    if (!inside(at) || !Number.isFinite(at.x + at.y)) continue;
    const text = short(label.text);
    const [w, h] = [canvas.measureText(text).width + 6, size + 6];
    let best = null;
    for (const distance of [9, 20, 34, 52, 74]) {
      for (const [dx, dy] of directions(towards)) {
        const x = at.x + dx * distance;
        const y = at.y + dy * distance;
        const left = dx === 0 ? x - w / 2 : dx > 0 ? x : x - w;
        const top = dy === 0 ? y - h / 2 : dy > 0 ? y : y - h;
        const box = [left, top, left + w, top + h];
        if (box[0] < 0 || box[1] < 0 || box[2] > width || box[3] > height) continue;
        if (placed.some((other) => overlap(box, other) > 0)) continue;
        const covered = taken.reduce((sum, other) => sum + overlap(box, other), 0);
        const cost = covered + 14 * crossings(box, pieces) + distance * 1.5;
        if (best === null || cost < best.cost) best = { cost, covered, box, distance };
      }
    }
    if (best === null || best.covered > 60) continue;
    placed.push(best.box);
    const [cx, cy] = [(best.box[0] + best.box[2]) / 2, (best.box[1] + best.box[3]) / 2];
    annotations.push({
      x: xaxis.type === "log" ? Math.log10(label.x) : label.x,
      y: yaxis.type === "log" ? Math.log10(label.y) : label.y,
      text: plain(text),
      font: { size, color: label.colour },
      ax: cx - at.x,
      ay: cy - at.y,
      showarrow: true,
      arrowhead: 0,
      arrowwidth: best.distance > 20 ? 0.8 : 0.01,
      arrowcolor: best.distance > 20 ? css("--line") : "rgba(0,0,0,0)",
      standoff: 5,
      borderpad: 1,
      captureevents: false,
    });
  }
  return Plotly.relayout(host, { annotations });
}

function directions([right, down]) {
  const all = [[-1, -1], [0, -1], [1, -1], [1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0]];
  const score = ([dx, dy]) => -(dx * right + dy * down);
  return all.sort((a, b) => score(a) - score(b));
}

/** How many pieces of lines, each with two ends, run through a box. */
function crossings([left, top, right, bottom], pieces) {
  const through = ([a, b]) => {
    if (Math.max(a.x, b.x) < left || Math.min(a.x, b.x) > right || Math.max(a.y, b.y) < top || Math.min(a.y, b.y) > bottom) return false;
    const side = (x, y) => Math.sign((b.x - a.x) * (y - a.y) - (b.y - a.y) * (x - a.x));
    return new Set([side(left, top), side(right, top), side(left, bottom), side(right, bottom)]).size > 1;
  };
  return pieces.filter(through).length;
}

/** A box with what is known of the point under the pointer. `describe(point)` -> {title, rows, notes, url}. */
function explain(host, describe) {
  if (host.explained) return;
  host.explained = true;
  const box = document.getElementById("tip");
  const touch = () => matchMedia("(pointer: coarse)").matches;
  host.on("plotly_hover", (event) => {
    const point = event.points[event.points.length - 1];
    const about = describe(point);
    if (!about) return;
    box.replaceChildren(
      make("p", { class: "tip-title", dir: "auto" }, short(about.title, 120)),
      make("dl", {}, ...about.rows.flatMap(([key, value]) => [make("dt", {}, short(key, 60)), make("dd", { dir: "auto" }, short(value, 160))])),
      ...about.notes.map((note) => make("p", { class: "tip-note", dir: "auto" }, short(note, 240))),
      ...(about.url ? [touch() ? make("p", {}, make("a", { href: about.url, target: "_blank", rel: "noopener noreferrer" }, "Open the run in W&B")) : make("p", { class: "tip-hint" }, "Click: the run in W&B")] : []),
    );
    box.hidden = false;
    box.classList.toggle("touch", touch());
    const { left, top } = host.getBoundingClientRect();
    const x = left + point.xaxis._offset + point.xaxis.d2p(point.x);
    const y = top + point.yaxis._offset + point.yaxis.d2p(point.y);
    const size = box.getBoundingClientRect();
    const room = document.documentElement.clientWidth;
    const beside = x + 14 + size.width < room ? x + 14 : x - 14 - size.width;
    box.style.left = `${Math.max(6, Math.min(beside, room - size.width - 6))}px`;
    box.style.top = `${Math.max(6, Math.min(y - size.height / 2, innerHeight - size.height - 6))}px`;
    host.classList.toggle("opens", Boolean(about.url));
  });
  host.on("plotly_unhover", () => {
    if (!touch()) box.hidden = true;
    host.classList.remove("opens");
  });
  host.on("plotly_click", (event) => {
    const about = describe(event.points[event.points.length - 1]);
    if (about && about.url && !touch()) window.open(about.url, "_blank", "noopener,noreferrer");
  });
}

function legend(host, entries) {
  host.replaceChildren(
    ...entries.map(({ glyph, colour, text }) => make("li", {}, make("span", { "aria-hidden": "true", class: "glyph", style: { color: colour } }, glyph), named(text))),
  );
}
