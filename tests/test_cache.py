"""Images are decoded once, by one builder, wholly or not at all; fingerprints follow content and nothing else."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from har_sweep.config.schema import DataConfig, PathsConfig
from har_sweep.data import cache as cache_module
from har_sweep.data.cache import ImageMap
from har_sweep.data.dataset import Dataset
from har_sweep.data.decode import decode, resize
from har_sweep.data.prepare import prepare_dataset
from har_sweep.errors import InputError

Told = list[tuple[str, int, int]]


def make_images(root: Path, per_class: int = 4, side: int = 20) -> Path:
    """Every picture differs; those of a number have the same shape and, not compressed, the same size on disk."""
    for label in ("run", "sit", "walk"):
        (root / label).mkdir(parents=True)
        for i in range(per_class):
            noise = np.random.default_rng([ord(label[0]), i]).integers(0, 256, (side + i % 7, side, 3), np.uint8)
            Image.fromarray(noise).save(root / label / f"{i:04d}.png", compress_level=0)
    return root


def prepared(here: Path, *sizes: int, told: Told | None = None, root: Path | None = None, **keys: object) -> Dataset:
    data = DataConfig(source="folder", name="three", root=str(root or here / "images"), **keys)  # type: ignore[arg-type]
    paths = PathsConfig(cache=str(here / "cache"), data=str(here / "data"))
    return prepare_dataset(data, paths, sizes or (16,), lambda *step: None if told is None else told.append(step))


def decoded(told: Told) -> bool:
    return any("ecoding" in what or "Checking" in what for what, _, _ in told)


def test_rows_are_the_resized_pictures_at_every_size(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    dataset = prepared(tmp_path, 16, 9)
    assert set(dataset.caches) == {16, 9}
    for size, file in dataset.caches.items():
        pixels = ImageMap(file, dataset.cached_images, size).pixels
        for path, row in zip(dataset.paths, dataset.rows, strict=True):
            np.testing.assert_array_equal(pixels[row], resize(decode(dataset.root / path, 10**6), size))


def test_what_is_prepared_is_read_back_the_same(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    dataset = prepared(tmp_path)
    again = Dataset.read(dataset.file)
    for name, value in vars(dataset).items():
        np.testing.assert_equal(getattr(again, name), value)
    assert dataset.classes == ["run", "sit", "walk"]
    assert dataset.counts() == {"train": 6, "val": 3, "test": 3}
    assert sorted(i for name in dataset.counts() for i in dataset.indices(name)) == list(range(12))
    assert (len(dataset.fingerprint), len(dataset.split_fingerprint)) == (16, 16)
    with pytest.raises(InputError, match="gone or not a dataset"):
        Dataset.read(tmp_path / "gone.json")


def test_a_second_time_nothing_is_decoded(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    first_told, again_told, more_told = Told(), Told(), Told()
    first = prepared(tmp_path, told=first_told)
    again = prepared(tmp_path, told=again_told)
    assert decoded(first_told)
    assert not decoded(again_told)
    assert again.file == first.file
    more = prepared(tmp_path, 16, 8, told=more_told)
    assert more_told[-1][0].startswith("Decoding 12 images at 8 px (2.25 KiB in ")
    assert more_told[-1][1:] == (12, 12)
    assert (more.fingerprint, more.caches[16]) == (first.fingerprint, first.caches[16])


CHANGES = ["content", "content of the same size, at the same time", "added", "removed", "renamed"]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_images_are_decoded_again_under_a_new_fingerprint(tmp_path: Path, change: str) -> None:
    images = make_images(tmp_path / "images")
    before = prepared(tmp_path)
    file = images / "run/0001.png"
    if change == "content":
        shutil.copyfile(images / "sit/0002.png", file)
    elif change == "content of the same size, at the same time":
        stat = file.stat()
        shutil.copyfile(images / "sit/0001.png", file)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert file.stat().st_size == stat.st_size
    elif change == "added":
        shutil.copyfile(images / "sit/0001.png", images / "run/new.png")
    elif change == "removed":
        file.unlink()
    else:
        file.rename(file.with_name("other.png"))
    told = Told()
    after = prepared(tmp_path, told=told)
    assert decoded(told)
    assert after.caches != before.caches
    assert after.fingerprint != before.fingerprint
    pixels = ImageMap(after.caches[16], after.cached_images, 16).pixels
    for path, row in zip(after.paths, after.rows, strict=True):
        np.testing.assert_array_equal(pixels[row], resize(decode(after.root / path, 10**6), 16))


def test_fingerprints_depend_neither_on_place_nor_times_nor_size(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    first = prepared(tmp_path)
    shutil.copytree(tmp_path / "images", tmp_path / "elsewhere/copy")
    for i, file in enumerate((tmp_path / "elsewhere").rglob("*.png")):
        os.utime(file, (i, i))
    copy = prepared(tmp_path, 8, root=tmp_path / "elsewhere/copy")
    stream = prepared(tmp_path, cache="stream")
    for other in (copy, stream):
        assert (other.fingerprint, other.split_fingerprint) == (first.fingerprint, first.split_fingerprint)
        assert other.split.tolist() == first.split.tolist()
        assert other.file != first.file  # neither takes the other's caches away
    reseeded = prepared(tmp_path, split_seed=1)
    assert reseeded.fingerprint == first.fingerprint
    assert reseeded.split_fingerprint != first.split_fingerprint


def test_a_moved_folder_finds_its_cache(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    first = prepared(tmp_path)
    (tmp_path / "images").rename(tmp_path / "moved")
    told = Told()
    moved = prepared(tmp_path, root=tmp_path / "moved", told=told)
    assert not decoded(told)
    assert (moved.fingerprint, moved.caches) == (first.fingerprint, first.caches)


def break_images(images: Path) -> list[str]:
    (images / "run/0000.png").write_bytes(b"")
    (images / "sit/0002.png").write_bytes((images / "sit/0002.png").read_bytes()[:-200])
    (images / "walk/text.jpg").write_text("not an image")
    Image.new("1", (3000, 2000)).save(images / "walk/wide.png")
    return ["run/0000.png", "sit/0002.png", "walk/text.jpg", "walk/wide.png"]


@pytest.mark.parametrize("cache", ["disk", "stream"])
def test_every_broken_image_is_named_with_its_reason(tmp_path: Path, cache: str) -> None:
    broken = break_images(make_images(tmp_path / "images"))
    with pytest.raises(InputError) as e:
        prepared(tmp_path, max_megapixels=4, cache=cache)
    reasons = ["empty file", "truncated or corrupt", "not an image", "6 megapixels, above data.max_megapixels=4"]
    for path, reason in zip(broken, reasons, strict=True):
        assert any(path in line and reason in line for line in e.value.message.splitlines()), e.value.message
    assert "of 14 images 4 cannot be used" in e.value.message
    assert e.value.hint.startswith("Repair or remove them, or raise data.max_megapixels. Or set data.on_error=skip")


@pytest.mark.parametrize("cache", ["disk", "stream"])
def test_broken_images_are_skipped_if_that_is_asked_for(tmp_path: Path, cache: str) -> None:
    images = make_images(tmp_path / "images")
    good = prepared(tmp_path, cache=cache)
    broken = break_images(images)
    dataset = prepared(tmp_path, on_error="skip", max_megapixels=4, cache=cache)
    assert [path for path, _ in dataset.skipped] == broken
    assert dataset.paths == [path for path in good.paths if path not in broken]
    for file, reason in dataset.skipped:
        assert reason
        (images / file).unlink()
    without = prepared(tmp_path, cache=cache)
    assert dataset.fingerprint == without.fingerprint  # what was skipped is as good as not there
    if cache == "disk":
        np.testing.assert_array_equal(
            ImageMap(dataset.caches[16], dataset.cached_images, 16).pixels[dataset.rows],
            ImageMap(without.caches[16], without.cached_images, 16).pixels[without.rows],
        )


def test_many_broken_images_are_all_in_a_file(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images")
    for i in range(50):
        (images / f"run/broken{i}.jpg").write_bytes(b"")
    with pytest.raises(InputError) as e:
        prepared(tmp_path)
    assert e.value.message.count("empty file") == 20
    assert "... and 30 more" in e.value.message
    listed = next(Path(word.rstrip(".")) for word in e.value.message.split() if "broken-" in word and ".txt" in word)
    assert listed.read_text().count("empty file") == 50


def test_missing_rows_of_a_table_are_skipped_by_row(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    rows = [f"{label}/{i:04d}.png,{label}" for label in ("run", "sit") for i in range(4)]
    (tmp_path / "images/labels.csv").write_text("\n".join(["path,label", "run/gone.png,run", *rows]))
    data = DataConfig(source="csv", csv=str(tmp_path / "images/labels.csv"), on_error="skip")
    dataset = prepare_dataset(data, PathsConfig(cache=str(tmp_path / "cache")), [8], lambda *_: None)
    assert dataset.skipped == [("run/gone.png", "labels.csv row 2: no such file")]


def test_too_small_a_disk_is_told_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images(tmp_path / "images")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 12 * 16 * 16 * 3 - 1))
    told = Told()
    with pytest.raises(InputError, match="takes 9 KiB of disk") as e:
        prepared(tmp_path, told=told)
    assert "data.cache=stream" in e.value.hint
    assert not decoded(told)
    assert prepared(tmp_path, cache="stream").caches == {}


def test_a_disk_that_becomes_full_leaves_no_half_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images(tmp_path / "images")

    def full(handle: int, data: bytes, offset: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "_write", full)
        with pytest.raises(InputError, match="became full") as e:
            prepared(tmp_path)
    assert "data.cache=stream" in e.value.hint
    assert not list((tmp_path / "cache").rglob("*.u8*"))
    assert prepared(tmp_path).counts()["train"] == 6


def test_images_that_change_meanwhile_are_not_believed(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images")

    def meddle(what: str, done: int, total: int) -> None:
        if done == total == 12:
            (images / "run/0000.png").write_bytes((images / "sit/0000.png").read_bytes())

    data = DataConfig(source="folder", root=str(images))
    with pytest.raises(InputError, match="changed while they were read"):
        prepare_dataset(data, PathsConfig(cache=str(tmp_path / "cache")), [16], meddle)


def test_a_cut_off_cache_is_made_again(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    file = prepared(tmp_path).caches[16]
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    prepared(tmp_path)
    assert file.read_bytes() == whole


# --- several processes -----------------------------------------------------------------------------------------------

BUILDER = """
import os, sys, time
from pathlib import Path
from har_sweep.data.prepare import prepare_dataset
from har_sweep.config.schema import DataConfig, PathsConfig
here = Path(sys.argv[1])
def progress(what, done, total):
    print(f"{what}|{done}|{total}", flush=True)
    while sys.argv[2] == "pause" and done and not (here / "go").exists():
        time.sleep(0.01)
