"""CUDA without a card: what would run there, on tensors that only say that they do; what is promised of several sweeps
on one machine's cards; and, marked so, what only a card can show."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from small import lower_precision, small_spec, what_was_learned
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

from har_sweep.config.schema import AugmentationConfig
from har_sweep.data.dataset import Dataset
from har_sweep.device.compute import Compute, prepare_compute
from har_sweep.device.graph import NotCapturable, StepGraph
from har_sweep.device.ranks import Ranks
from har_sweep.errors import RunFailure
from har_sweep.events import Event, Phase, Step, Tell, tell_nobody
from har_sweep.launch import apart, calibrate, cards, gradients, local, stopwatch
from har_sweep.launch.cards import Held, any_card, own_cards, strangers, take_cards
from har_sweep.launch.slurm.node import Job
from har_sweep.launch.terminal import Screen
from har_sweep.model.teacher import drawing_apart
from har_sweep.processes import patient_threads
from har_sweep.run.execute import execute
from har_sweep.spec.hardware import Device
from har_sweep.spec.precision import Choice, Figures, Way
from har_sweep.spec.run_spec import RunSpec
from har_sweep.stop import Stop
from har_sweep.train import augmentation, randaugment
from har_sweep.train import learner as learner_module
from har_sweep.train.augmentation import augment
from har_sweep.train.average import MovingAverage
from har_sweep.train.epoch import train_step
from har_sweep.train.evaluate import forward_of
from har_sweep.train.learner import Learner, is_out_of_memory
from har_sweep.train.objective import Objective
from har_sweep.train.session import Session

CPU, CUDA, META = torch.device("cpu"), torch.device("cuda", 0), torch.device("meta")
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
RECIPES: dict[str, dict[str, Any]] = {
    "none": {},
    "default": {"horizontal_flip": 0.5, "rotation_degrees": 10.0},
    "crop": {"crop_scale": [0.2, 1.0], "horizontal_flip": 0.5},
    "randaugment": {"randaugment_ops": 2},
    "mixed": {"mixup_alpha": 0.2, "cutmix_alpha": 1.0},
}
MOST_OPERATIONS = {"none": 12, "default": 25, "crop": 20, "randaugment": 260, "mixed": 60}
WAITING = ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"]
VIEWS = (
    "device",
    "view",
    "permute",
    "lift_fresh",
    "unbind",
    "unsqueeze",
    "expand",
    "slice",
    "detach",
    "transpose",
    "select",
)


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        "GET was unable to find an engine to execute this computation",
        "MPS backend out of memory (MPS allocated: 17.64 GB, other allocations: 8.00 KB)",
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to",
        "could not create a primitive",
    ],
)
def test_a_want_of_memory_is_known_by_what_is_said_of_it(said: str) -> None:
    assert is_out_of_memory(RuntimeError(said))


def test_other_errors_are_not_taken_for_a_want_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    for said in (
        "CUDA error: an illegal memory access was encountered",
        "CUBLAS_STATUS_EXECUTION_FAILED",
        "size mismatch",
    ):
        assert not is_out_of_memory(RuntimeError(said))


class Watch(TorchDispatchMode):
    """Counts what a device is given to do, and that for which the host waits for it: copies that are not asynchronous,
    and reads."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.waits = Counter[str](), Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.name()
        if not name.split("::")[1].startswith(VIEWS):
            self.operations[name] += 1
        made = func(*args, **kwargs)
        places = [made] if isinstance(made, torch.Tensor) else []
        if name == "aten::copy_":
            places = [args[0]]
        given = [tensor for tensor in args if isinstance(tensor, torch.Tensor)]
        crossed = len({tensor.device.type for tensor in (*given, *places)}) > 1
        asynchronous = kwargs.get("non_blocking") or (name == "aten::copy_" and len(args) > 2 and args[2])
        if name in ("aten::_to_copy", "aten::copy_") and crossed and not asynchronous:
            self.waits[name] += 1
        reads = name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select")
        if reads and given[0].device.type != "cpu":
            self.waits[name] += 1
        return made


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors may say that they are on a GPU; page-locked memory is any memory."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch, "randint", lambda *args, **keys: 7)  # the seed of a batch's draws, which a CPU makes
    kept = (augmentation._scale_and_shift, randaugment._places, randaugment._blur)
    for constants in kept:
        constants.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield
    for constants in kept:
        constants.cache_clear()


