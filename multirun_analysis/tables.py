"""The tables of a report, made once, shown on the terminal, on the page and in files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from multirun_analysis.findings import JOINT, Analysis, Block, Front
from multirun_analysis.quantities import METRICS, Quantity, named

MOST_PRINTED = 500  # rows, in Markdown and LaTeX; the CSV has all
LARGEST_CONFUSION = 200  # classes; a matrix of more is no table any more


@dataclass(frozen=True)
class Cell:
    """``value`` is what one sorts and computes by, ``text`` what one reads; ``mark`` says why it cannot be compared."""

    value: float | str | None
    text: str
    best: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """``name`` is that of its files. The units stand in ``columns``; ``note`` explains what the head cannot."""

    name: str
    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""

    def csv(self) -> str:
        """The values, in full precision, in the units of the head."""
        values = [[cell.value for cell in row] for row in self.rows]
        return str(pd.DataFrame(values, columns=self.columns).to_csv(index=False))

    def markdown(self) -> str:
        """The texts, the best in bold; what cannot be compared has a dagger, and the reasons stand below."""

        def escape(text: str) -> str:
            return re.sub(r"([\\|<>*_`\[\]])", r"\\\1", " ".join(text.split()))

        numeric = [all(not isinstance(row[i].value, str) for row in self.rows) for i in range(len(self.columns))]
        lines = [
            "| " + " | ".join(map(escape, self.columns)) + " |",
            "|" + "|".join(" ---: " if right else " --- " for right in numeric) + "|",
        ]
        for row in self.rows[:MOST_PRINTED]:
            cells = [escape(cell.text) + ("†" if cell.mark else "") for cell in row]
            cells = [f"**{text}**" if cell.best else text for text, cell in zip(cells, row, strict=True)]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join([*lines, *(f"\n{escape(line)}" for line in self._below())]) + "\n"

    def tex(self) -> str:
        """For LaTeX with booktabs, the best in bold."""

        def escape(text: str) -> str:
            special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
            special |= {c: "\\" + c for c in "&%$#_{}"} | {
                "†": r"\textdagger{}",
                "±": r"$\pm$",
                "µ": r"$\mu$",
                "×": r"$\times$",
            }
            return "".join(special.get(c, c) for c in " ".join(text.split()))

        lines = [
            "% \\usepackage{booktabs}",
            "\\begin{tabular}{l" + "r" * (len(self.columns) - 1) + "}",
            "\\toprule",
            " & ".join(map(escape, self.columns)) + r" \\",
            "\\midrule",
        ]
        for row in self.rows[:MOST_PRINTED]:
            cells = [escape(cell.text + ("†" if cell.mark else "")) for cell in row]
            lines.append(
                " & ".join(rf"\textbf{{{t}}}" if c.best else t for t, c in zip(cells, row, strict=True)) + r" \\"
            )
        return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *(f"% {line}" for line in self._below())]) + "\n"

    def _below(self) -> list[str]:
        left_out = len(self.rows) - MOST_PRINTED
        return [*([f"{left_out:,} more rows are in the CSV."] if left_out > 0 else []), *self.footnotes()]

    def footnotes(self) -> list[str]:
        """The note, and each reason why something is marked, with the rows that it is about."""
        reasons: dict[str, dict[str, None]] = {}
        for row in self.rows:
            for cell in row:
                for reason in cell.mark.split("; ") if cell.mark else ():
                    reasons.setdefault(reason, {})[row[0].text] = None
        about = []
        for reason, names in reasons.items():
            listed = ", ".join(list(names)[:8]) + (" ..." if len(names) > 8 else "")
            about.append(f"† {reason}: {'all' if len(names) == len(self.rows) > 1 else listed}")
        return [line for line in (self.note, *about) if line]


def tables(analysis: Analysis) -> list[Table]:
    """All tables of a report; with several blocks each block's have its number in their names."""
    found: list[Table] = []
    for number, block in enumerate(analysis.blocks, 1):
        own = list(_of_block(analysis, block))
        if len(analysis.blocks) > 1:
            own = [replace(t, name=f"{t.name}-{number}", title=f"{t.title} — {block.name}") for t in own]
        found += own
    return [*found, runs_table(analysis)]


def _of_block(analysis: Analysis, block: Block) -> list[Table]:
    made = [table1(analysis, block), table2(analysis, block), fronts_table(block)]
    made += [front_table(block, key, front) for key, front in block.fronts.items()]
    made += [
        comparisons_table(block),
        trials_table(block),
        marks_table(block),
        epochs_table(block),
        scaling_table(block),
    ]
    if block.errors:
        made += [recall_table(block), confusions_table(block), disputed_table(block)]
        if len(block.errors.classes) <= LARGEST_CONFUSION:
            made += [confusion_table(block, place) for place in block.errors.confusion]
    return [table for table in made if table.rows]