if __name__ == "__main__":
    data = DataConfig(source="folder", name="three", root=str(here / "images"))
    dataset = prepare_dataset(data, PathsConfig(cache=str(here / "cache")), [16], progress)
    assert "torch" not in sys.modules
    print("DONE", dataset.file, flush=True)
"""


@pytest.fixture
def builder(tmp_path: Path) -> Callable[[str], subprocess.Popen[str]]:
    script = tmp_path / "builder.py"
    script.write_text(BUILDER)
    root = str(Path(__file__).parents[1])

    def start(how: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(script), str(tmp_path), how],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root},
        )  # fmt: skip

    return start


def read_until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"the builder ended without saying {words!r}")


def test_of_two_builders_one_builds_and_the_other_says_that_it_waits(
    tmp_path: Path, builder: Callable[[str], subprocess.Popen[str]]
) -> None:
    make_images(tmp_path / "images", per_class=20)
    first = builder("pause")
    read_until(first, "Decoding 60 images at 16 px")
    second = builder("run")
    read_until(second, "Waiting for another process")
    (tmp_path / "go").touch()
    said, also = first.communicate()[0], second.communicate()[0]
    assert "Decoding" not in also
    assert said.splitlines()[-1] == also.splitlines()[-1]
    assert also.splitlines()[-1].startswith("DONE")


def children_of(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_a_killed_builder_leaves_neither_processes_nor_files_and_the_next_one_builds(
    tmp_path: Path, builder: Callable[[str], subprocess.Popen[str]]
) -> None:
    make_images(tmp_path / "images", per_class=12, side=360)  # enough bytes that worker processes are worth it
    killed = builder("pause")
    read_until(killed, "|16|36")
    workers = children_of(killed.pid)
    assert workers or cache_module.logical_cores() == 1
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    left = list((tmp_path / "cache").rglob("*.building"))
    assert len(left) == 1
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in workers):
        time.sleep(0.02)
    shutil.copyfile(tmp_path / "images/run/0001.png", tmp_path / "images/run/new.png")  # so another cache is built
    dataset = prepared(tmp_path)
    assert not left[0].exists()
    pixels = ImageMap(dataset.caches[16], dataset.cached_images, 16).pixels
    for path, row in zip(dataset.paths, dataset.rows, strict=True):
        np.testing.assert_array_equal(pixels[row], resize(decode(dataset.root / path, 10**6), 16))


def test_one_core_and_all_cores_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images(tmp_path / "images", per_class=12, side=360)
    monkeypatch.setattr(cache_module, "logical_cores", lambda: 2)
    two = prepared(tmp_path).caches[16].read_bytes()
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(cache_module, "logical_cores", lambda: 1)
    assert prepared(tmp_path).caches[16].read_bytes() == two
