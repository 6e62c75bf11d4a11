"""Batches of decoded images, in an order that depends on the seed and the epoch alone, never on threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from har_sweep.data.cache import ImageMap
from har_sweep.data.dataset import Dataset
from har_sweep.data.decode import DecodeError, content_hash, decode, read, resize
from har_sweep.errors import InputError

Gathered = TypeVar("Gathered")


@dataclass(frozen=True)
class Batch:
    """``images`` uint8 [B, size, size, 3] RGB, ``labels`` int64 [B], ``indices`` int64 [B] into the dataset."""

    images: torch.Tensor
    labels: torch.Tensor
    indices: NDArray[np.int64]


@dataclass(frozen=True)
class PictureBatch:
    """``images`` uint8 [B, size, size, 3] RGB of the pictures at ``indices`` [B]; ``broken`` has those, by their index,
    that cannot be used, and why."""

    images: torch.Tensor
    indices: NDArray[np.int64]
    broken: dict[int, str]


def epoch_order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The permutation of ``n`` training images in an epoch."""
    return np.random.Generator(np.random.PCG64((seed, epoch))).permutation(n)


def batches(
    dataset: Dataset, split: str, size: int, batch_size: int, *,
    order: Literal["fixed"] | tuple[int, int] = "fixed", start_step: int = 0, threads: int = 0, pin: bool = False,
) -> Generator[Batch, None, None]:  # fmt: skip
    """One pass over a split at ``size`` pixels, the last partial batch included, from ``start_step`` on.

    ``order`` is the dataset's own, or (seed, epoch) for that epoch's permutation. With threads, ``threads`` batches are
    gathered ahead; an error in one of them is raised here. Close the generator to stop them early. ``pin`` gathers
    into page-locked memory.

    Raises
    ------
    InputError
        if the images are gone, or were not decoded at ``size``.
    """
    indices = dataset.indices(split)
    if order != "fixed":
        indices = indices[epoch_order(len(indices), *order)]
    fill = _filler(dataset, size)
    labels = torch.from_numpy(dataset.labels)

    def gather(start: int) -> Batch:
        chosen = indices[start : start + batch_size]
        images = torch.empty((len(chosen), size, size, 3), dtype=torch.uint8, pin_memory=pin)
        fill(chosen, images.numpy())
        return Batch(images, labels[chosen].pin_memory() if pin else labels[chosen], chosen)

    yield from gathered(gather, range(start_step * batch_size, len(indices), batch_size), threads)


def gathered(gather: Callable[[int], Gathered], starts: Iterable[int], threads: int) -> Generator[Gathered, None, None]:
    """What ``gather`` makes of each start, in their order; with threads, of as many of them ahead."""
    if threads == 0:
        for start in starts:
            yield gather(start)
        return
    pool, ahead = ThreadPoolExecutor(threads, "batches"), deque[Future[Gathered]]()
    try:
        for start in starts:
            ahead.append(pool.submit(gather, start))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _filler(dataset: Dataset, size: int) -> Callable[[NDArray[np.int64], NDArray[np.uint8]], None]:
    """A function that puts the images at some indices into an array: from the map, or decoded on the spot."""
    if dataset.caches:
        if size not in dataset.caches:
            raise InputError(
                f"{dataset.file} holds images at {', '.join(map(str, dataset.caches))} px, not at {size}.",
                "Prepare the dataset for this size.",
            )
        images = ImageMap(dataset.caches[size], dataset.cached_images, size)
        return lambda chosen, out: images.read(dataset.rows[chosen], out)

    def decode_each(chosen: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        for position, index in enumerate(chosen):
            file = dataset.root / dataset.paths[index]
            try:
                data = read(file)
                if content_hash(data) != dataset.contents[index]:
                    raise DecodeError("another picture by now")
                out[position] = resize(decode(data, dataset.max_pixels), size)
            except DecodeError as e:
                raise InputError(
                    f"{file}: {e}, and was as it should be when the sweep was planned.",
                    "Put it back; or give the same command again, for which the changed images are other data.",
                ) from e

    return decode_each


def picture_batches(
    files: Sequence[Path], size: int, batch_size: int, max_pixels: int, threads: int, ahead: bool
) -> Generator[PictureBatch, None, None]:
    """All pictures in their order, each decoded and resized as a run's are by one of ``threads``.

    ``ahead`` decodes the next two batches meanwhile, in page-locked memory: for a device that computes by itself. A
    processor that computes the last batch has no time for the next: both would only wait for one another.
    """
    pool = ThreadPoolExecutor(threads, "decoding")

    def gather(start: int) -> PictureBatch:
        chosen = range(start, min(start + batch_size, len(files)))
        images = torch.empty((len(chosen), size, size, 3), dtype=torch.uint8, pin_memory=ahead)
        pixels, good, broken = images.numpy(), list[int](), dict[int, str]()
        for index, found in zip(chosen, pool.map(pixels_of, [files[i] for i in chosen]), strict=True):
            if isinstance(found, DecodeError):
                broken[index] = str(found)
            else:
                pixels[len(good)] = found
                good.append(index)
        return PictureBatch(images[: len(good)], np.array(good, np.int64), broken)

    def pixels_of(file: Path) -> NDArray[np.uint8] | DecodeError:
        try:
            return resize(decode(file, max_pixels), size)
        except DecodeError as e:
            return e

    with pool:
        yield from gathered(gather, range(0, len(files), batch_size), threads=int(ahead))
