// Accuracy, or any metric, against any cost; the front is found anew for what is chosen.

/**
 * The front of two lists of numbers (null: unknown) with goals "min" or "max": true where no other point is as good in
 * both and better in one. Equal points are both on it.
 */
function frontOf(metric, cost, metricGoal, costGoal) {
  const up = metricGoal === "max" ? 1 : -1;
  const down = costGoal === "min" ? 1 : -1;
  const on = metric.map(() => false);
  const order = [...metric.keys()].filter((i) => metric[i] !== null && cost[i] !== null);
  order.sort((a, b) => down * (cost[a] - cost[b]) || up * (metric[b] - metric[a]));
  let last = null;
  for (const i of order) {
    const better = last === null || up * (metric[i] - metric[last]) > 0;
    if (better) last = i;
    on[i] = better || (metric[i] === metric[last] && cost[i] === cost[last]);
  }
  return on;
}

/** The corners of the step line: what the members on it dominate lies behind. */
function steps(members, metricGoal, costGoal, end) {
  const worseCost = costGoal === "min" ? Math.max : Math.min;
  const worseMetric = metricGoal === "max" ? Math.min : Math.max;
  const sorted = [...members].sort((a, b) => a.x - b.x);
  const corners = [];
  sorted.forEach((point, i) => {
    if (i > 0) corners.push({ x: worseCost(sorted[i - 1].x, point.x), y: worseMetric(sorted[i - 1].y, point.y) });
    corners.push(point);
  });
  const best = costGoal === "min" ? sorted[sorted.length - 1] : sorted[0];
  if (best && end !== best.x) costGoal === "min" ? corners.push({ x: end, y: best.y }) : corners.unshift({ x: end, y: best.y });
  return corners;
}

const spoilt = (candidate, column) => candidate.marks.filter((mark) => mark.affects === null || mark.affects.includes(column));

/** The families of a block with their shape and place in the colours; the smallest share the last place. */
function familiesOf(block) {
  const counts = new Map();
  for (const { family } of block.candidates) counts.set(family, (counts.get(family) || 0) + 1);
  const names = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a));
  return new Map(names.map((name, i) => [name, i < SHAPES.length ? i : -1]));
}

const colourOf = (place) => (place < 0 ? css("--muted") : colours()[place]);
const shapeOf = (place) => (place < 0 ? "hexagon" : SHAPES[place]);

