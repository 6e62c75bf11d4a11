"""What is to do: configs -> decided runs, each once, and what is already known of each."""

from __future__ import annotations

import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Collection
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from har_sweep.config.check import usable_folders
from har_sweep.config.compose import Composed
from har_sweep.config.identity import identify, make_run_id, sweep_name
from har_sweep.config.schema import Config, value_at
from har_sweep.config.trial import SEVERAL_IN_A_TRIAL
from har_sweep.config.unread import as_read
from har_sweep.config.wandb_variables import decided, not_followed
from har_sweep.data.dataset import Dataset
from har_sweep.data.prepare import prepare_dataset
from har_sweep.errors import InputError
from har_sweep.files import redact_text
from har_sweep.launch.ask import asking_torch
from har_sweep.launch.fits import check_weights
from har_sweep.launch.job import failures
from har_sweep.launch.kernels import check_kernels
from har_sweep.launch.private import refusing_others_folders, unwritable
from har_sweep.launch.slurm.queue import Unreachable
from har_sweep.launch.speeds import choices, warnings_of_several
from har_sweep.launch.state import run_states
from har_sweep.launch.teachers import check_none_is_computed_again, check_teachers, with_teachers
from har_sweep.launch.terminal import Screen
from har_sweep.record.choices import CHOICES, choice_word
from har_sweep.record.claim import take_claim
from har_sweep.record.environment import git_state
from har_sweep.record.folder import find_record, write_record
from har_sweep.spec.hardware import cpu_device, resolve_device
from har_sweep.spec.hub import Hub
from har_sweep.spec.parts import decide
from har_sweep.spec.precision import lacks_bf16, named
from har_sweep.spec.recipe import doubt
from har_sweep.spec.run_spec import RunSpec, source_size
from har_sweep.spec.weights import ModelPlan, ask_at_once, resolve

WATCHED = (
    "Val and test are the same images (data.split=train_test): they are watched while training, and no accuracy is of "
    "held-out images."
)
# On FAT that is all of it. A drive that is synchronised has a copy on each machine, which gives out claims by itself.
WITHOUT_LINKS = (
    "paths.runs={folder} is on a file system without hard links, as synchronised drives are: let one machine at a time "
    "compute there, unless all see at once what one writes. If one is cut off, wait a minute before another goes on."
)


@dataclass(frozen=True)
class Planned:
    """A run and its state: one of ``RunState``'s, or ``again`` for what is done and shall be computed once more.

    ``places`` says which of the runs asked for it is: two ways to ask for one run are one run."""

    spec: RunSpec
    state: str
    places: tuple[int, ...] = ()

    @property
    def to_do(self) -> bool:
        """Whether nobody has done it or is at it."""
        return self.state in ("new", "again", "failed", "interrupted", "lost")

    @property
    def on_cluster(self) -> bool:
        return self.spec.slurm is not None


@refusing_others_folders()
def plan(
    runs: list[Composed], screen: Screen, common: set[str] | None = None, warnings: Collection[str] = ()
) -> list[Planned]:
    """Decide every run of a sweep: weights, device, data, run id; each run once, in the order asked for.

    ``common`` are the overrides that tell no run from another; by default, those that all have. ``warnings`` are all
    runs'.

    Raises
    ------
    InputError
        if any of them could not run: then none is started.
    """
    here = {n: resolve_device(run.config.hardware) for n, run in enumerate(runs) if not run.slurm}
    devices = [here[n].kind if n in here else run.config.hardware.device for n, run in enumerate(runs)]
    with screen.live(), usable_folders(*(run.config.paths for run in runs)), asking_torch() as ask:
        for device, cache in {(device, runs[n].config.paths.cache) for n, device in here.items()}:
            check_kernels(device, cache, ask)
        versions = decide([run.config for run in runs], screen.progress)
        runs = [
            replace(run, config=replace(run.config, targets=targets, tracking=decided(run.config.tracking)))
            for run, targets in zip(map(as_read, runs, devices), versions, strict=True)
        ]
        configs = [run.config for run in runs]
        if len(runs) > 1 and any(config.tracking.trial for config in configs):
            raise InputError(*SEVERAL_IN_A_TRIAL)
        models = _models(configs, screen)
        datasets = _datasets([(config, models[_model_key(config)]) for config in configs], screen)
        drafts = with_teachers(_drafts(runs, devices, models, datasets, common), screen)
        check_weights(drafts, ask, screen)
        check_teachers(drafts, ask, screen)
        chosen = choices(drafts, ask, screen)
        drafts = [replace(draft, choice=choice) for draft, choice in zip(drafts, chosen, strict=True)]
        said = warnings_of_several(drafts, ask, screen)
    specs: dict[str, RunSpec] = {}
    places = defaultdict[str, list[int]](list)
    for place, (draft, warning, config) in enumerate(zip(drafts, said, configs, strict=True)):
        told = replace(draft, warnings=(*draft.warnings, *filter(None, [warning]), *warnings))
        spec = identified(told, datasets[_data_key(config)])
        specs.setdefault(spec.run_id, spec)
        places[spec.run_id].append(place)
    check_none_is_computed_again(list(specs.values()))
    return [replace(p, places=tuple(places[p.spec.run_id])) for p in _seen(list(specs.values()))]


