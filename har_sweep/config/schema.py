"""The configuration: every key typed, documented, range-checked, and told whether it is part of a run's identity.

A field's metadata holds ``doc`` (one line for ``--help``), optionally ``choices``, ``low``/``high`` (inclusive bounds),
``above`` (exclusive lower bound), ``names_files=True`` where files are named after the value, ``identity=False`` for
what can change neither what is learned nor what it costs (a section that says so says it for all its keys), and
``neutral=True`` for what joins the identity only where it is not the default, so that runs from before the key keep
their ids.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, Optional, get_type_hints

MISSING_VALUE = "???"  # OmegaConf's word for a value that must be given


def _key(default: Any, doc: str, *, identity: bool = True, **limits: Any) -> Any:
    metadata = {"doc": doc, "identity": identity, **limits}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def _target(doc: str, *, identity: bool = True) -> Any:
    return _key(None, f"{doc}, by its import path", identity=identity, neutral=True)


def _arguments(*, identity: bool = True) -> Any:
    doc = "what else it is called with; written beside it, or here where a key has that name already"
    return _key({}, doc, identity=identity, neutral=True)


def _section(cls: type, doc: str, *, identity: bool = True) -> Any:
    return field(default_factory=cls, metadata={"doc": doc, "identity": identity})


@dataclass
class LearningRates:
    """A model's default learning rate under each optimizer; ``optimizer.lr`` on the command line beats it."""

    adam: float = _key(1e-3, "learning rate with Adam", above=0.0)
    adamw: float = _key(1e-4, "learning rate with AdamW", above=0.0)
    sgd: float = _key(1e-2, "learning rate with SGD", above=0.0)


@dataclass
class ModelConfig:
    name: str = _key(MISSING_VALUE, "the name in tables and run ids; timm_name unless given", names_files=True)
    timm_name: str = _key(MISSING_VALUE, "timm's architecture name, without the pretrained tag")
    pretrained_tag: Optional[str] = _key(
        None, "timm's tag of the pretrained weights; null takes timm's default", identity=False
    )
    weights: str = _key(
        "${data.default_weights}", "pretrained | if_available | scratch | a .safetensors or .pth file", identity=False
    )
    input_size: Optional[int] = _key(None, "side of the square input in pixels; null takes timm's", low=16, high=2048)
    mean: Optional[list[float]] = _key(None, "normalisation mean of R, G, B in 0..1; null takes timm's")
    std: Optional[list[float]] = _key(None, "normalisation standard deviation; null takes timm's")
    drop_path_rate: float = _key(0.0, "stochastic depth", low=0.0, high=0.9)
    default_lr: LearningRates = _section(LearningRates, "default learning rates by optimizer", identity=False)
    _target_: Optional[str] = _target("in place of timm_name: a function of num_classes that returns an nn.Module")
    arguments: dict[str, Any] = _arguments()


@dataclass
class OptimizerConfig:
    name: str = _key(MISSING_VALUE, "the optimizer: adam, adamw, sgd, or any other of timm's")
    lr: float = _key(MISSING_VALUE, "learning rate", above=0.0)
    weight_decay: float = _key(0.0, "weight decay", low=0.0)
    betas: Optional[list[float]] = _key(None, "Adam's running-average coefficients")
    momentum: Optional[float] = _key(None, "SGD's momentum", low=0.0, high=1.0)
    nesterov: Optional[bool] = _key(None, "SGD's Nesterov momentum")
    weight_decay_spares: Optional[str] = _key(
        None, "what does not decay; null spares nothing", choices=("biases_and_norms",), neutral=True
    )
    layer_decay: Optional[float] = _key(
        None, "each layer learns at this times the next one's rate; null is off", above=0.0, high=1.0, neutral=True
    )
    head_lr: Optional[float] = _key(
        None, "learning rate of the new classifier; null is optimizer.lr", above=0.0, neutral=True
    )
    _target_: Optional[str] = _target("in place of a name: a torch optimizer's class")
    arguments: dict[str, Any] = _arguments()


