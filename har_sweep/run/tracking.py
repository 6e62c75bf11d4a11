"""Weights & Biases: the run id is its id, the sweep its group, the record's numbers stand under the record's names.

One W&B run, each epoch once, however often the run was cut off: an epoch's step is its number, and a job is given the
whole history. Online, the server says what it has (``resume="allow"``). Offline, every start writes the whole run anew
and drops what earlier starts left; as it does not resume, `wandb sync` puts it in the place of all that was there.

Tracking never stops a run: what goes wrong there is said once, on the screen and in the record, and the run goes on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import pandas as pd
import psutil

from har_sweep.config.schema import TrackingConfig
from har_sweep.config.wandb_variables import NOT_FOLLOWED, OF_A_TRIAL
from har_sweep.data.dataset import Dataset
from har_sweep.errors import ClaimLost, Interrupted, first_line
from har_sweep.files import redact, redact_text
from har_sweep.record.folder import RunPaths, read_record
from har_sweep.record.record import CLASS_NUMBERS, EPOCH_KEYS, FACTS, Epoch, Metrics, Record, leaves
from har_sweep.spec.run_spec import RunSpec
from har_sweep.train.evaluate import Predictions

if TYPE_CHECKING:
    import wandb

Mode = Literal["online", "offline"]

POLL_SECONDS = 0.01  # from one look of the client's for its own process to the next
INIT_SECONDS = 20.0  # for an online start; then the run is kept offline, to be synced later
BEST = {"val/accuracy": "max", "val/loss": "min"}  # shown beside the last epoch's
UNSUMMED = ("train/learning_rate", "train/epoch_seconds")  # of which the last says nothing of a run
MOST_CLASSES = 100  # of a confusion matrix: its table has a row for each pair, of which W&B shows 10,000
FINISH_SECONDS = 120.0  # for the last uploads; then the same


class Tracker:
    """What is logged of one run. ``warn`` is told, once, when it fails; from then on it does nothing.

    ``record`` is followed: its epochs are what is logged at the start. That takes W&B a moment; it has begun when this
    returns, and is over after ``ready()``.
    """

    def __init__(self, config: TrackingConfig, record: Record, paths: RunPaths, warn: Callable[[str], None]) -> None:
        self._config, self._record, self._paths, self._warn = config, record, paths, warn
        self._run: wandb.Run | None = None
        self._logged = 0  # the last epoch that is
        self._log_results: Callable[[wandb.Run], None] = lambda run: _log_summary(run, record)
        self._staging: tempfile.TemporaryDirectory[str] | None = None
        self._starting: Future[list[str]] | None = None
        self._folder = Path(config.dir) / "wandb" if config.dir else paths.wandb
        self._id = config.trial.get("WANDB_RUN_ID", record.run_id)
        if config.backend == "wandb" and config.mode != "disabled":
            mode: Mode = "online" if config.mode == "online" else "offline"
            self._starting = ThreadPoolExecutor(1, "wandb").submit(self._start, mode)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        """Close the run as its record says; if somebody else has it, abandon it."""
        if error is None:
            self.close(0 if self._record.status == "done" else 1)
        elif isinstance(error, ClaimLost):
            self.abandon()

    def ready(self) -> None:
        """Wait until logging has begun, or has failed."""
        starting = self._starting
        if starting:
            self._guarded(lambda: [self._warn(text) for text in starting.result()])
            self._starting = None

    def _start(self, mode: Mode) -> list[str]:
        """Begin to log; returns what to warn of. Not on the main thread, which alone tells."""
        warnings = []
        self._prepare_environment()
        self._folder.mkdir(parents=True, exist_ok=True)
        earlier = list(self._folder.glob(f"offline-run-*-{self._id}"))
        started_at = self._record.started_at
        try:
            run = self._init(mode, resume=mode == "online")
            if run.starting_step and run.summary.get("started_at") != started_at:
                run.finish()
                run = self._init(mode, resume=False)
                warnings.append(
                    "Weights & Biases had this run as it was computed before; its history there starts anew."
                )
        except Interrupted:
            raise
        except Exception as e:
            if mode == "offline":
                raise
            _kill_service()
            warnings.append(
                f"Weights & Biases could not be reached ({first_line(e)}); "
                "logging offline: `wandb sync` uploads it later."
            )
            run = self._init("offline", resume=False)
        self._run, self._logged = run, max(run.starting_step - 1, 0)
        run.define_metric("*", step_metric="epoch", step_sync=False)
        for metric, best in BEST.items():
            run.define_metric(metric, step_metric="epoch", step_sync=False, summary=f"{best},last")
        for metric in UNSUMMED:
            run.define_metric(metric, step_metric="epoch", step_sync=False, summary="none")
        run.define_metric("epoch", summary="none")
        _log_summary(run, self._record)  # its started_at tells this computation of the run from an earlier one
        self._log(run, self._record.epochs)
        for folder in earlier:
            if not list(folder.glob("*.synced")) and folder != Path(run.settings.sync_dir):
                shutil.rmtree(folder)
        return warnings

    def _prepare_environment(self) -> None:
        """What the client reads by itself is as it was while planning: this process may have begun before."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        for name in (*OF_A_TRIAL, *NOT_FOLLOWED, "WANDB_SERVICE"):  # the last is another process' own
            os.environ.pop(name, None)
        os.environ.update(self._config.trial)

    def _init(self, mode: Mode, resume: bool) -> wandb.Run:
        import wandb

        _look_closely()
        record = self._record
        # Tables wait for `wandb sync` beside the run that they belong to, not in the home folder; online in a temporary
        # one, as the server is told its path.
        if mode == "online" and self._staging is None:
            place = hashlib.blake2b(bytes(self._paths.folder.absolute()), digest_size=8).hexdigest()
            for left in Path(tempfile.gettempdir()).glob(f"wandb-{place}-*"):  # by an owner before, who was killed
                shutil.rmtree(left, ignore_errors=True)
            self._staging = tempfile.TemporaryDirectory(prefix=f"wandb-{place}-")
        folder = self._staging.name if self._staging and mode == "online" else str(self._folder.absolute())
        os.environ["WANDB_DATA_DIR"] = folder
        config = self._config
        # Facts of the machine are in the record; what W&B collects would add home paths, the host and the command line.
        settings = wandb.Settings(
            console="off", silent=True, disable_git=not config.git, save_code=False, disable_code=True,
            program="har_sweep", x_disable_meta=True, x_save_requirements=False, host=os.environ.get("WANDB_HOST", ""),
            git_root=os.environ.get("WANDB_GIT_ROOT", os.getcwd()), x_disable_stats=not config.system_metrics,
            init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS, finish_timeout_raises=True,
        )  # fmt: skip
        return wandb.init(
            project=config.project,
            entity=config.entity,
            id=self._id,
            name=config.name or record.name,
            group=config.group or record.sweeps[-1],
            tags=[f"seed{record.seed}", *(["synthetic"] if record.dataset.synthetic else []), *(config.tags or [])],
            notes=config.notes,
            job_type=config.job_type,
            config=redact(record.config),
            dir=str(self._folder.parent),
            mode=mode,
            resume="allow" if resume else None,
            settings=settings,
        )

    def epochs(self, history: list[Epoch]) -> None:
        """Log those of the run's epochs that are not logged yet."""
        self.ready()
        if run := self._run:
            self._guarded(lambda: self._log(run, history))

    def _log(self, run: wandb.Run, history: list[Epoch]) -> None:
        for epoch in history:
            if epoch.epoch > self._logged:
                numbers = {EPOCH_KEYS[name]: value for name, value in asdict(epoch).items()}
                run.log(numbers, step=epoch.epoch, commit=True)
                self._logged = epoch.epoch

    def finish(self, record: Record, dataset: Dataset, predictions: dict[str, Predictions]) -> None:
        """Log the record's numbers, the confusion matrix and every prediction, and close the run."""

        def log_results(run: wandb.Run) -> None:
            run.log(_tables(record, dataset, predictions))
            run.log_artifact(_dataset_artifact(record))
            if self._config.log_model:
                run.log_artifact(_model_artifact(record, self._paths))
            _log_summary(run, record)

        self._log_results = log_results
        self.close(0)

    def close(self, exit_code: int) -> None:
        """Close the run; a second call does nothing."""
        self.ready()
        run, self._run = self._run, None
        if run:
            self._guarded(lambda: self._close(run, exit_code))
            self._guarded(self._redact_logs)
        self._guarded(self._clean)

    def _close(self, run: wandb.Run, exit_code: int) -> None:
        try:
            self._log_results(run)
            run.finish(exit_code)
        except Exception as e:
            if run.offline:
                raise
            _kill_service()
            self._warn(
                f"Weights & Biases could not be reached at the end ({first_line(e)}); "
                "the run is kept offline: `wandb sync` uploads it later."
            )
            self._start("offline")
            assert self._run
            run, self._run = self._run, None
            self._log_results(run)
            run.finish(exit_code)
        for marker in Path(run.settings.sync_dir).glob("*.synced"):
            marker.unlink()  # what was uploaded then was not the whole

    def abandon(self) -> None:
        """Somebody else has the run: send nothing more of it, not even that this process ends. Returns at once."""
        if self._run or self._starting:
            self._run = None
            _kill_service()
            self._clean()

    def _redact_logs(self) -> None:
        for log in self._folder.glob(f"*-{self._id}/logs/*.log"):
            if not log.is_symlink():  # such as to what is being logged
                log.write_text(redact_text(log.read_text("utf-8", "replace")), "utf-8")

    def _clean(self) -> None:
        if self._staging:
            self._staging.cleanup()

    def _guarded(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Interrupted:
            raise
        except Exception as e:
            self._run = None
            self._warn(f"Weights & Biases stopped logging ({first_line(e)}); the run goes on, its record is complete.")


def track_again(spec: RunSpec, warn: Callable[[str], None]) -> None:
    """Log a run that is done, under the id of the trial that asks for it once more."""
    record, dataset = read_record(spec.paths.record), Dataset.read(spec.dataset_file)
    with tempfile.TemporaryDirectory(prefix="wandb-") as folder:  # its own belongs to whoever computed it
        tracking = spec.config.tracking
        place = tracking if tracking.mode == "offline" else replace(tracking, dir=folder)
        tracker = Tracker(place, record, spec.paths, warn)
        tracker.finish(record, dataset, _read_predictions(spec.paths, dataset))


def _read_predictions(paths: RunPaths, dataset: Dataset) -> dict[str, Predictions]:
    """What ``predictions.parquet`` has, by split."""
    table = pd.read_parquet(paths.predictions)
    place, code = ({name: i for i, name in enumerate(names)} for names in (dataset.paths, dataset.classes))
    return {
        split: Predictions(
            own["path"].map(place).to_numpy(np.int64), own["label"].map(code).to_numpy(np.int64),
            np.stack(own["probabilities"].to_list()), 0.0,
        )
        for split, own in table.groupby("split", sort=False)
    }  # fmt: skip


def _tables(record: Record, dataset: Dataset, predictions: dict[str, Predictions]) -> dict[str, object]:
    """Every prediction, the numbers of each class, and the confusion matrix of val."""
    import wandb

    rows = [
        [dataset.paths[i], split, dataset.classes[truth], dataset.classes[int(p.argmax())], float(p.max())]
        for split, predicted in predictions.items()
        for i, truth, p in zip(predicted.indices, predicted.labels, predicted.probabilities, strict=True)
    ]
    val = predictions["val"]
    shown: dict[str, object] = {
        "predictions": wandb.Table(columns=["path", "split", "label", "prediction", "confidence"], data=rows),
        "classes": wandb.Table(
            columns=["split", "class", *CLASS_NUMBERS],
            data=[[split, *line] for split, metrics in record.metrics.items() for line in _by_class(metrics)],
        ),
    }
    if len(dataset.classes) <= MOST_CLASSES:
        shown["confusion_matrix"] = wandb.plot.confusion_matrix(
            y_true=val.labels.tolist(),
            preds=np.argmax(val.probabilities, axis=1).tolist(),
            class_names=dataset.classes,
        )
    return shown


def _dataset_artifact(record: Record) -> wandb.Artifact:
    """What the images were, without the images: the same of them are the same version, for whoever asks."""
    dataset = record.dataset
    names = ("name", "fingerprint", "split_fingerprint", "counts", "classes", "test_is_val", "synthetic")
    told = {name: getattr(dataset, name) for name in names}
    artifact = _artifact(f"dataset-{dataset.name}", "dataset", told)
    with artifact.new_file("dataset.json", "w") as file:
        json.dump(told, file, indent=1)
    return artifact


def _model_artifact(record: Record, paths: RunPaths) -> wandb.Artifact:
    """The selected weights, with what one needs to load them and to know what they are worth."""
    told = msgspec.to_builtins(record.model) | {
        "mean": record.config["model"]["mean"],
        "std": record.config["model"]["std"],
        "classes": record.dataset.classes,
        "dataset_fingerprint": record.dataset.fingerprint,
        "selected_epoch": record.selected_epoch,
        "accuracy": {split: metrics.accuracy for split, metrics in record.metrics.items()},
    }
    artifact = _artifact(f"model-{record.run_id}", "model", told)
    file = paths.onnx if paths.onnx.exists() else paths.model
    artifact.add_file(str(file), file.name)
    return artifact


def _artifact(name: str, kind: str, told: dict[str, Any]) -> wandb.Artifact:
    import wandb

    return wandb.Artifact(re.sub(r"[^A-Za-z0-9._-]+", "_", name), kind, metadata=redact(told))


def _by_class(metrics: Metrics) -> list[list[Any]]:
    """A line a class: its name and its numbers, None for what is not known."""
    return [
        [name, *(None if isinstance(number, float) and math.isnan(number) else number for number in vars(own).values())]
        for name, own in metrics.per_class.items()
    ]


def _log_summary(run: wandb.Run, record: Record) -> None:
    """What is known of the run by now, but for tracebacks and what tells whose machine it was."""
    tree = redact(msgspec.to_builtins(record))
    facts = {name: tree.pop(name) for name in FACTS}
    facts["environment"].pop("hostname")
    del tree["config"]  # which W&B has already
    facts["per_class"] = {split: _by_class(metrics) for split, metrics in record.metrics.items()}  # no column for each
    run.config.update({"record": facts}, allow_val_change=True)
    flat = {key: value for key, value in leaves(tree).items() if "/per_class/" not in key and key != "error/traceback"}
    run.summary.update({key: value for key, value in flat.items() if value is not None})


def _look_closely() -> None:
    """Let the client look every 10 ms, not every 200, whether its own process has begun: a short run waits for that.
    It has no setting for it."""
    with suppress(ImportError):  # another version may look otherwise
        from wandb.sdk.lib.service import service_port_file

        service_port_file._SLEEP = lambda seconds: time.sleep(min(float(seconds), POLL_SECONDS))


def _kill_service() -> None:
    """End the client's own process with all that it still has to send."""
    import wandb

    children = psutil.Process().children()
    with suppress(psutil.Error):
        services = [child for child in children if child.name() == "wandb-core"]
        for service in services:
            service.kill()
        psutil.wait_procs(services)
    with suppress(Exception, SystemExit):  # it finds its process killed, and would end this one with it
        wandb.teardown()