def _seen(specs: list[RunSpec]) -> list[Planned]:
    """What is known of each run already."""
    rerun, cluster = specs[0].config.rerun, any(spec.slurm for spec in specs)
    try:
        states = run_states([spec.paths for spec in specs], rerun, ask_slurm=cluster)
    except Unreachable as e:
        raise InputError(
            f"Jobs were submitted for some of these runs, and SLURM does not say how they are: {e}.",
            "Give the same command again when it answers, where jobs are submitted.",
        ) from e
    return [
        Planned(
            replace(spec, failures_allowed=failures(state.record) + spec.config.launch.retries),
            "again" if rerun and state.state == "done" else state.state,
        )
        for spec, state in zip(specs, states, strict=True)
    ]


def _model_key(config: Config) -> tuple[object, ...]:
    return (str(config.model), config.paths.cache)


def _data_key(config: Config) -> tuple[object, ...]:
    return (str(config.data), *astuple(config.paths))


def _models(configs: list[Config], screen: Screen) -> dict[tuple[object, ...], ModelPlan]:
    """Each distinct model decided once."""
    hub, models, refused = Hub(), dict[tuple[object, ...], ModelPlan](), dict[tuple[object, ...], InputError]()
    ask_at_once([config.model for config in configs], Path(configs[0].paths.cache), screen.progress)
    for config in configs:
        key = _model_key(config)
        if key not in models and key not in refused:
            try:
                models[key] = resolve(config.model, hub, Path(config.paths.cache), screen.progress)
            except InputError as e:
                refused[key] = e
    _refuse(refused.values())
    return models


def _datasets(pairs: list[tuple[Config, ModelPlan]], screen: Screen) -> dict[tuple[object, ...], Dataset]:
    """Each distinct dataset prepared once, at every size that some run needs."""
    sizes: dict[tuple[object, ...], set[int]] = defaultdict(set)
    configs = {_data_key(config): config for config, _ in pairs}
    for config, model in pairs:
        sizes[_data_key(config)] |= {model.input_size, source_size(config, model)}
    prepared, refused = dict[tuple[object, ...], Dataset](), list[InputError]()
    for key, config in configs.items():
        try:
            prepared[key] = prepare_dataset(config.data, config.paths, sorted(sizes[key]), screen.progress)
        except InputError as e:
            refused.append(e)
    _refuse(refused)
    return prepared


def _refuse(refused: Collection[InputError]) -> None:
    """Say all that is wrong at once."""
    if refused:
        raise InputError("\n".join(e.message for e in refused), next(iter(refused)).hint)


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


def _drafts(
    runs: list[Composed],
    devices: list[str],
    models: dict[tuple[object, ...], ModelPlan],
    datasets: dict[tuple[object, ...], Dataset],
    common: set[str] | None,
) -> list[RunSpec]:
    """Each run, decided but for what has to be measured, and so without an id."""
    sweep = runs[0].config.sweep.name or sweep_name([run.overrides for run in runs])
    git, several = git_state(), len(runs) > 1 or common is not None
    if common is None:
        common = set.intersection(*(set(run.overrides) for run in runs))
    drafts = []
    for run, device in zip(runs, devices, strict=True):
        model, dataset = models[_model_key(run.config)], datasets[_data_key(run.config)]
        varied = [o for o in run.overrides if o not in common and not o.startswith("model=")]
        draft = _draft(replace(run, config=_decided(run.config, model)), varied, device, sweep, model, dataset, git)
        drafts.append(_named_apart(draft) if several else draft)
    return drafts


