"""Analyses made by hand, for tests of what shows them: the page, the figures, the reports. Numbers are invented and
consistent with one another; nothing is read from disk."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from har_sweep.record.record import Epoch
from multirun_analysis.analysis.crossed import accuracy_interval
from multirun_analysis.analysis.pareto import lower_is_better, nondominated
from multirun_analysis.findings import (
    JOINT,
    Analysis,
    Block,
    Candidate,
    Comparison,
    Disputed,
    Errors,
    Family,
    Front,
    Mark,
    Recommendation,
    RunInfo,
    Trial,
)
from multirun_analysis.quantities import COSTS, METRICS, Quantity

ACCURACY = METRICS["metrics/test/accuracy"]
CLASSES = ["calling", "clapping", "cycling", "dancing", "drinking", "eating", "fighting", "hugging", "laughing"]
CLASSES += ["listening_to_music", "running", "sitting", "sleeping", "texting", "using_laptop"]
HOSTILE = (
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(2)">',
    "</script><script>alert(3)</script>",
    "a & b &lt;i&gt; \"quoted\" 'single' %{x} $\\alpha$",
    "<b>bold</b><br>second\nline\ttab",
    "running 🏃‍♀️ 走る",
    "שלום עולם العربية \u202egnp.exe",
    "long_" * 60,
)

# label, family, test accuracy, training seconds, latency in ms, GMACs, M parameters
Model = tuple[str, str, float, float, float, float, float]
MODELS: tuple[Model, ...] = (
    ("resnet18", "ResNet", 0.602, 101, 1.41, 1.82, 11.2),
    ("resnet34", "ResNet", 0.641, 165, 2.33, 3.68, 21.3),
    ("resnet50", "ResNet", 0.676, 248, 3.05, 4.13, 23.5),
    ("vit_tiny", "ViT", 0.718, 108, 1.96, 1.26, 5.5),
    ("vit_small", "ViT", 0.752, 290, 2.31, 4.61, 21.7),
    ("vit_base", "ViT", 0.774, 823, 4.87, 17.6, 85.8),
    ("efficientnet_lite0", "EfficientNet", 0.689, 140, 1.12, 0.39, 3.4),
)
SECONDS, LATENCY, MACS, PARAMETERS = list(COSTS)[:4]


def small() -> Analysis:
    """Seven models of three families, three seeds each (one has one), a tuned one, a marked one, an unfinished one,
    compared on their images, with curves."""
    return _analysis([_block(MODELS, "har", seed=0)], command="python -m multirun_analysis runs --budget latency<5ms")


def several() -> Analysis:
    """Two datasets; on the second fewer models and other numbers."""
    models: list[Model] = [(m[0], m[1], m[2] + 0.1, m[3] / 3, *m[4:]) for m in reversed(MODELS[1:5])]
    return _analysis([_block(MODELS, "har", seed=0), _block(models, "elpv", seed=1)])


def hostile() -> Analysis:
    """Names of models, families, classes, images, sources and notes that try to be something else than text."""
    families = [*HOSTILE[1:], HOSTILE[0]]
    some = zip(HOSTILE, families, (*MODELS, ("", "", 0.63, 400, 3.9, 7.0, 40.0)), strict=True)
    models: list[Model] = [(label, family, *m[2:]) for label, family, m in some]
    analysis = _analysis(
        [_block(models, HOSTILE[0], seed=2, classes=[*HOSTILE, "plain"])],
        command=f"python -m multirun_analysis {HOSTILE[0]}",
        url="javascript:alert(4)//{}",
    )
    analysis.notes.extend(HOSTILE)
    analysis.sources.extend(HOSTILE)
    return analysis


def alone() -> Analysis:
    """One model, one run."""
    return _analysis([_block(MODELS[:1], "har", seed=3, seeds=1)])


def equal() -> Analysis:
    """Four models that cost the same to the last digit; two of them are equally good as well."""
    models: list[Model] = [
        (f"model_{i}", "", accuracy, 100, 2, 1, 10) for i, accuracy in enumerate((0.7, 0.7, 0.6, 0.5))
    ]
    return _analysis([_block(models, "har", seed=4, seeds=1, noise=0.0)])


def bare(costs: bool = False) -> Analysis:
    """A csv of labels and one accuracy in percent, perhaps with a cost that some rows lack; no seeds, no images."""
    table = pd.DataFrame({"top1": [71.2, 76.1, np.nan, 80.3], "param_count": [5.7, np.nan, 11.2, 86.6]})
    accuracy = Quantity("top1", "max", "top1", "percent")
    cost = [Quantity("param_count", "min", "param_count")] if costs else []
    return from_table(table, [accuracy], cost)


def many(candidates: int = 10_000) -> Analysis:
    """A csv with that many models, one row each, and two costs."""
    random = np.random.default_rng(5)
    size = 10 ** random.uniform(6, 9, candidates)
    accuracy = 1 - 10 ** random.normal(-0.08 * np.log10(size), 0.08)
    table = pd.DataFrame({ACCURACY.column: accuracy, PARAMETERS: size, SECONDS: size / 1e5 * random.uniform(1, 9)})
    return from_table(table, [ACCURACY], [COSTS[PARAMETERS], COSTS[SECONDS]])


def from_table(table: pd.DataFrame, metrics: Sequence[Quantity], costs: Sequence[Quantity]) -> Analysis:
    """An analysis of a plain table: a row is a candidate with one run. The first metric is the accuracy."""
    accuracy = metrics[0]
    table = table.sort_values(accuracy.column, ascending=accuracy.goal == "min", ignore_index=True)
    count = len(table)
    candidates = [
        Candidate(f"model {i}", (i,), (Trial("", (i,), float(v), True),)) for i, v in enumerate(table[accuracy.column])
    ]
    block = Block(
        name="",
        accuracy=accuracy,
        selecting=accuracy,
        candidates=candidates,
        means=table,
        deviations=table * np.nan,
        images=np.full(count, np.nan),
        interval=np.full((count, 2), np.nan),
        fronts=_fronts(table, accuracy, costs),
        remarks=["model 0 is the most accurate."],
    )
    info = [
        RunInfo(f"row {i + 1}", f"model {i}", None, "done", f"results.csv, row {i + 1}", None) for i in range(count)
    ]
    frame = table.assign(**{f"front/{name}": front.on for name, front in block.fronts.items()})
    return Analysis(
        frame, info, list(metrics), list(costs), list(costs), [block], ["results.csv"], "python -m multirun_analysis",
        "2026-11-24T13:00:00.000Z", [], table,
    )  # fmt: skip


def _analysis(
    parts: list[tuple[Block, pd.DataFrame]],
    command: str = "python -m multirun_analysis runs",
    url: str | None = "https://wandb.example/team/har/runs/{}",
) -> Analysis:
    """Put blocks together; the rows of each begin where the last one's end."""
    blocks: list[Block] = []
    frames: list[pd.DataFrame] = []
    start = 0
    for block, frame in parts:
        candidates = [
            Candidate(
                c.label,
                tuple(row + start for row in c.rows),
                tuple(Trial(t.settings, tuple(row + start for row in t.rows), t.selection, t.chosen) for t in c.trials),
                tuple(row + start for row in c.unfinished),
                c.family,
                c.marks,
            )
            for c in block.candidates
        ]
        blocks.append(Block(**{**block.__dict__, "candidates": candidates}))
        frames.append(frame)
        start += len(frame)
    frame = pd.concat(frames, ignore_index=True)
    info = [
        RunInfo(row.run_id, row.name_, int(row.seed), row.status, f"runs/{row.run_id}", url and url.format(row.run_id))
        for row in frame.rename(columns={"name": "name_"}).itertuples()
    ]
    costs = [COSTS[column] for column in (SECONDS, LATENCY, MACS, PARAMETERS)]
    metrics = [ACCURACY, METRICS["metrics/test/f1_macro"], METRICS["metrics/test/nll"], METRICS["metrics/val/accuracy"]]
    return Analysis(
        frame=frame,
        info=info,
        metrics=metrics,
        costs=[*costs, COSTS["cost/inference/images_per_second"], COSTS["cost/training/peak_memory_bytes"]],
        chosen_costs=costs,
        blocks=blocks,
        sources=["runs"],
        command=command,
        created_at="2026-11-24T13:00:00.000Z",
        notes=["2 runs failed and were left out: resnet18-00ff00ff00 and vit_base-00ff00ff01 (out_of_memory)."],
        numbers=frame,
    )


