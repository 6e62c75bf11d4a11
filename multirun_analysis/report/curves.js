// Learning curves, what tuning brought, and accuracy by size within a family.

const MOST_CURVES = 6;

/** Which candidates' curves a choice of the page means. */
function chosenCurves(data, block, choice) {
  const known = Object.keys(block.epochs).map(Number).sort((a, b) => a - b);
  if (choice === "best") return known.slice(0, MOST_CURVES);
  if (choice !== "front") return known.filter((i) => i === Number(choice));
  const on = known.filter((i) => data.chosen.some((column) => block.fronts[column] && block.fronts[column].on[i]));
  return (on.length ? on : known).slice(0, MOST_CURVES);
}

function drawCurves(data, block, choice) {
  const shown = chosenCurves(data, block, choice);
  const panels = [
    ["curves-loss", "train_loss", "training loss", 1],
    ["curves-accuracy", "val_accuracy", "val accuracy (%)", 100],
  ];
  for (const [id, column, title, scale] of panels) {
    const host = document.getElementById(id);
    plot(host, () => {
      const traces = shown.flatMap((i, k) => {
        const line = { color: colours()[k % COLOURS.length], dash: DASHES[Math.floor(k / COLOURS.length) % DASHES.length] };
        const runs = block.epochs[i];
        const seeds = runs.length > 1 ? runs.map((run) => ({ x: run.epoch, y: run[column].map((v) => (v === null ? null : v * scale)), line: { ...line, width: 1 }, opacity: 0.35, hoverinfo: "skip" })) : [];
        const epochs = [...new Set(runs.flatMap((run) => run.epoch))].sort((a, b) => a - b);
        const mean = epochs.map((epoch) => {
          const values = runs.map((run) => run[column][run.epoch.indexOf(epoch)]).filter((v) => v !== null && v !== undefined);
          return values.length ? (scale * values.reduce((a, b) => a + b, 0)) / values.length : null;
        });
        return [...seeds, { x: epochs, y: mean, line: { ...line, width: 2.5 }, mode: "lines+markers", marker: { size: 5, symbol: SHAPES[k % SHAPES.length] }, customdata: epochs.map((epoch, n) => [i, epoch, mean[n], runs.length]), hoverinfo: "none" }];
      });
      const last = Math.max(1, ...shown.flatMap((i) => block.epochs[i].flatMap((run) => run.epoch)));
      const height = Math.round(Math.min(340, Math.max(260, host.clientWidth * 0.62)));
      return show(
        host,
        traces.map((trace) => ({ type: "scatter", mode: "lines", ...trace })),
        { height, xaxis: { title: { text: "epoch" }, tick0: 1, dtick: Math.ceil(last / 8) }, yaxis: { title: { text: title } } },
        block.name + choice,
      ).then(() => explain(host, ({ customdata }) => customdata && { title: block.candidates[customdata[0]].label, rows: [["epoch", String(customdata[1])], [title, customdata[2].toFixed(scale === 1 ? 4 : 2)], ["runs", String(customdata[3])]], notes: [] }));
    });
  }
  plot(document.getElementById("curves-legend"), () =>
    legend(document.getElementById("curves-legend"), shown.map((i, k) => ({ glyph: GLYPHS[k % GLYPHS.length], colour: colours()[k % COLOURS.length], text: block.candidates[i].label }))));
}

