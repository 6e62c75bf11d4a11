"""Batches depend on the seed and the epoch alone, whatever gathers them; a resumed epoch goes on where it stopped."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from har_sweep.config.schema import DataConfig, PathsConfig
from har_sweep.data.batches import Batch, batches, epoch_order
from har_sweep.data.dataset import Dataset
from har_sweep.data.decode import decode, resize
from har_sweep.data.prepare import prepare_dataset
from har_sweep.errors import InputError

SIZE = 12


@pytest.fixture(scope="module", params=["disk", "stream"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    here = tmp_path_factory.mktemp(request.param)
    for label in "ab":
        (here / "images" / label).mkdir(parents=True)
        for i in range(20):
            noise = np.random.default_rng([ord(label), i]).integers(0, 256, (15, 18, 3), np.uint8)
            Image.fromarray(noise).save(here / "images" / label / f"{i:02d}.png")
    (here / "images/a/05.png").write_bytes(b"broken: rows of the map and of the dataset differ from here on")
    data = DataConfig(source="folder", root=str(here / "images"), cache=request.param, on_error="skip")
    return prepare_dataset(data, PathsConfig(cache=str(here / "cache")), [SIZE], lambda *_: None)


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
        assert a.indices.tolist() == b.indices.tolist()


def test_a_batch_is_the_resized_pictures_and_their_labels(dataset: Dataset) -> None:
    found = list(batches(dataset, "train", SIZE, 8, order=(0, 0)))
    assert [len(batch.indices) for batch in found] == [8, 8, 8, 3]  # the last one is not dropped
    assert sorted(i for batch in found for i in batch.indices) == dataset.indices("train").tolist()
    for batch in found:
        assert (batch.images.dtype, batch.labels.dtype) == (torch.uint8, torch.int64)
        assert batch.images.shape == (len(batch.indices), SIZE, SIZE, 3)
        for image, label, index in zip(batch.images, batch.labels, batch.indices, strict=True):
            np.testing.assert_array_equal(
                image.numpy(), resize(decode(dataset.root / dataset.paths[index], 10**6), SIZE)
            )
            assert dataset.classes[label] == dataset.paths[index][0]


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("order", ["fixed", (3, 2)])
def test_threads_change_nothing(dataset: Dataset, threads: int, order: Literal["fixed"] | tuple[int, int]) -> None:
    alone = list(batches(dataset, "train", SIZE, 4, order=order, threads=0))
    assert_same(list(batches(dataset, "train", SIZE, 4, order=order, threads=threads)), alone)


def test_every_epoch_and_seed_has_its_own_order_and_fixed_is_the_datasets() -> None:
    orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert epoch_order(50, 1, 2).tolist() == epoch_order(50, 1, 2).tolist()


def test_the_order_is_the_same_in_every_version() -> None:
    assert epoch_order(8, 0, 1).tolist() == [1, 3, 7, 6, 0, 4, 2, 5]


def test_val_comes_in_the_datasets_order(dataset: Dataset) -> None:
    found = [i for batch in batches(dataset, "val", SIZE, 4, threads=1) for i in batch.indices]
    assert found == dataset.indices("val").tolist()


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("start_step", [1, 3, 4])
def test_a_resumed_epoch_goes_on_where_it_stopped(dataset: Dataset, threads: int, start_step: int) -> None:
    whole = list(batches(dataset, "train", SIZE, 8, order=(0, 1)))
    rest = list(batches(dataset, "train", SIZE, 8, order=(0, 1), start_step=start_step, threads=threads))
    assert_same(rest, whole[start_step:])


def gatherers() -> int:
    return sum(thread.name.startswith("batches") for thread in threading.enumerate())


def test_closing_early_frees_the_threads(dataset: Dataset) -> None:
    stream: Generator[Batch, None, None] = batches(dataset, "train", SIZE, 1, threads=3)
    next(stream)
    assert gatherers() > 0
    stream.close()
    assert gatherers() == 0


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_in_a_thread_is_raised_where_batches_are_taken(dataset: Dataset, threads: int) -> None:
    if dataset.caches:
        with pytest.raises(InputError, match="not at 99"):
            next(batches(dataset, "train", 99, 4, threads=threads))
        return
    victim = dataset.root / dataset.paths[dataset.indices("train")[-1]]
    content = victim.read_bytes()
    victim.write_bytes(b"")
    try:
        stream = batches(dataset, "train", SIZE, 4, threads=threads)
        with pytest.raises(InputError, match="empty file"):
            list(stream)
    finally:
        victim.write_bytes(content)
    assert gatherers() == 0


@pytest.mark.parametrize("dataset", ["stream"], indirect=True)
def test_a_picture_that_was_exchanged_since_the_planning_is_not_trained_on(dataset: Dataset) -> None:
    """Though it can be read, and has the old one's name, size and time."""
    here = dataset.indices("train")
    exchanged, other = (dataset.root / dataset.paths[index] for index in here[:2])
    before, times = exchanged.read_bytes(), exchanged.stat()
    exchanged.write_bytes(other.read_bytes())
    os.utime(exchanged, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(InputError, match=r"another picture by now.*when the sweep was planned"):
        list(batches(dataset, "train", SIZE, 4))
    exchanged.write_bytes(before)
    list(batches(dataset, "train", SIZE, 4))


def test_a_cache_that_is_gone_says_what_to_do(dataset: Dataset) -> None:
    if not dataset.caches:
        return
    file = dataset.caches[SIZE]
    file.rename(file.with_suffix(".away"))
    try:
        with pytest.raises(InputError, match="gone or cut off"):
            next(batches(dataset, "train", SIZE, 4))
    finally:
        file.with_suffix(".away").rename(file)


@pytest.mark.gpu
def test_pinned_batches_are_pinned_and_the_same(dataset: Dataset) -> None:
    pinned = list(batches(dataset, "train", SIZE, 8, threads=2, pin=True))
    assert all(batch.images.is_pinned() for batch in pinned)
    assert_same(pinned, list(batches(dataset, "train", SIZE, 8)))
