"""Every source lists the same images in whatever layout they lie, and says all that is wrong with it at once."""

from __future__ import annotations

import os
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from har_sweep.config.schema import DataConfig, PathsConfig
from har_sweep.data.dataset import Dataset
from har_sweep.data.prepare import prepare_dataset
from har_sweep.data.sources import list_items
from har_sweep.data.sources.listing import Listing
from har_sweep.errors import InputError
from har_sweep.events import no_progress

CLASSES = ["calling", "clapping", "running"]


def put(root: Path, *paths: str) -> None:
    """Listing opens no image, so their content does not matter."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")


def listed(here: Path, source: str, **keys: Any) -> Listing:
    data = DataConfig(source=source, name=source, **keys)
    return list_items(data, PathsConfig(cache=str(here / ".cache"), data=str(here / ".data")))


def pairs(listing: Listing) -> list[tuple[str, str]]:
    return [(item.path, item.label) for item in listing.items]


def table(root: Path, text: str, name: str = "labels.csv") -> str:
    (root / name).write_text(text, encoding="utf-8")
    return str(root / name)


def message(here: Path, source: str, **keys: Any) -> str:
    with pytest.raises(InputError) as e:
        listed(here, source, **keys)
    return f"{e.value.message}\n{e.value.hint}"


# --- har -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", ["", "Human Action Recognition/"])
def test_har_as_kaggle_has_it(tmp_path: Path, nested: str) -> None:
    put(tmp_path, *(f"{nested}train/Image_{i}.jpg" for i in range(1, 4)), f"{nested}test/Image_1.jpg")
    table(
        tmp_path,
        "filename,label\nImage_1.jpg,running\nImage_2.jpg,calling\nImage_3.jpg,running\n",
        f"{nested}Training_set.csv",
    )
    table(tmp_path, "filename\nImage_1.jpg\n", f"{nested}Testing_set.csv")
    listing = listed(tmp_path, "har", root=str(tmp_path))
    assert pairs(listing) == [
        ("train/Image_1.jpg", "running"), ("train/Image_2.jpg", "calling"), ("train/Image_3.jpg", "running"),
    ]  # fmt: skip
    assert {item.split for item in listing.items} == {None}
    assert listing.classes == ["calling", "running"]
    assert listing.items[1].where == "Training_set.csv row 3"


@pytest.mark.parametrize("nested", ["", "Structured/", "train/", "Structured/train/"])
def test_har_as_one_folder_a_class(tmp_path: Path, nested: str) -> None:
    put(tmp_path, *(f"{nested}{label}/{i}.jpg" for label in CLASSES for i in range(3)))
    if nested.endswith("train/"):
        put(tmp_path, f"{nested}../test/unlabelled.jpg")
    listing = listed(tmp_path, "har", root=str(tmp_path))
    assert listing.classes == CLASSES
    assert len(listing.items) == 9
    assert {item.split for item in listing.items} == {None}
    assert all((listing.root / item.path).is_file() for item in listing.items)


def test_har_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    assert "python -m har_sweep.prefetch data=har" in message(tmp_path, "har", root=str(tmp_path / "har"))
    put(tmp_path, "notes.txt")
    assert "python -m har_sweep.prefetch data=har" in message(tmp_path, "har", root=str(tmp_path))


# --- folder ----------------------------------------------------------------------------------------------------------


def test_folder_takes_every_image_kind_in_any_case_and_ignores_what_is_hidden(tmp_path: Path) -> None:
    kinds = ["jpg", "jpeg", "jpe", "jfif", "png", "gif", "webp", "bmp", "tif", "tiff", "avif", "JPG", "Png"]
    put(tmp_path, *(f"a/{i}.{kind}" for i, kind in enumerate(kinds)), "b/deeper/1.jpg")
    put(tmp_path, ".git/1.jpg", "a/.hidden.jpg", "a/.thumbs/1.jpg", "a/readme.txt", "__MACOSX/1.jpg", "list.csv")
    listing = listed(tmp_path, "folder", root=str(tmp_path))
    assert [item.path for item in listing.items] == [
        *sorted(f"a/{i}.{k}" for i, k in enumerate(kinds)),
        "b/deeper/1.jpg",
    ]
    assert listing.classes == ["a", "b"]


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_folder_with_a_split(tmp_path: Path, val: str) -> None:
    put(tmp_path, *(f"{part}/{label}/1.jpg" for part in ("train", val, "test") for label in "ab"))
    listing = listed(tmp_path, "folder", root=str(tmp_path))
    assert {(i.path.split("/")[0], i.label, i.split) for i in listing.items} == {
        (folder, label, split)
        for folder, split in (("train", "train"), (val, "val"), ("test", "test"))
        for label in "ab"
    }


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    put(tmp_path, "bus/1.jpg", "car/1.jpg", "train/1.jpg")
    listing = listed(tmp_path, "folder", root=str(tmp_path))
    assert listing.classes == ["bus", "car", "train"]
    assert {item.split for item in listing.items} == {None}


def test_numbered_classes_sort_as_numbers(tmp_path: Path) -> None:
    put(tmp_path, *(f"{i}/1.jpg" for i in (10, 9, 2)))
    assert listed(tmp_path, "folder", root=str(tmp_path)).classes == ["2", "9", "10"]


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    assert "does not exist" in message(tmp_path, "folder", root=str(tmp_path / "gone"))
    put(tmp_path, "image.jpg")
    assert "is a file, not a folder" in message(tmp_path, "folder", root=str(tmp_path / "image.jpg"))
    assert "no folders with images" in message(tmp_path, "folder", root=str(tmp_path))
    put(tmp_path, "only/1.jpg")
    assert "one label, 'only'" in message(tmp_path, "folder", root=str(tmp_path))
    for name in ("bare", "void"):
        (tmp_path / name).mkdir()
    said = message(tmp_path, "folder", root=str(tmp_path))
    assert "2 class folders have no images" in said
    assert "bare/" in said
    assert "void/" in said


def test_images_that_are_not_decoded_are_not_left_out_without_a_word(tmp_path: Path) -> None:
    put(tmp_path, "a/1.jpg", "a/2.HEIC", "a/3.heic", "a/notes.txt", "b/1.jpg", "b/4.svg")
    notes = listed(tmp_path, "folder", root=str(tmp_path)).notes
    assert notes == [f"{tmp_path}: left out, as such files are not decoded: 2 .heic, 1 .svg."]
    put(tmp_path, "phone/1.heic")
    assert "3 .heic" in message(tmp_path, "folder", root=str(tmp_path))


def test_a_link_that_leads_back_up_does_not_go_round(tmp_path: Path) -> None:
    put(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "a/again").symlink_to(tmp_path / "a")
    (tmp_path / "a/all").symlink_to(tmp_path)
    assert [item.path for item in listed(tmp_path, "folder", root=str(tmp_path)).items] == ["a/1.jpg", "b/1.jpg"]


def test_links_within_the_folder_are_followed_and_those_out_of_it_refused_by_name(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    put(tmp_path, "root/a/1.jpg", "root/b/1.jpg", "elsewhere/1.jpg", "elsewhere/readme.txt")
    (root / "a/2.jpg").symlink_to(root / "b/1.jpg")
    (root / "c").symlink_to(root / "b")
    (root / "a/readme").symlink_to(elsewhere / "readme.txt")
    assert [path for path, _ in pairs(listed(tmp_path, "folder", root=str(root)))] == [
        "a/1.jpg", "a/2.jpg", "b/1.jpg", "c/1.jpg",
    ]  # fmt: skip
    (root / "a/3.jpg").symlink_to(elsewhere / "1.jpg")
    (root / "b/deep").symlink_to(elsewhere)
    (root / "d").symlink_to(elsewhere)
    said = message(tmp_path, "folder", root=str(root))
    assert "4 links leave the folder" in said
    for link in (
        f"a/3.jpg -> {elsewhere}/1.jpg",
        f"b/deep -> {elsewhere}",
        f"c/deep -> {elsewhere}",
        f"d -> {elsewhere}",
    ):
        assert link in said


@contextmanager
def as_nobody() -> Iterator[None]:
    """Inside, root is a user whom permissions bind; any other user is one already."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_folders_that_cannot_be_entered_are_named(tmp_path: Path) -> None:
    put(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "a/round").symlink_to("round")
    assert f"{tmp_path}/a/round cannot be followed: Too many" in message(tmp_path, "folder", root=str(tmp_path))
    for nowhere in (f"{tmp_path}/a/round", "x" * 300, "a\0b"):
        assert "cannot be opened" in message(tmp_path, "folder", root=nowhere)
    with tempfile.TemporaryDirectory() as open_folder:  # pytest's own is closed to all but one user
        root = Path(open_folder)
        root.chmod(0o755)
        put(root, "a/1.jpg", "a/deep/1.jpg", "b/1.jpg")
        (root / "a/deep").chmod(0)
        with as_nobody():
            assert f"{root}/a/deep cannot be listed: Permission denied" in message(root, "folder", root=str(root))
            assert "cannot be opened: Permission" in message(root, "folder", root=str(root / "a/deep/none"))