def _name(text: str) -> Cell:
    return Cell(text, text)


def _plain(value: float | int | None, form: str = "{}") -> Cell:
    missing = value is None or np.isnan(value)
    return Cell(None if missing else value, "-" if missing else form.format(value))


def _number(value: float) -> str:
    """Two decimals, or three digits where two decimals would say little."""
    return f"{value:,.2f}".replace(",", "") if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"


def _unit(quantity: Quantity, values: pd.Series) -> tuple[str, float]:
    """A head with a unit that keeps a column's numbers short, and what turns values into it."""
    largest = values.abs().max()
    if quantity.kind == "seconds" and largest < 1:
        return f"{quantity.label} (ms)", 1e3
    if quantity.kind == "count":
        for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
            if largest >= size / 2:
                return f"{quantity.label} ({unit})", 1 / size
    return quantity.axis, quantity.scale


def _column(block: Block, quantity: Quantity, with_deviation: bool = True) -> tuple[str, list[Cell]]:
    """A head and a cell for each candidate: mean, and spread over seeds where there are several runs."""
    values, deviations = block.means[quantity.column], block.deviations[quantity.column]
    head, factor = _unit(quantity, values)
    marks = ["; ".join(mark.text for mark in c.marks if mark.spoils(quantity.column)) for c in block.candidates]
    # The best of what can be compared; if nothing can, of all.
    comparable = values[[not mark for mark in marks]].dropna()
    of = comparable if len(comparable) else values.dropna()
    best = (of.max() if quantity.goal == "max" else of.min()) if len(of) > 1 else np.nan
    cells = []
    for value, deviation, mark in zip(values, deviations, marks, strict=True):
        if np.isnan(value):
            cells.append(Cell(None, "-"))
            continue
        text = _number(value * factor)
        if with_deviation and deviation > 0:
            text += f" ± {_number(deviation * factor)}"
        cells.append(
            Cell(float(value * factor), text, best=bool(value == best) and (not mark or not len(comparable)), mark=mark)
        )
    return head, cells


def _by_candidate(
    block: Block, name: str, title: str, columns: Sequence[tuple[str, list[Cell]]], note: str = ""
) -> Table:
    heads = ["model", *(head for head, _ in columns)]
    rows = [
        [_name(label), *cells] for label, *cells in zip(block.labels, *(cells for _, cells in columns), strict=True)
    ]
    return Table(name, title, heads, rows, note)


def _runs(block: Block) -> tuple[str, list[Cell]]:
    return "runs", [_plain(len(c.rows)) for c in block.candidates]


def table1(analysis: Analysis, block: Block) -> Table:
    """Accuracy with its uncertainty, and the weighted averages of the study's Table 1."""
    accuracy = block.accuracy
    bounds = _wider(block) * accuracy.scale
    intervals = [
        Cell(None, "-") if np.isnan(low) else Cell(float(low), f"{_number(low)} to {_number(high)}")
        for low, high in bounds
    ]
    columns = [_runs(block), _column(block, accuracy), ("95 % interval", intervals)]
    images = np.unique(block.images[~np.isnan(block.images)])
    note = f"{accuracy.label} on {images[0]:,.0f} images. " if len(images) == 1 else ""
    note += (
        "± is the standard deviation over runs; the interval is the wider of those from the runs and from the images."
    )
    if accuracy.column in METRICS:
        split = accuracy.column.split("/")[1]
        other = f"metrics/{'val' if split == 'test' else 'test'}/accuracy"
        if other in block.means:
            columns.append(_column(block, METRICS[other], with_deviation=False))
        weighted = [METRICS[f"metrics/{split}/{name}_weighted"] for name in ("precision", "recall", "f1")]
        shown = [
            replace(q, label=q.label.removeprefix(f"{split} weighted ")) for q in weighted if q.column in block.means
        ]
        columns += [_column(block, quantity, with_deviation=False) for quantity in shown]
        note += " Precision, recall and F1 are averages weighted by the classes' sizes." if shown else ""
    return _by_candidate(block, "table1", "Table 1: accuracy", columns, note)


def _wider(block: Block) -> np.ndarray:
    """The wider of the two intervals; either may be unknown."""
    widths = np.nan_to_num([i[:, 1] - i[:, 0] for i in (block.image_interval, block.seed_interval)], nan=-1.0)
    return np.where((widths[1] > widths[0])[:, None], block.seed_interval, block.image_interval)