/** Draw the plot, its legend and the sentence that names the front. state: {y, x, logX, logY, runs, trials}. */
function drawPareto(data, block, state) {
  const host = document.getElementById("pareto-plot");
  const metric = data.quantities[state.y];
  const cost = data.quantities[state.x];
  const candidates = block.candidates;
  const ys = block.means[state.y] || candidates.map(() => null);
  const xs = block.means[state.x] || candidates.map(() => null);
  // What is unfinished is shown, but is on no front: nobody knows where it will end. Nor is what a busy machine cost.
  const aside = block.aside[state.x] || [];
  const on = frontOf(ys.map((y, i) => (candidates[i].count && !aside.includes(i) ? y : null)), xs, metric.goal, cost.goal);
  const families = familiesOf(block);
  const known = [...candidates.keys()].filter((i) => xs[i] !== null && ys[i] !== null && (!state.logX || xs[i] > 0) && (!state.logY || ys[i] > 0));
  const few = known.length <= 60;

  function describeCandidate(i) {
    const candidate = candidates[i];
    const rows = [[metric.label, `${textOf(metric, ys[i])}${spread(metric, i)}`]];
    if (state.y === block.accuracy) {
      const [low, high] = block.interval[i];
      const over = candidate.count > 1 ? `95 % over images and ${candidate.count} runs` : "95 % over images, of this one run";
      if (low !== null) rows.push([over, `${textOf(metric, low)} to ${textOf(metric, high)}`]);
    }
    for (const column of new Set([state.x, ...data.chosen])) {
      const quantity = data.quantities[column];
      const value = block.means[column] ? block.means[column][i] : null;
      if (value !== null) rows.push([quantity.label, `${textOf(quantity, value)}${spread(quantity, i)}`]);
    }
    const front = state.y === block.accuracy ? block.fronts[state.x] : null;
    let place = on[i] ? "on it" : "off it";
    if (front && !on[i] && front.below[i] !== null) place = `${differenceOf(metric, front.below[i]).slice(1)} below, ${Number(front.ratio[i].toPrecision(3))} times the cost`;
    if (front && front.probability[i] !== null) place += ` (on it in ${percent(front.probability[i], 0)} of samples)`;
    rows.push(["front", place]);
    const seeds = candidate.rows.map((row) => data.runs.seed[row]).filter((seed) => seed !== null);
    rows.push(["runs", `${candidate.count}${seeds.length ? ` (seed ${seeds.join(", ")})` : ""}${candidate.unfinished.length ? `, ${candidate.unfinished.length} unfinished` : ""}`]);
    if (candidate.trials > 1) rows.push(["trials", String(candidate.trials)]);
    if (candidate.rows.length) {
      const first = candidate.rows[0];
      rows.push(["run", `${data.runs.id[first]}${candidate.rows.length > 1 ? ", …" : ""}`], ["source", data.runs.source[first]]);
    }
    const url = candidate.rows.map((row) => data.runs.url[row]).find(Boolean);
    return { title: candidate.label, rows, notes: candidate.marks.map((mark) => `Not comparable: ${mark.text}`), url };
  }

  function spread(quantity, i) {
    const deviation = block.deviations[quantity.column] && block.deviations[quantity.column][i];
    return deviation > 1e-9 * Math.abs(block.means[quantity.column][i]) ? ` ± ${textOf(quantity, deviation)}` : "";
  }

  function describeRun(row, label, kind) {
    const rows = [metric, cost].map((quantity) => [quantity.label, textOf(quantity, data.runs.values[quantity.column][row])]);
    rows.push(["run", data.runs.id[row]], ["seed", data.runs.seed[row] === null ? "-" : String(data.runs.seed[row])], ["status", data.runs.status[row]], ["source", data.runs.source[row]]);
    return { title: `${label}: ${kind}`, rows, notes: [], url: data.runs.url[row] };
  }

  /** How far the 95 % interval of a mean reaches down and up; of another metric than the accuracy that over its runs. */
  function reach(i) {
    if (state.y === block.accuracy) {
      const [low, high] = block.interval[i];
      return low === null ? [0, 0] : [(ys[i] - low) * metric.scale, (high - ys[i]) * metric.scale];
    }
    const half = (candidates[i].t && block.deviations[state.y] ? candidates[i].t * block.deviations[state.y][i] : 0) || 0;
    const within = (bound) => (["share", "percent"].includes(metric.kind) ? Math.min(Math.max(bound, 0), 100 / metric.points) : bound);
    return [(ys[i] - within(ys[i] - half)) * metric.scale, (within(ys[i] + half) - ys[i]) * metric.scale];
  }

  const points = (chosen) => ({ x: chosen.map((i) => xs[i] * cost.scale), y: chosen.map((i) => ys[i] * metric.scale) });

  function candidateTrace(name, chosen, front) {
    const hollow = chosen.map((i) => spoilt(candidates[i], state.x).length + spoilt(candidates[i], state.y).length > 0);
    const colour = chosen.map((i) => colourOf(families.get(candidates[i].family)));
    const bars = (front || few) && known.length <= 400;
    return {
      name,
      type: "scatter",
      mode: "markers",
      ...points(chosen),
      customdata: chosen.map((i) => ["candidate", i]),
      hoverinfo: "none",
      opacity: front ? 1 : 0.45,
      marker: {
        symbol: chosen.map((i, k) => shapeOf(families.get(candidates[i].family)) + (hollow[k] ? "-open" : "")),
        color: colour,
        size: chosen.map((i, k) => (front ? 11 : few ? 9 : 6) - (hollow[k] ? 1 : 0)),
        opacity: 1,
        line: { width: chosen.map((i, k) => (hollow[k] ? 2 : front ? 1 : 0)), color: hollow.map((one, k) => (one ? colour[k] : css("--page"))) },
      },
      error_y: {
        visible: bars,
        type: "data",
        symmetric: false,
        array: chosen.map((i) => reach(i)[1]),
        arrayminus: chosen.map((i) => reach(i)[0]),
        color: css("--bar"),
        thickness: 1.2,
        width: 3,
      },
    };
  }

  function runTrace(name, kind, rowsOf, marker) {
    const found = candidates.flatMap((candidate, i) => rowsOf(candidate).map((row) => [row, i]));
    const value = (column, row) => (data.runs.values[column] ? data.runs.values[column][row] : null);
    const both = found.filter(([row]) => value(state.y, row) !== null && value(state.x, row) !== null);
    return {
      name,
      type: "scatter",
      mode: "markers",
      x: both.map(([row]) => value(state.x, row) * cost.scale),
      y: both.map(([row]) => value(state.y, row) * metric.scale),
      customdata: both.map(([row, i]) => ["run", row, i, kind]),
      hoverinfo: "none",
      marker: { color: both.map(([, i]) => colourOf(families.get(candidates[i].family))), ...marker },
    };
  }

  plot(host, async () => {
    const members = known.filter((i) => on[i]);
    const worst = xs.filter((x) => x !== null).reduce((a, b) => ((cost.goal === "min") === b > a ? b : a), xs[members[0]] ?? 0);
    const corners = steps(
      members.map((i) => ({ x: xs[i] * cost.scale, y: ys[i] * metric.scale })), metric.goal, cost.goal, worst * cost.scale);
    const traces = [
      { name: "front", type: "scatter", mode: "lines", x: corners.map(({ x }) => x), y: corners.map(({ y }) => y), hoverinfo: "skip", line: { color: css("--front"), width: 2 } },
    ];
    const tied = block.variants.filter((ends) => ends.every((i) => known.includes(i)));
    if (tied.length) traces.push({
      name: "variants", type: "scatter", mode: "lines+markers", hoverinfo: "skip",
      x: tied.flatMap(([a, b]) => [xs[a] * cost.scale, xs[b] * cost.scale, null]),
      y: tied.flatMap(([a, b]) => [ys[a] * metric.scale, ys[b] * metric.scale, null]),
      line: { color: css("--muted"), width: 1 },
      marker: { symbol: "arrow", angleref: "previous", standoff: 7, size: tied.flatMap(() => [0, 9, 0]), color: css("--muted") },
    });
    if (state.trials) traces.push(runTrace("trials", "another trial", (c) => c.trialRows, { symbol: "x-thin", size: 7, line: { width: 1.4, color: css("--muted") } }));
    if (state.runs) {
      traces.push(runTrace("runs", "one run", (c) => c.rows, { size: 5, opacity: 0.8 }));
      traces.push(runTrace("unfinished", "unfinished", (c) => c.unfinished, { symbol: "circle-open", size: 6 }));
    }
    traces.push(candidateTrace("off", known.filter((i) => !on[i]), false), candidateTrace("on", members, true));
    const scaledX = known.map((i) => xs[i] * cost.scale);
    const scaledY = known.map((i) => ys[i] * metric.scale);
    await show(
      host,
      traces,
      { xaxis: axisOf(cost, scaledX, state.logX, host.clientWidth), yaxis: axisOf(metric, scaledY, state.logY, 2 * host.clientHeight) },
      [block.name, state.y, state.x, state.logX, state.logY].join(" "),
    );
    const label = (i) => ({ x: xs[i] * cost.scale, y: ys[i] * metric.scale, text: candidates[i].label, colour: on[i] ? css("--ink") : css("--muted") });
    const labelled = [...members, ...(known.length <= 12 ? known.filter((i) => !on[i]) : [])].slice(0, 60);
    const towards = [cost.goal === "min" ? -1 : 1, metric.goal === "max" ? -1 : 1];
    const obstacles = known.slice(0, 1500).map((i) => {
      const [down, up] = few ? reach(i) : [0, 0];
      const y = ys[i] * metric.scale;
      return { x: xs[i] * cost.scale, y, low: y - down, high: y + up };
    });
    const place = () => placeLabels(host, labelled.map(label), obstacles, [corners], towards);
    host.place = place;
    await place();
    explain(host, ({ customdata }) => host.describe(customdata));
    if (!host.placing) {
      host.placing = true;
      host.on("plotly_relayout", (change) => {
        if (!("annotations" in change)) host.place();
      });
    }
    host.describe = ([kind, i, of, what]) => (kind === "candidate" ? describeCandidate(i) : describeRun(i, candidates[of].label, what));

    const hollow = known.some((i) => spoilt(candidates[i], state.x).length + spoilt(candidates[i], state.y).length > 0);
    const named = [...families].filter(([name]) => name !== "");
    legend(document.getElementById("pareto-legend"), [
      ...named.filter(([, at]) => at >= 0).map(([text, at]) => ({ glyph: GLYPHS[at], colour: colourOf(at), text })),
      ...(named.some(([, at]) => at < 0) ? [{ glyph: "⬢", colour: css("--muted"), text: "other families" }] : []),
      { glyph: "━", colour: css("--front"), text: "front" },
      ...(block.variants.length ? [{ glyph: "→", colour: css("--muted"), text: "from a run to its variants" }] : []),
      ...(hollow ? [{ glyph: "○", colour: css("--muted"), text: "hollow: not comparable" }] : []),
      ...(state.runs ? [{ glyph: "·", colour: css("--ink"), text: "one run (open: unfinished)" }] : []),
      ...(state.trials ? [{ glyph: "×", colour: css("--muted"), text: "another trial of the sweep" }] : []),
    ]);
  });

  const members = [...candidates.keys()].filter((i) => on[i]).sort((a, b) => xs[a] - xs[b]);
  const missing = candidates.length - [...candidates.keys()].filter((i) => xs[i] !== null && ys[i] !== null).length;
  const hidden = candidates.length - missing - known.length;
  const sentence = document.getElementById("pareto-front");
  sentence.replaceChildren("On the front, by ", make("b", {}, cost.label), ": ");
  members.slice(0, 30).forEach((i, k) => sentence.append(k ? ", " : "", named(candidates[i].label)));
  sentence.append(members.length > 30 ? `, and ${members.length - 30} more` : members.length ? "" : "nobody");
  sentence.append(". ", missing ? `${plural(missing, "candidate")} without one of the two numbers. ` : "", hidden ? `${plural(hidden, "candidate")} with a value of 0 cannot be drawn on a logarithmic axis. ` : "");
}