def augmented(keys: dict[str, Any], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.zeros(32, 64, 64, 3, dtype=torch.uint8, device=device)
    labels = torch.zeros(32, dtype=torch.int64, device=device)
    config = AugmentationConfig(**{"horizontal_flip": 0.0, "rotation_degrees": 0.0, **keys})
    return augment(images, labels, config, 48, MEAN, STD, torch.Generator().manual_seed(3), 10)


@pytest.mark.parametrize(
    ("node", "kind", "said"),
    [
        ({"is_available": False}, "device_unavailable", "finds no cuda device that it can use on "),
        ({"get_arch_list": ["sm_80", "sm_90"]}, "device_unavailable", "Tesla T4 has compute capability 7.5"),
        ({"is_bf16_supported": False}, "precision_unavailable", "Tesla T4 does not multiply in bf16"),
    ],
)
def test_a_node_that_cannot_compute_as_planned_refuses_before_it_makes_a_tensor(
    node: dict[str, Any], kind: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usual = {
        "is_available": True, "get_device_name": "Tesla T4", "get_device_capability": (7, 5),
        "get_arch_list": ["sm_75"], "is_bf16_supported": True,
    }  # fmt: skip
    for name, answer in {**usual, **node}.items():
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer, **_: answer)
    spec = replace(small_spec(tmp_path), device="cuda", choice=Choice(Way("bf16")))
    with Watch() as watch, pytest.raises(RunFailure, match=said) as refused:
        prepare_compute(spec, Ranks())
    assert refused.value.kind == kind
    assert refused.value.hint
    assert not watch.operations


@pytest.mark.parametrize("recipe", RECIPES)
def test_augmentation_on_a_gpu_never_waits_for_it_and_gives_it_little_to_start(fake_cuda: None, recipe: str) -> None:
    augmented(RECIPES[recipe], CUDA)  # what is sent once
    with Watch() as watch:
        images, targets = augmented(RECIPES[recipe], CUDA)
    assert images.device.type == targets.device.type == "cuda"
    assert not watch.waits
    assert watch.operations.total() <= MOST_OPERATIONS[recipe], watch.operations


def test_the_watch_sees_a_copy_that_the_host_waits_for(fake_cuda: None) -> None:
    with Watch() as watch:
        torch.tensor([1.0, 2.0], device=CUDA)
        torch.zeros(2).to(CUDA)
        torch.zeros(2, device=CUDA).copy_(torch.zeros(2))
        torch.zeros(2).to(CUDA, non_blocking=True)
    assert watch.waits.total() == 3, watch.waits


def test_prediction_on_a_gpu_never_waits_for_it(fake_cuda: None, tmp_path: Path) -> None:
    compute = Compute(CUDA, "bf16", torch.channels_last)
    plan = SimpleNamespace(mean=MEAN, std=STD)
    with CUDA:
        model = timm.create_model("test_resnet", num_classes=3).eval()
    forward = forward_of(model, plan, compute)  # type: ignore[arg-type]
    images = torch.zeros(8, 64, 64, 3, dtype=torch.uint8, device=CUDA)
    forward(images)
    with Watch() as watch:
        logits = forward(images)
    assert (logits.device.type, logits.dtype, logits.shape) == ("cuda", torch.float32, (8, 3))
    assert not watch.waits


def floats(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def test_the_moving_average_is_torchs_to_the_bit_and_its_integers_are_the_models() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    model.register_buffer("places", torch.arange(50))
    ours, theirs = (
        MovingAverage(model, 0.9),
        AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True),
    )
    for step in range(4):
        with torch.no_grad():
            for tensor in floats(model).values():
                tensor.add_(step + 1)
        ours.update(model)
        theirs.update_parameters(model)
        if step == 1:  # a checkpoint in between
            kept = copy.deepcopy(ours.state_dict())
            ours = MovingAverage(timm.create_model("test_resnet", num_classes=3), 0.9)
            ours.module.register_buffer("places", torch.zeros(50, dtype=torch.int64))
            ours.load_state_dict(kept)
    expected = floats(theirs.module)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in floats(ours.module).items())
    assert torch.equal(ours.module.get_buffer("places"), torch.arange(50))
    assert not torch.equal(theirs.module.get_buffer("places"), torch.arange(50))  # 0.9 x 41 + 0.1 x 41 became 40