# The rows of the study's Table 2, in its order, then what it lacked.
_TABLE2 = (
    "cost/trainable_parameters", "cost/disk_bytes", "cost/macs", "cost/macs_without_attention_products",
    "cost/training/seconds", "cost/training/peak_memory_bytes", "cost/inference/seconds",
    "cost/inference/peak_memory_bytes", "cost/inference/latency_seconds/batch_1/p50",
    "cost/inference/images_per_second", "cost/training/data_wait_share", "cost/training/energy_joules", "cost/price",
)  # fmt: skip


def table2(analysis: Analysis, block: Block) -> Table:
    """Costs: those of the study's Table 2 and more; for somebody's table the costs that were named."""
    known = {cost.column: cost for cost in analysis.costs if block.means[cost.column].notna().any()}
    order = dict.fromkeys([c for c in (*_TABLE2, *(cost.column for cost in analysis.chosen_costs)) if c in known])
    both = ["cost/parameters", "cost/trainable_parameters"]
    if set(both) <= set(order) and bool((block.means[both[0]] == block.means[both[1]]).all()):
        del order[both[0]]  # every one was trained
    note = (
        "MACs are multiply-adds. The study's GFLOPs are those without attention's products."
        if "cost/macs" in order
        else ""
    )
    return _by_candidate(block, "table2", "Table 2: costs", [_column(block, known[column]) for column in order], note)


def fronts_table(block: Block) -> Table:
    """For each candidate and cost: on the front, or what of its cost the front needs."""
    columns = []
    for key, front in block.fronts.items():
        cells = []
        for place in range(len(block.candidates)):
            sure = "" if np.isnan(front.probability[place]) else f" ({front.probability[place]:.2f})"
            if not front.known[place]:
                cells.append(Cell(None, "-"))
            elif front.on[place]:
                cells.append(Cell(1.0, f"on{sure}", best=True))
            elif key == JOINT:
                cells.append(Cell(0.0, f"off{sure}"))
            else:
                cells.append(Cell(float(1 / front.cost_ratio[place]), f"{front.cost_ratio[place]:.3g}×{sure}"))
        columns.append(("all costs" if key == JOINT else front.costs[0].label, cells))
    note = (
        "On the Pareto front of accuracy against each cost, or how many times the cost of the cheapest that is no less "
        "accurate; in brackets the probability of being on the front."
    )
    return _by_candidate(block, "fronts", "Fronts", columns, note if columns else "")


def front_table(block: Block, key: str, front: Front) -> Table:
    """One front in full."""
    accuracy = block.accuracy
    order = np.lexsort((-np.nan_to_num(front.contribution), ~front.on, ~front.known))
    costs = [_column(block, cost) for cost in front.costs]
    accuracies = _column(block, accuracy)
    rows = []
    for place in map(int, order):
        on, known = bool(front.on[place]), bool(front.known[place])
        row = [_name(block.labels[place]), accuracies[1][place], *(cells[place] for _, cells in costs)]
        row.append(Cell(float(on), "on" if on else "off", best=on) if known else Cell(None, "not known"))
        row.append(_plain(float(100 * front.contribution[place]) if known else None, "{:.1f}"))
        row.append(_plain(float(front.points_below[place] * accuracy.points), "{:.2f}"))
        row.append(_plain(float(front.cost_ratio[place]), "{:.3g}"))
        row.append(_plain(float(front.probability[place]), "{:.2f}"))
        rows.append(row)
    name = "all costs" if key == JOINT else front.costs[0].label
    points = "points below" if accuracy.points == 100 or accuracy.kind == "percent" else f"{accuracy.label} below"
    heads = [
        "model",
        accuracies[0],
        *(head for head, _ in costs),
        "front",
        "hypervolume (%)",
        points,
        "times the cost",
        "probability",
    ]
    ties = sum(front.on) - len(
        {tuple(r) for r in block.means.loc[front.on, [accuracy.column, *(c.column for c in front.costs)]].to_numpy()}
    )
    note = f"{ties} on it are equal to another in both and share its place." if ties else ""
    return Table(f"front-{short(key)}", f"Front of {accuracy.label} against {name}", heads, rows, note)


def short(column: str) -> str:
    """A column as a part of a file's name: ``cost/training/seconds`` -> ``training-seconds``."""
    return re.sub(r"[^a-zA-Z0-9]+", "-", column.removeprefix("cost/")).strip("-").lower()[:60] or "cost"


