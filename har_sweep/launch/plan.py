"""What is to do: configs -> decided runs, each once, and what is already known of each."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from har_sweep import hardware, identity
from har_sweep import record as records
from har_sweep.data import Dataset, prepare
from har_sweep.errors import InputError
from har_sweep.launch.screen import Screen
from har_sweep.record import RunPaths
from har_sweep.schema import Config
from har_sweep.spec import RunSpec, source_size
from har_sweep.weights import Hub, ModelPlan, resolve


@dataclass(frozen=True)
class Planned:
    """A run and its state: ``new``, ``done``, ``elsewhere``, or how an earlier attempt ended, to be gone on from."""

    spec: RunSpec
    state: str

    @property
    def to_do(self) -> bool:
        return self.state not in ("done", "elsewhere")


def plan(configs: list[tuple[list[str], Config]], screen: Screen) -> list[Planned]:
    """Decide every run of a sweep: weights, device, data, run id; each run once, in the order given.

    Raises
    ------
    InputError
        if any of them could not run: then none is started.
    """
    targets = [hardware.resolve(config.hardware) for _, config in configs]
    hub = Hub()
    models: dict[tuple[object, ...], ModelPlan] = {}
    with screen.live():
        for _, config in configs:
            key = _model_key(config)
            if key not in models:
                models[key] = resolve(config.model, hub, Path(config.paths.cache), screen.progress)
        datasets = _datasets([(config, models[_model_key(config)]) for _, config in configs], screen)
    name = configs[0][1].sweep.name or identity.sweep_name([overrides for overrides, _ in configs])
    planned: dict[str, Planned] = {}
    common = set.intersection(*(set(overrides) for overrides, _ in configs))
    for (overrides, config), target in zip(configs, targets, strict=True):
        model, dataset = models[_model_key(config)], datasets[_data_key(config)]
        choices = [o for o in overrides if o not in common and not o.startswith("model=")]
        spec = _spec(overrides, choices, _decided(config, model), target, name, model, dataset)
        planned.setdefault(spec.run_id, Planned(spec, _state(spec)))
    return list(planned.values())


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
        key: prepare(config.data, config.paths, sorted(sizes[key]), screen.progress) for key, config in configs.items()
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
) -> RunSpec:
    """One run, all decided; ``target`` is its device kind and precision, ``choices`` what the sweep varies."""
    device, precision = target
    identified = identity.identity(
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
    fell_back = model.weights == "scratch" and config.model.weights == "if_available"
    start = "scratch-fallback" if fell_back else "scratch" if model.weights == "scratch" else ""
    name = f"{config.model.name} {start}".strip()
    return RunSpec(
        run_id=identity.run_id(config.model.name, identified),
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
    )


def _short(override: str) -> str:
    """``model.weights=/a/b.pth`` -> ``weights=b.pth``: what tells runs apart, not where things are."""
    key, _, value = override.partition("=")
    return f"{key.rsplit('.', 1)[-1]}={value.rsplit('/', 1)[-1]}"


def _state(spec: RunSpec) -> str:
    paths = spec.paths
    if not paths.record.exists():
        return "new"
    record = records.read(paths.record)
    if is_computed(paths):
        return "elsewhere"
    if record.status == "done":
        return "again" if spec.config.rerun else "done"
    return "interrupted" if record.status == "running" else record.status


def is_computed(paths: RunPaths) -> bool:
    """Whether some process computes the run now: it holds the lock, which the kernel frees however the process ends."""
    try:
        with FileLock(paths.lock, timeout=0):
            return False
    except Timeout:
        return True


def join_sweep(spec: RunSpec) -> None:
    """Note in a done run's record that this sweep asked for it too."""
    record = records.read(spec.paths.record)
    if spec.sweep not in record.sweeps:
        record.sweeps.append(spec.sweep)
        records.write(record, spec.paths.record)


def check_writable(folder: Path) -> None:
    """Refuse early what would fail after hours.

    Raises
    ------
    InputError
        if runs cannot be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with records.atomic(folder / ".writable"):
            pass
        (folder / ".writable").unlink()
    except OSError as e:
        raise InputError(
            f"paths.runs={folder} cannot be written: {e.strerror}.", "Give another folder with paths.runs=..."
        ) from e