def test_the_moving_average_is_one_operation_and_sends_nothing() -> None:
    model = timm.create_model("test_resnet", num_classes=3).to("meta")
    average = MovingAverage(model, 0.9)
    average.update(model)
    with Watch() as watch:
        average.update(model)
    assert watch.operations == {"aten::_foreach_copy_": 1, "aten::_foreach_lerp_.Scalar": 1}


def session_of(spec: RunSpec, compute: Compute) -> Session:
    return Session(spec, Dataset.read(spec.dataset_file), compute)


def learner_of(session: Session, device: torch.device) -> Learner:
    """Of a network small enough to be compiled, and with a batch norm."""
    with device:
        first = [nn.Conv2d(3, 4, 3, stride=8), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        model = nn.Sequential(*first, nn.Linear(4, len(session.dataset.classes)))
    objective = Objective(model, session.spec.config.trainer)
    return Learner(objective, session.spec.config, session.compute, Ranks(), session.steps, tell_nobody, 0)


STEPS = {
    "averaged and clipped": ["trainer.ema_decay=0.9", "trainer.gradient_clip_norm=1"],
    "accumulated, randaugment": ["trainer.accumulation_steps=2", "optimizer=sgd", "augmentation.randaugment_ops=2"],
    "mixed": ["augmentation.mixup_alpha=0.2", "augmentation.cutmix_alpha=1", "scheduler=cosine", "optimizer=adamw"],
}


@pytest.mark.parametrize("name", STEPS)
def test_an_update_never_waits_for_the_device(name: str, tmp_path: Path) -> None:
    """On a device that only knows shapes: a gradient needs one."""
    session = session_of(small_spec(tmp_path, *STEPS[name]), Compute(META, "fp32", torch.channels_last))
    learner = learner_of(session, META)
    inputs, labels = torch.zeros(16, 3, 64, 64, device=META), torch.zeros(16, dtype=torch.int64, device=META)
    for _ in range(2):  # the first makes the optimizer's state
        with Watch() as watch:
            loss = learner.learn(inputs, labels)
    assert loss.device == META
    assert not watch.waits


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounter]:
    """torch.compile counts, and generates no code."""
    counter, compile_ = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile_(model, backend=counter))
    torch._dynamo.reset()
    yield counter
    torch._dynamo.reset()


def test_a_compiled_model_is_compiled_for_each_size_once_and_evaluated_so(
    compiler: CompileCounter, tmp_path: Path
) -> None:
    """Whatever is compiled is so after an epoch with a smaller last batch, and after one evaluation."""
    spec = small_spec(tmp_path, "hardware.compile=true")
    session = session_of(spec, Compute(CPU, "fp32", torch.channels_last, compiled=True))
    learner, counts = learner_of(session, CPU), []
    images, labels = torch.zeros(16, 64, 64, 3, dtype=torch.uint8), torch.arange(16) % 3
    for _ in range(2):
        learner.model.train()
        for count in (16, 16, 12):
            train_step(learner, images[:count], labels[:count], torch.Generator().manual_seed(0), session)
        counts.append(compiler.frame_count)
    assert counts[0] == counts[1] > 0
    for _ in range(2):
        forward = forward_of(learner.evaluated.eval(), spec.model, session.compute)
        for count in (16, 12, 1):
            assert forward(images[:count]).shape == (count, len(session.dataset.classes))
        counts.append(compiler.frame_count)
    assert counts[1] < counts[2] == counts[3]


