"""What is to do: configs -> decided runs, each once, and what is already known of each."""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from har_sweep.config.identity import identify, make_run_id, sweep_name
from har_sweep.config.schema import Config
from har_sweep.data.dataset import Dataset
from har_sweep.data.prepare import prepare_dataset
from har_sweep.errors import InputError
from har_sweep.launch.job import failures
from har_sweep.launch.slurm.queue import Unreachable
from har_sweep.launch.state import run_states
from har_sweep.launch.terminal import Screen
from har_sweep.record.environment import git_state
from har_sweep.record.folder import find_record, write_record
from har_sweep.spec.hardware import resolve_hardware
from har_sweep.spec.hub import Hub
from har_sweep.spec.parts import decide
from har_sweep.spec.run_spec import RunSpec, source_size
from har_sweep.spec.weights import ModelPlan, resolve


@dataclass(frozen=True)
class Planned:
    """A run and its state: one of ``Look``'s, or ``again`` for what is done and shall be computed once more."""

    spec: RunSpec
    state: str

    @property
    def to_do(self) -> bool:
        """Whether nobody has done it or is at it."""
        return self.state in ("new", "again", "failed", "interrupted", "lost")

    @property
    def on_cluster(self) -> bool:
        return self.spec.config.hardware.launcher == "slurm"


def plan(configs: list[tuple[list[str], Config]], screen: Screen) -> list[Planned]:
    """Decide every run of a sweep: weights, device, data, run id; each run once, in the order asked for.

    Raises
    ------
    InputError
        if any of them could not run: then none is started.
    """
    targets = [resolve_hardware(config.hardware) for _, config in configs]
    hub = Hub()
    models: dict[tuple[object, ...], ModelPlan] = {}
    refused: dict[tuple[object, ...], InputError] = {}
    with screen.live():
        versions = decide([config for _, config in configs], screen.progress)
        configs = [(o, replace(config, targets=v)) for (o, config), v in zip(configs, versions, strict=True)]
        for _, config in configs:
            key = _model_key(config)
            if key not in models and key not in refused:
                try:
                    models[key] = resolve(config.model, hub, Path(config.paths.cache), screen.progress)
                except InputError as e:
                    refused[key] = e
        if refused:
            raise InputError("\n".join(e.message for e in refused.values()), next(iter(refused.values())).hint)
        datasets = _datasets([(config, models[_model_key(config)]) for _, config in configs], screen)
    name = configs[0][1].sweep.name or sweep_name([overrides for overrides, _ in configs])
    specs: dict[str, RunSpec] = {}
    git = git_state()
    common = set.intersection(*(set(overrides) for overrides, _ in configs))
    for (overrides, config), target in zip(configs, targets, strict=True):
        model, dataset = models[_model_key(config)], datasets[_data_key(config)]
        choices = [o for o in overrides if o not in common and not o.startswith("model=")]
        spec = _spec(overrides, choices, _decided(config, model), target, name, model, dataset, git)
        specs.setdefault(spec.run_id, spec)
    return _seen(list(specs.values()))


def _seen(specs: list[RunSpec]) -> list[Planned]:
    """What is known of each run already."""
    rerun, cluster = specs[0].config.rerun, any(spec.config.hardware.launcher == "slurm" for spec in specs)
    try:
        looks = run_states([spec.paths for spec in specs], rerun, ask_slurm=cluster)
    except Unreachable as e:
        raise InputError(
            f"Jobs were submitted for some of these runs, and SLURM does not say how they are: {e}.",
            "Give the same command again when it answers, where jobs are submitted.",
        ) from e
    states = ["again" if view.state == "done" else view.state for view in looks] if rerun else [v.state for v in looks]
    counts = [failures(view.record) + spec.config.launch.retries for view, spec in zip(looks, specs, strict=True)]
    return [
        Planned(replace(spec, failures_allowed=count), state)
        for spec, state, count in zip(specs, states, counts, strict=True)
    ]


def _model_key(config: Config) -> tuple[object, ...]:
    return (str(config.model), config.paths.cache)


def _data_key(config: Config) -> tuple[object, ...]:
    return (str(config.data), *astuple(config.paths))