@dataclass
class SchedulerConfig:
    name: str = _key(MISSING_VALUE, "the schedule: constant, cosine, or timm's multistep, poly, rsqrt, step, tanh, wsd")
    warmup_epochs: float = _key(0.0, "epochs of linear warm-up", low=0.0)
    final_lr_fraction: float = _key(0.0, "what a decay ends at, as a fraction of optimizer.lr", low=0.0, high=1.0)
    _target_: Optional[str] = _target("in place of a name: the class of a torch learning-rate scheduler")
    interval: Optional[str] = _key(
        None, "when _target_ is stepped; null is after each step", choices=("step", "epoch"), neutral=True
    )
    arguments: dict[str, Any] = _arguments()


@dataclass
class AugmentationConfig:
    name: str = _key("paper", "the name in tables", identity=False)
    horizontal_flip: float = _key(0.5, "probability of a horizontal flip", low=0.0, high=1.0)
    rotation_degrees: float = _key(10.0, "angle drawn uniformly from +- this", low=0.0, high=180.0)
    crop_scale: Optional[list[float]] = _key(
        None, "random resized crop: smallest and largest share of the area; null crops nothing"
    )
    crop_ratio: list[float] = _key([0.75, 4 / 3], "random resized crop: aspect ratios")
    cache_scale: float = _key(1.0, "training images are decoded at this times the input size", low=1.0, high=4.0)
    randaugment_ops: int = _key(0, "RandAugment: operations an image; 0 is off", low=0, high=14)
    randaugment_magnitude: int = _key(9, "RandAugment: magnitude", low=0, high=30)
    mixup_alpha: float = _key(0.0, "mixup's Beta parameter; 0 is off", low=0.0, high=1000.0)
    cutmix_alpha: float = _key(0.0, "CutMix's Beta parameter; 0 is off", low=0.0, high=1000.0)
    _target_: Optional[str] = _target("a transform of uint8 [B, 3, H, W] before all others: a class or a function")
    arguments: dict[str, Any] = _arguments()


@dataclass
class DataConfig:
    """Identity comes from the content's and the split's fingerprints, so none of these keys is part of it."""

    source: str = _key(
        MISSING_VALUE, "where images come from", choices=("sample", "har", "folder", "csv", "hub", "custom")
    )
    name: str = _key(MISSING_VALUE, "the dataset's name in tables", names_files=True)
    root: Optional[str] = _key(None, "folder of the images")
    csv: Optional[str] = _key(None, "table of paths and labels; relative to data.root, else to here")
    path_column: str = _key("path", "column of image paths: a name, or a number from 0")
    label_column: str = _key("label", "column of labels: a name, or a number from 0")
    split_column: Optional[str] = _key(None, "column of train/val/test, if the table has one")
    delimiter: str = _key("auto", "what separates columns: auto, whitespace, tab, or a character")
    header: bool = _key(True, "the table's first row names its columns")
    hub_name: Optional[str] = _key(None, "Hugging Face dataset, owner/name, or a local folder")
    hub_config: Optional[str] = _key(None, "the Hugging Face dataset's configuration")
    hub_image_column: str = _key("image", "the Hugging Face dataset's image column")
    hub_label_column: str = _key("label", "the Hugging Face dataset's label column")
    images_per_class: int = _key(6, "sample: pictures drawn for each class", low=3, high=10_000)
    split: str = _key(
        "train_val_test",
        "the parts; in train_test, val and test are the same images, watched while training: no accuracy is held out",
        choices=("train_val_test", "train_test"),
    )
    val_fraction: float = _key(0.15, "share of images for validation", above=0.0, high=0.9)
    test_fraction: float = _key(0.15, "share of images for the test", above=0.0, high=0.9)
    split_seed: int = _key(0, "the split's own seed, the same for every run", low=0)
    on_error: str = _key("fail", "a broken image: fail or skip", choices=("fail", "skip"))
    max_megapixels: float = _key(
        64.0, "the most that an image may have, in millions of pixels; larger ones are broken", above=0.0, high=1e6
    )
    cache: str = _key(
        "disk",
        "disk decodes once into a memory map; stream decodes in every epoch",
        choices=("disk", "stream"),
    )
    default_weights: str = _key("pretrained", "what model.weights is unless given")
    _target_: Optional[str] = _target("a function that lists (path, label[, split])")
    arguments: dict[str, Any] = _arguments()


