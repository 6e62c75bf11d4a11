// Tables that sort by a click on a column's head, and draw their rows as they are asked for.

const ROWS_AT_ONCE = 200;

/** Rows as a csv; what a spreadsheet would take for a formula has an apostrophe before it. */
function csvOf(rows) {
  const formula = /^[\s\u200b]*[=+\-@\uff1d\uff0b\uff0d\uff20]/;
  const field = (value) => {
    if (typeof value === "number") return String(value);
    const text = formula.test(value) && !Number.isFinite(Number(value)) ? `'${value}` : value;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => `${row.map(field).join(",")}\r\n`).join("");
}

/**
 * Draw a table into `host`; gives back a function that shows only the rows for which `filter` holds.
 * columns: texts. cell(row, column) -> {value, text, best, mark, url}. Missing values sort last, either way.
 */
function drawTable(host, { title, columns, count, cell, note }) {
  const state = { column: null, descending: false, shown: ROWS_AT_ONCE, rows: [...Array(count).keys()] };
  const body = make("tbody");
  const reasons = [];
  const below = make("ul", { class: "reasons" });
  const more = make("p", { class: "more" });
  const numeric = columns.map((_, column) => state.rows.slice(0, 50).some((row) => typeof cell(row, column).value === "number"));
  const heads = columns.map((text, column) =>
    make("th", { scope: "col", "aria-sort": "none", class: numeric[column] ? "number" : null }, make("button", { type: "button", on: { click: () => sort(column) } }, headOf(text))),
  );
  host.replaceChildren(
    make(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": title },
      make("table", {}, make("caption", { class: "hidden" }, title), make("thead", {}, make("tr", {}, ...heads)), body),
    ),
    below,
    more,
    ...(note ? [make("p", { class: "caption" }, note)] : []),
    make("p", { class: "download" }, make("button", { type: "button", title: "The rows of this table, in this order, in full precision", on: { click: download } }, "Download CSV")),
  );

  function download() {
    const values = state.rows.map((row) => columns.map((_, column) => {
      const { value, text } = cell(row, column);
      return value === undefined || value === null ? (text === "-" ? "" : text) : value;
    }));
    const link = make("a", { href: URL.createObjectURL(new Blob([csvOf([columns, ...values])], { type: "text/csv" })), download: `${title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60) || "table"}.csv` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  function draw() {
    reasons.length = 0;
    const rows = state.rows.slice(0, state.shown);
    body.replaceChildren(...rows.map((row) => make("tr", {}, ...columns.map((_, column) => drawCell(cell(row, column), column)))));
    below.replaceChildren(...reasons.map((reason, i) => make("li", {}, dagger(i), ` ${reason}`)));
    below.hidden = reasons.length === 0;
    const left = state.rows.length - rows.length;
    more.hidden = left === 0;
    more.replaceChildren(
      `${rows.length.toLocaleString("en")} of ${plural(state.rows.length, "row")}. `,
      make("button", { type: "button", on: { click: () => show(ROWS_AT_ONCE) } }, `Show ${Math.min(left, ROWS_AT_ONCE)} more`),
    );
  }

  const dagger = (i) => "†".repeat((i % 3) + 1) + (i > 2 ? String(Math.floor(i / 3)) : "");

  function drawCell({ value, text, best, mark, url }, column) {
    const content = url ? make("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, named(text)) : named(text);
    const inner = best ? make("strong", {}, content) : content;
    let sign = null;
    if (mark) {
      const causes = mark.split("; ").map((text) => text.split(": ")[0]).join("; ");  // what is each one's own stands in the tip
      if (!reasons.includes(causes)) reasons.push(causes);
      sign = make("sup", { title: mark }, dagger(reasons.indexOf(causes)));
    }
    return make(column === 0 ? "th" : "td", { scope: column === 0 ? "row" : null, class: numeric[column] ? "number" : null }, inner, sign);
  }

  function show(rows) {
    state.shown += rows;
    draw();
  }

  function sort(column) {
    state.descending = state.column === column && !state.descending;
    state.column = column;
    heads.forEach((head, i) => head.setAttribute("aria-sort", i !== column ? "none" : state.descending ? "descending" : "ascending"));
    order();
    draw();
  }

  function order() {
    if (state.column === null) return;
    const sign = state.descending ? -1 : 1;
    const keyed = state.rows.map((row) => [row, cell(row, state.column).value ?? null]);
    const missing = (value) => value === null || value === "";
    keyed.sort(([a, x], [b, y]) => {
      if (missing(x) || missing(y)) return missing(x) - missing(y) || a - b;
      const difference = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
      return sign * difference || a - b;
    });
    state.rows = keyed.map(([row]) => row);
  }

  draw();
  return (filter) => {
    state.rows = [...Array(count).keys()].filter(filter);
    state.shown = ROWS_AT_ONCE;
    order();
    draw();
    return state.rows.length;
  };
}

/** A column's head, on two lines if it is long. */
function headOf(text) {
  const head = named(text);
  head.style.setProperty("min-width", `${Math.min(17, text.length > 15 ? Math.ceil(text.length / 2) + 2 : text.length)}ch`);
  return head;
}

/** A table as page.py sends it. */
function drawSentTable(host, table) {
  const note = [table.note, table.total > table.rows.length ? `The first ${plural(table.rows.length, "row")} of ${table.total.toLocaleString("en")}; tables/${table.name}.csv has all.` : ""];
  drawTable(host, {
    title: table.title,
    columns: table.columns,
    count: table.rows.length,
    cell: (row, column) => {
      const sent = table.rows[row][column];
      if (typeof sent === "string") return { value: sent, text: sent };
      const [value, text, best, mark] = sent;
      return { value, text, best, mark };
    },
    note: note.filter(Boolean).join(" "),
  });
}
