"""The tables of a report, made once, shown on the terminal, on the page and in files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from multirun_analysis.analysis.variants import DISK, LATENCY, RATE, variant_costs
from multirun_analysis.findings import Analysis, Block, Front
from multirun_analysis.quantities import METRICS, Quantity, named, unlike
from multirun_analysis.sources.runs import some
from multirun_analysis.tables.columns import Cell, Column, Values
from multirun_analysis.tables.disagreement import (
    comparisons_table,
    confusion_table,
    confusions_table,
    disputed_table,
    recall_table,
    reliability_table,
    slug,
)
from multirun_analysis.tables.study import study_tables
from multirun_analysis.tables.table import (
    MOST_NAMED,
    Table,
    in_unit,
    interval_cell,
    name_cell,
    number_text,
    numbers_column,
    plain_cell,
    unit_of,
    with_spread,
)

LARGEST_CONFUSION = 200  # classes; a matrix of more is no table any more
LEAST_SPREAD = 1e-4  # of a value, from which on it is shown beside it: files of one network differ by a few bytes


def tables(analysis: Analysis) -> list[Table]:
    """All tables of a report; with several blocks each block's have its number."""
    found: list[Table] = []
    for number, block in enumerate(analysis.blocks, 1):
        own = _of_block(analysis, block)
        if len(analysis.blocks) > 1:
            own = [replace(table, block=number, title=f"{table.title} — {block.name}") for table in own]
        found += own
    return [*found, *study_tables(analysis.study), runs_table(analysis)]


def _of_block(analysis: Analysis, block: Block) -> list[Table]:
    made = [table1(analysis, block), table2(analysis, block), fronts_table(block)]
    made += [front_table(block, key, front) for key, front in block.fronts.items()]
    makers = (
        comparisons_table, trials_table, tuning_table, importance_table, marks_table, epochs_table, scaling_table,
        reliability_table, variants_table,
    )  # fmt: skip
    made += [make(block) for make in makers]
    if block.errors:
        made += [recall_table(block), confusions_table(block), disputed_table(block)]
        if len(block.errors.classes) <= LARGEST_CONFUSION:
            made += [confusion_table(block, place) for place in block.errors.confusion]
    taken: set[str] = set()  # two columns may have one name of a file
    made = [replace(t, part=unlike(t.name, taken).removeprefix(t.kind).removeprefix("-")) for t in made]
    return [table for table in made if table.rows]


def _column(block: Block, quantity: Quantity, with_deviation: bool = True) -> Column:
    """A value for each candidate: mean, and spread over seeds where there are several runs."""
    values, deviations = (table[quantity.column].to_numpy(float) for table in (block.means, block.deviations))
    head, factor = unit_of(quantity, block.means[quantity.column])
    marks: Sequence[str] = ()
    known = comparable = ~np.isnan(values)
    if block.doubtful:
        marks = ["; ".join([m.text for m in c.marks if m.spoils(quantity.column)]) for c in block.candidates]
        comparable = known & [not mark for mark in marks]
    # The best of what can be compared; if nothing can, of all.
    of = values[comparable if comparable.any() else known]
    best = (of.max() if quantity.goal == "max" else of.min()) if len(of) > 1 else np.nan
    several = with_deviation & known & (deviations >= 0)
    parts = {"": in_unit(values, factor)}
    if several.any():
        parts["SD"] = in_unit(np.where(several, deviations, np.nan), factor)

    def cell(row: int) -> Cell:
        value, deviation = float(values[row]), float(deviations[row])
        if np.isnan(value):
            return Cell(None, "-")
        spread = several[row] and deviation > LEAST_SPREAD * abs(value)
        text = with_spread(value * factor, deviation * factor) if spread else number_text(value * factor)
        mark = marks[row] if marks else ""
        return Cell(parts[""][row].item(), text, bool(value == best) and not (mark and comparable.any()), mark)

    return Column(head, parts, cell, marks if any(marks) else ())


def _names(block: Block) -> Column:
    return Column.of_texts("model", block.labels)


def _runs(block: Block) -> Column:
    return numbers_column("runs", [len(c.rows) for c in block.candidates])


def table1(analysis: Analysis, block: Block) -> Table:
    """Accuracy with its uncertainty, and the weighted averages of the study's Table 1."""
    accuracy = block.accuracy
    columns = [_names(block), _runs(block), _column(block, accuracy), _interval(block.interval * accuracy.scale)]
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
    return Table.of_columns("table1", "Table 1: accuracy", columns, note)