# --- broken images ---------------------------------------------------------------------------------------------------


def prepared(here: Path, **keys: Any) -> Dataset:
    paths = PathsConfig(cache=str(here / ".cache"), data=str(here / ".data"))
    return prepare_dataset(DataConfig(name="test", **keys), paths, [8], no_progress)


@pytest.mark.parametrize("source", ["folder", "csv"])
def test_all_broken_images_are_told_of_at_once_whatever_is_wrong_with_them(tmp_path: Path, source: str) -> None:
    for label in "ab":
        for shade in range(5):
            put(tmp_path, f"{label}/{shade}.png")
            Image.new("RGB", (4, 4), (shade, ord(label), 0)).save(tmp_path / f"{label}/{shade}.png")
    os.mkfifo(tmp_path / "a/pipe.jpg")  # opened, it would be waited for
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "a/socket.jpg"))
    listener.close()
    (tmp_path / "a/gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "a/round.jpg").symlink_to("round.jpg")
    put(tmp_path, "b/rotten.jpg")
    reasons = {
        "a/gone.jpg": "no such file", "a/pipe.jpg": "not a regular file", "a/socket.jpg": "not a regular file",
        "a/round.jpg": "cannot be read: Too many levels of symbolic links", "b/rotten.jpg": "not an image",
    }  # fmt: skip
    keys = {"source": source, "root": str(tmp_path)}
    if source == "csv":
        paths = [p.relative_to(tmp_path) for folder in (tmp_path / "a", tmp_path / "b") for p in folder.iterdir()]
        reasons["a/nowhere.jpg"] = reasons.pop("a/gone.jpg")  # a table's links are what they lead to
        keys["csv"] = table(tmp_path, "path,label\n" + "".join(f"{path},{path.parent}\n" for path in paths))
    else:
        put(tmp_path, os.fsdecode(b"b/\xff.png"))
        reasons["b/\\udcff.png"] = "its name is not UTF-8"
    with pytest.raises(InputError) as e:
        prepared(tmp_path, **keys)
    assert f"of {10 + len(reasons)} images {len(reasons)} cannot be used" in e.value.message
    for path, reason in reasons.items():
        assert any(path in line and reason in line for line in e.value.message.splitlines()), path
    skipping = prepared(tmp_path, on_error="skip", **keys)
    assert {path for path, _ in skipping.skipped} == set(reasons)
    assert len(skipping.paths) == 10


def test_a_device_is_not_read_without_end(tmp_path: Path) -> None:
    assert stat.S_ISCHR(os.stat("/dev/zero").st_mode)
    put(tmp_path, "x.jpg")
    file = table(tmp_path, "path,label\n/dev/zero,a\n/dev/null,b\n")
    with pytest.raises(InputError, match="of 2 images 2 cannot be used"):
        prepared(tmp_path, source="csv", csv=file, root="/dev", on_error="skip")


# --- csv -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", " "])
@pytest.mark.parametrize("explicit", [False, True])
def test_csv_of_any_delimiter(tmp_path: Path, delimiter: str, explicit: bool) -> None:
    put(tmp_path, "1.jpg", "2.jpg")
    rows = [("label", "path", "other"), ("run", "1.jpg", "x"), ("sit", "2.jpg", "y")]
    file = table(tmp_path, "".join(delimiter.join(row) + "\n" for row in rows))
    keys = {"delimiter": delimiter} if explicit else {}
    assert pairs(listed(tmp_path, "csv", csv=file, **keys)) == [("1.jpg", "run"), ("2.jpg", "sit")]


@pytest.mark.parametrize("delimiter", ["auto", "whitespace"])
def test_csv_blank_separated_without_header_as_elpv_has_it(tmp_path: Path, delimiter: str) -> None:
    put(tmp_path, *(f"images/cell000{i}.png" for i in range(1, 5)))
    probabilities = ["1.0", "0.0", "0.3333333333333333", "0.6666666666666666"]
    lines = [f"images/cell000{i}.png  {p:<20} mono" for i, p in enumerate(probabilities, 1)]
    file = table(tmp_path, "\n".join(lines))
    listing = listed(tmp_path, "csv", csv=file, header=False, path_column="0", label_column="1", delimiter=delimiter)
    assert listing.classes == ["0.0", "0.3333333333333333", "0.6666666666666666", "1.0"]
    assert pairs(listing)[2] == ("images/cell0003.png", "0.3333333333333333")
    assert listing.items[2].where == "labels.csv row 3"


def test_csv_with_quotes_blanks_a_byte_order_mark_and_numbers_as_labels(tmp_path: Path) -> None:
    put(tmp_path, "a, b.jpg", "c d.jpg", "e.jpg")
    text = '\ufeffpath , label\n"a, b.jpg",10\n\nc d.jpg , 9\ne.jpg,2\n'
    listing = listed(tmp_path, "csv", csv=table(tmp_path, text))
    assert pairs(listing) == [("a, b.jpg", "10"), ("c d.jpg", "9"), ("e.jpg", "2")]
    assert listing.classes == ["2", "9", "10"]
    assert [item.where for item in listing.items] == ["labels.csv row 2", "labels.csv row 4", "labels.csv row 5"]


def test_csv_is_found_in_the_root_and_paths_are_relative_to_it(tmp_path: Path) -> None:
    images = tmp_path / "images"
    put(images, "deep/1.jpg", "2.jpg")
    rows = f"path,label\n./deep/../deep/1.jpg,a\n{images}/2.jpg,b\ndeep\\1.jpg,a\n"
    assert pairs(listed(tmp_path, "csv", csv=table(tmp_path, rows), root=str(images))) == [
        ("2.jpg", "b"),
        ("deep/1.jpg", "a"),
    ]
    table(images, rows, "inside.csv")
    assert len(listed(tmp_path, "csv", csv="inside.csv", root=str(images)).items) == 2


def test_csv_split_column(tmp_path: Path) -> None:
    words = ["train", "Training", "val", "VALID", "validation", "test", "testing"]
    put(tmp_path, *(f"{i}.jpg" for i in range(7)))
    file = table(tmp_path, "path,label,part\n" + "".join(f"{i}.jpg,{i % 2},{w}\n" for i, w in enumerate(words)))
    listing = listed(tmp_path, "csv", csv=file, split_column="part")
    assert [item.split for item in listing.items] == ["train", "train", "val", "val", "val", "test", "test"]


@pytest.mark.parametrize(
    ("words", "splits", "told"),
    [
        (("train", "Valid"), ["train", "val"], "the split is that of its column 'split'"),
        (("train", "fold3"), [None, None], "is not taken for the split, as it has 'fold3'"),
        (("val", "test"), [None, None], "as no image is in train"),
    ],
)
def test_csv_split_column_that_nobody_named(
    tmp_path: Path, words: tuple[str, str], splits: list[str | None], told: str
) -> None:
    put(tmp_path, "1.jpg", "2.jpg")
    file = table(tmp_path, f"path,label,split\n1.jpg,a,{words[0]}\n2.jpg,b,{words[1]}\n")
    listing = listed(tmp_path, "csv", csv=file)
    assert [item.split for item in listing.items] == splits
    assert [note for note in listing.notes if told in note] == listing.notes != []


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_share_of_what_the_images_own_split_has_is_refused(tmp_path: Path, part: str) -> None:
    for n, (own, label) in enumerate((own, label) for own in ("train", part) for label in "ab"):
        put(tmp_path, f"{own}/{label}/1.png")
        Image.new("RGB", (4, 4), (n, 0, 0)).save(tmp_path / f"{own}/{label}/1.png")
    with pytest.raises(InputError, match=f"data.{part}_fraction=0.3 does nothing: .* has {part} images") as e:
        prepared(tmp_path, source="folder", root=str(tmp_path), **{f"{part}_fraction": 0.3})
    assert f"data.{part}_fraction" in e.value.hint


def test_csv_without_a_header_is_told_how_to_say_so(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", "2.jpg")
    assert "data.header=false" in message(tmp_path, "csv", csv=table(tmp_path, "1.jpg,a\n2.jpg,b\n"))


def test_csv_names_every_bad_row(tmp_path: Path) -> None:
    put(tmp_path / "root", "1.jpg", "2.jpg", "3.jpg", "4.jpg")
    put(tmp_path, "outside.jpg")
    (tmp_path / "root/link.jpg").symlink_to(tmp_path / "outside.jpg")
    (tmp_path / "root/up").symlink_to(tmp_path)
    rows = [
        "path,label,split", "1.jpg,a,train", "gone.jpg,a,train", "1.jpg,b,train", "../outside.jpg,a,train",
        f"{tmp_path}/outside.jpg,a,train", "link.jpg,a,train", "up/outside.jpg,a,train", "2.jpg,,train", ",a,train",
        "3.jpg,a,trian", "short.jpg", "1.jpg,a,train", "4.jpg,b,test", "4.jpg,b,val",
    ]  # fmt: skip
    file = table(tmp_path, "\n".join(rows))
    said = message(tmp_path, "csv", csv=file, root=str(tmp_path / "root"), split_column="split")
    for expected in [
        "row 3: no such file: gone.jpg",
        "row 4: 1.jpg is 'b' here and 'a' in labels.csv row 2",
        "row 5: ../outside.jpg leaves the folder",
        f"row 6: {tmp_path}/outside.jpg leaves the folder",
        "row 7: link.jpg leaves the folder",
        "row 8: up/outside.jpg leaves the folder",
        "row 9: the label of 2.jpg is empty",
        "row 10: the path is empty",
        "row 11: the split 'trian' is none of",
        "row 12: has 1 column(s)",
        "row 15: 4.jpg is in val here and in test in labels.csv row 14",
    ]:
        assert expected in said
    assert "11 problems" in said
    assert "row 13" not in said  # the same path with the same label is kept once


def test_csv_with_many_bad_rows_says_how_many_more(tmp_path: Path) -> None:
    said = message(tmp_path, "csv", csv=table(tmp_path, "path,label\n" + "".join(f"{i}.jpg,a\n" for i in range(50))))
    assert "50 problems" in said
    assert said.count("no such file") == 20
    assert "... and 30 more" in said


def test_csv_missing_files_are_left_to_be_skipped_if_that_is_asked_for(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", "2.jpg")
    file = table(tmp_path, "path,label\n1.jpg,a\ngone.jpg,a\n2.jpg,b\n")
    assert "gone.jpg" in dict(pairs(listed(tmp_path, "csv", csv=file, on_error="skip")))


@pytest.mark.parametrize(
    ("text", "keys", "expected"),
    [
        ("filename,label\n1.jpg,a\n", {}, ["data.path_column=path", "filename, label", "data.path_column"]),
        ("paths,label\n1.jpg,a\n", {}, ["Did you mean 'paths'?"]),
        ("a,b\n1.jpg,a\n", {}, ["data.path_column=path, data.label_column=label", "its columns are a, b"]),
        ("1.jpg,a\n", {"header": False}, ["no header (data.header=false) and 2 column(s)", "number from 0 to 1"]),
        ("1.jpg,a\n", {"header": False, "path_column": "0", "label_column": "2"}, ["data.label_column=2"]),
        ("path,label\n", {}, ["no rows below its header"]),
        ("", {}, ["no rows"]),
        ("path,label\n1.jpg,a\n2.jpg,a\n", {}, ["all 2 images have one label, 'a'"]),
        ("path,label\n1\0.jpg,a\n", {}, ["row 2: the path '1\\x00.jpg' is none"]),
        ("path,label\n1.jpg,a\n", {"delimiter": "::"}, ["data.delimiter=:: is not a single character"]),
        ('path,label\n"1.jpg,a\n', {"delimiter": ","}, ["is not a table: row 2"]),
    ],
)  # fmt: skip
def test_csv_that_cannot_be_used(tmp_path: Path, text: str, keys: dict[str, Any], expected: Sequence[str]) -> None:
    put(tmp_path, "1.jpg", "2.jpg")
    said = message(tmp_path, "csv", csv=table(tmp_path, text), **keys)
    assert all(words in said for words in expected), said


def test_csv_that_is_missing_or_not_utf8(tmp_path: Path) -> None:
    assert "gone.csv does not exist, neither here nor in" in message(
        tmp_path, "csv", csv="gone.csv", root=str(tmp_path)
    )
    folder = message(tmp_path, "csv", csv=str(tmp_path))
    assert f"data.csv={tmp_path} is a folder, not a table." in folder
    assert f"write data=folder data.root={tmp_path}." in folder
    (tmp_path / "labels.csv").write_bytes("path,label\n1.jpg,Spaß\n".encode("latin-1"))
    assert "UTF-8" in message(tmp_path, "csv", csv=str(tmp_path / "labels.csv"))


# --- sample and hub --------------------------------------------------------------------------------------------------


def test_the_sample_is_drawn_once(tmp_path: Path) -> None:
    listing = listed(tmp_path, "sample", images_per_class=3)
    assert len(listing.classes) == 15
    assert len(listing.items) == 45
    drawn = {item.path: (listing.root / item.path).stat().st_mtime_ns for item in listing.items}
    again = listed(tmp_path, "sample", images_per_class=3)
    assert drawn == {item.path: (again.root / item.path).stat().st_mtime_ns for item in again.items}
    assert [path.name for path in (tmp_path / ".data").iterdir()] == ["sample-3"]


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset as the hub has them, in a local folder: parquet with the files' bytes and named classes."""
    datasets = pytest.importorskip("datasets", reason="an extra: pip install 'har_sweep[hub]'")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["sit", "run"])})
    files = tmp_path / "files"
    for part, n in (("train", 4), ("test", 2)):
        rows: dict[str, list[Any]] = {"image": [], "label": []}
        for i in range(n):
            file = files / f"{part}{i}.png"
            file.parent.mkdir(exist_ok=True)
            Image.new("RGB", (4, 4), (i, 0, 0)).save(file)
            rows["image"].append({"bytes": file.read_bytes(), "path": file.name})
            rows["label"].append(-1 if part == "train" and i == 3 else i % 2)
        (tmp_path / "hub/data").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / f"hub/data/{part}-0.parquet")
    return tmp_path / "hub"


