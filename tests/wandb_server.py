"""A Weights & Biases server on the loopback, for the real client: what is written is kept, and can be read again.

It answers the GraphQL operations that the client of the pinned version asks for, and the uploads and downloads beside
them. An operation is a method of ``_Operations`` with its own name; its arguments are the query's variables.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import yaml

ENTITY = "tester"
KEY = "0123456789" * 4
Json = dict[str, Any]


@dataclass
class Run:
    """What the server knows of a run. ``history`` are its lines, each where the client wanted it put; a run that is
    started again without being resumed begins anew. ``received`` is every line that ever came; ``writes`` is how often
    something did, as the time of its last heartbeat tells."""

    id: str
    project: str
    name: str = ""
    group: str = ""
    job_type: str = ""
    notes: str = ""
    sweep: str = ""
    commit: str = ""
    tags: list[str] = field(default_factory=list)
    config: Json = field(default_factory=dict)
    summary: Json = field(default_factory=dict)
    history: list[Json] = field(default_factory=list)
    received: list[Json] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    state: str = "running"
    writes: int = 0

    def stream(self, sent: Json) -> None:
        """Take one message of the client's ``file_stream``."""
        self.state = "running"
        self.writes += 1
        files = sent.get("files") or {}
        if lines := files.get("wandb-history.jsonl"):
            rows = [json.loads(line) for line in lines["content"]]
            self.history[lines["offset"] : lines["offset"] + len(rows)] = rows
            self.received += rows
        if summary := files.get("wandb-summary.json"):
            self.summary = json.loads(summary["content"][-1])
        if sent.get("complete"):
            self.state = "failed" if sent.get("exitcode") else "finished"


@dataclass
class Report:
    id: str
    project: str
    title: str
    description: str
    spec: Json


