// Numbers and names for people: the same words as multirun_analysis/quantities.py.

/** So many significant digits, as Python's "g" writes them. */
function general(value, digits) {
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
  if (exponent >= -4 && exponent < digits) return String(Number(value.toPrecision(digits)));
  return `${Number(mantissa)}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
}

function prefixed(value, units, base = 1000) {
  let unit = units[units.length - 1];
  for (const smaller of units.slice(0, -1)) {
    if (Math.abs(value) < base - 0.5) {
      unit = smaller;
      break;
    }
    value /= base;
  }
  const digits = Math.abs(value) >= 999.5 ? value.toFixed(0) : general(value, 3);
  return `${digits} ${unit}`.trim();
}

function textOf(quantity, value) {
  if (value === null || value === undefined) return "-";
  switch (quantity.kind) {
    case "share":
    case "percent":
      return `${(value * quantity.points).toFixed(2)} %`;
    case "seconds":
      return value >= 1 || value === 0 ? prefixed(value, ["s"]) : prefixed(value * 1e6, ["µs", "ms", "s"]);
    case "bytes":
      return prefixed(value, ["B", "KiB", "MiB", "GiB", "TiB"], 1024);
    case "joules":
      return prefixed(value, ["J", "kJ", "MJ", "GJ"]);
    case "rate":
      return prefixed(value, ["/s", "k/s", "M/s"]);
    case "count":
      return prefixed(value, ["", "k", "M", "G", "T"]);
    case "money":
      return value.toFixed(2);
    default:
      return general(value, 4);
  }
}

function differenceOf(quantity, value, digits = 1) {
  if (value === null || value === undefined) return "-";
  const sign = value < 0 ? "−" : "+";
  if (quantity.kind === "share" || quantity.kind === "percent") {
    return `${sign}${Math.abs(value * quantity.points).toFixed(digits)} points`;
  }
  return sign + Number(Math.abs(value).toPrecision(3));
}

const percent = (share, digits = 1) => (share === null || share === undefined ? "-" : `${(share * 100).toFixed(digits)} %`);

const pText = (p) => (p === null || p === undefined ? "no test" : p < 0.001 ? "p < 0.001" : `p = ${p.toFixed(3)}`);

const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

/** One line of at most `most` characters; what is too long loses its middle: names often differ at their ends. */
function short(text, most = 36) {
  const letters = Array.from(String(text).replace(/\s+/g, " ").trim());
  const end = Math.floor(most / 3);
  return letters.length > most ? `${letters.slice(0, most - end - 1).join("")}…${letters.slice(-end).join("")}` : letters.join("");
}

/** Text for plotly, which takes some HTML for markup. */
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

/** An element; children are elements or text, never markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A name of any length and script, on one line, whole in its title. */
const named = (text, tag = "span") => make(tag, { class: "name", dir: "auto", title: text }, short(text, 80));

function options(select, entries, chosen) {
  select.replaceChildren(
    ...entries.map(([value, text]) => make("option", { value, title: text, selected: String(value) === String(chosen) }, short(text, 60))),
  );
}