def comparisons_table(block: Block) -> Table:
    """Every pair that was compared."""
    points, labels = block.accuracy.points, block.labels
    rows = []
    for pair in block.comparisons:
        interval = "-" if np.isnan(pair.low) else f"{pair.low * points:+.2f} to {pair.high * points:+.2f}"
        rows.append(
            [
                _name(labels[pair.first]),
                _name(labels[pair.second]),
                _plain(pair.difference * points, "{:+.2f}"),
                Cell(None if np.isnan(pair.low) else pair.low * points, interval),
                _plain(pair.p, "{:.3g}"),
                _name("yes" if pair.certain else "no" if pair.p is not None else "not tested"),
                _plain(pair.kappa, "{:.2f}"),
                _plain(pair.only_first),
                _plain(pair.only_second),
                _plain(None if pair.oracle is None else 100 * pair.oracle, "{:.2f}"),
                _name("; ".join(filter(None, (pair.test, pair.reason)))),
            ]
        )
    heads = [
        "more accurate", "than", _difference_head(block),
        "95 % interval", "p (Holm)", "certain", "kappa of errors", "only the first right", "only the second right",
        "oracle of both (%)", "test",
    ]  # fmt: skip
    return Table(
        "comparisons",
        "Comparisons in pairs",
        heads,
        rows,
        "p is corrected for the number of pairs; certain is p < 0.05.",
    )


def _difference_head(block: Block) -> str:
    return "difference (points)" if block.accuracy.kind in ("share", "percent") else "difference"


def trials_table(block: Block) -> Table:
    """Every trial of candidates that were tuned."""
    rows = []
    for candidate in block.candidates:
        for trial in candidate.trials if len(candidate.trials) > 1 else ():
            selection = _plain(trial.selection * block.accuracy.scale, "{:.2f}")
            chosen = Cell(float(trial.chosen), "chosen" if trial.chosen else "", best=trial.chosen)
            rows.append([_name(candidate.label), _name(trial.settings), _plain(len(trial.rows)), selection, chosen])
    note = (
        "Chosen by the mean accuracy on val, over finished runs; what is reported is measured on test."
        if "/test/" in block.accuracy.column
        else ""
    )
    return Table("trials", "Trials", ["model", "settings", "runs", "selected by", "chosen"], rows, note)


def marks_table(block: Block) -> Table:
    """What must not be compared, and why."""
    rows = []
    for candidate in block.candidates:
        for mark in candidate.marks:
            spoilt = "everything" if mark.affects is None else ", ".join(named(c).label for c in sorted(mark.affects))
            rows.append([_name(candidate.label), _name(mark.text), _name(spoilt or "nothing")])
    return Table("marks", "What cannot be compared", ["model", "why", "what"], rows)


def epochs_table(block: Block) -> Table:
    """The learning curves, each epoch the mean over a candidate's runs."""
    rows = []
    for place, curves in block.epochs.items():
        for number in sorted({epoch.epoch for curve in curves for epoch in curve}):
            at = [epoch for curve in curves for epoch in curve if epoch.epoch == number]
            row = [_name(block.labels[place]), _plain(number), _plain(len(at))]
            for field, factor, form in [
                ("train_loss", 1, "{:.4f}"),
                ("val_loss", 1, "{:.4f}"),
                ("val_accuracy", 100, "{:.2f}"),
                ("seconds", 1, "{:.2f}"),
            ]:
                known = [value for epoch in at if (value := getattr(epoch, field)) is not None]
                row.append(_plain(factor * float(np.mean(known)) if known else None, form))
            rows.append(row)
    heads = ["model", "epoch", "runs", "train loss", "val loss", "val accuracy (%)", "time (s)"]
    return Table("epochs", "Learning curves", heads, rows)


def scaling_table(block: Block) -> Table:
    """Members of a family by size."""
    rows = []
    for family in block.families:
        by_size = "cost/parameters" if "cost/parameters" in family.slopes else next(iter(family.slopes))
        for place in sorted(family.members, key=lambda i: float(block.means[by_size].iat[i])):
            row = [_name(family.name), _name(block.labels[place])]
            for column in ("cost/parameters", "cost/macs"):
                row.append(_plain(block.means[column].iat[place] / 1e6 if column in block.means else None, "{:.2f}"))
            row.append(_plain(block.means[block.accuracy.column].iat[place] * block.accuracy.scale, "{:.2f}"))
            for column in ("cost/parameters", "cost/macs"):
                row.append(_plain(family.slopes.get(column, np.nan) * block.accuracy.points, "{:+.2f}"))
            rows.append(row)
    heads = [
        "family",
        "model",
        "parameters (M)",
        "MACs (M)",
        block.accuracy.axis,
        "points per doubling of parameters",
        "points per doubling of MACs",
    ]
    return Table(
        "scaling",
        "Scaling within families",
        heads,
        rows,
        "The slope of a line through the family, over the logarithm of the size.",
    )