def _block(
    models: Sequence[Model],
    name: str,
    seed: int,
    classes: Sequence[str] = CLASSES,
    seeds: int = 3,
    noise: float = 0.006,
) -> tuple[Block, pd.DataFrame]:
    """A block and its runs' table. The least accurate model is marked, the most accurate has trials."""
    random = np.random.default_rng(seed)
    images = 126 * len(classes)
    rows: list[dict[str, object]] = []

    def run(model: Model, number: int, status: str, off: float) -> int:
        label, _, accuracy, seconds, milliseconds, gmacs, mparameters = model
        accuracy = float(np.round((accuracy + off + random.normal(0, noise)) * images) / images)
        rows.append(
            {
                "run_id": f"{''.join(c for c in label if c.isalnum())[:12]}-{len(rows):010x}",
                "name": label,
                "seed": number,
                "status": status,
                "dataset/name": name,
                ACCURACY.column: accuracy if status == "done" else np.nan,
                "metrics/test/f1_macro": accuracy - 0.004,
                "metrics/test/nll": 2.2 * (1 - accuracy),
                "metrics/val/accuracy": accuracy + 0.012,
                SECONDS: seconds * (1 + random.normal(0, noise * 3)),
                LATENCY: milliseconds / 1e3,
                MACS: gmacs * 1e9,
                PARAMETERS: mparameters * 1e6,
                "cost/inference/images_per_second": 4000 / milliseconds,
                "cost/training/peak_memory_bytes": (300 + 55 * mparameters) * 2**20,
            }
        )
        return len(rows) - 1

    ranked = sorted(models, key=lambda model: -model[2])
    candidates = []
    for place, model in enumerate(ranked):
        chosen = tuple(run(model, s, "done", 0.0) for s in range(1 if place == 2 else seeds))
        trials = [Trial("lr 0.0001" if place == 0 else "", chosen, model[2] + 0.012, True)]
        if place == 0 and seeds > 1:
            for rate, off in (("lr 0.001", -0.09), ("lr 0.00003", -0.02)):
                trials.append(Trial(rate, (run(model, 0, "done", off),), model[2] + 0.012 + off, False))
        unfinished = (run(model, 9, "running", -0.1),) if place == 1 else ()
        marks: tuple[Mark, ...] = ()
        if place == len(ranked) - 1 and len(ranked) > 1:
            marks = (Mark("waited for data 31 % of the training time", frozenset({SECONDS})),)
        candidates.append(Candidate(model[0], chosen, tuple(trials), unfinished, model[1], marks))

    frame = pd.DataFrame(rows)
    quantities = [column for column in frame if column.startswith(("metrics/", "cost/"))]
    means = pd.DataFrame([frame.loc[list(c.rows), quantities].mean() for c in candidates])
    deviations = pd.DataFrame([frame.loc[list(c.rows), quantities].std() for c in candidates])
    accuracy = means[ACCURACY.column].to_numpy()
    counts = np.array([len(c.rows) for c in candidates])
    costs = [COSTS[column] for column in (SECONDS, LATENCY, MACS, PARAMETERS)]
    fronts = _fronts(means, ACCURACY, costs)
    for column, front in fronts.items():
        frame[f"front/{column}"] = False
        for candidate, on in zip(candidates, front.on, strict=True):
            frame.loc[list(candidate.rows), f"front/{column}"] = on
    confusion = {
        i: _confusion(random, float(a), list(classes), 126 * n)
        for i, (a, n) in enumerate(zip(accuracy, counts, strict=True))
    }
    families = {c.family: [i for i, d in enumerate(candidates) if d.family == c.family] for c in candidates if c.family}
    block = Block(
        name=name,
        accuracy=ACCURACY,
        selecting=ACCURACY.on("val"),
        candidates=candidates,
        means=means,
        deviations=deviations,
        images=np.full(len(candidates), float(images)),
        interval=accuracy_interval(
            accuracy, accuracy * (1 - accuracy) / images, np.full(len(candidates), float(images)),
            np.nan_to_num(deviations[ACCURACY.column].to_numpy() ** 2 / counts), 0 * accuracy, counts, 1.0,
        ),
        fronts=fronts,
        compared=list(range(len(candidates))),
        comparisons=[
            _compare(i, j, accuracy, images) for i in range(len(candidates)) for j in range(i + 1, len(candidates))
        ],
        errors=Errors(list(classes), confusion, {(0, 1): _disputed(list(classes))} if len(candidates) > 1 else {}),
        epochs={i: [_curve(random, float(a)) for _ in candidates[i].rows] for i, a in enumerate(accuracy)},
        families=[
            Family(family, tuple(members), {MACS: 0.021, PARAMETERS: 0.018})
            for family, members in families.items()
            if len(members) > 1
        ],
        headlines={column: f"Best by {column}: {candidates[0].label}." for column in fronts if column in COSTS},
        sentences_on={
            column: [
                f"{candidates[0].label}: the most accurate, {ACCURACY.text(float(accuracy[0]))}, by {column}.",
                f"{candidates[-1].label}: the least accurate, {ACCURACY.text(float(accuracy[-1]))}.",
            ]
            for column in fronts
            if column in COSTS
        },
        remarks=["Said whatever the cost is."],
        recommendation=Recommendation(
            ("latency (p50, batch 1) < 5 ms",), 0, 1 if len(candidates) > 1 else None, None,
            (f"Take {candidates[0].label}: the most accurate within the budget.",),
        ),
        notes=["Unequal tuning: the most accurate model had 3 trials, the others 1."] if seeds > 1 else [],
    )  # fmt: skip
    return block, frame


