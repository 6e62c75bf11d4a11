"""One run on several devices: a process ("rank") for each, that train together with DistributedDataParallel.

Rank 0 is the run: it alone tells, writes, evaluates and measures. The others compute the same steps on their share of
each batch, and end when it ends. They are started by rank 0 (``spawn``), or are the tasks of a SLURM job on one node.

Each is tied to rank 0 by a socket that the kernel closes when either dies, however it dies: that, and no time-out, is
how deaths are told. Ranks may therefore wait for each other as long as they like.

Every rank gathers and augments the whole batch, for its draws and its mixing pairs are the whole batch's, and takes its
share then. So ``count`` devices each do the augmentation of all images, and the host gathers them ``count`` times.
"""

from __future__ import annotations

import copy
import os
import queue
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import timedelta
from itertools import chain
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import psutil
import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from har_sweep.errors import Interrupted, RunFailure
from har_sweep.model import set_train_mode
from har_sweep.record import RunError
from har_sweep.schema import Config, HardwareConfig
from har_sweep.spec import RunSpec
from har_sweep.stop import Stop

if TYPE_CHECKING:
    from har_sweep.compute import Compute

Value = TypeVar("Value")

PATIENCE = timedelta(days=1)  # of collectives: while rank 0 validates or writes to a slow disk, the others wait
START_SECONDS = 600.0  # for the tasks of a job to start, one after the other
NEWS_SECONDS = 3.0  # from an error in a collective to the news of whose fault it was
ESCAPE_SECONDS = 60.0  # from a rank's death to the end of a rank 0 that no abort could free
END_SECONDS = 10.0  # for the other ranks to end by themselves
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Ranks:
    """The processes that train one run together; this one is number ``rank`` of ``count``, by default the only one."""

    def __init__(self, rank: int = 0, count: int = 1, tie: Crew | Link | None = None) -> None:
        self.rank, self.count, self._tie = rank, count, tie
        self._cpu: Any = None  # the group for words, not gradients: nothing in it waits for a device
        self._alone: Any = None

    def join(self, device: torch.device) -> None:
        """Wait until all ranks have come this far, and connect them.

        Raises
        ------
        RunFailure
            if one of them failed or died on the way.
        Interrupted
            if one of them was asked to stop.
        """
        if self._tie is None:
            return
        store, cuda = self._tie.meet(), device.type == "cuda"
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback())
        dist.init_process_group(
            "nccl" if cuda else "gloo", store=store, rank=self.rank, world_size=self.count, timeout=PATIENCE,
            device_id=device if cuda else None,
        )  # fmt: skip
        if cuda:
            self._cpu = dist.new_group(backend="gloo", timeout=PATIENCE)
        self._alone = dist.new_group([self.rank], backend="gloo", use_local_synchronization=True)

    def leave(self) -> None:
        """Training is over: from here on, rank 0 needs nobody."""
        if self._tie:
            self._tie.trained()
            dist.destroy_process_group()

    def check(self) -> None:
        """Nothing, while all ranks live and work.

        Raises
        ------
        RunFailure
            if one does not any more.
        """
        if isinstance(self._tie, Crew):
            self._tie.check()

    def share(self, images: int) -> tuple[slice, float]:
        """Which of a micro-batch's images are this rank's, and the weight of their mean loss, so that the ranks' mean
        is the micro-batch's.

        If there are fewer images than ranks every rank takes all: a model may not take a batch of none.
        """
        if images < self.count:
            return slice(0, images), 1.0
        start, end = (images * rank // self.count for rank in (self.rank, self.rank + 1))
        return slice(start, end), (end - start) * self.count / images

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The ranks' mean of a scalar, computed where it is; on CUDA nothing waits for it."""
        if self.count > 1:
            dist.all_reduce(value)
            value /= self.count
        return value

    def gather(self, value: Value) -> list[Value]:
        """Every rank's value, on every rank."""
        values: list[Any] = [value] * self.count
        if self.count > 1:
            dist.all_gather_object(values, value, group=self._cpu)
        return values

    def agree(self, stop: Stop, overdue: bool) -> tuple[bool, bool]:
        """Whether any rank was asked to stop, and whether any finds a checkpoint overdue: the same on all ranks."""
        if self._tie is None:
            return stop.requested, overdue
        wishes = torch.tensor([stop.requested, overdue], dtype=torch.int32)
        dist.all_reduce(wishes, dist.ReduceOp.MAX, group=self._cpu)
        asked, overdue = map(bool, wishes.tolist())
        if asked:
            self._tie.trained()
        return asked, overdue

    def reason(self, stop: Stop) -> str:
        """Why they agreed to stop: why the first of them was asked to."""
        if self.count == 1:
            return stop.reason
        reasons = self.gather(stop.reason if stop.requested else None)
        return next(f"rank {rank}: {reason}" if rank else reason for rank, reason in enumerate(reasons) if reason)

    def parallel(self, model: nn.Module, config: Config, compute: Compute) -> DistributedDataParallel:
        """``model`` as the ranks train it together: its batch norms see the whole (micro-)batch.

        It is another module around the same tensors, so ``model`` itself stays as it is: for evaluation, cost measures
        and the names in files.
        """
        tensors: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
        twin, cuda = copy.deepcopy(model, tensors), compute.device.type == "cuda"
        if cuda:
            twin = convert_sync_batchnorm(twin)
        else:
            for module in twin.modules():
                if isinstance(module, _BatchNorm):
                    module.__class__ = CpuSyncBatchNormAct if isinstance(module, BatchNormAct2d) else CpuSyncBatchNorm
        set_train_mode(twin, config)
        # Parameters that are not used get no gradient, as with one device; and the buckets stay what they are from the
        # first step on, so that sums are the same to the bit after a resume.
        return DistributedDataParallel(
            twin,
            device_ids=[compute.device] if cuda else None,
            forward_sync_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=True,
        )

    @contextmanager
    def forward_of(self, parallel: DistributedDataParallel | None, images: int, last: bool) -> Iterator[None]:
        """Around the forward pass of a micro-batch of so many images in all; gradients are exchanged with the last."""
        with ExitStack() as stack:
            if parallel is not None and not last:
                stack.enter_context(parallel.no_sync())
            if parallel is not None and images < self.count:  # each rank has all of them
                norms = [m for m in parallel.modules() if isinstance(m, nn.SyncBatchNorm | CpuSyncBatchNorm)]
                for norm in norms:
                    stack.callback(setattr, norm, "process_group", norm.process_group)
                    norm.process_group = self._alone
            yield

    def device_index(self, devices: int) -> int:
        """Which of the ``devices`` that this process sees is its own."""
        if self._tie is None or not self._tie.by_task:
            return self.rank
        return int(os.environ["SLURM_LOCALID"]) if devices > 1 else 0  # a task may see its own alone

    def threads(self, asked: int | None) -> int | None:
        """The threads that this process computes with, of those ``asked`` for the run (None: all); None: as it is."""
        if self.count == 1:
            return asked
        own = os.environ.get("SLURM_CPUS_PER_TASK") if self._tie and self._tie.by_task else None
        if own and not asked:
            return int(own)
        return max(1, (asked or cores()) // self.count)


@contextmanager
def lead(spec: RunSpec, stop: Stop) -> Iterator[Ranks]:
    """For rank 0, around all of a run: the other ranks start with it and end with it.

    An error that only follows from another rank's failure or death is raised as that.
    """
    count = spec.config.hardware.device_count
    if count == 1:
        yield Ranks()
        return
    crew = Crew(spec)
    try:
        yield Ranks(0, count, crew)
    except RuntimeError as error:
        if cause := crew.cause(NEWS_SECONDS):
            raise cause from error
        raise
    finally:
        with stop.deferred():  # a signal that came to all ranks may come to this one last
            crew.close()


def ranks_are_tasks(hardware: HardwareConfig) -> bool:
    """Whether this process is one of as many SLURM tasks as the run has devices."""
    tasks = int(os.environ.get("SLURM_NTASKS", 1))
    return hardware.launcher == "slurm" and hardware.device_count == tasks > 1


def assist(spec: RunSpec, stop: Stop) -> None:
    """For a SLURM task whose rank is above 0: train along until the run is over. Ends the process if rank 0 dies."""
    with suppress(Interrupted):
        rank = int(os.environ["SLURM_PROCID"])
        _assist(spec, Link(_connect(spec, rank), rank, by_task=True), stop)


def dismiss(spec: RunSpec) -> None:
    """For a SLURM task of rank 0 that finds nothing to do: let the others go."""
    if ranks_are_tasks(spec.config.hardware):
        with closing(_listener(spec)) as listener:
            for _ in range(spec.config.hardware.device_count - 1):
                _accept(listener)[1].close()


def _assist(spec: RunSpec, link: Link, stop: Stop) -> None:
    from har_sweep.run import assist_training  # which imports this module

    assist_training(spec, link, stop)


def _spawned(spec: RunSpec, rank: int, connection: Connection) -> None:
    stop = Stop()
    stop.take(*SIGNALS)
    link = Link(connection, rank, by_task=False)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        _assist(spec, link, stop)
    except Interrupted:  # held back since before there was anybody to take it
        link.stopped(stop.reason)


class Link:
    """The tie of a rank above 0 to rank 0."""

    def __init__(self, connection: Connection, rank: int, by_task: bool) -> None:
        self.rank, self.by_task, self._connection = rank, by_task, connection
        self._training = False
        self._ports: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._over = threading.Event()
        threading.Thread(target=self._listen, name="rank 0", daemon=True).start()

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while "port" in (message := _receive(self._connection)):
                self._ports.put(message["port"])
            _send(self._connection, {"ended": True})
        if self._training:
            # Somewhere in a collective that nobody will ever answer. The status is 0 because any other may make SLURM
            # kill rank 0, which has the end to write down.
            os._exit(0)
        self._over.set()
        self._ports.put(None)

    def meet(self) -> dist.Store:
        """Tell rank 0 that this rank is ready, and wait until all are.

        Raises
        ------
        Interrupted
            if rank 0 needs nobody any more.
        """
        with suppress(OSError):
            _send(self._connection, {"ready": True})
        port = self._ports.get()
        if port is None:
            raise Interrupted
        self._training = not self._over.is_set()
        return dist.TCPStore("127.0.0.1", port, is_master=False)

    def trained(self) -> None:
        self._training = False

    def stopped(self, reason: str) -> None:
        """Tell rank 0 why this rank ends, if it does not know."""
        with suppress(OSError):  # rank 0 may be gone
            _send(self._connection, {"stopped": reason})

    def failed(self, error: RunError, follows: bool) -> None:
        """Tell rank 0 what went wrong here; ``follows``: it may only be what another rank's failure led to."""
        with suppress(OSError):
            _send(self._connection, {"failed": msgspec.to_builtins(error), "follows": follows})

    def wait_for_end(self) -> None:
        """Until rank 0 lets go or is no more."""
        self._training = False
        while not self._over.is_set():
            with suppress(Interrupted):
                self._over.wait()
        self._connection.close()


class Crew:
    """Rank 0's ties to all other ranks, which it starts unless they are tasks of its SLURM job."""

    def __init__(self, spec: RunSpec) -> None:
        self._spec, self._count = spec, spec.config.hardware.device_count
        self.by_task = ranks_are_tasks(spec.config.hardware)
        self._links: dict[Connection, int] = {}
        self._processes: dict[int, SpawnProcess] = {}
        self._listener = _listener(spec) if self.by_task else None
        self._news = threading.Condition()
        self._ready: set[int] = set()
        self._failures: list[tuple[bool, Exception]] = []
        self._trained = False
        self._watch = threading.Thread(target=self._listen, name="ranks", daemon=True)
        self._escape = threading.Timer(ESCAPE_SECONDS, _escape)
        self._escape.daemon = True
        if not self.by_task:
            self._spawn()

    def _spawn(self) -> None:
        context = get_context("spawn")
        resource_tracker.ensure_running()  # or starting the first process starts it, and unblocks signals
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # held back until a rank can take them
        try:
            for rank in range(1, self._count):
                ours, theirs = context.Pipe()
                self._links[ours] = rank
                process = context.Process(target=_spawned, args=(self._spec, rank, theirs), name=f"rank {rank}")
                process.start()
                self._processes[rank] = process
                theirs.close()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def meet(self) -> dist.Store:
        """Wait until every rank is ready, and give them a store to find each other by."""
        if self._listener:
            with closing(self._listener):
                while len(self._links) < self._count - 1:
                    rank, connection = _accept(self._listener)
                    self._links[connection] = rank
        self._watch.start()
        with self._news:
            self._news.wait_for(lambda: self._failures or len(self._ready) == self._count - 1)
        self.check()
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        for link in self._links:
            _send(link, {"port": store.port})
        return store

    def trained(self) -> None:
        self._trained = True

    def check(self) -> None:
        """Raise what has ended the training, if anything has."""
        if not self._trained and (cause := self.cause(0)):
            raise cause

    def cause(self, seconds: float) -> Exception | None:
        """Which rank's failure ended the training, as far as is known within so many seconds."""
        with self._news:
            self._news.wait_for(lambda: any(not follows for follows, _ in self._failures), seconds)
            return min(self._failures, key=lambda failure: failure[0], default=(True, None))[1]

    def close(self) -> None:
        """End all other ranks."""
        self._trained = True
        self._tell_all_to_end()
        if self._watch.is_alive():
            self._watch.join(END_SECONDS)
        for process in self._processes.values():
            process.join(END_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
        self._escape.cancel()
        if self._listener:
            self._listener.close()
        for link in self._links:
            link.close()
        if dist.is_initialized():  # a failure has kept everyone from leaving
            if dist.get_backend() == "nccl":
                abort()
            else:
                dist.destroy_process_group()

    def _listen(self) -> None:
        living, ended = dict(self._links), set[int]()
        while living:
            for link in wait(list(living)):
                assert isinstance(link, Connection)
                rank = living[link]
                try:
                    message = _receive(link)
                except (EOFError, OSError):
                    del living[link]
                    if rank not in ended:
                        self._note(False, self._death(rank))
                    continue
                if "ready" in message:
                    with self._news:
                        self._ready.add(rank)
                        self._news.notify_all()
                    continue
                ended.add(rank)
                if "stopped" in message:
                    self._note(False, Interrupted(f"rank {rank}: {message['stopped']}"))
                elif "failed" in message:
                    error = RunError(**message["failed"])
                    where = f"Rank {rank} of {self._count}: "
                    print(error.traceback, file=sys.stderr, flush=True)
                    self._note(message["follows"], RunFailure(error.kind, where + error.message, error.hint))

    def _death(self, rank: int) -> Exception:
        how = "its connection closed without a word"
        if process := self._processes.get(rank):
            process.join(NEWS_SECONDS)
            if code := process.exitcode:
                how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return RunFailure(
            "killed",
            f"The process of rank {rank} of {self._count} died: {how}.",
            "Somebody killed it, or the system was out of memory: then try a smaller trainer.batch_size. "
            "The same command goes on from the last checkpoint.",
        )

    def _note(self, follows: bool, failure: Exception) -> None:
        """End a training that cannot go on: free the other ranks, and this one, from what they wait for."""
        with self._news:
            self._failures.append((follows, failure))
            self._news.notify_all()
        if self._trained or len(self._failures) > 1:
            return
        self._escape.start()
        self._tell_all_to_end()  # gloo waits end when those waited for do
        if dist.is_initialized() and dist.get_backend() == "nccl":
            abort()

    def _tell_all_to_end(self) -> None:
        for link in self._links:
            with suppress(OSError):
                _send(link, {"over": True})


def abort() -> None:
    """End NCCL's waits for what will not come."""
    assert dist.group.WORLD is not None
    dist.group.WORLD.abort()


def _escape() -> None:
    print(f"A rank died {ESCAPE_SECONDS:g} s ago, and rank 0 still waits for it: it ends itself.", file=sys.stderr)
    os._exit(1)


class CpuSyncBatchNorm(_BatchNorm):
    """Batch norm with the statistics of all ranks' images, as ``SyncBatchNorm`` has it for CUDA alone."""

    process_group: dist.ProcessGroup | None = None  # all ranks

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        x, group = input.float(), self.process_group
        dims = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        images = torch.tensor([x.numel() // x.shape[1]], dtype=torch.float64)
        sums = _AllReduce.apply(torch.cat([x.sum(dims, dtype=torch.float64), images]), group)
        total = sums[-1].detach()
        if total == 1:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(x.shape)}")
        mean = sums[:-1] / total
        centred = x - mean.float().view(shape)
        variance = _AllReduce.apply(centred.square().sum(dims, dtype=torch.float64), group) / total
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1
                rate = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.float(), rate)
                self.running_var.lerp_((variance * total / (total - 1)).float(), rate)
        scale = (variance + self.eps).rsqrt().float()
        if self.affine:
            return torch.addcmul(self.bias.view(shape), centred, (scale * self.weight).view(shape)).to(input.dtype)
        return (centred * scale.view(shape)).to(input.dtype)


class CpuSyncBatchNormAct(CpuSyncBatchNorm):
    """The same for timm's batch norm that includes dropout and an activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(input)))


class _AllReduce(torch.autograd.Function):
    """The ranks' sum; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
        ctx.group, total = group, tensor.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = gradients[0].clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


def cores() -> int:
    """The processor's cores that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def loopback() -> str:
    """The name of the network interface of 127.0.0.1."""
    return next(
        name for name, addresses in psutil.net_if_addrs().items() if any(a.address == "127.0.0.1" for a in addresses)
    )


def _send(connection: Connection, message: dict[str, Any]) -> None:
    connection.send_bytes(msgspec.json.encode(message))


def _receive(connection: Connection) -> dict[str, Any]:
    return msgspec.json.decode(connection.recv_bytes(), type=dict[str, Any])


def _address(spec: RunSpec) -> str:
    """Where the tasks of a job meet: a name in Linux's abstract namespace, gone when its owner is. Unlike a port, it
    cannot be another job's."""
    job, restarts = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_RESTART_COUNT", "0")
    return f"\0har_sweep-{os.getuid()}-{job}-{restarts}-{spec.run_id}"


def _listener(spec: RunSpec) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.settimeout(START_SECONDS)
    listener.bind(_address(spec))
    listener.listen()
    return listener


def _accept(listener: socket.socket) -> tuple[int, Connection]:
    while True:
        try:
            peer, _ = listener.accept()
        except TimeoutError as e:
            raise RunFailure(
                "rank_missing",
                f"A task of the job has not started within {START_SECONDS / 60:g} minutes.",
                "Its output says why: see the job's log.",
            ) from e
        if _is_ours(peer):
            connection = Connection(peer.detach())
            return _receive(connection)["rank"], connection
        peer.close()


def _connect(spec: RunSpec, rank: int) -> Connection:
    deadline = time.monotonic() + START_SECONDS
    while True:
        peer = socket.socket(socket.AF_UNIX)
        try:
            peer.connect(_address(spec))
            if not _is_ours(peer):
                raise PermissionError("another user has taken the name where this job's tasks meet")
            connection = Connection(peer.detach())
            _send(connection, {"rank": rank})
            return connection
        except ConnectionRefusedError:
            peer.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _is_ours(peer: socket.socket) -> bool:
    """Whether the other end is a process of this user."""
    _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(user == os.getuid())