def test_hub_keeps_the_files_bytes_its_split_and_its_class_names(tmp_path: Path, hub_folder: Path) -> None:
    listing = listed(tmp_path, "hub", hub_name=str(hub_folder))
    assert [(i.path, i.label, i.split) for i in listing.items] == [
        ("test/0000000.png", "sit", "test"), ("test/0000001.png", "run", "test"),
        ("train/0000000.png", "sit", "train"), ("train/0000001.png", "run", "train"),
        ("train/0000002.png", "sit", "train"),
    ]  # fmt: skip
    assert (listing.root / "train/0000002.png").read_bytes() == (tmp_path / "files/train2.png").read_bytes()
    assert len(listing.notes) == 1
    assert "1 images of its split 'train' have no label" in listing.notes[0]
    for file in hub_folder.rglob("*.parquet"):
        file.unlink()
    assert listed(tmp_path, "hub", hub_name=str(hub_folder)) == listing  # the hub is not asked again


def test_hub_does_not_copy_a_file_of_ours_that_a_dataset_names(
    tmp_path: Path, hub_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    put(tmp_path, "key.jpg")
    rows = {"image": [{"bytes": None, "path": str(tmp_path / "key.jpg")}] * 2, "label": ["a", "b"]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    loaded = datasets.DatasetDict(train=datasets.Dataset.from_dict(rows, features))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: loaded)
    assert "no such file" in message(tmp_path, "hub", hub_name="owner/name")
    assert not list((tmp_path / "data").rglob("*.jpg"))


def test_hub_goes_on_where_it_was_cut_off(tmp_path: Path, hub_folder: Path) -> None:
    listing = listed(tmp_path, "hub", hub_name=str(hub_folder))
    (listing.root / "labels.csv").unlink()
    kept, lost = listing.root / "test/0000000.png", listing.root / "train/0000001.png"
    written = kept.stat().st_mtime_ns
    lost.write_bytes(b"half")
    assert listed(tmp_path, "hub", hub_name=str(hub_folder)) == listing
    assert kept.stat().st_mtime_ns == written
    assert lost.read_bytes() == (tmp_path / "files/train1.png").read_bytes()


def test_hub_that_cannot_be_used(tmp_path: Path, hub_folder: Path) -> None:
    assert "its columns are image, label" in message(
        tmp_path, "hub", hub_name=str(hub_folder), hub_label_column="labels"
    )
    assert "Did you mean 'label'?" in message(tmp_path, "hub", hub_name=str(hub_folder), hub_label_column="labels")
    assert "holds no images" in message(tmp_path, "hub", hub_name=str(hub_folder), hub_image_column="label")
    assert "cannot be loaded" in message(tmp_path, "hub", hub_name=str(tmp_path / "files" / "gone"))


def test_hub_without_its_package_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    assert "pip install 'har_sweep[hub]'" in message(tmp_path, "hub", hub_name="owner/name")


# --- two parts -------------------------------------------------------------------------------------------------------


def pictures(folder: Path, *classes: str, count: int = 20) -> None:
    for label in classes:
        for shade in range(count):
            put(folder, f"{label}/{shade}.png")
            Image.new("RGB", (4, 4), (shade, ord(label[-1]), 0)).save(folder / f"{label}/{shade}.png")


@pytest.mark.parametrize("layout", ["Structured/train and test", "Kaggle's"])
def test_of_two_parts_the_second_is_val_and_test(tmp_path: Path, layout: str) -> None:
    if layout == "Kaggle's":
        pictures(tmp_path / "all", "a", "b")
        (tmp_path / "train").mkdir()
        files = sorted(tmp_path.glob("all/*/*.png"))
        rows = [(f"{file.parent.name}{file.name}", file.parent.name) for file in files]
        for file, (name, _) in zip(files, rows, strict=True):
            file.rename(tmp_path / "train" / name)
        table(tmp_path, "filename,label\n" + "".join(f"{name},{label}\n" for name, label in rows), "Training_set.csv")
    else:
        pictures(tmp_path / "Structured/train", "a", "b", count=17)
        pictures(tmp_path / "Structured/test", "aa", "bb", count=3)
        for label in "ab":
            (tmp_path / f"Structured/test/{label * 2}").rename(tmp_path / f"Structured/test/{label}")
    usual, two = (prepared(tmp_path, source="har", root=str(tmp_path), split=kind) for kind in KINDS)
    assert two.counts() == {"train": 34, "val": 6, "test": 6}
    assert two.indices("val").tolist() == two.indices("test").tolist()
    assert two.test_is_val
    assert Dataset.read(two.file).test_is_val
    assert not set(usual.indices("val")) & set(usual.indices("test"))
    # Other parts are other runs, of the same images.
    assert two.fingerprint == usual.fingerprint
    assert two.split_fingerprint != usual.split_fingerprint


KINDS = ("train_val_test", "train_test")


def test_a_given_val_is_the_test_too_and_both_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "train", "a", "b")
    pictures(tmp_path / "val", "a", "b", count=4)
    two = prepared(tmp_path, source="folder", root=str(tmp_path), split="train_test")
    assert two.counts() == {"train": 40, "val": 8, "test": 8}
    pictures(tmp_path / "test", "a", "b", count=4)
    with pytest.raises(InputError, match=r"data.split=train_test, but the given split has both val and test"):
        prepared(tmp_path, source="folder", root=str(tmp_path), split="train_test")