def test_a_compiled_run_says_why_its_first_steps_take_long(compiler: CompileCounter, tmp_path: Path) -> None:
    told: list[Event] = []
    record = execute(small_spec(tmp_path, "hardware.compile=true", "trainer.epochs=1"), told.append, Stop())
    assert record.status == "done", record.error
    first_step = next(n for n, event in enumerate(told) if isinstance(event, Step))
    assert compiler.frame_count
    assert any(isinstance(event, Phase) and event.text.startswith("Compiling") for event in told[:first_step])


def test_a_process_that_forks_runs_has_not_touched_cuda_and_its_threads_wait_patiently() -> None:
    """A child of one that has cannot use a GPU; counting the devices is enough to have. How threads wait is read when
    torch is imported."""
    code = """
import os, sys
def watch(event, of):
    if event == "import" and of[0] == "torch":
        print(os.environ["GOMP_SPINCOUNT"])
sys.addaudithook(watch)
def bad_fork_in_a_child():
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(int(torch._C._cuda_isInBadFork()))
import har_sweep.launch.preload, torch
before = bad_fork_in_a_child()
torch._C._cuda_getDeviceCount() if hasattr(torch._C, "_cuda_getDeviceCount") else None
print(before, bad_fork_in_a_child())
"""
    unsaid = {name: value for name, value in os.environ.items() if name not in WAITING}
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=unsaid)
    assert asked.stdout.split() == ["2000", "0", "1"], asked.stderr


def test_the_threads_of_a_slurm_job_wait_patiently_too(tmp_path: Path) -> None:
    code = """
import os, pickle, sys
out = os.dup(1)  # what the job prints goes to its log
def watch(event, of):
    if event == "import" and of[0] == "torch":
        os.write(out, os.environ["GOMP_SPINCOUNT"].encode())
        os._exit(0)
sys.addaudithook(watch)
pickle.load(sys.stdin.buffer)()
"""
    job = Job(small_spec(tmp_path, "hydra/launcher=slurm"))
    unsaid = {name: value for name, value in os.environ.items() if name not in WAITING}
    asked = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(job), capture_output=True, env=unsaid)
    assert asked.stdout.endswith(b"2000"), asked.stderr


@pytest.mark.parametrize("said", [*WAITING, ""])
def test_how_threads_wait_is_the_users_to_say(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {said: "9"})
    assert patient_threads() == ({} if said else {"GOMP_SPINCOUNT": "2000"})


# Cards that several sweeps want.

L4 = Device("cuda", "NVIDIA L4", 2**34, bf16=True, uuid=f"GPU-of-test-{os.getpid()}")  # of no other test at work here


def test_two_sweeps_do_not_share_a_card_and_the_other_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "POLL_SECONDS", 0.01)
    other = replace(L4, uuid=f"{L4.uuid}-2")
    held = take_cards([L4, L4])
    assert isinstance(held, Held)
    refused = take_cards([other, L4])
    assert isinstance(refused, str)
    assert refused.startswith(f"NVIDIA L4 ({L4.uuid}) is computed on by another sweep, process ")
    assert f"process {os.getpid()} (" in refused
    with any_card([L4, other]) as found:
        assert found == (1, "")
        assert isinstance(take_cards([other]), str)
    with any_card([L4]) as taken:
        assert taken == (0, refused)
    with any_card([]) as none:
        assert none == (0, "")
    free = take_cards([other])  # what was to be had was not kept
    assert isinstance(free, Held)
    free.release()
    told: list[str] = []

    def waiting(why: str) -> None:
        told.append(why)
        held.release()

    with own_cards([L4], waiting):
        assert told == [refused]
        assert isinstance(take_cards([L4]), str)
    again = take_cards([L4])
    assert isinstance(again, Held)
    again.release()