def _fronts(means: pd.DataFrame, accuracy: Quantity, costs: Sequence[Quantity]) -> dict[str, Front]:
    fronts = {cost.column: front_of(means, accuracy, (cost,)) for cost in costs}
    return {**fronts, JOINT: front_of(means, accuracy, tuple(costs))} if len(costs) > 1 else fronts


def front_of(means: pd.DataFrame, accuracy: Quantity, costs: tuple[Quantity, ...]) -> Front:
    """The front and plausible numbers around it: every member's contribution and probability are the same."""
    quantities = (accuracy, *costs)
    numbers = means[[q.column for q in quantities]].to_numpy(float)
    signed = lower_is_better(numbers, [q.goal for q in quantities])
    known, on = np.asarray(~np.isnan(signed).any(axis=1)), nondominated(signed)
    share = on / max(1, on.sum())
    below, ratio = np.full((2, len(means)), np.nan)
    if len(costs) == 1:
        members = signed[on]
        for i in np.flatnonzero(known):
            no_dearer = members[members[:, 1] <= signed[i, 1], 0]
            no_worse = members[members[:, 0] <= signed[i, 0], 1]
            below[i] = max(0.0, signed[i, 0] - no_dearer.min(initial=signed[i, 0]))
            least = no_worse.min(initial=signed[i, 1])
            with np.errstate(divide="ignore", invalid="ignore"):  # a cost of 0
                ratio[i] = least / signed[i, 1] if costs[0].goal == "max" else signed[i, 1] / least
    return Front(costs, on, known, share, below, ratio, np.where(on, 0.9, 0.1))