@dataclass
class TrainerConfig:
    epochs: int = _key(5, "passes over the training images", low=1, high=100_000)
    batch_size: int = _key(32, "images an optimizer step; also the batch of evaluation", low=1, high=65_536)
    accumulation_steps: int = _key(1, "micro-batches each batch is cut into", low=1, high=65_536)
    label_smoothing: float = _key(0.0, "label smoothing", low=0.0, high=0.99)
    gradient_clip_norm: Optional[float] = _key(None, "clip gradients to this norm; null does not", above=0.0)
    ema_decay: Optional[float] = _key(
        None, "evaluate an exponential moving average of the weights; null is off", above=0.0, high=0.99999
    )
    selection: str = _key("best", "which epoch is reported: best on val, or last", choices=("best", "last"))
    finetune: str = _key("full", "what is trained: full, or head only", choices=("full", "head"))
    on_oom: str = _key(
        "fail", "out of memory: fail, or split batches into more micro-batches", choices=("fail", "split")
    )
    checkpoint_minutes: float = _key(10.0, "also checkpoint within an epoch after this long", identity=False, above=0.0)
    save_model: bool = _key(True, "keep model.safetensors", identity=False)


@dataclass
class ObjectiveConfig:
    """What a batch is learned from. Without a teacher every key is as it is here, so that a run's id is what it was
    before there were any."""

    kind: str = _key(
        "labels",
        "what is learned: the labels alone; or also a teacher's logits, its features, or by a DeiT's token its logits",
        choices=("labels", "logits", "features", "token"),
        neutral=True,
    )
    weight: Optional[float] = _key(
        None, "the teacher's share of the loss; the labels have the rest", above=0.0, high=1.0, neutral=True
    )
    temperature: Optional[float] = _key(
        None, "softens both sides' logits; null takes 4", above=0.0, high=1000.0, neutral=True
    )
    teacher_model: Optional[str] = _key(
        None, "timm's architecture of a teacher that is a file of weights", identity=False
    )
    teacher_input_size: Optional[int] = _key(
        None, "side of such a teacher's square input in pixels; null takes timm's", identity=False, low=16, high=2048
    )
    taught_by: dict[str, Any] = _key({}, "filled in while planning: the teacher's run and weights", neutral=True)


LAUNCHER = "hydra_plugins.har_sweep_plugins.launcher.HarSweepLauncher"


@dataclass
class LocalLauncher:
    """``hydra/launcher=local``: runs on this machine, ``launch.parallel`` at once."""

    _target_: str = LAUNCHER


@dataclass
class SlurmLauncher:
    """``hydra/launcher=slurm``: a job for each run. The names are those of Hydra's submitit launcher; what sbatch knows
    beside these goes into ``additional_parameters``."""

    _target_: str = LAUNCHER
    partition: Optional[str] = _key(None, "partition; null takes the cluster's default")
    account: Optional[str] = _key(None, "account to charge")
    qos: Optional[str] = _key(None, "quality of service")
    constraint: Optional[str] = _key(None, "features that the node must have")
    exclude: Optional[str] = _key(None, "nodes to keep away from")
    comment: Optional[str] = _key(None, "a comment that the queue shows")
    gres: Optional[str] = _key(None, "generic resources; where it names gpu, it takes the place of gpus_per_node")
    gpus_per_node: Optional[str] = _key(
        None, "GPUs for one run, N or TYPE:N; null takes hardware.device_count on cuda, else none"
    )
    cpus_per_task: int = _key(8, "CPU cores for one run", low=1)
    mem_gb: float = _key(32.0, "memory for one run, in SLURM's G (GiB)", above=0.0)
    timeout_min: int = _key(240, "time limit of a job in minutes; a run that needs longer goes on in another", low=1)
    signal_delay_s: int = _key(90, "warning before the time limit, in seconds: time for a checkpoint", low=5)
    array_parallelism: int = _key(256, "runs of one array at once", low=1)
    name: str = _key("${hydra.job.name}", "the jobs' name in the queue")
    setup: list[str] = _key([], "shell lines before each job, such as [module load cuda]")
    additional_parameters: dict[str, Any] = _key(
        {}, "further sbatch options by their long names: +hydra.launcher.additional_parameters.nodelist=node1",
    )  # fmt: skip
    python: Optional[str] = _key(None, "Python on the nodes; null takes the one that submits")


