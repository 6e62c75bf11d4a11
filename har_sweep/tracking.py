"""Weights & Biases: the run id is its id, the sweep its group, the record's numbers stand under the record's names.

Tracking never stops a run: what goes wrong there is said once, on the screen and in the record, and the run goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from har_sweep.data import Dataset
from har_sweep.evaluate import Predictions
from har_sweep.record import Epoch, Record, RunPaths, flatten, redact, redact_text
from har_sweep.schema import TrackingConfig

if TYPE_CHECKING:
    import wandb

INIT_SECONDS = 20.0  # for an online start; then the run is kept offline, to be synced later


class Tracker:
    """What is logged of one run. ``warn`` is told, once, when it fails; from then on it does nothing."""

    def __init__(self, config: TrackingConfig, record: Record, paths: RunPaths, warn: Callable[[str], None]) -> None:
        self._warn, self._folder = warn, paths.wandb
        self._run: wandb.Run | None = None
        if config.backend == "wandb":
            self._guarded(lambda: self._start(config, record, paths))

    def _start(self, config: TrackingConfig, record: Record, paths: RunPaths) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        # Tables wait for `wandb sync` beside the run that they belong to, not in the home folder.
        os.environ.setdefault("WANDB_DATA_DIR", str(paths.wandb.absolute()))
        import wandb

        paths.wandb.mkdir(parents=True, exist_ok=True)
        common: dict[str, Any] = {
            "project": config.project,
            "entity": config.entity,
            "id": record.run_id,
            "name": record.name,
            "group": record.sweeps[-1],
            "tags": [f"seed{record.seed}", *(["synthetic"] if record.dataset.synthetic else [])],
            "config": redact(record.config),
            "dir": str(paths.folder),
            "resume": "allow" if config.mode == "online" else None,
        }
        # Machine facts are in the record; W&B's own collection would add home paths, hosts and the command line.
        settings = wandb.Settings(
            console="off", silent=True, disable_git=True, save_code=False, disable_code=True,
            x_disable_meta=True, x_disable_machine_info=True, x_save_requirements=False, init_timeout=INIT_SECONDS,
        )  # fmt: skip
        try:
            self._run = wandb.init(**common, mode="online" if config.mode == "online" else "offline", settings=settings)
        except Exception as e:
            if config.mode == "offline":
                raise
            self._warn(
                f"Weights & Biases could not be reached ({_first_line(e)}); "
                "logging offline: `wandb sync` uploads it later."
            )
            self._run = wandb.init(**common | {"resume": None}, mode="offline", settings=settings)
        self._run.define_metric("*", step_metric="epoch")

    def epoch(self, epoch: Epoch) -> None:
        """Log an epoch's numbers."""
        if run := self._run:
            self._guarded(lambda: run.log(asdict(epoch), step=epoch.epoch))

    def finish(self, record: Record, dataset: Dataset, predictions: dict[str, Predictions]) -> None:
        """Log the record's numbers, the confusion matrix and every prediction, and close the run."""
        if run := self._run:
            self._guarded(lambda: self._finish(run, record, dataset, predictions))
        self.close(0)

    def _finish(self, run: wandb.Run, record: Record, dataset: Dataset, predictions: dict[str, Predictions]) -> None:
        import wandb

        rows = [
            [dataset.paths[i], split, dataset.classes[truth], dataset.classes[int(p.argmax())], float(p.max())]
            for split, predicted in predictions.items()
            for i, truth, p in zip(predicted.indices, predicted.labels, predicted.probabilities, strict=True)
        ]
        val = predictions["val"]
        run.log(
            {
                "predictions": wandb.Table(columns=["path", "split", "label", "prediction", "confidence"], data=rows),
                "confusion_matrix": wandb.plot.confusion_matrix(
                    y_true=val.labels.tolist(),
                    preds=np.argmax(val.probabilities, axis=1).tolist(),
                    class_names=dataset.classes,
                ),
            }
        )
        run.summary.update({key: value for key, value in redact(flatten(record)).items() if value is not None})

    def close(self, exit_code: int) -> None:
        """Close the run; a second call does nothing."""
        run, self._run = self._run, None
        if run:
            self._guarded(lambda: run.finish(exit_code=exit_code))
            for log in self._folder.glob("*/logs/*.log"):
                log.write_text(redact_text(log.read_text(errors="replace")))

    def _guarded(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as e:
            self._run = None
            self._warn(f"Weights & Biases stopped logging ({_first_line(e)}); the run goes on, its record is complete.")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
