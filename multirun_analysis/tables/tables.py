"""The tables of a report, made once, shown on the terminal, on the page and in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from multirun_analysis.findings import JOINT, Analysis, Block, Front
from multirun_analysis.quantities import METRICS, Quantity, named
from multirun_analysis.sources.runs import some
from multirun_analysis.tables.disagreement import (
    comparisons_table,
    confusion_table,
    confusions_table,
    disputed_table,
    recall_table,
    reliability_table,
    slug,
)
from multirun_analysis.tables.table import (
    MOST_NAMED,
    Cell,
    Table,
    in_unit,
    interval_cell,
    name_cell,
    number_text,
    plain_cell,
    unit_of,
    with_spread,
)

LARGEST_CONFUSION = 200  # classes; a matrix of more is no table any more


def tables(analysis: Analysis) -> list[Table]:
    """All tables of a report; with several blocks each block's have its number."""
    found: list[Table] = []
    for number, block in enumerate(analysis.blocks, 1):
        own = _of_block(analysis, block)
        if len(analysis.blocks) > 1:
            own = [replace(table, block=number, title=f"{table.title} — {block.name}") for table in own]
        found += own
    return [*found, runs_table(analysis)]


def _of_block(analysis: Analysis, block: Block) -> list[Table]:
    made = [table1(analysis, block), table2(analysis, block), fronts_table(block)]
    made += [front_table(block, key, front) for key, front in block.fronts.items()]
    makers = (
        comparisons_table, trials_table, tuning_table, marks_table, epochs_table, scaling_table, reliability_table
    )  # fmt: skip
    made += [make(block) for make in makers]
    if block.errors:
        made += [recall_table(block), confusions_table(block), disputed_table(block)]
        if len(block.errors.classes) <= LARGEST_CONFUSION:
            made += [confusion_table(block, place) for place in block.errors.confusion]
    return [table for table in made if table.rows]


def _column(block: Block, quantity: Quantity, with_deviation: bool = True) -> tuple[str, list[Cell]]:
    """A head and a cell for each candidate: mean, and spread over seeds where there are several runs."""
    values, deviations = block.means[quantity.column], block.deviations[quantity.column]
    head, factor = unit_of(quantity, values)
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
        text = number_text(value * factor)
        parts: dict[str, float | str | None] = {}
        if with_deviation and deviation >= 0:
            parts = {"": in_unit(value, factor), "SD": in_unit(deviation, factor)}
            text = with_spread(value * factor, deviation * factor) if deviation > 0 else text
        is_best = bool(value == best) and (not mark or not len(comparable))
        cells.append(Cell(in_unit(value, factor), text, is_best, mark, parts))
    return head, cells


def _by_candidate(
    block: Block, name: str, title: str, columns: Sequence[tuple[str, list[Cell]]], note: str = ""
) -> Table:
    heads = ["model", *(head for head, _ in columns)]
    rows = [
        [name_cell(label), *cells] for label, *cells in zip(block.labels, *(cells for _, cells in columns), strict=True)
    ]
    return Table(name, title, heads, rows, note)


def _runs(block: Block) -> tuple[str, list[Cell]]:
    return "runs", [plain_cell(len(c.rows)) for c in block.candidates]


def table1(analysis: Analysis, block: Block) -> Table:
    """Accuracy with its uncertainty, and the weighted averages of the study's Table 1."""
    accuracy = block.accuracy
    intervals = [interval_cell(low, high) for low, high in block.interval * accuracy.scale]
    columns = [_runs(block), _column(block, accuracy), ("95 % interval", intervals)]
    images = np.unique(block.images[~np.isnan(block.images)])
    note = f"{accuracy.label} on {images[0]:,.0f} images. " if len(images) == 1 else ""
    runs = [len(candidate.rows) for candidate in block.candidates]
    note += "± is the standard deviation over runs. The interval is for other images" + (
        " and other trainings; of one run for other images alone." if max(runs) > 1 else "."
    )
    if accuracy.column in METRICS:
        other = METRICS["metrics/val/accuracy" if accuracy.split == "test" else "metrics/test/accuracy"]
        if other.column in block.means:
            columns.append(_column(block, other, with_deviation=False))
        names = {"precision": "precision", "recall": "recall", "f1": "F1"}
        weighted = [
            replace(METRICS[f"metrics/{accuracy.split}/{name}_weighted"], label=label) for name, label in names.items()
        ]
        shown = [quantity for quantity in weighted if quantity.column in block.means]
        columns += [_column(block, quantity, with_deviation=False) for quantity in shown]
        note += " Precision, recall and F1 are averages weighted by the classes' sizes." if shown else ""
    return _by_candidate(block, "table1", "Table 1: accuracy", columns, note)


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
        several = key == JOINT
        cells = [_place_on(front, place, several) for place in range(len(block.candidates))]
        columns.append(("all costs" if several else front.costs[0].label, cells))
    note = (
        "On the Pareto front of accuracy against each cost, or how many times the cost of the cheapest that is no less "
        "accurate; in brackets the probability of being on the front."
    )
    return _by_candidate(block, "fronts", "Fronts", columns, note if columns else "")