def _draft(
    run: Composed,
    varied: list[str],
    device: str,
    sweep: str,
    model: ModelPlan,
    dataset: Dataset,
    git: tuple[str | None, bool | None],
) -> RunSpec:
    """``varied`` are the overrides that tell the run from the sweep's others."""
    config = run.config
    warnings = [*model.warnings, *dataset.notes, *not_followed(config.tracking)]
    if doubtful := doubt(config, model, len(dataset.indices("train"))):
        warnings.append(doubtful)
    if dataset.synthetic:
        warnings.append(
            f"The {dataset.name} images are synthetic: drawn, not photographed. What holds of them need not hold of "
            "real ones."
        )
    if dataset.test_is_val:
        warnings.append(WATCHED)
    if dataset.skipped:
        count = len(dataset.skipped)
        warnings.append(f"{count} broken image{'s were' if count > 1 else ' was'} skipped (data.on_error=skip).")
    if device == "cpu" and config.hardware.device == "auto":
        warnings.append("No GPU was found: this run uses the CPU.")
    if run.slurm is None and lacks_bf16(device, config.hardware.precision):
        warnings.append(
            f"hardware.precision=bf16: {cpu_device().name} has no instructions for it. hardware.precision=auto takes "
            "float32 here, which is most likely faster."
        )
    if device == "cpu" and (config.launch.parallel or 1) > 1:
        warnings.append(
            f"Up to {config.launch.parallel} runs at once share this processor: their times are of a share of it."
        )
    fell_back = model.weights == "scratch" and config.model.weights == "if_available"
    start = "scratch-fallback" if fell_back else "scratch" if model.weights == "scratch" else ""
    name = f"{config.model.name} {start}".strip() + in_brackets(config)
    told = [c for c in varied if c.partition("=")[0] not in CHOICES and c != f"model.timm_name={config.model.name}"]
    return RunSpec(
        run_id="",
        name=name,
        label=" ".join([name, *map(_short, told)]),
        config=config,
        overrides=run.overrides,
        sweep=sweep,
        model=model,
        device=device,
        choice=named("fp32" if config.hardware.precision == "auto" else config.hardware.precision, device),
        dataset_file=dataset.file,
        warnings=tuple(warnings),
        slurm=run.slurm,
        hydra=run.hydra,
        git_commit=git[0],
        git_dirty=git[1],
    )


def _named_apart(spec: RunSpec) -> RunSpec:
    """With what tells it from the sweep's others in the name that W&B shall show."""
    tracking = spec.config.tracking
    name = f"{tracking.name} {spec.label}" if tracking.name else None
    return replace(spec, config=replace(spec.config, tracking=replace(tracking, name=name)))


def identified(spec: RunSpec, dataset: Dataset) -> RunSpec:
    """With its id, which needs all to be decided."""
    identified = identify(
        spec.config,
        weights=spec.model.weights,
        dataset=dataset.fingerprint,
        split=dataset.split_fingerprint,
        device=spec.device,
        precision=spec.precision,
    )
    return replace(spec, run_id=make_run_id(spec.config.model.name, identified))


def in_brackets(config: Config) -> str:
    """What a run was chosen to do otherwise than most, as the report's labels have it: `` (head only)``, or nothing."""
    words = ", ".join(filter(None, (choice_word(key, value_at(config, key)) for key in CHOICES)))
    return f" ({words})" if words else ""


def _short(override: str) -> str:
    """``model.weights=/a/b.pth`` -> ``weights=b.pth``: what tells runs apart, not where things are."""
    key, _, value = redact_text(override).partition("=")
    if re.fullmatch(r"-?\d+\.\d{5,}(e-?\d+)?", value):  # what a sampler drew
        value = f"{float(value):.4g}"
    return f"{key.rsplit('.', 1)[-1]}={value.rsplit('/', 1)[-1]}"


def join_sweep(spec: RunSpec) -> None:
    """Note in a done run's record that this sweep asked for it too, and sweep up what an owner left who was killed
    after the last word; unless somebody is about to compute it again."""
    paths, record = spec.paths, find_record(spec.paths)
    if record is None or (spec.sweep in record.sweeps and not paths.unfinished()):
        return
    claim = take_claim(paths.folder)
    if claim is None:
        return
    with claim:
        paths, record = replace(paths, claim=claim.number), find_record(paths)
        if record and record.status == "done":
            paths.remove_training()
            if spec.sweep not in record.sweeps:
                record.sweeps.append(spec.sweep)
                write_record(record, paths)


def check_writable(folder: Path) -> list[str]:
    """Refuse early what would fail after hours; returns what is to be known of runs there.

    Raises
    ------
    InputError
        if runs cannot be written there.
    """
    hint = "Give another folder with paths.runs=..."
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-") as file:
            file.write(b"." * 4096)  # a full disk may still take names
            file.flush()
            link = Path(f"{file.name}-linked")
            try:
                os.link(file.name, link)
                link.unlink()
                return []
            except OSError:
                return [WITHOUT_LINKS.format(folder=folder)]
    except PermissionError as e:
        raise unwritable(folder) from e
    except OSError as e:
        raise InputError(f"paths.runs={folder} cannot be written: {e.strerror}.", hint) from e