/** How often answers of so much confidence were right, of each of `shown`. */
function drawReliability(block, shown) {
  const host = document.getElementById("reliability-plot");
  plot(host, () => {
    const line = { x: [0, 100], y: [0, 100], mode: "lines", type: "scatter", hoverinfo: "skip", line: { color: css("--line"), width: 1 } };
    const traces = shown.map((i, k) => {
      const own = block.reliability[i];
      const there = [...own.answers.keys()].filter((bin) => own.answers[bin] > 0);
      const scaled = (values) => there.map((bin) => 100 * values[bin]);
      const [y, low, high] = [own.y, own.low, own.high].map(scaled);
      return {
        type: "scatter",
        mode: "lines+markers",
        x: scaled(own.x),
        y,
        customdata: there.map((bin) => [i, bin]),
        hoverinfo: "none",
        line: { color: colours()[k % COLOURS.length], width: 2, dash: DASHES[Math.floor(k / COLOURS.length) % DASHES.length] },
        marker: { size: 6, symbol: SHAPES[k % SHAPES.length] },
        error_y: { type: "data", symmetric: false, array: high.map((v, n) => v - y[n]), arrayminus: low.map((v, n) => y[n] - v), thickness: 1, width: 2 },
      };
    });
    const axis = (text) => ({ title: { text }, range: [0, 102] });
    return show(host, [line, ...traces], { height: 420, xaxis: axis("confidence (%)"), yaxis: axis("right (%)") }, block.name).then(() =>
      explain(host, ({ customdata }) => {
        if (!customdata) return null;
        const [i, bin] = customdata;
        const own = block.reliability[i];
        return { title: block.candidates[i].label, rows: [["confidence", percent(own.x[bin])], ["right", `${percent(own.y[bin])} (95 %: ${percent(own.low[bin])} to ${percent(own.high[bin])})`], ["answers", own.answers[bin].toLocaleString("en")]], notes: [] };
      }),
    );
  });
  plot(document.getElementById("reliability-legend"), () =>
    legend(document.getElementById("reliability-legend"), shown.map((i, k) => ({ glyph: GLYPHS[k % GLYPHS.length], colour: colours()[k % COLOURS.length], text: block.candidates[i].label }))));
}

/** The best trial so far of each of `shown`, as steps over the device hours of all its trials so far. */
function drawTuning(block, shown) {
  const host = document.getElementById("tuning-plot");
  const { label, axis, scale } = block.selecting;
  const hours = shown.flatMap((i) => block.tuning[i].hours);
  const log = Math.min(...hours) > 0 && Math.max(...hours) / Math.min(...hours) > 10;
  plot(host, () => {
    const traces = shown.map((i, k) => ({
      type: "scatter",
      mode: "lines+markers",
      x: block.tuning[i].hours,
      y: block.tuning[i].best.map((v) => (v === null ? null : v * scale)),
      customdata: block.tuning[i].settings.map((settings, n) => [i, n, settings]),
      hoverinfo: "none",
      line: { shape: "hv", width: 2, color: colours()[k % COLOURS.length], dash: DASHES[Math.floor(k / COLOURS.length) % DASHES.length] },
      marker: { size: 7, symbol: SHAPES[k % SHAPES.length] },
    }));
    const xaxis = axisOf({ goal: "min", kind: "plain", label: "device hours", axis: "device hours of tuning", scale: 1 }, hours, log, host.clientWidth);
    return show(host, traces, { height: 340, xaxis, yaxis: { title: { text: plain(`best ${axis}`) } } }, block.name).then(() =>
      explain(host, ({ customdata: [i, n, settings] }) => ({
        title: block.candidates[i].label,
        rows: [["device hours so far", general(block.tuning[i].hours[n], 3)], [`best ${label} so far`, textOf(block.selecting, block.tuning[i].best[n])], ["trial", `${n + 1}: ${settings}`]],
        notes: [],
      })),
    );
  });
  plot(document.getElementById("tuning-legend"), () =>
    legend(document.getElementById("tuning-legend"), shown.map((i, k) => ({ glyph: GLYPHS[k % GLYPHS.length], colour: colours()[k % COLOURS.length], text: block.candidates[i].label }))));
}