def _place_on(front: Front, place: int, several: bool) -> Cell:
    """Whether a candidate is on a front, or how far from it; ``several`` costs have no ratio."""
    on, ratio, probability = bool(front.on[place]), float(front.cost_ratio[place]), float(front.probability[place])
    known = bool(front.known[place])
    parts: dict[str, float | str | None] = {"on front": ("yes" if on else "no") if known else None}
    if not several:
        parts["times the cost"] = ratio if known else None
    if not np.isnan(front.probability).all():
        parts["probability"] = None if np.isnan(probability) else probability
    sure = "" if np.isnan(probability) else f" ({probability:.2f})"
    if not known:
        return Cell(None, "-", parts=parts)
    text = "on" if on else "off" if several else f"{ratio:.3g}×"
    value = 1.0 if on else 0.0 if several else 1 / ratio
    return Cell(value, text + sure, best=on, parts=parts)


def front_table(block: Block, key: str, front: Front) -> Table:
    """One front in full."""
    accuracy = block.accuracy
    order = np.lexsort((-np.nan_to_num(front.contribution), ~front.on, ~front.known))
    costs = [_column(block, cost) for cost in front.costs]
    accuracies = _column(block, accuracy)
    aside = {place for cost in front.costs for place in block.aside.get(cost.column, [])}
    rows = []
    for place in map(int, order):
        on, known = bool(front.on[place]), bool(front.known[place])
        row = [name_cell(block.labels[place]), accuracies[1][place], *(cells[place] for _, cells in costs)]
        row.append(
            Cell(float(on), "on" if on else "off", best=on)
            if known
            else Cell(None, "set aside" if place in aside else "not known")
        )
        row.append(plain_cell(float(100 * front.contribution[place]) if known else None, "{:.1f}"))
        row.append(plain_cell(float(front.points_below[place] * accuracy.points), "{:.2f}"))
        row.append(plain_cell(float(front.cost_ratio[place]), "{:.3g}"))
        row.append(plain_cell(float(front.probability[place]), "{:.2f}"))
        rows.append(row)
    name = "all costs" if key == JOINT else front.costs[0].label
    points = "points below" if accuracy.is_share else f"{accuracy.label} below"
    heads = [
        "model", accuracies[0], *(head for head, _ in costs),
        "front", "hypervolume (%)", points, "times the cost", "probability",
    ]  # fmt: skip
    ties = sum(front.on) - len(
        {tuple(r) for r in block.means.loc[front.on, [accuracy.column, *(c.column for c in front.costs)]].to_numpy()}
    )
    note = f"{ties} on it are equal to another in both and share its place." if ties else ""
    return Table("front", f"Front of {accuracy.label} against {name}", heads, rows, note, part=slug(key))


def trials_table(block: Block) -> Table:
    """Every trial of candidates that were tuned."""
    rows = []
    for candidate in block.candidates:
        for trial in candidate.trials if len(candidate.trials) > 1 else ():
            selection = plain_cell(trial.selection * block.accuracy.scale, "{:.2f}")
            chosen = Cell(float(trial.chosen), "chosen" if trial.chosen else "", best=trial.chosen)
            rows.append(
                [name_cell(candidate.label), name_cell(trial.settings), plain_cell(len(trial.rows)), selection, chosen]
            )
    note = (
        "Chosen by the mean accuracy on val, over finished runs; what is reported is measured on test."
        if block.accuracy.split == "test"
        else ""
    )
    return Table("trials", "Trials", ["model", "settings", "runs", "selected by", "chosen"], rows, note)


def tuning_table(block: Block) -> Table:
    """How good each candidate was after so many device hours of tuning."""
    rows = []
    scale = block.selecting.scale
    for place, tuning in block.tuning.items():
        for number, (trial, hours, best) in enumerate(zip(tuning.trials, tuning.hours, tuning.best, strict=True), 1):
            tried = block.candidates[place].trials[trial]
            numbers = [plain_cell(float(value * scale), "{:.2f}") for value in (tried.selection, best)]
            cells = [name_cell(block.labels[place]), plain_cell(number), name_cell(tried.settings)]
            rows.append([*cells, plain_cell(float(hours), "{:.4g}"), *numbers])
    heads = ["model", "trial", "settings", "device hours so far", block.selecting.axis, "best so far"]
    note = (
        "Trials in the order they were started, each with its runs of all seeds; what failed or is unfinished has cost "
        "something, too. Another order of the same trials would give another way to the same end."
    )
    return Table("tuning", "Best so far against the cost of tuning", heads, rows, note)


