"""A variant as a point beside its parent: the same images, the same way to measure, a record of its own."""

from __future__ import annotations

import copy
import socket
import tempfile
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError

from har_sweep.compact.files import Network, images_to_compare, make_file
from har_sweep.compact.forward import variant_forward
from har_sweep.compact.variants import VARIANTS, Variant
from har_sweep.data.dataset import Dataset
from har_sweep.device.ranks import Ranks
from har_sweep.errors import FREE_SOME, InputError, RunFailure, first_line
from har_sweep.events import Line, Phase, Tell
from har_sweep.model.build import build_model
from har_sweep.record.environment import environment, slurm_job_id
from har_sweep.record.folder import RunPaths, read_record, write_record
from har_sweep.record.record import Attempt, Cost, Record, utc_now
from har_sweep.run.lifecycle import noting
from har_sweep.run.measure import measure, warn_of_disturbance, write_predictions
from har_sweep.run.remeasure import finished_model
from har_sweep.run.tracking import Tracker
from har_sweep.spec.hardware import device_of
from har_sweep.spec.run_spec import RunSpec
from har_sweep.stop import Stop
from har_sweep.train.session import Session


def make_files(spec: RunSpec, made: dict[str, RunPaths], tell: Tell) -> dict[str, str]:
    """Make the files of some variants of a finished run, each in its folder; returns why some could not be, by name.

    In a process of its own: what making leaves in memory is not the variants'.
    """
    on_cpu = replace(spec, device="cpu", choice=replace(spec.choice, way=replace(spec.choice.way, precision="fp32")))
    session = Session.begin(on_cpu, Dataset.read(spec.dataset_file), Ranks(), tell, Stop())
    tell(Phase(f"Building {spec.model.timm_name}"))
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="har_sweep-") as folder:
        network = Network(finished_model(session).eval(), session, images_to_compare(session), Path(folder))
        for name, paths in made.items():
            try:
                make_file(VARIANTS[name], network, paths)
            except (RunFailure, InputError) as e:
                failed[name] = f"{e.message} {e.hint}"
            except RuntimeError as e:  # of a compiler, say
                failed[name] = f"{name} could not be made: {first_line(e)}."
            except (OSError, SafetensorError) as e:  # the latter hides the former
                failed[name] = f"{name} could not be written: {e}. {FREE_SOME}"
    return failed


def score(spec: RunSpec, variant: Variant, paths: RunPaths, patience_seconds: float, tell: Tell) -> None:
    """Evaluate and measure a variant whose file is made, and write its record; a run that its parent's sweep knows.

    Raises
    ------
    RunFailure, InputError
        if it cannot be computed here.
    ClaimLost
        as every writer of a run's files.
    """
    parent, started_at = read_record(spec.paths.record), utc_now()
    session = Session.begin(spec, Dataset.read(spec.dataset_file), Ranks(), tell, Stop())
    file = paths.model if variant.runtime == "torch" else paths.onnx
    record = variant_record(parent, variant, paths, spec, file)
    session = replace(session, tell=noting(record, tell))
    tell(Phase(f"Opening {file.name}"))
    torch_model = variant.runtime == "torch"
    model = build_model(spec.config, spec.model, len(session.dataset.classes), session.warn) if torch_model else None
    forward = variant_forward(variant, file, model, spec.model, session.compute)
    del model
    if record.hardware.unaccelerated:
        device, precision = record.hardware.device_name, record.hardware.unaccelerated
        session.warn(f"{device} has no instructions for {precision}: it may be no faster here than float32.")
    measured = measure(forward, session, patience_seconds)
    again = f"python -m har_sweep.compact {parent.run_id} variants={variant.name} rerun=true"
    warn_of_disturbance({"inference": measured.disturbed}, session, again)
    record.metrics, record.cost.inference = measured.metrics, measured.inference
    record.status, record.finished_at = "done", utc_now()
    record.attempts = [Attempt(slurm_job_id() or "", socket.gethostname(), started_at, record.finished_at, "done")]
    write_predictions(measured.predictions, session.dataset, paths)
    tracking = replace(spec.config.tracking, trial={}, name=None, job_type="compact")
    with Tracker(tracking, record, paths, session.warn) as tracker:
        tracker.finish(record, session.dataset, measured.predictions)
        write_record(record, paths)
    latency = 1000 * measured.inference.latency_seconds["batch_1"]["p50"]
    tell(Line(f"Test accuracy {100 * record.metrics['test'].accuracy:.2f} %, latency {latency:.3g} ms (p50, batch 1)."))


def variant_record(parent: Record, variant: Variant, paths: RunPaths, spec: RunSpec, file: Path) -> Record:
    """What is known of a variant before it is scored: its parent's training is what it cost to have it."""
    record = copy.deepcopy(parent)
    cost = parent.cost
    return replace(
        record,
        run_id=paths.folder.name,
        parent=parent.run_id,
        variant=variant.name,
        name=f"{parent.name} {variant.name}",
        model=replace(record.model, name=f"{parent.model.name} {variant.name}"),
        status="running",
        started_at=utc_now(),
        finished_at=None,
        environment=environment(spec.git_commit, spec.git_dirty),
        hardware=replace(
            record.hardware, precision=variant.precision, kernels=None, cuda_graph=False, chosen="",
            images_per_second={},
            unaccelerated=variant.unaccelerated(device_of(parent.hardware.device)),
        ),
        attempts=[], epochs=[], metrics={}, selected_epoch=None, error=None, measurements=[],
        warnings=[text for text in record.warnings if "synthetic" in text],
        cost=Cost(
            parameters=cost.parameters, trainable_parameters=cost.trainable_parameters,
            disk_bytes=file.stat().st_size, macs=cost.macs,
            macs_without_attention_products=cost.macs_without_attention_products,
            training=replace(cost.training), device_hours=cost.device_hours, price=cost.price,
        ),
    )  # fmt: skip
