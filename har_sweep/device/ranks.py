"""One run on several devices: a process ("rank") for each, that train together with DistributedDataParallel.

Rank 0 is the run: it alone tells, writes, evaluates and measures. The others compute the same steps on their share of
each batch, and end when it ends. Rank 0 starts them, all from one server that imports torch once.

Each is tied to rank 0 by a socket that the kernel closes when either dies, however it dies: that, and no time-out, is
how deaths are told. Ranks may therefore wait for each other as long as they like.

Every rank gathers and augments the whole batch, for its draws and its mixing pairs are the whole batch's, and takes its
share then. So ``count`` devices each do the augmentation of all images, and the host gathers them ``count`` times.
"""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from itertools import chain
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from har_sweep.device.crew import NEWS_SECONDS, Crew, Follow, Link
from har_sweep.device.sync_norm import CpuSyncBatchNorm, CpuSyncBatchNormAct
from har_sweep.spec.hardware import cores
from har_sweep.stop import Stop

Value = TypeVar("Value")

PATIENCE = timedelta(days=1)  # of collectives: while rank 0 validates or writes to a slow disk, the others wait


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
        """Raise RunFailure or Interrupted if another rank has failed, died or been asked to stop."""
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

    def parallel(self, model: nn.Module, device: torch.device) -> DistributedDataParallel:
        """``model`` on ``device`` as the ranks train it together: its batch norms see the whole (micro-)batch.

        It is another module around the same tensors, so ``model`` itself stays as it is: for evaluation, cost measures
        and the names in files.
        """
        tensors: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
        twin, cuda = copy.deepcopy(model, tensors), device.type == "cuda"
        if cuda:
            twin = convert_sync_batchnorm(twin)
        else:
            for module in twin.modules():
                if isinstance(module, _BatchNorm):
                    module.__class__ = CpuSyncBatchNormAct if isinstance(module, BatchNormAct2d) else CpuSyncBatchNorm
        # Buffers are those that each rank computes. torch 2.13 gave the argument its name.
        renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
        no_syncing: Any = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
        # Parameters that are not used get no gradient, as with one device; and the buckets stay what they are from the
        # first step on, so that sums are the same to the bit after a resume.
        return DistributedDataParallel(
            twin,
            device_ids=[device] if cuda else None,
            gradient_as_bucket_view=True,
            find_unused_parameters=True,
            **no_syncing,
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

    def threads(self, asked: int | None) -> int | None:
        """The threads that this process computes with, of those ``asked`` for the run (None: all); None: as it is."""
        if self.count == 1:
            return asked
        return max(1, (asked or cores()) // self.count)


@contextmanager
def lead(count: int, stop: Stop, follow: Follow) -> Iterator[Ranks]:
    """For rank 0, around all of a run: the other ranks start with it, ``follow``, and end with it.

    An error that only follows from another rank's failure or death is raised as that.
    """
    if count == 1:
        yield Ranks()
        return
    crew = Crew(count, follow)
    try:
        yield Ranks(0, count, crew)
    except RuntimeError as error:
        if cause := crew.cause(NEWS_SECONDS):
            raise cause from error
        raise
    finally:
        with stop.deferred():  # a signal that came to all ranks may come to this one last
            crew.close()


def loopback() -> str:
    """The name of the network interface of 127.0.0.1."""
    return next(
        name for name, addresses in psutil.net_if_addrs().items() if any(a.address == "127.0.0.1" for a in addresses)
    )