def marks_table(block: Block) -> Table:
    """What must not be compared, and why: a row for each cause, with all that it is about."""
    about: dict[tuple[str, frozenset[str] | None], list[str]] = {}
    for candidate in block.candidates:
        for mark in candidate.marks:
            named_so = f"{candidate.label} ({mark.detail})" if mark.detail else candidate.label
            about.setdefault((mark.cause, mark.affects), []).append(named_so)
    rows = []
    for (cause, affects), models in about.items():
        spoilt = "everything" if affects is None else ", ".join(named(c).label for c in sorted(affects))
        every = len(models) == len(block.candidates) > 1 and models == block.labels
        cell = Cell(", ".join(models), "all" if every else some(models, MOST_NAMED))
        rows.append([name_cell(cause), cell, name_cell(spoilt or "nothing")])
    return Table("marks", "What cannot be compared", ["why", "models", "what"], rows)


def epochs_table(block: Block) -> Table:
    """The learning curves, each epoch the mean over a candidate's runs."""
    columns = [("train_loss", 1, "{:.4f}"), ("val_loss", 1, "{:.4f}")]
    columns += [("val_accuracy", 100, "{:.2f}"), ("seconds", 1, "{:.2f}")]
    rows = []
    for place, curves in block.epochs.items():
        for number in sorted({epoch.epoch for curve in curves for epoch in curve}):
            at = [epoch for curve in curves for epoch in curve if epoch.epoch == number]
            row = [name_cell(block.labels[place]), plain_cell(number), plain_cell(len(at))]
            for field, factor, form in columns:
                known = [value for epoch in at if (value := getattr(epoch, field)) is not None]
                row.append(plain_cell(factor * float(np.mean(known)) if known else None, form))
            rows.append(row)
    heads = ["model", "epoch", "runs", "train loss", "val loss", "val accuracy (%)", "time (s)"]
    return Table("epochs", "Learning curves", heads, rows)


def scaling_table(block: Block) -> Table:
    """Members of a family by size."""
    rows = []
    for family in block.families:
        by_size = "cost/parameters" if "cost/parameters" in family.slopes else next(iter(family.slopes))
        for place in sorted(family.members, key=lambda i: float(block.means[by_size].iat[i])):
            row = [name_cell(family.name), name_cell(block.labels[place])]
            for column in ("cost/parameters", "cost/macs"):
                row.append(
                    plain_cell(block.means[column].iat[place] / 1e6 if column in block.means else None, "{:.2f}")
                )
            row.append(plain_cell(block.means[block.accuracy.column].iat[place] * block.accuracy.scale, "{:.2f}"))
            for column in ("cost/parameters", "cost/macs"):
                row.append(plain_cell(family.slopes.get(column, np.nan) * block.accuracy.points, "{:+.2f}"))
            rows.append(row)
    heads = ["family", "model", "parameters (M)", "MACs (M)", block.accuracy.axis]
    heads += ["points per doubling of parameters", "points per doubling of MACs"]
    note = "The slope of a line through the family, over the logarithm of the size."
    return Table("scaling", "Scaling within families", heads, rows, note)


def runs_table(analysis: Analysis) -> Table:
    """Every run."""
    label = {row: c.label for b in analysis.blocks for c in b.candidates for t in c.trials for row in t.rows}
    chosen = {row for block in analysis.blocks for c in block.candidates for row in c.rows}
    quantities = [*analysis.metrics[:1], *analysis.chosen_costs]
    numbers = [analysis.numbers[q.column] for q in quantities]
    heads = [unit_of(q, values) for q, values in zip(quantities, numbers, strict=True)]
    scaled = [(values * factor).to_numpy() for values, (_, factor) in zip(numbers, heads, strict=True)]
    rows = []
    for row, info in enumerate(analysis.info):
        cells = [plain_cell(float(values[row])) for values in scaled]
        rows.append(
            [
                name_cell(info.run_id), name_cell(label.get(row, "")),
                name_cell("-" if info.seed is None else str(info.seed)),
                name_cell(info.status),
                Cell(float(row in chosen), "yes" if row in chosen else "no"),
                *(Cell(c.value, "-" if c.value is None else number_text(float(c.value))) for c in cells),
                name_cell(info.url or info.source),
            ]
        )  # fmt: skip
    return Table(
        "runs", "All runs", ["run", "model", "seed", "status", "counted", *(head for head, _ in heads), "source"], rows
    )
