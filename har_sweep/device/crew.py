"""The processes of the ranks above 0, and the ties by which each knows of the others' end."""

from __future__ import annotations

import gc
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import msgspec
import torch.distributed as dist

from har_sweep.errors import Interrupted, RunFailure
from har_sweep.processes import FORK_SERVER, SIGNALS, held_back, take_signals
from har_sweep.record.record import RunError
from har_sweep.stop import Stop

NEWS_SECONDS = 3.0  # from an error in a collective to the news of whose fault it was
ESCAPE_SECONDS = 60.0  # from a rank's death to the end of a rank 0 that no abort could free
END_SECONDS = 10.0  # for the other ranks to end by themselves
Follow = Callable[["Link", Stop], None]
"""What a rank above 0 does, tied to rank 0: a function, or a partial one, of a module with all that it needs."""


def _forked(follow: Follow, rank: int, connection: Connection) -> None:
    gc.freeze()  # no collection, as before each measurement of memory, looks for garbage among what is imported
    stop = Stop()
    stop.take(*SIGNALS)
    link = Link(connection, rank)
    try:
        take_signals()
        follow(link, stop)
    except Interrupted:  # held back since before there was anybody to take it
        link.stopped(stop.reason)


class Link:
    """The tie of a rank above 0 to rank 0."""

    def __init__(self, connection: Connection, rank: int) -> None:
        self.rank, self._connection = rank, connection
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
            os._exit(0)  # somewhere in a collective that nobody will ever answer
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
    """Rank 0's ties to all other ranks, which it starts."""

    def __init__(self, count: int, follow: Follow) -> None:
        self._count, self._follow = count, follow
        self._links: dict[Connection, int] = {}
        self._processes: dict[int, BaseProcess] = {}
        self._news = threading.Condition()
        self._ready: set[int] = set()
        self._failures: list[tuple[bool, Exception]] = []
        self._trained = False
        self._watch = threading.Thread(target=self._listen, name="ranks", daemon=True)
        self._escape = threading.Timer(ESCAPE_SECONDS, _escape)
        self._escape.daemon = True
        self._start()

    def _start(self) -> None:
        """Start the ranks from a server that has imported all that they need once, for all of them."""
        FORK_SERVER.set_forkserver_preload([getattr(self._follow, "func", self._follow).__module__])
        with held_back():
            for rank in range(1, self._count):
                ours, theirs = FORK_SERVER.Pipe()
                self._links[ours] = rank
                process = FORK_SERVER.Process(target=_forked, args=(self._follow, rank, theirs), name=f"rank {rank}")
                process.start()
                self._processes[rank] = process
                theirs.close()

    def meet(self) -> dist.Store:
        """Wait until every rank is ready, and give them a store to find each other by."""
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


def _send(connection: Connection, message: dict[str, Any]) -> None:
    connection.send_bytes(msgspec.json.encode(message))


def _receive(connection: Connection) -> dict[str, Any]:
    return msgspec.json.decode(connection.recv_bytes(), type=dict[str, Any])