def test_a_card_is_free_when_its_holder_was_killed() -> None:
    code = f"""
from har_sweep.launch.cards import take_cards
from har_sweep.spec.hardware import Device
held = take_cards([{L4!r}])
print("held", flush=True)
input()
"""
    holder = subprocess.Popen([sys.executable, "-c", code], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    assert isinstance(take_cards([L4]), str)
    holder.kill()
    holder.communicate()
    held = take_cards([L4])
    assert isinstance(held, Held)
    held.release()


def test_a_run_waits_for_a_card_that_another_sweep_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held, started = take_cards([L4]), list[bool]()
    assert isinstance(held, Held)

    def start(spec: RunSpec, events: Any, environment: dict[str, str]) -> Any:
        started.append(isinstance(take_cards([L4]), str))  # by now it is this sweep's
        return SimpleNamespace(exitcode=0, join=lambda *_: None, is_alive=lambda: False)

    def polled(connections: list[Any], seconds: float | None) -> list[Any]:
        if not started:
            assert seconds
            held.release()
        return connections

    monkeypatch.setattr(local, "slots", lambda specs: [local.Slot({}, None, (L4,))])
    monkeypatch.setattr(local, "_start", start)
    monkeypatch.setattr(local, "wait", polled)
    local.run_all([replace(small_spec(tmp_path), device="cuda")], [], Screen())
    assert started == [True]
    assert f"NVIDIA L4 ({L4.uuid}) is computed on by another sweep" in " ".join(capsys.readouterr().out.split())
    free = take_cards([L4])
    assert isinstance(free, Held)
    free.release()


def test_who_computes_on_the_card_of_runs_as_well_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = SimpleNamespace(exitcode=0, join=lambda *_: None, is_alive=lambda: False)
    monkeypatch.setattr(local, "slots", lambda specs: [local.Slot({}, None, (L4,))])
    monkeypatch.setattr(local, "strangers", lambda found: [f"process 7 on {card.name}" for card in found])
    monkeypatch.setattr(local, "_start", lambda *_: ended)
    specs = [replace(small_spec(tmp_path, f"seed={seed}"), device="cuda") for seed in (0, 1)]
    local.run_all(specs, [], Screen())
    assert capsys.readouterr().out.count("Not alone: process 7 on NVIDIA L4 computes there as well.") == 1


@pytest.mark.parametrize(("device", "held"), [("cuda", [True, False]), ("cpu", [False, False])])
def test_work_apart_has_the_first_card_to_itself_while_it_lasts(
    device: str, held: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    two, found = [L4, replace(L4, uuid=f"{L4.uuid}-2")], list[bool]()

    def look(*_: Any) -> None:
        found.extend(isinstance(take_cards([card]), str) for card in two)

    monkeypatch.setattr(apart, "find_devices", lambda: two)
    monkeypatch.setattr(apart, "_apart", look)
    apart.apart(look, device, "run", Path("log"), Screen())
    look()
    assert found == [*held, False, False]


def _order_of_cards(_: Tell) -> str:
    return os.environ["CUDA_DEVICE_ORDER"]


def test_work_apart_counts_cards_as_the_driver_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that its first is the card that the parent holds."""
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    done = apart.apart(_order_of_cards, "cpu", "run", tmp_path / "log", Screen())
    assert done
    assert done.value == "PCI_BUS_ID"


def test_who_else_computes_on_a_card_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    def running(handle: str) -> list[SimpleNamespace]:
        if handle == "GPU-closed":
            raise NVMLError("Insufficient Permissions")
        return [SimpleNamespace(pid=os.getpid()), SimpleNamespace(pid=os.getppid())]

    driver: Any = SimpleNamespace(
        NVMLError=NVMLError, nvmlInit=lambda: None, nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid, nvmlDeviceGetComputeRunningProcesses=running,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    (named,) = strangers([replace(L4, uuid="MIG-1"), L4, replace(L4, uuid="GPU-closed")])
    assert named.startswith(f"process {os.getppid()} (")
    assert named.endswith(f" on NVIDIA L4 ({L4.uuid})")


# Steps as CUDA graphs: when there is one and what it leaves. That it computes the same, only a card can show.


class Stand:
    """Stands for a CUDA graph: keeps inputs of its own, computes nothing when it is made, and gives out gradients."""

    made: int
    why: Exception | None

    def __init__(self, backward: Any, weights: Any, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        if Stand.why:
            raise Stand.why
        Stand.made += 1
        self._backward, self._inputs, self._targets = backward, inputs.clone(), targets.clone()
        self.images, self.replays = len(targets), 0

    def __call__(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.replays += 1
        self._inputs.copy_(inputs)
        self._targets.copy_(targets)
        loss: torch.Tensor = self._backward(self._inputs, self._targets)
        return loss


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> type[Stand]:
    monkeypatch.setattr(learner_module, "StepGraph", Stand)
    Stand.made, Stand.why = 0, None
    return Stand


def epochs_of(tmp_path: Path, graph: bool, tell: Any = tell_nobody) -> tuple[Learner, list[bool]]:
    """Two epochs with a smaller last batch; and whether each step was one that captures."""
    session = session_of(small_spec(tmp_path), Compute(CPU, "fp32", torch.channels_last, graph=graph))
    torch.manual_seed(0)
    learner, captured = learner_of(session, CPU), list[bool]()
    learner._tell = tell
    images = torch.randint(256, (16, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    learner.model.train()
    for step in range(8):
        count = 12 if step % 4 == 3 else 16
        captured.append(learner.captures(count))
        train_step(learner, images[:count], torch.arange(count) % 3, torch.Generator().manual_seed(step), session)
    return learner, captured


def weights_of(learner: Learner) -> list[torch.Tensor]:
    return list(learner.model.state_dict().values())


def test_the_second_whole_batch_makes_the_graph_and_smaller_ones_do_without(stand: type[Stand], tmp_path: Path) -> None:
    eager, none = epochs_of(tmp_path / "eager", graph=False)
    graphed, captured = epochs_of(tmp_path / "graph", graph=True)
    assert not any(none)
    assert captured == [False, True, *[False] * 6]
    assert (stand.made, graphed._graph.images, graphed._graph.replays) == (1, 16, 5)  # type: ignore[union-attr]
    for one, other in zip(weights_of(eager), weights_of(graphed), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NotCapturable("it draws random numbers on the host"), "it draws random numbers on the host"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory, of which it keeps much"),
    ],
)
def test_what_cannot_be_a_graph_trains_as_ever_and_says_so(
    stand: type[Stand], error: Exception, said: str, tmp_path: Path
) -> None:
    stand.why = error
    told = list[str]()
    graphed, _ = epochs_of(tmp_path / "graph", graph=True, tell=lambda line: told.append(line.text))
    assert (graphed._graph, len(told)) == (None, 1)
    assert said in told[0]
    eager, _ = epochs_of(tmp_path / "eager", graph=False)
    for one, other in zip(weights_of(eager), weights_of(graphed), strict=True):
        assert torch.equal(one, other)


class Capture:
    """Stands for PyTorch's, of which only a card can make a real one: where the step fails, it cannot be ended."""

    streams: list[Any]

    def __init__(self, graph: Any, stream: Any, **_: Any) -> None:
        self._stream = stream

    def __enter__(self) -> None:
        Capture.streams.append(self._stream)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind:
            raise RuntimeError("operation failed due to a previous error during capture")


def test_what_spoils_a_capture_is_named_and_the_stream_is_the_usual_one_again(monkeypatch: pytest.MonkeyPatch) -> None:
    Capture.streams, usual = [], object()
    set_again = list[Any]()
    for name, stand_in in {
        "CUDAGraph": object, "graph": Capture, "Stream": object, "current_stream": lambda: usual,
        "set_stream": set_again.append,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, stand_in)

    def waits(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("operation not permitted when stream is capturing")

    images, labels = torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64)
    for step in (waits, waits):
        with pytest.raises(NotCapturable, match=r"^operation not permitted when stream is capturing$"):
            StepGraph(step, [], images, labels)
    assert set_again == [usual, usual]
    assert Capture.streams[0] is not Capture.streams[1]  # one that is kept would be of the card that was first used


def test_a_graph_is_measured_after_its_kernels_were_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``hardware.cuda_graph=true`` no step without a graph comes before."""
    done = list[str]()

    class Recording(Stand):
        def __init__(self, *arguments: Any) -> None:
            done.append("captured")
            super().__init__(*arguments)

    Stand.made, Stand.why = 0, None
    monkeypatch.setattr(gradients, "StepGraph", Recording)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    model.register_forward_hook(lambda *_: done.append("step"))
    way = Way("fp32", graph=True)
    computes = {way: Compute(CPU, "fp32", torch.channels_last, graph=True), replace(way, precision="bf16"): Compute(
        CPU, "bf16", torch.channels_last, own_kernels=False, graph=True
    )}  # fmt: skip
    found, count = gradients.Gradients(model, computes, 2, 2, lambda: 1.0).checked()
    assert count == 2
    assert done == ["step", *["step", "captured", "step"] * 2]  # first how long two images take a CPU
    assert not any(each.error for each in found.values())


def test_the_card_that_is_held_is_the_one_that_measures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The process that answers may have measured on another before."""
    used = list[int]()

    def stop(*_: Any) -> None:
        raise KeyError

    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    monkeypatch.setattr(calibrate, "prepare_compute", stop)
    spec = replace(small_spec(tmp_path), device="cuda")
    for card in (1, 0):
        with pytest.raises(KeyError):
            calibrate.measure(spec, [Way("fp32")], 1.0, card)
    assert used == [1, 0]


def test_a_card_races_for_all_of_its_time_however_long_it_took_to_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a first step takes is no figure, and the host's waiting for a card is no waiting for cores."""
    now, begun = [100.0], list[float]()
    monkeypatch.setattr(stopwatch.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(stopwatch.time, "process_time", lambda: 0.0)

    def checked(self: gradients.Gradients) -> tuple[dict[Way, Figures], int]:
        now[0] += 60  # its libraries and kernels
        return {way: Figures(way, (9.0,)) for way in self.computes}, 2

    def raced(steps: Any, least: int, most: int, left: Any, *_: Any) -> Any:
        begun.append(left())
        now[0] += 1
        begun.append(left())
        return dict.fromkeys(steps, (0.1, 0.1)), most

    monkeypatch.setattr(gradients.Gradients, "checked", checked)
    monkeypatch.setattr(calibrate, "race", raced)
    monkeypatch.setattr(calibrate, "_steps", lambda model, computes, spec: dict.fromkeys(computes))
    compute = Compute(CPU, "fp32", torch.channels_last)
    ways = {Way("fp32"): compute, Way("bf16"): compute}
    spec = replace(small_spec(tmp_path), device="cuda")
    found, _ = calibrate._trained(nn.Linear(1, 1), ways, spec, 4.0)
    assert begun == pytest.approx([3.6, 2.6])  # a tenth is for evaluating
    assert [each.training_seconds for each in found] == [(0.1, 0.1)] * 2


def test_a_card_is_measured_with_batches_from_page_locked_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec, learner = small_spec(tmp_path), SimpleNamespace(learn=lambda *_: None)
    locked, sent = list[int](), list[int]()

    def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
        locked.append(id(tensor))
        return tensor

    def move(compute: Compute, tensor: torch.Tensor) -> torch.Tensor:
        sent.append(id(tensor))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(Compute, "move", move)
    monkeypatch.setattr(calibrate, "_random_images", calibrate._random_images.__wrapped__)
    monkeypatch.setattr(calibrate, "augment", lambda images, labels, *_: (images, labels))
    for device in (CPU, CUDA):
        sent.clear()
        calibrate._step(learner, Compute(device, "fp32", torch.channels_last), spec, 2)  # type: ignore[arg-type]
        assert len(sent) == 2
        assert locked == (sent if device == CUDA else [])


def test_ranks_that_are_measured_cut_no_batches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that did so alone would wait for the others for ever."""
    spec, found = small_spec(tmp_path), list[str]()
    compute = Compute(CPU, "fp32", torch.channels_last)
    monkeypatch.setattr(calibrate, "Learner", lambda objective, config, *_: found.append(config.trainer.on_oom))
    for count in (1, 2):
        calibrate._learner(nn.Linear(1, 1), spec, compute, Ranks(0, count))
    assert found == ["split", "fail"]


def test_a_teacher_leaves_the_cards_random_numbers_where_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every seed is set on the card as well, where a student's dropout comes from."""
    card = [7]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.tensor(card))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: card.__setitem__(0, int(state)))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: card.__setitem__(0, seed))
    with drawing_apart():
        torch.manual_seed(11)
        assert card == [11]
    assert card == [7]