def recall_table(block: Block) -> Table:
    """How much of each class each candidate finds."""
    assert block.errors
    places = list(block.errors.confusion)
    recalls = np.stack([block.errors.recall(place) for place in places])
    images = block.errors.confusion[places[0]].sum(1) // max(1, len(block.candidates[places[0]].rows))
    rows = []
    for number, name in enumerate(block.errors.classes):
        column = recalls[:, number]
        best = np.nanmax(column) if len(places) > 1 and not np.isnan(column).all() else np.nan
        cells = [
            Cell(None, "-") if np.isnan(r) else Cell(float(100 * r), f"{100 * r:.1f}", best=bool(r == best))
            for r in column
        ]
        rows.append([_name(name), _plain(int(images[number])), *cells])
    return Table("recall", "Recall by class (%)", ["class", "images", *(block.labels[place] for place in places)], rows)


def confusions_table(block: Block) -> Table:
    """Each candidate's most frequent mistakes, and who shares them."""
    assert block.errors
    tops = {place: block.errors.confusions(place) for place in block.errors.confusion}
    rows = []
    for place, found in tops.items():
        for truth, answer, share in found:
            others = [
                block.labels[o]
                for o, theirs in tops.items()
                if o != place and (truth, answer) in {t[:2] for t in theirs}
            ]
            said = ", ".join(others[:4]) + (" ..." if len(others) > 4 else "")
            rows.append(
                [
                    _name(block.labels[place]),
                    _name(truth),
                    _name(answer),
                    _plain(100 * share, "{:.1f}"),
                    _name(said or "nobody"),
                ]
            )
    heads = ["model", "truth", "taken for", "of the class (%)", "also among the most frequent of"]
    return Table("confusions", "Most frequent confusions", heads, rows)


def disputed_table(block: Block) -> Table:
    """Every image that only one of two models got right, for the pairs whose differences matter most."""
    assert block.errors
    labels = block.labels
    rows = [
        [_name(text) for text in (labels[first], labels[second], image.path, image.truth, *image.answers)]
        for (first, second), images in block.errors.disputed.items()
        for image in images
    ]
    heads = ["first", "second", "image", "truth", "first's answer", "second's answer"]
    return Table("disputed", "Images that only one of two gets right", heads, rows)


def confusion_table(block: Block, place: int) -> Table:
    """One confusion matrix, counted over the candidate's runs; rows are the truth."""
    assert block.errors
    classes = block.errors.classes
    rows = [
        [_name(name), *(_plain(int(n)) for n in line)]
        for name, line in zip(classes, block.errors.confusion[place], strict=True)
    ]
    return Table(
        f"confusion-{place + 1}-{short(block.labels[place])}",
        f"Confusion matrix of {block.labels[place]}",
        ["truth", *classes],
        rows,
    )


def runs_table(analysis: Analysis) -> Table:
    """Every run."""
    label = {row: c.label for b in analysis.blocks for c in b.candidates for t in c.trials for row in t.rows}
    chosen = {row for block in analysis.blocks for c in block.candidates for row in c.rows}
    quantities = [*analysis.metrics[:1], *analysis.chosen_costs]
    numbers = [pd.to_numeric(analysis.frame[q.column], errors="coerce").astype(float) for q in quantities]
    heads = [_unit(q, values) for q, values in zip(quantities, numbers, strict=True)]
    scaled = [(values * factor).to_numpy() for values, (_, factor) in zip(numbers, heads, strict=True)]
    rows = []
    for row, info in enumerate(analysis.info):
        cells = [_plain(float(values[row])) for values in scaled]
        rows.append(
            [
                _name(info.run_id), _name(label.get(row, "")), _name("-" if info.seed is None else str(info.seed)),
                _name(info.status),
                Cell(float(row in chosen), "yes" if row in chosen else "no"),
                *(Cell(c.value, "-" if c.value is None else _number(float(c.value))) for c in cells),
                _name(info.url or info.source),
            ]
        )  # fmt: skip
    return Table(
        "runs", "All runs", ["run", "model", "seed", "status", "counted", *(head for head, _ in heads), "source"], rows
    )