/** Parallel coordinates: a line for each trial over an axis for each setting, and one for what trials are chosen by. */
function drawSettings(block) {
  const host = document.getElementById("settings-plot");
  const { label, axis, scale } = block.selecting;
  const trials = block.settings.trials.filter((trial) => trial[1] !== null).sort((a, b) => a[1] - b[1]);
  const names = [...block.settings.names, axis];
  /** Where a value is on its axis, from 0 to 1, and what stands at the axis' ticks. */
  const axes = names.map((_, k) => {
    const values = trials.map((trial) => (k === names.length - 1 ? trial[1] * scale : trial[k + 2]));
    const numbers = values.every((value) => typeof value === "number");
    const distinct = [...new Set(values)].sort(numbers ? (a, b) => a - b : undefined);
    const [low, high] = [distinct[0], distinct[distinct.length - 1]];
    const log = numbers && low > 0 && high / low > 10;
    const at = (value) => (!numbers ? distinct.indexOf(value) / Math.max(1, distinct.length - 1) : low === high ? 0.5 : log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low));
    const ticks = distinct.length <= 6 ? distinct : [low, high];
    return { places: values.map(at), ticks: ticks.map((value) => ({ at: at(value), text: numbers ? general(value, 3) : plain(value).slice(0, 24) })) };
  });
  plot(host, () => {
    const quality = axes[axes.length - 1].places;
    const lines = trials.map((trial, n) => ({
      type: "scatter",
      mode: "lines+markers",
      x: names.map((_, k) => k),
      y: axes.map(({ places }) => places[n]),
      customdata: names.map(() => n),
      hoverinfo: "none",
      opacity: 0.15 + 0.85 * quality[n],
      line: { width: 1.5, color: colours()[0] },
      marker: { size: 4 },
    }));
    const stands = axes.flatMap(({ ticks }, k) => ticks.map(({ at, text }) => ({ x: k, y: at, text, showarrow: false, xanchor: k ? "right" : "left", xshift: k ? -5 : 5, font: { size: 11, color: css("--muted") }, bgcolor: css("--page") })));
    const xaxis = { tickvals: names.map((_, k) => k), ticktext: names.map(plain), range: [-0.1, names.length - 0.9], gridcolor: css("--line"), fixedrange: true };
    return show(host, lines, { height: 380, margin: { l: 56, r: 64, t: 14, b: 48 }, annotations: stands, xaxis, yaxis: { visible: false, range: [-0.06, 1.06], fixedrange: true } }, block.name).then(() =>
      explain(host, ({ customdata: n }) => ({
        title: block.candidates[trials[n][0]].label,
        rows: [...block.settings.names.map((name, k) => [name, String(trials[n][k + 2])]), [label, textOf(block.selecting, trials[n][1])]],
        notes: [],
      })),
    );
  });
}

function drawScaling(data, block) {
  const metric = data.quantities[block.accuracy];
  const host = document.getElementById("scaling-plots");
  const columns = [...new Set(block.families.flatMap((family) => Object.keys(family.slopes)))].filter((column) => block.means[column] && data.quantities[column]).slice(0, 4);
  const places = familiesOf(block);
  host.replaceChildren();
  for (const column of columns) {
    const cost = data.quantities[column];
    const panel = make("div", { class: "plot", role: "img", "aria-label": `${metric.label} by ${cost.label}, a line for each family` });
    host.append(panel);
    const value = (i) => ({ x: block.means[column][i], y: block.means[block.accuracy][i] });
    const families = block.families.map((family) => ({ ...family, members: family.members.filter((i) => value(i).x > 0 && value(i).y !== null).sort((a, b) => value(a).x - value(b).x) }));
    const scaled = (i) => ({ x: value(i).x * cost.scale, y: value(i).y * metric.scale });
    plot(panel, async () => {
      const traces = families.map((family) => {
        const place = places.get(family.name) ?? -1;
        return {
          type: "scatter",
          mode: "lines+markers",
          x: family.members.map((i) => scaled(i).x),
          y: family.members.map((i) => scaled(i).y),
          customdata: family.members,
          hoverinfo: "none",
          line: { color: colourOf(place), width: 2 },
          marker: { symbol: shapeOf(place), size: 10, line: { color: css("--page"), width: 1 } },
        };
      });
      const all = families.flatMap((family) => family.members);
      const height = Math.round(Math.min(380, Math.max(280, panel.clientWidth * 0.72)));
      await show(panel, traces, { height, xaxis: axisOf(cost, all.map((i) => scaled(i).x), true, panel.clientWidth), yaxis: axisOf(metric, [], false, height) }, block.name);
      await placeLabels(panel, all.slice(0, 40).map((i) => ({ ...scaled(i), text: block.candidates[i].label, colour: css("--ink") })), all.map(scaled), families.map((family) => family.members.map(scaled)), [-1, -1]);
      explain(panel, ({ customdata: i }) => ({ title: block.candidates[i].label, rows: [[metric.label, textOf(metric, value(i).y)], [cost.label, textOf(cost, value(i).x)]], notes: [] }));
    });
  }
  document.getElementById("scaling-slopes").replaceChildren(
    ...block.families.map((family) =>
      make("li", {}, make("b", {}, named(family.name)), ": ", Object.entries(family.slopes).filter(([column, slope]) => slope !== null && data.quantities[column]).map(([column, slope]) => `${differenceOf(metric, slope)} for each doubling of ${data.quantities[column].label}`).join("; "), "."),
    ),
  );
}