@dataclass
class OwnSweeper:
    """``hydra/sweeper=har_sweep``: all runs of a sweep are planned at once."""

    _target_: str = "hydra_plugins.har_sweep_plugins.sweeper.HarSweepSweeper"
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class HardwareConfig:
    device: str = _key("auto", "where runs run", choices=("auto", "cpu", "cuda", "mps"))
    device_count: int = _key(1, "devices for one run", low=1)
    precision: str = _key(
        "auto", "auto takes what trains the model fastest here, measured once", choices=("auto", "fp32", "bf16", "fp16")
    )
    memory_format: str = _key("channels_last", "layout of image tensors", choices=("channels_last", "contiguous"))
    tf32: bool = _key(True, "allow TF32 in float32 matrix products on CUDA")
    compile: bool = _key(False, "torch.compile the model")
    cuda_graph: Optional[bool] = _key(
        False, "CUDA: repeat whole batches' steps as a graph; null measures whether that is faster", identity=False
    )
    deterministic: bool = _key(False, "CUDA: deterministic kernels (the CPU always is)")
    cpu_threads: Optional[int] = _key(None, "threads for computing; null takes every core", identity=False, low=1)
    loader_threads: Optional[int] = _key(
        None,
        "threads gathering batches ahead; null takes 1 on a CPU, 4 at most for a GPU; 0 gathers in the loop",
        identity=False,
        low=0,
        high=64,
    )
    price_per_device_hour: Optional[float] = _key(None, "money for one device and hour", identity=False, low=0.0)


@dataclass
class TrackingConfig:
    """Where null stands, the environment is asked while planning (wandb_variables.py), and then there is a default."""

    backend: str = _key("wandb", "who else is told", choices=("wandb", "none"))
    mode: Optional[str] = _key(
        None,
        "null takes WANDB_MODE, else offline; in a W&B agent's trial online",
        choices=("offline", "online", "disabled"),
    )
    project: Optional[str] = _key(None, "Weights & Biases project; null takes WANDB_PROJECT, else har_sweep")
    entity: Optional[str] = _key(None, "Weights & Biases entity; null takes WANDB_ENTITY, else your default")
    group: Optional[str] = _key(None, "group of runs there; null takes WANDB_RUN_GROUP, else the sweep's name")
    name: Optional[str] = _key(None, "the run's name there; null takes WANDB_NAME, else the run's own")
    notes: Optional[str] = _key(None, "notes on the run there; null takes WANDB_NOTES")
    tags: Optional[list[str]] = _key(None, "tags beside its seed's; null takes WANDB_TAGS")
    job_type: Optional[str] = _key(None, "its job type there; null takes WANDB_JOB_TYPE, else train")
    dir: Optional[str] = _key(None, "where its files lie, in wandb/; null takes WANDB_DIR, else the run's folder")
    git: Optional[bool] = _key(None, "tell the commit of the current folder; null takes WANDB_DISABLE_GIT, else true")
    system_metrics: Optional[bool] = _key(
        None, "let W&B's client sample what the machine does; null takes WANDB_X_DISABLE_STATS, else true"
    )
    log_model: bool = _key(False, "upload the selected weights as an artifact")
    trial: dict[str, str] = _key({}, "filled in while planning: the trial that a W&B agent asked for")


@dataclass
class PathsConfig:
    runs: str = _key("runs", "where records go")
    cache: str = _key("cache", "decoded images and what was learned about files")
    data: str = _key("data", "datasets that were fetched or drawn")

    def __post_init__(self) -> None:
        self.runs, self.cache, self.data = map(os.path.expanduser, (self.runs, self.cache, self.data))