def _datasets(pairs: list[tuple[Config, ModelPlan]], screen: Screen) -> dict[tuple[object, ...], Dataset]:
    """Each distinct dataset prepared once, at every size that some run needs."""
    sizes: dict[tuple[object, ...], set[int]] = defaultdict(set)
    configs = {_data_key(config): config for config, _ in pairs}
    for config, model in pairs:
        sizes[_data_key(config)] |= {model.input_size, source_size(config, model)}
    return {
        key: prepare_dataset(config.data, config.paths, sorted(sizes[key]), screen.progress)
        for key, config in configs.items()
    }


def _decided(config: Config, model: ModelPlan) -> Config:
    """The config with what timm was asked for filled in, so that two ways to name one model are one run."""
    decided = replace(
        config.model,
        timm_name=model.timm_name,
        pretrained_tag=model.pretrained_tag,
        input_size=model.input_size,
        mean=list(model.mean),
        std=list(model.std),
    )
    return replace(config, model=decided)


def _spec(
    overrides: list[str],
    choices: list[str],
    config: Config,
    target: tuple[str, str],
    sweep: str,
    model: ModelPlan,
    dataset: Dataset,
    git: tuple[str | None, bool | None],
) -> RunSpec:
    """One run, all decided; ``target`` is its device kind and precision, ``choices`` what the sweep varies."""
    device, precision = target
    identified = identify(
        config,
        weights=model.weights,
        dataset=dataset.fingerprint,
        split=dataset.split_fingerprint,
        device=device,
        precision=precision,
    )
    warnings = [*model.warnings, *dataset.notes]
    if dataset.synthetic:
        warnings.append(
            f"The {dataset.name} images are synthetic: drawn, not photographed. Accuracies say nothing about real ones."
        )
    if dataset.skipped:
        count = len(dataset.skipped)
        warnings.append(f"{count} broken image{'s were' if count > 1 else ' was'} skipped (data.on_error=skip).")
    if device == "cpu" and config.hardware.device == "auto":
        warnings.append("No GPU was found: this run uses the CPU.")
    if device == "cpu" and (config.launch.parallel or 1) > 1:
        warnings.append(
            f"Up to {config.launch.parallel} runs at once share this processor: their times are of a share of it."
        )
    fell_back = model.weights == "scratch" and config.model.weights == "if_available"
    start = "scratch-fallback" if fell_back else "scratch" if model.weights == "scratch" else ""
    name = f"{config.model.name} {start}".strip()
    return RunSpec(
        run_id=make_run_id(config.model.name, identified),
        name=name,
        label=" ".join([name, *(_short(choice) for choice in choices)]),
        config=config,
        overrides=overrides,
        sweep=sweep,
        model=model,
        device=device,
        precision=precision,
        dataset_file=dataset.file,
        warnings=tuple(warnings),
        git_commit=git[0],
        git_dirty=git[1],
    )


def _short(override: str) -> str:
    """``model.weights=/a/b.pth`` -> ``weights=b.pth``: what tells runs apart, not where things are."""
    key, _, value = override.partition("=")
    return f"{key.rsplit('.', 1)[-1]}={value.rsplit('/', 1)[-1]}"


def join_sweep(spec: RunSpec) -> None:
    """Note in a done run's record that this sweep asked for it too."""
    record = find_record(spec.paths)
    if record and spec.sweep not in record.sweeps:
        record.sweeps.append(spec.sweep)
        write_record(record, spec.paths)


def check_writable(folder: Path) -> None:
    """Refuse early what would fail after hours.

    Raises
    ------
    InputError
        if runs cannot be written there.
    """
    hint = "Give another folder with paths.runs=..."
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-") as file:
            link = Path(f"{file.name}-linked")
            try:
                os.link(file.name, link)
            except OSError as e:
                text = f"paths.runs={folder} is on a file system without hard links, by which runs are claimed"
                raise InputError(f"{text}: {e.strerror}.", hint) from e
            link.unlink()
    except OSError as e:
        raise InputError(f"paths.runs={folder} cannot be written: {e.strerror}.", hint) from e
