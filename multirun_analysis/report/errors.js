// How models err: two side by side, and each one's confusion matrix.

const MOST_CLASSES_SHOWN = 40; // of two models' recall side by side

/** The candidates that can be compared: with predictions, tests or confusions. */
function comparable(block) {
  const found = new Set(block.compared);
  for (const { first, second } of block.comparisons) found.add(first).add(second);
  if (block.errors) Object.keys(block.errors.recall).forEach((i) => found.add(Number(i)));
  return [...found].sort((a, b) => a - b);
}

/** The comparison of two candidates, seen from `first`. */
function comparisonOf(block, first, second) {
  const found = block.comparisons.find((c) => c.first === first && c.second === second);
  if (found) return found;
  const other = block.comparisons.find((c) => c.first === second && c.second === first);
  if (!other) return null;
  const turned = (value) => (value === null ? null : -value);
  return {
    ...other,
    difference: turned(other.difference),
    low: turned(other.high),
    high: turned(other.low),
    beats: other.beats === null ? null : 1 - other.beats,
    only_first: other.only_second,
    only_second: other.only_first,
  };
}

function drawComparison(data, block, first, second) {
  const quantity = data.quantities[block.accuracy];
  const labels = [first, second].map((i) => block.candidates[i].label);
  const shades = [colours()[0], colours()[1]];
  const host = document.getElementById("compare-body");
  if (first === second) {
    host.replaceChildren(make("p", {}, "Choose two different models."));
    return;
  }
  const found = comparisonOf(block, first, second);
  const means = block.means[block.accuracy];
  const difference = found ? found.difference : means[first] === null || means[second] === null ? null : means[first] - means[second];
  const parts = [];

  const better = (difference === null ? 0 : difference) * (quantity.goal === "max" ? 1 : -1) >= 0 ? 0 : 1;
  const verdict = make("p", { class: "verdict" });
  const scope = found && !found.of_models ? " Each was trained once: this is of these two networks, not of the models." : "";
  if (found && found.beyond_chance) verdict.append(named(labels[better]), scope ? " was better, beyond the images’ chance." : " is better; the data carry that.", scope);
  else if (found && found.p !== null) verdict.append("The data do not tell which of the two is better.", scope);
  else verdict.append("Not tested", found && found.reason ? `: ${found.reason}` : ".");
  parts.push(verdict);

  const fact = (name, value, detail) => make("div", {}, make("dt", {}, name), make("dd", {}, value, detail ? make("small", {}, detail) : null));
  const facts = [fact("Difference", differenceOf(quantity, difference), found && found.low !== null ? `95 %: ${differenceOf(quantity, found.low)} to ${differenceOf(quantity, found.high)}` : null)];
  if (found && found.p !== null) {
    const corrected = `${pText(found.p_corrected)} corrected for ${found.claimed ? "all that this report claims" : "all pairs"}`;
    facts.push(fact("Test", pText(found.p), `this pair alone: ${found.test}; ${corrected}`));
  }
  if (found && found.beats !== null) facts.push(fact("Training again", found.beats > 0.995 ? "> 99 %" : found.beats < 0.005 ? "< 1 %" : percent(found.beats, 0), `of ${labels[0]}’s trainings would beat one of ${labels[1]}’s`));
  if (found && found.kappa !== null) facts.push(fact("Agreement on errors", `${found.kappa.toFixed(2)}`, `Cohen’s kappa, 95 %: ${found.kappa_low === null ? "-" : `${found.kappa_low.toFixed(2)} to ${found.kappa_high.toFixed(2)}`}; 1: the same errors, 0: as by chance`));
  if (found && found.oracle !== null) facts.push(fact("Best of the two", percent(found.oracle), "an oracle that always takes the right answer"));
  parts.push(make("dl", { class: "facts" }, ...facts));

  if (found && found.both !== null) {
    const counts = [
      ["both right", found.both, css("--muted")],
      [`only ${short(labels[0])}`, found.only_first, shades[0]],
      [`only ${short(labels[1])}`, found.only_second, shades[1]],
      ["neither", found.neither, css("--line")],
    ];
    const all = counts.reduce((sum, [, count]) => sum + count, 0);
    parts.push(
      make("h3", {}, "Who gets which images right"),
      make("div", { class: "shares", "aria-hidden": "true" }, ...counts.map(([, count, colour]) => make("span", { style: { width: `${(100 * count) / all}%`, background: colour } }))),
      make("ul", { class: "legend" }, ...counts.map(([name, count, colour]) => make("li", {}, make("span", { class: "glyph", "aria-hidden": "true", style: { color: colour } }, "■"), named(name), ` ${count.toLocaleString("en")} (${percent(count / all)})`))),
    );
  }
  if (block.errors && block.errors.recall[first] && block.errors.recall[second]) {
    parts.push(...recallSideBySide(block.errors, [first, second], labels, shades), ...confusionsSideBySide(block.errors, [first, second], labels));
  }
  if (block.errors) parts.push(...disputedImages(block.errors, first, second, labels, block.candidates.map(({ label }) => label)));
  host.replaceChildren(...parts);
}