@dataclass
class SweepConfig:
    name: Optional[str] = _key(None, "the sweep's name; null derives one from the overrides")
    objective: Any = _key(
        "metrics/val/accuracy",
        "what a run returns to a search (hydra/sweeper=optuna): one of the record's numbers, or a list",
    )
    study_per: list[str] = _key(
        [], "a search: keys whose listed values get a study of their own each, with as many trials"
    )
    pairs: list[Any] = _key([], "what goes together, such as [{model:resnet18,seed:0},{model:vit_tiny,seed:1}]")
    exclude: list[Any] = _key([], "what is left out, such as [{model:vit_tiny,seed:[1,2]}]")


@dataclass
class LaunchConfig:
    order: str = _key(
        "interleaved",
        "interleaved: each model's first run before any model's second; as given; or cheapest first",
        choices=("interleaved", "given", "cheapest_first"),
    )
    parallel: Optional[int] = _key(
        None,
        "runs at once on this machine; null is one for each GPU, or one on a CPU",
        low=1,
        high=1024,
    )
    retries: int = _key(0, "how often a run that failed by itself is tried again", low=0)
    wait: bool = _key(True, "SLURM: follow the jobs until all runs are over; false submits and leaves")
    dry_run: bool = _key(False, "show what would run and what it would cost, and start nothing")
    heartbeat_seconds: float = _key(
        10.0, "a run's sign of life; six times as late, it counts as dead", low=0.1, high=600.0
    )


@dataclass
class Config:
    model: ModelConfig = _section(ModelConfig, "the backbone")
    optimizer: OptimizerConfig = _section(OptimizerConfig, "the optimizer")
    scheduler: SchedulerConfig = _section(SchedulerConfig, "the learning-rate schedule")
    augmentation: AugmentationConfig = _section(AugmentationConfig, "what training images go through")
    data: DataConfig = _section(DataConfig, "the images", identity=False)
    trainer: TrainerConfig = _section(TrainerConfig, "the training loop")
    objective: ObjectiveConfig = _section(ObjectiveConfig, "what is learned")
    hardware: HardwareConfig = _section(HardwareConfig, "where and how it computes")
    tracking: TrackingConfig = _section(TrackingConfig, "Weights & Biases", identity=False)
    paths: PathsConfig = _section(PathsConfig, "folders", identity=False)
    sweep: SweepConfig = _section(SweepConfig, "the sweep", identity=False)
    launch: LaunchConfig = _section(LaunchConfig, "how its runs are started", identity=False)
    seed: int = _key(0, "seed of initialisation, order and augmentation", low=0, high=2**31 - 1)
    teacher: Optional[str] = _key(
        None, "who teaches: a finished run (its id, its beginning, its folder), or a file of weights", identity=False
    )
    rerun: bool = _key(False, "compute again what is already done", identity=False)
    targets: dict[str, str] = _key(
        {}, "filled in while planning: what each _target_ is, by its version or content", neutral=True
    )


@dataclass(frozen=True)
class Key:
    """One leaf of the configuration, as ``--help`` and the checks see it."""

    path: str
    type: Any
    default: Any
    metadata: dict[str, Any]


@cache
def keys(cls: type = Config, prefix: str = "", in_identity: bool = True) -> tuple[Key, ...]:
    """Every leaf key, in the order of the dataclasses."""
    return tuple(_keys(cls, prefix, in_identity))


def _keys(cls: type, prefix: str, in_identity: bool) -> Iterator[Key]:
    hints = get_type_hints(cls)
    for f in fields(cls):
        if f.name == "_target_" and not f.metadata:
            continue  # a launcher's class, which is no setting
        path, hint, identity = prefix + f.name, hints[f.name], in_identity and f.metadata.get("identity", True)
        if is_dataclass(hint) and isinstance(hint, type):
            yield from keys(hint, path + ".", identity)
        else:
            default = f.default_factory() if f.default_factory is not MISSING else f.default
            yield Key(path, hint, default, {**f.metadata, "identity": identity})


def value_at(config: Any, path: str) -> Any:
    """The value at a dotted path of a ``Config``."""
    for part in path.split("."):
        config = getattr(config, part)
    return config
