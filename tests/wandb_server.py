"""A Weights & Biases server on the loopback, for the real client: what is written is kept, and can be looked at.

It answers the GraphQL operations that the client of the pinned version asks for, and the uploads beside them. An
operation is a method of ``_Operations`` with the operation's own name; its arguments are the query's variables.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

ENTITY = "tester"
KEY = "0123456789" * 4
Json = dict[str, Any]


@dataclass
class Run:
    """What the server knows of a run. ``history`` are its lines, each where the client wanted it put; a run that is
    started again without being resumed begins anew. ``received`` is every line that ever came."""

    id: str
    project: str
    name: str = ""
    group: str = ""
    tags: list[str] = field(default_factory=list)
    config: Json = field(default_factory=dict)
    summary: Json = field(default_factory=dict)
    history: list[Json] = field(default_factory=list)
    received: list[Json] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    state: str = "running"

    def stream(self, sent: Json) -> None:
        """Take one message of the client's ``file_stream``."""
        self.state = "running"
        files = sent.get("files") or {}
        if lines := files.get("wandb-history.jsonl"):
            rows = [json.loads(line) for line in lines["content"]]
            self.history[lines["offset"] : lines["offset"] + len(rows)] = rows
            self.received += rows
        if summary := files.get("wandb-summary.json"):
            self.summary = json.loads(summary["content"][-1])
        if sent.get("complete"):
            self.state = "failed" if sent.get("exitcode") else "finished"


class WandbServer(ThreadingHTTPServer):
    """``failing`` is the HTTP status that everything is answered with while it is set; 0 hangs up without an answer.
    ``asked`` has every request that came: the operation or the path, and what was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, dict[str, bytes]] = {}
        self.failing: int | None = None
        self.asked: list[tuple[str, bytes]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to write here."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the test."""


class _Operations:
    """The GraphQL operations, by name."""

    def __init__(self, server: WandbServer) -> None:
        self.server = server

    # Who and where

    def Viewer(self) -> Json:
        viewer = {"id": "viewer", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}"}
        return {"viewer": viewer | {"teams": {"edges": []}}}

    def ServerFeaturesQuery(self, **_: Any) -> Json:
        return {"serverInfo": {"features": []}}

    # Writing a run

    def UpsertBucket(self, id: str | None, name: str, project: str, **given: Any) -> Json:
        """A run's start, with its name, or a change. Only a start that resumes knows the run's ``id``."""
        inserted = name not in self.server.runs
        run = self.server.runs.setdefault(name, Run(name, project))
        if given["displayName"] and not id:
            run.history, run.summary, run.state = [], {}, "running"
        run.name, run.group = given["displayName"] or run.name, given["groupName"] or run.group
        run.tags = given["tags"] or run.tags
        if given["config"]:
            run.config = {key: entry["value"] for key, entry in json.loads(given["config"]).items()}
        if given["summaryMetrics"]:
            run.summary = json.loads(given["summaryMetrics"])
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": inserted}}

    def RunResumeStatus(self, name: str, project: str, **_: Any) -> Json:
        run = self.server.runs.get(name)
        model = {"id": project, "name": project, "entity": {"id": ENTITY, "name": ENTITY}}
        return {"model": model | {"bucket": run and self._bucket(run)}}

    def _bucket(self, run: Run) -> Json:
        entity = {"id": ENTITY, "name": ENTITY}
        return {
            "id": run.id,
            "name": run.id,
            "displayName": run.name,
            "description": "",
            "notes": "",
            "tags": run.tags,
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "summaryMetrics": json.dumps(run.summary),
            "sweepName": None,
            "project": {"id": run.project, "name": run.project, "entity": entity},
            "historyLineCount": len(run.history),
            "historyTail": json.dumps([json.dumps(line) for line in run.history[-1:]]),
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "logLineCount": 0,
            "wandbConfig": json.dumps({"t": 1}),
        }

    def CreateRunFiles(self, run: str, files: list[str], **_: Any) -> Json:
        uploads = [{"name": name, "uploadUrl": f"{self.server.url}/upload/{run}/{name}"} for name in files]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": uploads}}

    # Artifacts: tables are logged as such

    def ArtifactType(self, **_: Any) -> Json:
        return {"project": {"artifact": None}}

    def CreateArtifact(self, input: Json) -> Json:
        id = f"artifact{len(self.server.artifacts)}"
        self.server.artifacts[id] = {}
        return {"createArtifact": {"artifact": {"id": id, "state": "PENDING", "artifactSequence": {}}}}

    def CreateArtifactManifest(self, artifactID: str, name: str, **_: Any) -> Json:
        file = {"id": name, "uploadUrl": f"{self.server.url}/artifact/{artifactID}/{name}", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": name, "file": file}}}

    def CreateArtifactFiles(self, input: Json) -> Json:
        nodes = [
            {
                "storagePath": file["name"],
                "uploadUrl": f"{self.server.url}/artifact/{file['artifactID']}/{file['name']}",
                "uploadHeaders": [],
                "artifact": {"id": file["artifactID"]},
            }
            for file in input["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def CommitArtifact(self, artifactID: str) -> Json:
        return {"commitArtifact": {"artifact": {"id": artifactID, "digest": ""}}}


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def do_POST(self) -> None:
        body = self._body()
        sent, path = json.loads(body), urlsplit(self.path).path
        if path != "/graphql":  # /files/ENTITY/PROJECT/RUN/file_stream
            if self._admitted(path, body):
                with self.server.lock:
                    self.server.runs[unquote(path.split("/")[4])].stream(sent)
                self._answer(200, {"exitcode": None, "limits": {}})
            return
        found = re.search(r"(?:query|mutation)\s+(\w+)", sent["query"])
        name = found[1] if found else ""
        if self._admitted(name, body):
            operation = getattr(_Operations(self.server), name, None)
            if operation is None:
                self._answer(400, {"errors": [{"message": f"This server has no {name}: {sent['query']}"}]})
                return
            with self.server.lock:
                answer = operation(**(sent.get("variables") or {}))
            self._answer(200, {"data": answer})

    def do_PUT(self) -> None:
        content = self._body()
        if self._admitted(self.path, content):
            kind, id, name = unquote(self.path).removeprefix("/").split("/", 2)
            with self.server.lock:
                files = self.server.runs[id].files if kind == "upload" else self.server.artifacts[id]
                files[name] = content
            self._answer(200, {})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _admitted(self, what: str, body: bytes) -> bool:
        """Note the request; whether it is to be answered and not to fail."""
        self.server.asked.append((what, body))
        failing = self.server.failing
        if failing == 0:
            self.close_connection = True
        elif failing:
            self._answer(failing, {"error": "This server fails as it was told to."})
        return failing is None

    def _answer(self, status: int, content: Json) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    server = WandbServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