function recallSideBySide(errors, pair, labels, shades) {
  const [one, other] = pair.map((i) => errors.recall[i]);
  const known = [...errors.classes.keys()].filter((c) => one[c] !== null && other[c] !== null);
  const bounds = (i, c) => {
    const interval = errors.recallInterval[i];
    return interval && interval[c][0] !== null ? ` (95 %: ${percent(interval[c][0])} to ${percent(interval[c][1])})` : "";
  };
  const wide = [...known].sort((a, b) => Math.abs(one[b] - other[b]) - Math.abs(one[a] - other[a])).slice(0, MOST_CLASSES_SHOWN);
  const shown = wide.sort((a, b) => one[b] - other[b] - (one[a] - other[a]));
  const rows = shown.map((c) => {
    const [low, high] = [Math.min(one[c], other[c]), Math.max(one[c], other[c])];
    const dot = (value, colour, shape) => make("i", { class: shape, style: { left: `${100 * value}%`, background: colour } });
    return make(
      "tr",
      { title: `${errors.classes[c]}: ${pair.map((i) => percent(errors.recall[i][c]) + bounds(i, c)).join(" and ")}` },
      make("th", { scope: "row" }, named(errors.classes[c])),
      make("td", { class: "number" }, percent(one[c], 0)),
      make("td", { class: "number" }, percent(other[c], 0)),
      make("td", { class: "track" }, make("div", { "aria-hidden": "true" }, make("b", { style: { left: `${100 * low}%`, width: `${100 * (high - low)}%` } }), dot(one[c], shades[0], "round"), dot(other[c], shades[1], "square"))),
      make("td", { class: "number" }, `${one[c] < other[c] ? "−" : "+"}${Math.abs(100 * (one[c] - other[c])).toFixed(0)}`),
    );
  });
  const head = (text, glyph, colour) => make("th", { scope: "col", class: "number" }, make("span", { class: "glyph", "aria-hidden": "true", style: { color: colour } }, glyph), named(text));
  const note = known.length > shown.length ? ` The ${shown.length} of ${known.length} classes that differ most.` : "";
  return [
    make("h3", {}, "Recall of each class"),
    make("ul", { class: "legend narrow" }, ...labels.map((label, k) => make("li", {}, make("span", { class: "glyph", "aria-hidden": "true", style: { color: shades[k] } }, "●■"[k]), named(label)))),
    make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Recall of each class" },
      make("table", { class: "recall" },
        make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "class"), head(labels[0], "●", shades[0]), head(labels[1], "■", shades[1]), make("th", { scope: "col", class: "track" }, make("span", { class: "ends" }, make("span", {}, "0"), make("span", {}, "50"), make("span", {}, "100 %"))), make("th", { scope: "col", class: "number" }, "points"))),
        make("tbody", {}, ...rows))),
    make("p", { class: "caption" }, `Share of a class’s images that are recognised; the greatest lead of the first model on top.${note}`),
  ];
}

