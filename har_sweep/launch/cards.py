"""GPUs that a run has for itself: no other sweep of this machine gets them meanwhile, and who else is on them is named.

A card is held by a name in the kernel (an abstract Unix socket), which is free again when its holder ends, however.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psutil

from har_sweep.spec.hardware import Device

_SO_PEERCRED, _CREDENTIALS = 17, struct.Struct("3i")  # pid, uid, gid: man 7 unix
_ASKING = 128  # sweeps that may ask who has a card
POLL_SECONDS = 1.0


class Held:
    """Cards, until ``release``."""

    def __init__(self, names: Sequence[socket.socket] = ()) -> None:
        self._names = names

    def release(self) -> None:
        for name in self._names:
            name.close()


def take_cards(cards: Sequence[Device]) -> Held | str:
    """Hold all of the cards, or none: then returns who has the first that is not free."""
    names: list[socket.socket] = []
    for card in {card.uuid: card for card in cards}.values():
        if not card.uuid or sys.platform != "linux":
            continue
        name = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        names.append(name)
        try:
            name.bind(_address(card))
            name.listen(_ASKING)
        except OSError:
            Held(names).release()
            return f"{card.name} ({card.uuid}) is computed on by another sweep, {_holder(card)}"
    return Held(names)


@contextmanager
def any_card(cards: Sequence[Device]) -> Iterator[tuple[int, str]]:
    """Inside, one of the cards is held: which, by its place. If other sweeps have them all it is the last, not held,
    and who has that."""
    place, held = 0, take_cards(cards[:1])
    while isinstance(held, str) and place + 1 < len(cards):
        place += 1
        held = take_cards([cards[place]])
    if isinstance(held, str):
        yield place, held
        return
    try:
        yield place, ""
    finally:
        held.release()


@contextmanager
def own_cards(cards: Sequence[Device], tell_waiting: Callable[[str], None]) -> Iterator[None]:
    """Inside, the cards are held; waits for them."""
    while isinstance(held := take_cards(cards), str):
        tell_waiting(held)
        time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        held.release()


def strangers(cards: Sequence[Device]) -> list[str]:
    """The processes that compute on some cards and are none of ours, as far as the driver tells (not of a slice)."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        return []
    ours = {psutil.Process().pid, *(child.pid for child in psutil.Process().children(recursive=True))}
    found: list[str] = []
    try:
        for card in cards:
            if card.uuid.startswith("GPU-"):
                handle = pynvml.nvmlDeviceGetHandleByUUID(card.uuid)
                pids = {process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)} - ours
                found += [f"{_process(pid)} on {card.name} ({card.uuid})" for pid in sorted(pids)]
    except pynvml.NVMLError:
        return found
    finally:
        pynvml.nvmlShutdown()
    return found


def _address(card: Device) -> str:
    return f"\0har_sweep {card.uuid}"


def _holder(card: Device) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(POLL_SECONDS)
        try:
            asking.connect(_address(card))
            return _process(_CREDENTIALS.unpack(asking.getsockopt(socket.SOL_SOCKET, _SO_PEERCRED, 12))[0])
        except OSError:
            return "which has just ended, or is asked by many"


def _process(pid: int) -> str:
    """``process 4711 (python3, alice)``, as far as it can be seen from here."""
    try:
        process = psutil.Process(pid)
        return f"process {pid} ({process.name()}, {process.username()})"
    except psutil.Error:
        return f"process {pid}"