def _interval(bounds: NDArray[np.float64]) -> Column:
    """Of [rows, 2]."""
    parts = {"lower": bounds[:, 0], "upper": bounds[:, 1]}
    return Column("95 % interval", parts, lambda row: interval_cell(*bounds[row].tolist()))


# The rows of the study's Table 2, in its order, then what it lacked.
_TABLE2 = (
    "cost/trainable_parameters", "cost/disk_bytes", "cost/macs", "cost/macs_without_attention_products",
    "cost/training/seconds", "cost/training/seconds_with_validation", "cost/training/peak_memory_bytes",
    "cost/inference/seconds",
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
    columns = [_names(block), *(_column(block, known[column]) for column in order)]
    return Table.of_columns("table2", "Table 2: costs", columns, note)


def fronts_table(block: Block) -> Table:
    """For each candidate and cost: on the front, or what of its cost the front needs."""
    columns = [_front(front) for front in block.fronts.values()]
    note = (
        "On the Pareto front of accuracy against each cost, or how many times the cost of the cheapest that is no less "
        "accurate; in brackets the probability of being on the front."
    )
    return Table.of_columns("fronts", "Fronts", [_names(block), *columns], note if columns else "")


def _front(front: Front) -> Column:
    """Whether each candidate is on a front, or how far from it; several costs have no ratio."""
    several = front.is_joint

    def cell(row: int) -> Cell:
        if not front.known[row]:
            return Cell(None, "-")
        on, ratio, probability = bool(front.on[row]), float(front.cost_ratio[row]), float(front.probability[row])
        sure = "" if np.isnan(probability) else f" ({probability:.2f})"
        text = "on" if on else "off" if several else f"{ratio:.3g}×"
        return Cell(1.0 if on else 0.0 if several else 1 / ratio, text + sure, best=on)

    on_front = [("yes" if on else "no") if known else None for on, known in zip(front.on, front.known, strict=True)]
    parts: dict[str, Values] = {"on front": on_front}
    if not several:
        parts["times the cost"] = np.where(front.known, front.cost_ratio, np.nan)
    if not np.isnan(front.probability).all():
        parts["probability"] = front.probability
    return Column("all costs" if several else front.costs[0].label, parts, cell)


def front_table(block: Block, key: str, front: Front) -> Table:
    """One front in full."""
    accuracy = block.accuracy
    order = np.lexsort((-np.nan_to_num(front.contribution), ~front.on, ~front.known))
    aside = {row for cost in front.costs for row in block.aside.get(cost.column, [])}
    name = "all costs" if front.is_joint else front.costs[0].label
    points = "points below" if accuracy.is_share else f"{accuracy.label} below"
    columns = [
        _names(block),
        _column(block, accuracy),
        *(_column(block, cost) for cost in front.costs),
        _whether(front, aside),
        numbers_column("hypervolume (%)", np.where(front.known, 100 * front.contribution, np.nan), "{:.1f}"),
        numbers_column(points, front.points_below * accuracy.points, "{:.2f}"),
        numbers_column("times the cost", front.cost_ratio, "{:.3g}"),
        numbers_column("probability", front.probability, "{:.2f}"),
    ]
    ties = sum(front.on) - len(
        {tuple(r) for r in block.means.loc[front.on, [accuracy.column, *(c.column for c in front.costs)]].to_numpy()}
    )
    note = f"{ties} on it are equal to another in both and share its place." if ties else ""
    title, ordered = f"Front of {accuracy.label} against {name}", [column.in_order(order) for column in columns]
    return Table.of_columns("front", title, ordered, note, part=slug(key))


def _whether(front: Front, aside: Collection[int]) -> Column:
    """Which candidates are on a front; those set ``aside`` are not judged."""

    def cell(row: int) -> Cell:
        on = bool(front.on[row])
        if not front.known[row]:
            return Cell(None, "set aside" if row in aside else "not known")
        return Cell(float(on), "on" if on else "off", best=on)

    return Column("front", {"": np.where(front.known, front.on.astype(float), np.nan)}, cell)


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


def importance_table(block: Block) -> Table:
    """Which settings of a search mattered, for each candidate that was tuned enough to tell."""
    rows = []
    for place, own in block.importance.items():
        for column, share in sorted(own.shares.items(), key=lambda item: -item[1]):
            told = own.explained > 0
            setting = column.removeprefix("config/").replace("/", ".")
            cells = [name_cell(block.labels[place]), name_cell(setting), plain_cell(own.trials)]
            cells.append(plain_cell(100 * share if told else None, "{:.0f}"))
            cells.append(plain_cell(own.correlations.get(column), "{:+.2f}"))
            rows.append([*cells, plain_cell(max(0.0, 100 * own.explained), "{:.0f}")])
    heads = ["model", "setting", "trials", "importance (%)", "rank correlation", "explained (%)"]
    note = (
        f"Importance is each setting's part in what a random forest foretells of {block.selecting.label}; explained is "
        "how much of the differences between unseen trials it foretells. Where that is 0, nothing is said of the "
        "settings. One that a search hardly varied cannot show its importance."
    )
    return Table("importance", "Which settings mattered", heads, rows, note)


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


def variants_table(block: Block) -> Table:
    """What each variant of a finished run changed: accuracy on the same images, size and speed."""
    accuracy = block.accuracy
    costs = variant_costs(block)
    units = [unit_of(cost, block.means[cost.column]) for cost in costs]
    rows = []
    for change in block.variants:
        means = block.means.iloc[change.variant]
        row = [name_cell(block.labels[change.parent]), name_cell(change.name), plain_cell(change.runs or None)]
        row.append(plain_cell(float(means[accuracy.column]) * accuracy.scale, "{:.2f}"))
        row.append(plain_cell(change.difference * accuracy.points, "{:+.2f}"))
        row.append(interval_cell(change.low * accuracy.points, change.high * accuracy.points, "{:+.2f}"))
        row.append(plain_cell(change.p_corrected, "{:.2g}"))
        row.append(plain_cell(100 * change.otherwise, "{:.2f}"))
        for cost, (_, factor) in zip(costs, units, strict=True):
            value = float(means[cost.column]) * factor
            row.append(Cell(None, "-") if np.isnan(value) else Cell(value, number_text(value)))
            row.append(plain_cell(change.ratios[cost.column], "{:.3g}×"))
        rows.append(row)
    points = "change (points)" if accuracy.is_share else "change"
    heads = ["model", "variant", "runs", accuracy.axis, points, "95 % interval", "p", "judged otherwise (%)"]
    for cost, (head, _) in zip(costs, units, strict=True):
        heads += [head, {DISK: "times smaller", LATENCY: "times as fast", RATE: "times the parent's"}[cost.column]]
    note = (
        "Against the run that it was made of, on the same images; over several runs images are crossed with runs. p is "
        "corrected for the number of variants. Scored and measured with the file that one would ship."
    )
    return Table("variants", "Variants", heads, rows, note)


def runs_table(analysis: Analysis) -> Table:
    """Every run."""
    count = len(analysis.info)
    label, chosen = [""] * count, [0.0] * count
    for candidate in (candidate for block in analysis.blocks for candidate in block.candidates):
        for row in (row for trial in candidate.trials for row in trial.rows):
            label[row] = candidate.label
        for row in candidate.rows:
            chosen[row] = 1.0
    info = analysis.info
    columns = [
        Column.of_texts("run", [run.run_id for run in info]),
        Column.of_texts("model", label),
        Column.of_texts("seed", ["-" if run.seed is None else str(run.seed) for run in info]),
        Column.of_texts("status", [run.status for run in info]),
        Column("counted", {"": chosen}, lambda row: Cell(chosen[row], "yes" if chosen[row] else "no")),
        *(_of_runs(analysis, quantity) for quantity in (*analysis.metrics[:1], *analysis.chosen_costs)),
        Column.of_texts("source", [run.url or run.source for run in info]),
    ]
    return Table.of_columns("runs", "All runs", columns)


def _of_runs(analysis: Analysis, quantity: Quantity) -> Column:
    """A value for each run."""
    numbers = analysis.numbers[quantity.column]
    head, factor = unit_of(quantity, numbers)
    values = in_unit(numbers.to_numpy(float), factor)

    def cell(row: int) -> Cell:
        value = float(values[row])
        return Cell(None, "-") if np.isnan(value) else Cell(value, number_text(value))

    return Column(head, {"": values}, cell)