def _confusion(random: np.random.Generator, accuracy: float, classes: list[str], images: int) -> NDArray[np.int64]:
    rows = []
    for truth in range(len(classes)):
        weights = random.gamma(0.4, size=len(classes))
        weights[truth] = 0
        right = float(np.clip(accuracy + random.normal(0, 0.08), 0.05, 0.98))
        shares = (1 - right) * weights / weights.sum()
        shares[truth] = right
        rows.append(random.multinomial(images, shares / shares.sum()))
    return np.array(rows)


def _compare(first: int, second: int, accuracy: NDArray[np.float64], images: int) -> Comparison:
    difference = float(accuracy[first] - accuracy[second])
    right = [round(float(accuracy[i]) * images) for i in (first, second)]
    both = round(right[1] * 0.85)
    only = (right[0] - both, right[1] - both)
    neither = images - both - sum(only)
    p = float(np.exp(-((difference / 0.014) ** 2) / 2))
    return Comparison(
        first, second, difference, difference - 0.028, difference + 0.028, p, min(1.0, 2 * p), min(1.0, 1.5 * p),
        claimed=second == first + 1, of_models=True, test="t over 1,890 images crossed with 3 and 3 runs",
        claim_low=difference - 0.03, claim_high=difference + 0.03, beats=0.93, images_needed=2400.0, runs_needed=np.inf,
        kappa=0.42, kappa_low=0.38, kappa_high=0.46, only_first=only[0], only_second=only[1], both=both,
        neither=neither, oracle=(both + sum(only)) / images,
    )  # fmt: skip


def _disputed(classes: list[str]) -> list[Disputed]:
    found = []
    for i in range(7):
        truth, wrong = classes[i % len(classes)], classes[(i + 3) % len(classes)]
        answers = (truth, wrong) if i % 2 == 0 else (wrong, truth)
        found.append(Disputed(f"train/Image_{i}.jpg", truth, answers, _thumbnail(i) if i < 6 else None))
    return found


def _thumbnail(number: int) -> str:
    waves = np.sin(np.arange(96)[:, None] / (5 + number) + np.arange(128)[None] / (9 - number)) * 90 + 128
    tinted = np.stack([waves, waves * (0.5 + number / 12), waves[::-1]], 2).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(tinted).save(buffer, "jpeg", quality=70)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _curve(random: np.random.Generator, accuracy: float) -> list[Epoch]:
    reached = accuracy * (1 - np.exp(-np.arange(1, 6) / 1.2)) + random.normal(0, 0.006, 5)
    losses = 2.5 * np.exp(-np.arange(1, 6) * accuracy) + random.normal(0, 0.02, 5)
    return [
        Epoch(i + 1, float(loss), None if i == 1 else float(loss) + 0.1, float(share), 1e-4, 20.0)
        for i, (loss, share) in enumerate(zip(losses, reached, strict=True))
    ]