# With a card.


@contextmanager
def no_waiting() -> Iterator[None]:
    """Inside, waiting for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", STEPS)
def test_a_training_step_never_waits_for_the_card(name: str, precision: str, tmp_path: Path) -> None:
    if (precision, lower_precision()) == ("bf16", "fp16"):
        pytest.skip("this card does not multiply in bf16")
    spec = small_spec(tmp_path, *STEPS[name], "hardware.device=cuda", f"hardware.precision={precision}")
    session = session_of(spec, Compute(CUDA, precision, torch.channels_last))
    learner = learner_of(session, CUDA)
    images, labels = torch.zeros(16, 64, 64, 3, dtype=torch.uint8).pin_memory(), torch.zeros(16).long().pin_memory()
    for _ in range(3):
        train_step(learner, images, labels, torch.Generator().manual_seed(0), session)
    with no_waiting():
        train_step(learner, images, labels, torch.Generator().manual_seed(1), session)


@pytest.mark.gpu
def test_the_peaks_of_two_epochs_are_equal_and_host_and_compiling_have_their_figures(tmp_path: Path) -> None:
    base = ["hardware.device=cuda", "data.images_per_class=60"]
    costs = []
    for epochs in (1, 2):
        record = execute(small_spec(tmp_path, *base, f"trainer.epochs={epochs}"), tell_nobody, Stop())
        assert record.status == "done", record.error
        costs.append(record.cost.training)
    # A kernel that was only tried takes many times that; by a little the allocator gives a tensor more than it needs.
    assert costs[1].peak_memory_bytes == pytest.approx(costs[0].peak_memory_bytes, rel=0.1)
    assert all(cost.compile_seconds is not None for cost in costs)
    assert all(0 <= cost.host_wait_share < 1 for cost in costs if cost.host_wait_share is not None)
    assert costs[1].host_wait_share is not None


@pytest.mark.gpu
def test_with_deterministic_kernels_two_runs_end_with_the_same_bits(tmp_path: Path) -> None:
    exact = ["hardware.device=cuda", f"hardware.precision={lower_precision()}", "hardware.deterministic=true"]
    specs = [small_spec(tmp_path / name, *exact) for name in ("one", "two")]
    assert [execute(spec, tell_nobody, Stop()).status for spec in specs] == ["done", "done"]
    assert what_was_learned(specs[0]) == what_was_learned(specs[1])


@pytest.mark.gpu
def test_a_graph_learns_what_single_kernels_do(tmp_path: Path) -> None:
    precision, learned = lower_precision(), []
    exact = ["hardware.device=cuda", f"hardware.precision={precision}", "hardware.deterministic=true"]
    for graph in (False, True):
        spec = small_spec(tmp_path / str(graph), *exact, "trainer.epochs=2", f"hardware.cuda_graph={graph}")
        spec = replace(spec, choice=Choice(Way(precision, graph=graph)))
        record = execute(spec, tell_nobody, Stop())
        assert (record.status, record.hardware.cuda_graph) == ("done", graph), record.error
        assert not [warning for warning in record.warnings if "CUDA graph" in warning]
        learned.append(what_was_learned(spec))
    assert learned[0] == learned[1]


@pytest.mark.gpu
def test_a_compiled_run_on_cuda_is_measured_compiled(tmp_path: Path) -> None:
    precision = f"hardware.precision={lower_precision()}"
    spec = small_spec(tmp_path, "hardware.device=cuda", precision, "hardware.compile=true")
    record = execute(spec, tell_nobody, Stop())
    assert record.status == "done", record.error
    training = record.cost.training
    assert training.compile_seconds
    assert training.compile_seconds > training.seconds  # of a model and data as small as these