function confusionsSideBySide(errors, pair, labels) {
  const key = ([truth, answer]) => JSON.stringify([truth, answer]);
  const lists = pair.map((i) => (errors.confusions[i] || []).slice(0, 10));
  const keys = lists.map((list) => new Set(list.map(key)));
  const column = (k) =>
    make("div", {}, make("h4", {}, named(labels[k])),
      lists[k].length
        ? make("ol", { class: "confusions" }, ...lists[k].map((entry) => make("li", { class: keys[1 - k].has(key(entry)) ? null : "own" }, named(entry[0]), " → ", named(entry[1]), make("span", { class: "number" }, percent(entry[2])), keys[1 - k].has(key(entry)) ? null : make("small", { class: "tag" }, "not shared"))))
        : make("p", {}, "No mistakes."));
  return [
    make("h3", {}, "Most frequent confusions"),
    make("div", { class: "columns" }, column(0), column(1)),
    make("p", { class: "caption" }, "Truth → answer, with the share of the truth’s images. Not shared: not among the other’s ten."),
  ];
}

function disputedImages(errors, first, second, labels, names) {
  const straight = errors.disputed[`${first},${second}`];
  const turned = errors.disputed[`${second},${first}`];
  const found = straight || (turned || []).map((one) => ({ ...one, answers: [one.answers[1], one.answers[0]] }));
  if (!found.length) {
    const kept = Object.keys(errors.disputed).map((pair) => pair.split(",").map((i) => named(names[Number(i)])));
    if (!kept.length) return [];
    return [make("p", { class: "caption" }, "Which images only one of them gets right is kept of ", ...kept.flatMap(([a, b], k) => [k ? "; of " : "", a, " and ", b]), "; disputed.csv has the paths.")];
  }
  const gone = found.every((one) => !one.thumbnail);
  const answer = (one, k) =>
    make("span", { class: one.answers[k] === one.truth ? "right" : "wrong" }, one.answers[k] === one.truth ? "✓ " : "✗ ", named(labels[k]), ": ", named(one.answers[k]));
  const card = (one) =>
    make("figure", { title: one.path },
      one.thumbnail && one.thumbnail.startsWith("data:image/") ? make("img", { src: one.thumbnail, alt: `truth: ${one.truth}` }) : make("div", { class: "no-image" }, named(one.path)),
      make("figcaption", {}, make("b", {}, named(one.truth)), answer(one, 0), answer(one, 1)));
  const why = gone ? [make("p", { class: "caption" }, "Without pictures: the images are not where they were. ", make("code", {}, "--images FOLDER"), " says where they are.")] : [];
  return [make("h3", {}, "Images that only one of them gets right"), ...why, make("div", { class: "images" }, ...found.map(card))];
}

/** One candidate's confusion matrix, or, for many classes, its most frequent confusions. */
function drawConfusion(errors, candidate) {
  const host = document.getElementById("confusion-body");
  const matrix = errors.matrices && errors.matrices[candidate];
  if (!matrix) {
    const list = errors.confusions[candidate] || [];
    host.replaceChildren(
      make("p", { class: "caption" }, `A matrix of ${errors.classes.length} classes cannot be read; these are the most frequent confusions.`),
      make("ol", { class: "confusions" }, ...list.map(([truth, answer, share]) => make("li", {}, named(truth), " → ", named(answer), make("span", { class: "number" }, percent(share))))),
    );
    return;
  }
  const readout = make("p", { class: "caption readout" }, "Rows: truth; columns: answer; percent of the row. Point at a cell for its count.");
  const cells = matrix.map((row, truth) => {
    const all = row.reduce((a, b) => a + b, 0);
    return make("tr", {}, make("th", { scope: "row" }, named(errors.classes[truth])),
      ...row.map((count, answer) => {
        const share = all ? count / all : 0;
        const text = `${errors.classes[truth]} → ${errors.classes[answer]}: ${count.toLocaleString("en")} of ${all.toLocaleString("en")} (${percent(share)})`;
        return make("td", { title: text, class: `${truth === answer ? "diagonal" : ""} ${share > 0.55 ? "strong" : ""}`, style: { "--share": share.toFixed(3) } }, share >= 0.005 ? String(Math.round(share * 100)) : "");
      }));
  });
  const table = make("table", { class: "matrix" },
    make("thead", {}, make("tr", {}, make("td", {}), ...errors.classes.map((name) => make("th", { scope: "col" }, named(name))))),
    make("tbody", {}, ...cells));
  table.addEventListener("pointerover", (event) => {
    if (event.target.title && event.target.tagName === "TD") readout.textContent = event.target.title;
  });
  host.replaceChildren(make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Confusion matrix" }, table), readout);
}
