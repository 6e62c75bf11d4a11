"""The page: everything that an analysis found, as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from multirun_analysis.analysis.distributions import student_quantile
from multirun_analysis.analysis.pareto import lower_is_better, nondominated
from multirun_analysis.findings import PICTURED, Analysis, Block, Disputed, Errors, Front
from multirun_analysis.quantities import Quantity, to_digits
from multirun_analysis.tables.columns import Cell
from multirun_analysis.tables.table import Table

# What a browser still draws at once, and mails still carry; the files beside the page have the rest.
MOST_CANDIDATES = 3_000
MOST_RUNS = 10_000
MOST_ROWS = 2_000
MOST_COMPARISONS = 2_000
MOST_TRIALS = 300  # lines of parallel coordinates
MOST_DETAILED = 60  # candidates with curves and confusion matrices
MOST_CLASSES = 60  # of a confusion matrix that one can read
MOST_DISPUTED = 300  # images

# Tables that the page has in a better form of its own, and the sections that others belong to.
_OWN = ("epochs", "recall", "confusion", "confusions", "disputed", "runs")
_SECTIONS = {
    "comparisons": "compare",
    "scaling": "scaling",
    "reliability": "calibration",
    "trials": "tuning",
    "tuning": "tuning",
    "importance": "tuning",
    "front": "fronts",
}

_FOLDER = Path(__file__).parent
_SCRIPTS = ("format.js", "table.js", "plot.js", "pareto.js", "errors.js", "curves.js", "page.js")


def page(analysis: Analysis, tables: Sequence[Table]) -> str:
    """The text of ``index.html``. It opens from the file system without a network; what comes from runs stays text.

    At most ``MOST_CANDIDATES`` of a block (every front, then the most accurate) and ``MOST_RUNS`` runs are on it, so
    that a browser can draw it; the page says what it leaves out.
    """
    from plotly.offline import get_plotlyjs

    kept = [_kept(block, analysis) for block in analysis.blocks]
    rows = _rows(analysis, kept)
    notes = [*analysis.notes, *_left_out(analysis, kept, rows)]
    data = {
        "quantities": {
            q.column: _quantity(q, _largest(analysis, q.column)) for q in [*analysis.metrics, *analysis.costs]
        },
        "metrics": [q.column for q in analysis.metrics],
        "costs": [q.column for q in analysis.costs],
        "chosen": [q.column for q in analysis.chosen_costs],
        "blocks": [_block(block, analysis, some, rows) for block, some in zip(analysis.blocks, kept, strict=True)],
        "runs": _runs(analysis, rows),
        "tables": [_table(table) for table in tables if table.kind not in _OWN],
    }
    environment = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    html = environment.get_template("page.html.jinja").render(
        analysis=analysis,
        notes=notes,
        run_count=len(analysis.frame),
        # "<" as an escape of JSON's own: no text can end the element.
        data=Markup(json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")),
        plotly=Markup(base64.b64encode(gzip.compress(get_plotlyjs().encode(), 6, mtime=0)).decode()),
        style=Markup((_FOLDER / "page.css").read_text("utf-8")),
        script=Markup("\n".join((_FOLDER / name).read_text("utf-8") for name in _SCRIPTS)),
    )
    return html.encode("utf-8", "replace").decode("utf-8")  # file names may hold what UTF-8 cannot


def _kept(block: Block, analysis: Analysis) -> list[int]:
    """The candidates that the page shows: all; or every front that can be chosen on it, then the most accurate."""
    count = len(block.candidates)
    if count <= MOST_CANDIDATES:
        return list(range(count))
    found = dict.fromkeys(block.compared)
    for front in block.fronts.values():
        found.update(dict.fromkeys(np.flatnonzero(front.on).tolist()))
    for metric in [block.accuracy, *analysis.metrics]:
        for cost in [*analysis.chosen_costs, *analysis.costs]:
            points = lower_is_better(
                block.means[[metric.column, cost.column]].to_numpy(float), [metric.goal, cost.goal]
            )
            found.update(dict.fromkeys(np.flatnonzero(nondominated(points)).tolist()))
    found.update(dict.fromkeys(range(count)))
    return sorted(list(found)[:MOST_CANDIDATES])


def _rows(analysis: Analysis, kept: Sequence[Sequence[int]]) -> dict[int, int]:
    """The rows of the table of runs that the page shows, and their places on it: those of its candidates first."""
    shown = [block.candidates[i] for block, some in zip(analysis.blocks, kept, strict=True) for i in some]
    order = dict.fromkeys(row for candidate in shown for row in candidate.rows)
    order.update(dict.fromkeys(row for c in shown for row in (*c.unfinished, *(r for t in c.trials for r in t.rows))))
    order.update(dict.fromkeys(range(len(analysis.frame))))
    return {row: place for place, row in enumerate(sorted(list(order)[:MOST_RUNS]))}


def _left_out(analysis: Analysis, kept: Sequence[Sequence[int]], rows: dict[int, int]) -> Iterable[str]:
    for block, some in zip(analysis.blocks, kept, strict=True):
        if len(some) < len(block.candidates):
            which = f" of {block.name}" if block.name else ""
            yield (
                f"This page shows {len(some):,} of {len(block.candidates):,} candidates{which}: those on a front, then "
                f"the best by {block.accuracy.label}. The tables beside it have all."
            )
    if len(rows) < len(analysis.frame):
        yield f"This page lists {len(rows):,} of {len(analysis.frame):,} runs; data.parquet has all."


def _quantity(quantity: Quantity, largest: float = 0.0) -> dict[str, Any]:
    """``axis`` has the unit that suits values up to ``largest``, as the figures do; ``scale`` turns values into it."""
    unit, scale = quantity.axis_unit(largest)
    said = {name: getattr(quantity, name) for name in ("column", "goal", "label", "kind", "points")}
    return said | {"axis": quantity.named_in(unit), "scale": scale}


def _largest(analysis: Analysis, column: str) -> float:
    """Of the means of all candidates."""
    means = np.concatenate([block.means[column].to_numpy(float) for block in analysis.blocks] or [np.zeros(0)])
    return float(np.abs(means[np.isfinite(means)]).max(initial=0))


def _block(block: Block, analysis: Analysis, kept: list[int], rows: dict[int, int]) -> dict[str, Any]:
    place = {old: new for new, old in enumerate(kept)}
    candidates = []
    for i in kept:
        candidate = block.candidates[i]
        runs = len(candidate.rows)
        candidates.append(
            {
                "label": candidate.label,
                "family": candidate.family,
                "rows": _places(candidate.rows, rows),
                "count": runs,
                "unfinished": _places(candidate.unfinished, rows),
                "trials": len(candidate.trials),
                "trialRows": _places((r for t in candidate.trials if not t.chosen for r in t.rows), rows),
                # A mean's 95 % interval is this many standard deviations to each side.
                "t": _number(student_quantile(0.975, runs - 1) / math.sqrt(runs)) if runs > 1 else None,
                "marks": [{"text": m.text, "affects": None if m.affects is None else sorted(m.affects)}
                          for m in candidate.marks],
            }
        )  # fmt: skip
    columns = [q.column for q in [*analysis.metrics, *analysis.costs] if q.column in block.means]
    detailed = _detailed(block, place)
    return {
        "name": block.name,
        "accuracy": block.accuracy.column,
        "candidates": candidates,
        "means": {column: _numbers(block.means[column].iloc[kept]) for column in columns},
        "deviations": {column: _numbers(block.deviations[column].iloc[kept]) for column in columns},
        "aside": {column: [place[i] for i in out if i in place] for column, out in block.aside.items()},
        "images": _numbers(block.images[kept]),
        "interval": [_numbers(pair) for pair in block.interval[kept]],
        "headlines": list(block.headlines),
        "pairs": [[place[a], place[b]] for a, b in block.pairs_that_matter if a in place and b in place],
        "fronts": {name: _front(front, kept) for name, front in block.fronts.items() if not front.is_joint},
        "compared": [place[i] for i in block.compared if i in place],
        "comparisons": [
            {**{name: _number(value) for name, value in asdict(c).items()}, "first": place[c.first],
             "second": place[c.second], "beyond_chance": c.beyond_chance}
            for c in block.comparisons[:MOST_COMPARISONS]
            if c.first in place and c.second in place
        ],
        "errors": _errors(block.errors, place, detailed) if block.errors else None,
        "epochs": {place[i]: [_curve(run) for run in block.epochs[i]] for i in detailed if i in block.epochs},
        "reliability": {
            place[i]: {"x": _numbers(own.confidence), "y": _numbers(own.accuracy), "answers": own.answers.tolist(),
                       "low": _numbers(own.interval[:, 0]), "high": _numbers(own.interval[:, 1])}
            for i, own in block.reliability.items() if i in place
        },
        "detailed": len(detailed) < len({*block.epochs, *(block.errors.confusion if block.errors else ())}),
        "selecting": _quantity(block.selecting),
        "tuning": {
            place[i]: {"hours": _numbers(t.hours), "best": _numbers(t.best),
                       "settings": [block.candidates[i].trials[trial].settings for trial in t.trials]}
            for i, t in list(block.tuning.items())[:MOST_DETAILED] if i in place
        },
        "settings": _settings(block, analysis, place),
        "variants": [
            [place[v.parent], place[v.variant]] for v in block.variants if v.parent in place and v.variant in place
        ],
        "families": [
            {"name": f.name, "members": [place[i] for i in f.members if i in place],
             "slopes": {column: _number(slope) for column, slope in f.slopes.items()}}
            for f in block.families
        ],
    }  # fmt: skip


def _settings(block: Block, analysis: Analysis, place: dict[int, int]) -> dict[str, Any]:
    """The trials in the settings that they differ in: for each its candidate, what it was chosen by, and a value a
    setting."""
    trials = [
        [place[i], _number(trial.selection), *(_setting(analysis.frame[c].iat[trial.rows[0]]) for c in block.varied)]
        for i, candidate in enumerate(block.candidates)
        for trial in candidate.trials
        if i in place and len(candidate.trials) > 1
    ]
    return {"names": [column.removeprefix("config/").replace("/", ".") for column in block.varied],
            "trials": trials[:MOST_TRIALS]}  # fmt: skip


def _setting(value: Any) -> float | str | None:
    value = _number(value)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def _detailed(block: Block, place: dict[int, int]) -> list[int]:
    """The candidates whose curves and confusions the page carries: those on a front first, then the most accurate."""
    members = [i for front in block.fronts.values() for i in np.flatnonzero(front.on).tolist()]
    order = dict.fromkeys([*block.compared, *members, *range(len(block.candidates))])
    known = {*block.epochs, *(block.errors.confusion if block.errors else ())}
    return [i for i in order if i in place and i in known][:MOST_DETAILED]


def _front(front: Front, kept: list[int]) -> dict[str, Any]:
    return {
        "on": front.on[kept].tolist(),
        "below": _numbers(front.points_below[kept]),
        "ratio": _numbers(front.cost_ratio[kept]),
        "probability": _numbers(front.probability[kept]),
    }


def _errors(errors: Errors, place: dict[int, int], detailed: list[int]) -> dict[str, Any]:
    shown = [i for i in detailed if i in errors.confusion]
    small = len(errors.classes) <= MOST_CLASSES
    images = 0
    disputed: dict[str, list[dict[str, Any]]] = {}
    for (first, second), found in errors.disputed.items():
        if first in place and second in place and images < MOST_DISPUTED:
            some: list[Disputed] = found[: min(PICTURED, MOST_DISPUTED - images)]
            images += len(some)
            disputed[f"{place[first]},{place[second]}"] = [asdict(one) for one in some]
    return {
        "classes": errors.classes,
        "matrices": {place[i]: errors.confusion[i].tolist() for i in shown} if small else None,
        "recall": {place[i]: _numbers(errors.recall(i)) for i in shown},
        "recallInterval": {
            place[i]: [_numbers(pair) for pair in errors.recall_interval[i]]
            for i in shown
            if i in errors.recall_interval
        },
        "confusions": {place[i]: errors.confusions(i, 20) for i in shown},
        "disputed": disputed,
    }


def _curve(run: Iterable[Any]) -> dict[str, list[float | None]]:
    epochs = list(run)
    return {name: [_number(getattr(e, name)) for e in epochs] for name in ("epoch", "train_loss", "val_accuracy")}


def _runs(analysis: Analysis, rows: dict[int, int]) -> dict[str, Any]:
    info = [analysis.info[row] for row in rows]
    numbers = analysis.numbers.iloc[list(rows)]
    columns = [q.column for q in [*analysis.metrics, *analysis.costs] if q.column in numbers]
    return {
        "id": [run.run_id for run in info],
        "name": [run.name for run in info],
        "seed": [run.seed for run in info],
        "status": [run.status for run in info],
        "source": [run.source for run in info],
        # Nothing but the web may be opened by a click: a record can name any address.
        "url": [run.url if run.url and run.url.startswith(("https://", "http://")) else None for run in info],
        "values": {column: _numbers(numbers[column], 7) for column in columns},
    }


def _table(table: Table) -> dict[str, Any]:
    return {
        "name": table.name,
        "block": table.block - 1 if table.block else None,
        "section": _SECTIONS.get(table.kind, "tables"),
        "title": table.title,
        "columns": table.columns,
        "rows": [[_cell(cell) for cell in row] for row in table.rows[:MOST_ROWS]],
        "total": len(table.rows),
        "note": table.note,
    }


def _cell(cell: Cell) -> str | list[Any]:
    """As short as it can be: its text, if one sorts by it and nothing is to be said of it."""
    if cell.value == cell.text and not cell.best and not cell.mark:
        return cell.text
    return [_number(cell.value), cell.text, int(cell.best), cell.mark]


def _places(rows: Iterable[int], known: dict[int, int]) -> list[int]:
    return [known[row] for row in rows if row in known]


def _number(value: Any) -> Any:
    """What JSON can say: numbers of Python, None for what is not finite; other things as they are."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(values: Iterable[Any], digits: int | None = None) -> list[Any]:
    """As ``_number`` each; to so many significant digits, or whole, so that the page finds the same fronts."""
    numbers = np.asarray(values, float)
    shown = numbers if digits is None else to_digits(numbers, digits)
    return [value if known else None for value, known in zip(shown.tolist(), np.isfinite(shown).tolist(), strict=True)]