class WandbServer(ThreadingHTTPServer):
    """``failing`` is the HTTP status that everything is answered with while it is set; 0 hangs up without an answer.
    ``failures`` are such statuses for the next requests, one each, None letting one pass; ``fails_at`` may name one by
    what is asked and how often it was before. A 429 says to come back in ``retry_after`` seconds. ``asked`` has every
    request that came: the operation or the path, and what was sent. ``key`` is asked for where it is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, dict[str, bytes]] = {}
        self.collections: dict[str, str] = {}  # the latest artifact of each
        self.projects: set[str] = set()  # those without a run too
        self.reports: dict[str, Report] = {}
        self.sweeps: dict[str, str] = {}  # their YAML
        self.trials: list[Json] = []  # the parameters of those that agents have not been given yet
        self.key: str | None = None
        self.failing: int | None = None
        self.failures: list[int | None] = []
        self.fails_at: Callable[[str, int], int | None] = lambda what, before: None
        self.retry_after = 1
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

    def __init__(self, server: WandbServer, query: str) -> None:
        self.server = server
        self.query = query

    # Who and where

    def Viewer(self) -> Json:
        viewer = {"id": "viewer", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}"}
        return {"viewer": viewer | {"teams": {"edges": []}}}

    def GetDefaultEntity(self) -> Json:
        return self.Viewer()

    def ServerFeaturesQuery(self, **_: Any) -> Json:
        return {"serverInfo": {"features": []}}

    # Sweeps and their agents

    def UpsertSweep(self, id: str | None, config: str, projectName: str, **_: Any) -> Json:
        name = id or f"sweep{len(self.server.sweeps)}"
        self.server.sweeps[name] = config
        project = {"id": projectName, "name": projectName, "entity": {"id": ENTITY, "name": ENTITY}}
        return {"upsertSweep": {"sweep": {"name": name, "project": project}, "configValidationWarnings": []}}

    def SweepWithRuns(self, sweep: str, **_: Any) -> Json:
        sweep_node = {"name": sweep, "config": self.server.sweeps[sweep], "runs": {"edges": []}}
        return {"project": {"sweep": sweep_node}}

    def GetSweepState(self, **_: Any) -> Json:
        return {"project": {"sweep": {"state": "RUNNING"}}}

    def CreateAgent(self, sweep: str, **_: Any) -> Json:
        return {"createAgent": {"agent": {"id": sweep}}}

    def Heartbeat(self, id: str, runState: str, **_: Any) -> Json:
        """The next trial, once the agent has no run any more; after the last one, its end."""
        commands: list[Json] = []
        if not json.loads(runState):
            program = yaml.safe_load(self.server.sweeps[id]).get("program", "")
            given = self.server.trials.pop(0) if self.server.trials else None
            commands.append(
                {"type": "exit"}
                if given is None
                else {
                    "type": "run",
                    "run_id": f"trial{len(self.server.trials)}",
                    "program": program,
                    "args": {key: {"value": value} for key, value in given.items()},
                }
            )
        return {"agentHeartbeat": {"agent": {"id": id}, "commands": json.dumps(commands)}}

    # Writing a run

    def UpsertBucket(self, id: str | None, name: str, project: str, **given: Any) -> Json:
        """A run's start, with its name, or a change. Only a start that resumes knows the run's ``id``."""
        inserted = name not in self.server.runs
        run = self.server.runs.setdefault(name, Run(name, project))
        if given["displayName"] and not id:
            run.history, run.summary, run.state = [], {}, "running"
        run.name, run.group = given["displayName"] or run.name, given["groupName"] or run.group
        run.tags, run.sweep = given["tags"] or run.tags, given.get("sweep") or run.sweep
        run.job_type, run.notes = given.get("jobType") or run.job_type, given.get("notes") or run.notes
        run.commit = given.get("commit") or run.commit
        if given["config"]:
            run.config = {key: entry["value"] for key, entry in json.loads(given["config"]).items()}
        if given["summaryMetrics"]:
            run.summary = json.loads(given["summaryMetrics"])
        run.writes += 1
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
        self.server.collections[input["artifactCollectionName"]] = id
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

    # Reading runs

    def Runs(
        self, project: str, entity: str, cursor: str | None, perPage: int, order: str, filters: str, **_: Any
    ) -> Json:
        """A page of runs; for the lazy, without config and summary. The cursor is a place in the list."""
        if not self._has(project, entity):
            return {"project": None}
        fits = _filter(json.loads(filters))
        found = [(place, run) for place, run in enumerate(self.server.runs.values()) if run.project == project]
        found = [(place, run) for place, run in found if fits(run, place)]
        if order.lstrip("+-") != "created_at":
            found.sort(key=lambda at: _value(at[1], at[0], order.lstrip("+-")))
        if order.startswith("-"):
            found.reverse()
        start = int(cursor or 0)
        page = found[start : start + perPage]
        full = "summaryMetrics" in self.query
        nodes = [self._node(run, place, full) for place, run in page]
        edges = [{"node": node, "cursor": str(start + i)} for i, node in enumerate(nodes, 1)]
        more = {"endCursor": str(start + len(page)), "hasNextPage": start + len(page) < len(found)}
        runs = {"edges": edges, "pageInfo": more}
        return {"project": {"internalId": "1", "runCount": len(found), "readOnly": False, "runs": runs}}

    def _has(self, project: str, entity: str) -> bool:
        known = self.server.projects | {run.project for run in self.server.runs.values()}
        return entity == ENTITY and project in known

    def _node(self, run: Run, place: int, full: bool) -> Json:
        bucket = self._bucket(run)
        light = {key: bucket[key] for key in ("id", "name", "displayName", "description", "notes", "tags", "sweepName")}
        light |= {
            "projectId": "1",
            "state": run.state,
            "group": run.group,
            "jobType": None,
            "commit": None,
            "readOnly": False,
            "createdAt": _value(run, place, "created_at"),
            "heartbeatAt": _value(run, place, "heartbeat_at"),
            "historyLineCount": len(run.history),
            "user": {"name": ENTITY, "username": ENTITY},
        }
        if not full:
            return light
        steps = {"lastStep": len(run.history), "keys": {}}
        return light | {key: bucket[key] for key in ("config", "summaryMetrics")} | {
            "systemMetrics": "{}",
            "historyKeys": steps,
        }  # fmt: skip

    def RunFullHistory(self, name: str, samples: int, **where: Any) -> Json:
        """All lines, or as many as are asked for, evenly spaced."""
        lines = self.server.runs[name].history
        if len(lines) > samples:
            lines = [lines[i * len(lines) // samples] for i in range(samples)]
        return {"project": {"run": {"history": [json.dumps(line) for line in lines]}}}

    def RunFiles(self, name: str, fileNames: list[str], **where: Any) -> Json:
        run = self.server.runs[name]
        nodes = [self._file(f"file/{name}", file, run.files[file]) for file in fileNames if file in run.files]
        edges = [{"node": node, "cursor": str(i)} for i, node in enumerate(nodes, 1)]
        files = {"edges": edges, "pageInfo": {"endCursor": str(len(nodes)), "hasNextPage": False}}
        return {"project": {"internalId": "1", "run": {"fileCount": len(run.files), "files": files}}}

    def _file(self, folder: str, name: str, content: bytes) -> Json:
        url = f"{self.server.url}/{folder}/{quote(name)}"
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
        node = {"id": name, "name": name, "url": url, "directUrl": url, "sizeBytes": str(len(content)), "md5": md5}
        return node | {"mimetype": "application/json", "updatedAt": None}

    # Reading artifacts

    def ArtifactMembershipByName(self, name: str, project: str, **_: Any) -> Json:
        collection = name.partition(":")[0]
        if collection not in self.server.collections:
            return {"project": {"artifactCollectionMembership": None}}
        id = self.server.collections[collection]
        where = {"id": project, "internalId": "1", "name": project, "entity": {"name": ENTITY}}
        sequence = {"__typename": "ArtifactSequence", "name": collection, "project": where}
        artifact: Json = {
            "__typename": "Artifact",
            "id": id,
            "artifactSequence": sequence,
            "versionIndex": 0,
            "artifactType": {"name": "run_table"},
            "tags": [],
            "state": "COMMITTED",
            "size": 0,
            "digest": "",
            "fileCount": 1,
            "createdAt": "2026-01-01T00:00:00Z",
            **dict.fromkeys(("description", "metadata", "historyStep", "commitHash", "updatedAt")),
            "ttlIsInherited": False,
            "ttlDurationSeconds": 0,
        }
        membership = {"__typename": "ArtifactCollectionMembership", "id": id, "versionIndex": 0, "createdAt": ""}
        membership |= {"aliases": [], "artifactCollection": sequence, "artifact": artifact}
        return {"project": {"artifactCollectionMembership": membership}}

    def ArtifactMembershipFiles(self, collection: str, fileNames: list[str], **_: Any) -> Json:
        id = self.server.collections[collection]
        nodes = [self._file(f"artifact/{id}", name, self.server.artifacts[id][name]) for name in fileNames]
        nodes = [node | {"__typename": "File", "storagePath": node["name"], "digest": node["md5"]} for node in nodes]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        membership = {"files": {"pageInfo": page, "edges": [{"node": node} for node in nodes]}}
        found = {"__typename": "ArtifactSequence", "artifactMembership": membership}
        return {"project": {"artifactCollection": found}}

    # Reports

    def ProjectInternalId(self, projectName: str, entityName: str) -> Json:
        found = self._has(projectName, entityName)
        return {"project": {"id": projectName, "internalId": "1"} if found else None}

    def GetProjects(self, entity: str, **_: Any) -> Json:
        names = sorted(self.server.projects | {run.project for run in self.server.runs.values()})
        nodes = [self._project(name) for name in names]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"edges": [{"node": node} for node in nodes], "pageInfo": page}}

    def CreateProject(self, input: Json) -> Json:
        self.server.projects.add(input["name"])
        project = self._project(input["name"]) | {"description": "", "access": "", "views": "{}"}
        return {"result": {"project": project, "model": project, "inserted": True}}

    def _project(self, name: str) -> Json:
        node = {"__typename": "Project", "id": name, "name": name, "entityName": ENTITY, "isBenchmark": False}
        return node | {"createdAt": "2026-01-01T00:00:00Z", "user": None}

    def upsertView(self, id: str | None, projectName: str, displayName: str, spec: str, **given: Any) -> Json:
        new = id is None
        if new:
            id = base64.b64encode(f"View:{10000 + len(self.server.reports)}".encode()).decode()
        self.server.reports[str(id)] = Report(str(id), projectName, displayName, given["description"], json.loads(spec))
        return {"upsertView": {"view": self._view(str(id)), "inserted": new}}

    def SpecificReport(self, reportId: str) -> Json:
        return {"view": self._view(reportId) if reportId in self.server.reports else None}

    def _view(self, id: str) -> Json:
        report = self.server.reports[id]
        return {
            "id": id,
            "type": "runs",
            "name": id,
            "displayName": report.title,
            "description": report.description,
            "project": {"id": report.project, "name": report.project, "entityName": ENTITY},
            "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": "2026-01-01T00:00:00Z",
            "spec": json.dumps(report.spec),
        }


def _value(run: Run, place: int, key: str) -> Any:
    """What W&B's filters call by ``key``; ``place`` is the run's among all."""
    first, _, rest = key.partition(".")
    if first == "config":
        found: Any = run.config
        for part in rest.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return found
    if first == "summary_metrics":
        return run.summary.get(rest)
    begun = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=place)
    return {
        "name": run.id,
        "display_name": run.name,
        "group": run.group,
        "state": run.state,
        "tags": run.tags,
        "created_at": begun.isoformat(),
        "heartbeat_at": (begun + timedelta(seconds=run.writes)).isoformat(),
    }.get(key)


Test = Callable[[Run, int], bool]


def _filter(filters: Json) -> Test:
    """A query in the manner of MongoDB, as W&B takes it: ``{"state": "finished", "config.seed": {"$in": [1, 2]}}``."""
    return _all([_condition(key, wanted) for key, wanted in filters.items()])


def _condition(key: str, wanted: Any) -> Test:
    if key == "$and":
        return _all([_filter(part) for part in wanted])
    if key == "$or":
        parts = [_filter(part) for part in wanted]
        return lambda run, place: any(part(run, place) for part in parts)
    given = wanted if isinstance(wanted, dict) else {"$in": [wanted]}
    tests = [_OPERATORS[operator](operand) for operator, operand in given.items()]
    return lambda run, place: all(test(_value(run, place, key)) for test in tests)


def _all(tests: list[Test]) -> Test:
    return lambda run, place: all(test(run, place) for test in tests)


def _is_in(wanted: list[Any]) -> Callable[[Any], bool]:
    """A list, like the tags, is found by any of its members."""
    wanted_ones = set(wanted)
    return lambda value: bool(wanted_ones & set(value)) if isinstance(value, list) else value in wanted_ones


_OPERATORS: dict[str, Callable[[Any], Callable[[Any], bool]]] = {
    "$in": _is_in,
    "$ne": lambda operand: lambda value: value != operand,
    "$gte": lambda operand: lambda value: value is not None and value >= operand,
    "$lt": lambda operand: lambda value: value is not None and value < operand,
    "$regex": lambda operand: lambda value: re.search(operand, value or "") is not None,
}


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
            operation = getattr(_Operations(self.server, sent["query"]), name, None)
            if operation is None:
                self._answer(400, {"errors": [{"message": f"This server has no {name}: {sent['query']}"}]})
                return
            with self.server.lock:
                answer = operation(**(sent.get("variables") or {}))
            self._answer(200, {"data": answer})

    def do_GET(self) -> None:
        kind, id, name = unquote(urlsplit(self.path).path).removeprefix("/").split("/", 2)
        if self._admitted(f"GET {kind}", self.path.encode()):
            with self.server.lock:
                files = self.server.runs[id].files if kind == "file" else self.server.artifacts[id]
                content = files.get(name)
            self._answer(404 if content is None else 200, content or b"{}")

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
        server = self.server
        before = [asked for asked, _ in server.asked].count(what)
        server.asked.append((what, body))
        failing = server.failing
        if failing is None:
            failing = server.failures.pop(0) if server.failures else server.fails_at(what, before)
        if server.key and not self.path.startswith(
            ("/file/", "/artifact/")
        ):  # as W&B's storage, which has signed addresses
            given = self.headers.get("Authorization", "").removeprefix("Basic ")
            failing = failing if base64.b64decode(given) == f"api:{server.key}".encode() else 401
        if failing == 0:
            self.close_connection = True
        elif failing:
            self._answer(failing, {"error": "This server fails as it was told to."})
        return failing is None

    def _answer(self, status: int, content: Json | bytes) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            self.send_header("Retry-After", str(self.server.retry_after))
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
