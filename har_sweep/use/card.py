"""A model card: what a network was trained on, how good it is, what it costs, and how that is known."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from scipy.stats import binomtest
from timm.models import get_pretrained_cfg

from har_sweep.record.record import DISTURBED, Metrics, Record
from har_sweep.units import byte_size, digits, duration, escaped, quantity
from har_sweep.use.run import FinishedRun

MOST_CLASSES = 50  # that are shown one by one


def write_card(run: FinishedRun, file: Path, compared: int) -> None:
    """Write the card of an export whose files were compared on so many pictures of the run's own."""
    record, size = run.record, run.spec.model.input_size
    parts = [
        "---\nlibrary_name: timm\npipeline_tag: image-classification\ntags: [image-classification, timm, onnx]\n---",
        f"# {_plain(record.name)} on {_plain(record.dataset.name)}",
        f"`{record.model.timm_name}` with {len(record.dataset.classes)} classes, for images of {size} x {size} pixels: "
        f"run `{record.run_id}` of har_sweep, seed {record.seed}, epoch {record.selected_epoch} of "
        f"{len(record.epochs)}.",
        _use(run),
        _data(record),
        _metrics(record, compared),
        _costs(record),
        f"## Licence\n\n{_licence(run)} That of the data is not known here.",
    ]
    if record.warnings:
        parts.append("## What the run warned of\n\n" + "\n".join(f"- {_plain(text)}" for text in record.warnings))
    file.write_text("\n\n".join(parts) + "\n", "utf-8")


def _use(run: FinishedRun) -> str:
    size, target = run.spec.model.input_size, run.spec.config.model._target_
    lines = [
        f"- `model.onnx` takes uint8 RGB `images` [any number, {size}, {size}, 3] and gives `logits`; normalisation is "
        "inside. Its metadata has classes and preprocessing, as JSON under `har_sweep`; so has `model.safetensors`.",
        "- A picture is squashed to the square, whatever its aspect, bilinearly and antialiased, as Pillow's "
        "`image.resize` does. Other resizing changes answers.",
        f"- `model.safetensors` has the weights of `{target}`."
        if target
        else "- `timm.create_model('local-dir:FOLDER', pretrained=True)` loads it, with timm's own transform.",
    ]
    return "## Use\n\n" + "\n".join(lines)


def _data(record: Record) -> str:
    data = record.dataset
    counts = ", ".join(f"{count:,} {split}" for split, count in data.counts.items())
    sentences = [
        f"{_plain(data.name)}: {counts} images (content {data.fingerprint}, split {data.split_fingerprint}).",
        "They are drawn by a program." if data.synthetic else "",
        "Val and test are the same images: no accuracy is held out." if data.test_is_val else "",
        f"Classes: {', '.join(map(_plain, data.classes))}.",
    ]
    return "## Data\n\n" + " ".join(filter(None, sentences))


def _metrics(record: Record, compared: int) -> str:
    rows = []
    for split, metrics in record.metrics.items():
        images = sum(count for _, _, count in metrics.confusion)
        low, high = wilson(metrics.accuracy, images)
        accuracy = f"{100 * metrics.accuracy:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
        others = (metrics.top5_accuracy, metrics.f1_macro, metrics.nll, metrics.ece)
        rows.append([split, f"{images:,}", accuracy, *(f"{number:.3f}" for number in others)])
    on = f"the run's answers on {compared} of its images" if compared else "the network's answers on made-up pictures"
    parts = [
        "## Metrics",
        _table(["split", "images", "accuracy (95 %)", "top-5", "macro F1", "NLL", "ECE"], rows),
        "Intervals are Wilson's, for other images of the same kind; another seed differs, too. The files were compared "
        f"with {on}.",
    ]
    split, metrics = next(reversed(record.metrics.items()))
    if len(metrics.per_class) <= MOST_CLASSES:
        parts += [f"Of each class, {split}:", _classes(metrics)]
    return "\n\n".join(parts)


def wilson(share: float, images: int) -> tuple[float, float]:
    """The 95 % interval of a share that was seen on so many images (Wilson, 1927)."""
    interval = binomtest(round(share * images), images).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _classes(metrics: Metrics) -> str:
    rows = [
        [_plain(name), *(f"{number:.3f}" for number in (of.precision, of.recall, of.f1)), f"{of.support:,}"]
        for name, of in metrics.per_class.items()
    ]
    return _table(["class", "precision", "recall", "F1", "images"], rows)


def _costs(record: Record) -> str:
    cost, hardware, inference = record.cost, record.hardware, record.cost.inference
    rows = [
        ["parameters", quantity(cost.parameters)],
        ["multiply-adds of an image", quantity(cost.macs)],
        ["training", duration(cost.training.seconds)],
    ]
    shares = [cost.training.disturbed_share]
    if inference:
        latency = inference.latency_seconds["batch_1"]
        rows += [
            ["latency of one image, p50 and p95", f"{1000 * latency['p50']:.3g} ms, {1000 * latency['p95']:.3g} ms"],
            [f"images/s in batches of {inference.batch_size}", digits(inference.images_per_second or math.nan)],
            ["peak memory of inference", byte_size(inference.peak_memory_bytes)],
        ]
        shares.append(inference.disturbed_share)
    threads = f", {hardware.cpu_threads} threads" if hardware.device == "cpu" else ""
    how = (
        f"Measured by PyTorch in {hardware.precision} on {hardware.device_count} x {hardware.device_name}{threads}, "
        "after a warm-up, on a finished device; memory above what was in use before there was a model. Other runtimes "
        "differ."
    )
    if any(share and share > DISTURBED for share in shares):
        how += " Others disturbed the machine meanwhile, so times say little."
    return f"## Costs\n\n{_table(['', ''], rows)}\n\n{how}"


def _licence(run: FinishedRun) -> str:
    weights, licence = run.record.model.weights, licence_of(run)
    if weights == "scratch":
        return "It was trained from scratch, so no other weights' licence applies."
    said = f"`{licence}`, as timm says" if licence else "unknown: ask where they are from"
    return f"Training began from the weights `{weights}`, whose licence is {said}."


def licence_of(run: FinishedRun) -> str | None:
    """Of the weights that training began from, where timm knows it."""
    model, tag = run.record.model, run.spec.config.model.pretrained_tag
    found = get_pretrained_cfg(f"{model.timm_name}.{tag}") if model.weights == tag else None
    return found.license if found else None


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def _plain(text: str) -> str:
    """A name from anywhere as Markdown that shows it and does nothing else."""
    return re.sub(r"([\\`*_{}\[\]<>()#|!])", r"\\\1", escaped(text).replace("\n", " "))
