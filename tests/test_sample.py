"""The embedded default: drawn by code, the same everywhere, in the shape of a folder dataset, and worth learning."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from har_sweep.data.sources.stick_figures import CLASSES, draw, write_sample

STUDY = (
    "calling clapping cycling dancing drinking eating fighting hugging laughing listening_to_music running sitting"
    " sleeping texting using_laptop"
)


def digest(pixels: bytes) -> str:
    return hashlib.sha256(pixels).hexdigest()[:16]


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_classes_are_the_studys() -> None:
    assert STUDY.split() == list(CLASSES)


def test_the_pixels_are_the_same_on_every_machine() -> None:
    assert digest(b"".join(draw(name, 0).tobytes() for name in CLASSES)) == "1086fe17425ac55e"


def test_a_picture_depends_on_nothing_but_its_class_and_index() -> None:
    code = (
        "from har_sweep.data.sources.stick_figures import draw; import sys; "
        "sys.stdout.buffer.write(draw('hugging', 7).tobytes())"
    )
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    for index in range(8):
        here = draw("hugging", index)
    assert here.tobytes() == alone


def test_pictures_have_the_size_of_the_studys_and_no_two_are_alike() -> None:
    pictures = [draw(name, index) for name in CLASSES for index in range(8)]
    assert {(picture.mode, picture.size) for picture in pictures} == {("RGB", (260, 190))}
    assert len({digest(picture.tobytes()) for picture in pictures}) == len(pictures)


def test_a_folder_for_each_class_and_a_notice_that_it_is_synthetic(tmp_path: Path) -> None:
    write_sample(tmp_path, 2)
    assert set(files(tmp_path)) == {f"{name}/0000{i}.png" for name in CLASSES for i in (0, 1)} | {"SYNTHETIC.txt"}
    notice = (tmp_path / "SYNTHETIC.txt").read_text(encoding="utf-8")
    assert "har_sweep" in notice
    assert "not photographs" in notice
    with Image.open(tmp_path / "eating" / "00001.png") as saved:
        assert saved.tobytes() == draw("eating", 1).tobytes()


def test_more_pictures_keep_those_there_and_restore_those_lost(tmp_path: Path) -> None:
    write_sample(tmp_path / "grown", 1)
    (tmp_path / "grown" / "running" / "00000.png").unlink()
    kept = tmp_path / "grown" / "cycling" / "00000.png"
    before = kept.stat()
    write_sample(tmp_path / "grown", 3)
    write_sample(tmp_path / "at_once", 3)
    assert files(tmp_path / "grown") == files(tmp_path / "at_once")
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_failed_write_leaves_no_half_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(image: Image.Image, file: object, *_: object, **__: object) -> None:
        file.write(b"\x89PNG half of it")  # type: ignore[attr-defined]
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write_sample(tmp_path, 1)
    assert set(files(tmp_path)) == {"SYNTHETIC.txt"}


def test_drawing_does_not_import_torch() -> None:
    code = "import sys, har_sweep.data.sources.stick_figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_classes_can_be_learned_but_not_from_colours_alone() -> None:
    pictures = np.stack([np.asarray(draw(name, i), dtype=np.float32) for name in CLASSES for i in range(24)])
    labels, train = np.repeat(np.arange(15), 24), np.tile(np.arange(24) < 16, 15)
    grey = pictures.mean(axis=3)
    edges = np.abs(np.diff(grey, axis=1))[:, 4:184, :].reshape(-1, 15, 12, 20, 13).mean(axis=(2, 4)).reshape(-1, 300)
    colours = pictures.mean(axis=(1, 2))

    def accuracy(features: np.ndarray) -> float:
        scaled = (features - features.mean(axis=0)) / features.std(axis=0)
        model = LogisticRegression(C=0.01, max_iter=100).fit(scaled[train], labels[train])
        return float(model.score(scaled[~train], labels[~train]))

    assert accuracy(edges) > 0.25
    assert accuracy(colours) < 0.2
