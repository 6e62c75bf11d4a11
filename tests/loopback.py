"""A Hugging Face hub on the loopback, for the real client."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# A real, tiny architecture of timm's, with everything that timm would be asked for given.
TINY = [
    "model=timm", "model.timm_name=test_vit", "model.pretrained_tag=r160_in1k", "model.input_size=160",
    "model.mean=[0.5,0.5,0.5]", "model.std=[0.5,0.5,0.5]",
]  # fmt: skip
REPO = "/timm/test_vit.r160_in1k/resolve/main/model.safetensors"


class LoopbackHub(ThreadingHTTPServer):
    """Serves ``files`` as the hub does. Each of ``cuts`` ends one answer with a body after so many bytes."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files = files
        self.cuts: list[int] = []
        self.asked: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the test."""


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackHub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        self.server.asked.append((self.command, self.path, self.headers.get("Range")))
        content = self.server.files.get(self.path)
        if content is None:
            self.send_response(404)
            # As the hub: a repository it has without the file, or no such repository.
            known = any(path.startswith(self.path.split("/resolve/")[0] + "/") for path in self.server.files)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if with_body and self.server.cuts:
            self.wfile.write(content[start : start + self.server.cuts.pop()])
            self.close_connection = True
        elif with_body:
            self.wfile.write(content[start:])

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@contextmanager
def loopback_hub(files: dict[str, bytes]) -> Iterator[LoopbackHub]:
    server = LoopbackHub(files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Without this machine's own hub, Kaggle and proxy settings, and with a cache under ``home``."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "KAGGLE")) and "proxy" not in k.lower()}
    return kept | {"HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"} | variables
