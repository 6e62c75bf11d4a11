"""What was logged to Weights & Biases comes back as the record has it, a page at a time, whatever the server does.

The real client writes to a server on the loopback and reads from it.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import psutil
import pytest
from made_runs import a_record, quiet
from small import small_spec
from test_tracking import attempt, compute, offline, sync
from wandb_server import ENTITY, KEY, Json, Run, WandbServer, wandb_server

from har_sweep.errors import InputError
from har_sweep.files import PACKAGE
from har_sweep.record.folder import RunPaths, read_record
from har_sweep.record.record import Epoch, Record, flatten
from multirun_analysis.analysis.analysis import analyse
from multirun_analysis.analysis.question import Question
from multirun_analysis.sources import read as sources
from multirun_analysis.sources.choice import choose
from multirun_analysis.sources.folder import RunFolder
from multirun_analysis.sources.read import put_together
from multirun_analysis.sources.runs import Found, Progress
from multirun_analysis.sources.wandb_client import parse_address
from multirun_analysis.sources.wandb_runs import PAGE, pull
from multirun_analysis.tables.tables import tables

PULL = "import sys; from pathlib import Path; from multirun_analysis.sources.wandb_runs import pull\n"


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with wandb_server() as server:
        server.key = KEY
        yield server


Reader = Callable[..., Found]


@contextmanager
def reading(server: WandbServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """Pull from ``server``, in an empty folder that stays empty, with the cache beside it."""
    here = folder / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(folder))  # no login of the user's
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    pulled: list[Found] = []

    def read(query: str = "", progress: Progress = quiet) -> Found:
        close()
        pulled.append(pull(f"wandb://{ENTITY}/har{query}", folder / "cache", progress))
        return pulled[0]

    def close() -> None:
        while pulled:
            pulled.pop().origins[0].client.close()  # type: ignore[attr-defined]

    yield read
    close()
    assert not list(here.iterdir())


@pytest.fixture
def read(server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    with reading(server, tmp_path, monkeypatch) as read:
        yield read


def asked(server: WandbServer) -> Counter[str]:
    """How often the server was asked for what, since this was asked last; without who asks."""
    counted = Counter(what for what, _ in server.asked if what not in ("Viewer", "GetDefaultEntity"))
    server.asked.clear()
    return counted


def put(server: WandbServer, record: Record, **changes: Any) -> Run:
    """A run on the server as our tracker left it before it told facts apart from results, without the client's help."""
    flat = {k: v for k, v in flatten(record).items() if v is not None and not k.startswith("config/")}
    history = [{**asdict(epoch), "_step": epoch.epoch} for epoch in record.epochs]
    run = Run(
        record.run_id,
        "har",
        record.name,
        "sweep",
        config=record.config,
        summary=flat,
        history=history,
        state="finished",
    )
    for key, value in changes.items():
        setattr(run, key, value)
    server.runs[run.id] = run
    return run


def without_missing(row: Json) -> Json:
    never_sent = ("error/traceback", "environment/hostname")
    return {key: value for key, value in row.items() if value is not None and key not in never_sent}


# The full circle: computed, logged, pulled


@pytest.fixture(scope="module")
def circle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WandbServer, dict[str, RunPaths]]]:
    """Two real runs, one logged online, the other offline and then synced, and what was made of the first; all as their
    folders have them."""
    folder = tmp_path_factory.mktemp("circle")
    given = ["tracking=wandb_online", "tracking.project=har", "hardware.cpu_threads=1", "optimizer.weight_decay=0"]
    online = small_spec(folder, *given)
    kept = offline(small_spec(folder, *given, "seed=1"))
    with wandb_server() as server:
        attempts = [attempt(compute, spec, **server.environment) for spec in (online, kept)]
        for started in attempts:
            started.end()
        sync(kept, server)
        subprocess.run(
            [sys.executable, "-m", "har_sweep.compact", online.run_id, "variants=onnx", f"paths.runs={folder}/runs"],
            env={**os.environ, **server.environment}, check=True, capture_output=True,
        )  # fmt: skip
        (made,) = (folder / "runs").glob("*_onnx-*")
        server.key = KEY
        yield server, {"online": online.paths, "synced": kept.paths, "variant": RunPaths(made)}


@pytest.fixture
def circled(
    circle: tuple[WandbServer, dict[str, RunPaths]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, tuple[RunPaths, int, Found]]]:
    """Of each of the runs, its folder and its place among what was pulled."""
    server, made = circle
    with reading(server, tmp_path, monkeypatch) as read:
        folders = ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR")
        before = [os.environ.get(name) for name in folders]
        pulled = read()
        assert [os.environ.get(name) for name in folders] == before  # a run that this process starts goes by them
        places = {info.run_id: place for place, info in enumerate(pulled.info)}
        yield {name: (paths, places[paths.folder.name], pulled) for name, paths in made.items()}


@pytest.mark.parametrize("way", ["online", "synced", "variant"])
def test_what_was_logged_comes_back_as_the_record_has_it_to_the_last_digit(circled: Any, way: str) -> None:
    paths, place, pulled = circled[way]
    record = read_record(paths.record)
    expected = without_missing(flatten(record))
    got = without_missing(pulled.rows[place])
    assert got == expected
    floats = {key for key, value in expected.items() if isinstance(value, float) and not key.startswith("config/")}
    assert all(isinstance(got[key], float) for key in floats)
    assert pulled.origins[place].epochs() == record.epochs
    pd.testing.assert_frame_equal(pulled.origins[place].predictions(), RunFolder(paths).predictions())
    info = pulled.info[place]
    assert (info.run_id, info.name, info.seed, info.status) == (record.run_id, record.name, record.seed, "done")
    assert info.url.endswith(f"/{ENTITY}/har/runs/{record.run_id}")
    assert parse_address(info.source).filters == {"name": record.run_id}


def test_a_variant_is_a_run_of_its_own_that_belongs_to_its_parent(circle: Any) -> None:
    server, made = circle
    parent, variant = (server.runs[made[name].folder.name] for name in ("online", "variant"))
    assert (variant.group, variant.job_type) == (parent.group, "compact")
    assert variant.config["record"]["parent"] == parent.id
    assert variant.state == "finished"


def test_the_tables_from_wandb_equal_those_from_the_folder(circled: Any, tmp_path: Path) -> None:
    paths, _, pulled = circled["online"]
    pulled.origins[0].client.close()
    folder = str(paths.folder.parent)
    made = []
    for source in (folder, f"wandb://{ENTITY}/har"):
        runs = sources.read_runs([source], tmp_path / "cache", quiet)
        analysis = analyse(runs, Question(), "", quiet)
        made.append({table.name: table.csv() for table in tables(analysis) if table.name != "runs"})
        if source != folder:
            runs.origins[0].client.close()  # type: ignore[attr-defined]
    assert made[0] == made[1]
    assert {"table1", "table2", "recall", "epochs", "variants"} <= made[0].keys()


# The cache


def test_a_second_pull_fetches_only_what_changed(server: WandbServer, read: Reader) -> None:
    runs = [put(server, a_record(run_id=f"run{number}")) for number in range(3)]
    first = read()
    curves = [origin.epochs() for origin in first.origins]
    assert asked(server) == {"Runs": 2, "RunFullHistory": 3}
    assert read().rows == first.rows
    assert asked(server) == {"Runs": 1}
    runs[1].summary["cost/macs"] = 7
    runs[1].history.append({"epoch": 3, "train_loss": 0.1, "learning_rate": 0.1, "seconds": 1, "_step": 3})
    runs[1].writes += 1
    again = read()
    assert [row["cost/macs"] for row in again.rows] == [1_800_000_000, 7, 1_800_000_000]
    ((_, page),) = [(what, json.loads(body)) for what, body in server.asked if b"summaryMetrics" in body]
    assert json.loads(page["variables"]["filters"]) == {"name": {"$in": [runs[1].id]}}
    assert [len(origin.epochs()) for origin in again.origins] == [2, 3, 2]
    assert asked(server) == {"Runs": 2, "RunFullHistory": 1}
    assert [origin.epochs() for origin in again.origins][::2] == curves[::2]


@pytest.mark.parametrize("content", [b"{half", b'{"version": 0, "runs": {}}', b"\xff"])
def test_a_cache_that_is_broken_or_of_another_version_is_made_anew(
    server: WandbServer, read: Reader, tmp_path: Path, content: bytes
) -> None:
    put(server, a_record())
    first = read()
    first.origins[0].epochs()
    for file in (tmp_path / "cache").rglob("*.json"):
        file.write_bytes(content)
    again = read()
    assert again.rows == first.rows
    assert again.origins[0].epochs() == first.origins[0].epochs()


def test_ten_thousand_runs_are_read_in_pages(server: WandbServer, read: Reader) -> None:
    record = a_record()
    for number in range(10_000):
        record.run_id = f"resnet18-{number:010x}"
        run = put(server, record)
        run.summary = {"schema_version": 1, "run_id": run.id, "cost/macs": number}
    told: list[tuple[str, int, int | None]] = []
    pulled = read(progress=lambda *step: told.append(step))
    assert [row["cost/macs"] for row in pulled.rows] == list(range(10_000))
    assert asked(server) == {"Runs": 2 * 10_000 // PAGE}
    assert [done for what, done, total in told if what.startswith("Reading") and total == 10_000] == list(
        range(0, 10_001, PAGE)
    )
    assert read().rows == pulled.rows
    assert asked(server) == {"Runs": 10_000 // PAGE}


# Which runs


def test_the_sweep_and_conditions_that_are_asked_for_hold_of_what_was_pulled(server: WandbServer, read: Reader) -> None:
    put(server, a_record("resnet18", sweeps=["pilot", "main"]))  # its group is the last that asked for it
    put(server, a_record("vit_tiny", sweeps=["main"]))
    put(server, a_record("vit_base", sweeps=["pilot"]), group="pilot")
    foreign = put(server, a_record("foreign"), group="main", id="foreign")
    foreign.summary = {"accuracy": 0.5}
    runs = put_together([read()], ["wandb"])
    assert choose(runs, ["pilot"], []).frame["model/name"].tolist() == ["resnet18", "vit_base"]
    main = choose(runs, ["main"], [])
    assert set(main.frame["name"]) == {"resnet18", "vit_tiny", "foreign"}
    assert main.notes == ["Left out by --sweep main: 1 of 4 runs."]
    assert choose(runs, [], ["model==vit_tiny"]).frame["name"].tolist() == ["vit_tiny"]


@pytest.mark.parametrize(
    ("query", "filters"),
    [
        ("", {}),
        ("?group=my%20sweep", {"group": "my sweep"}),
        ("?state=finished&tags=a&tags=b", {"$and": [{"state": "finished"}, {"tags": {"$in": ["a", "b"]}}]}),
        ("?config.model.name=resnet18", {"config.model.name": "resnet18"}),
        ("?config.seed=1", {"config.seed": 1}),
        ('?config.name="1"', {"config.name": "1"}),
        ("?sweep=s", {"$or": [{"group": "s"}, {"sweep": "s"}]}),
        ('?filters={"created_at":{"$gte":"2026"}}', {"created_at": {"$gte": "2026"}}),
        ('?filters={"a":1}&name=x', {"$and": [{"a": 1}, {"name": "x"}]}),
    ],
)
def test_an_address_is_a_query_in_the_words_of_wandb(query: str, filters: Json) -> None:
    address = parse_address(f"wandb://me/har{query}")
    assert (address.entity, address.project, address.filters) == ("me", "har", filters)
    assert parse_address("wandb://har?group=x").entity is None


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("wandb://", "ENTITY/PROJECT"),
        ("wandb:me/har", "ENTITY/PROJECT"),
        ("wandb:///har", "ENTITY/PROJECT"),
        ("wandb://me/har/runs/x", "ENTITY/PROJECT"),
        ("wandb://me/har?group", "ENTITY/PROJECT"),
        ("wandb://me/har?grop=x", "Did you mean group?"),
        ("wandb://me/har?filters={state}", "filters"),
        ("wandb://me/har?filters=[1]", "filters"),
        ("wandb://me/har?group=a#b", "%23"),
    ],
)
def test_a_wrong_address_is_told_with_an_example(address: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_address(address)
    assert address in caught.value.message
    assert says in caught.value.hint


def test_filters_choose_among_runs(server: WandbServer, read: Reader) -> None:
    runs = [put(server, a_record(model, seed)) for model in ("resnet18", "vit_tiny") for seed in (0, 1)]
    runs[0].tags, runs[1].group, runs[2].state = ["a", "b"], "other sweep", "crashed"
    chosen = {
        "": [0, 1, 2, 3],
        "?group=other%20sweep": [1],
        "?sweep=sweep": [0, 2, 3],
        "?tags=b&tags=c": [0],
        "?config.model.name=vit_tiny&state=finished": [3],
        "?config.seed=1": [1, 3],
        f"?name={runs[2].id}&name={runs[3].id}": [2, 3],
        '?filters={"$or":[{"state":"crashed"},{"summary_metrics.seed":{"$ne":0}}]}': [1, 2, 3],
    }
    for query, places in chosen.items():
        assert {row["run_id"] for row in read(query).rows} == {runs[place].id for place in places}, query


def test_the_entity_may_be_left_to_the_client(server: WandbServer, read: Reader, tmp_path: Path) -> None:
    put(server, a_record())
    pulled = pull("wandb://har", tmp_path / "cache", quiet)
    pulled.origins[0].client.close()  # type: ignore[attr-defined]
    assert read().rows == pulled.rows


# What a run says of itself


def test_a_run_is_what_its_record_says_unless_it_ended_without_a_word(server: WandbServer, read: Reader) -> None:
    expected = {
        ("done", "finished"): "done",
        ("done", "running"): "done",
        ("running", "running"): "running",
        ("running", "crashed"): "interrupted",
        ("running", "failed"): "interrupted",
        ("failed", "failed"): "failed",
        ("interrupted", "failed"): "interrupted",
        (None, "finished"): "done",
        (None, "running"): "running",
        (None, "preempted"): "interrupted",
        (None, "killed"): "failed",
        (None, "crashed"): "failed",
    }
    for number, (said, state) in enumerate(expected):
        run = put(server, a_record(run_id=f"run{number:02}"), state=state)
        run.summary = {**run.summary, "status": said} if said else {"accuracy": 0.5}
    pulled = read()
    assert [row["status"] for row in pulled.rows] == [info.status for info in pulled.info] == list(expected.values())
    (note,) = pulled.notes
    assert "2 runs are still running" in note


def test_a_run_that_we_did_not_log_gives_what_it_has(server: WandbServer, read: Reader) -> None:
    server.runs["abc"] = Run(
        "abc",
        "har",
        name="their run",
        config={"seed": 5, "model": {"depth": 18}, "lr": "Infinity"},
        summary={"acc": 0.5, "loss": "NaN", "best": {"max": 0.75}, "_step": 3, "image": {"_type": "image-file"}},
        history=[{"acc": 0.1}, {"epoch": 1, "acc": 0.5, "val_accuracy": 0.25}, {"epoch": 1, "val_accuracy": "NaN"}],
        state="finished",
    )
    pulled = read()
    assert pulled.rows == [
        {
            "run_id": "abc", "name": "their run", "seed": 5, "status": "done", "acc": 0.5, "loss": None,
            "best/max": 0.75, "config/seed": 5, "config/model/depth": 18, "config/lr": None,
        }
    ]  # fmt: skip
    assert pulled.origins[0].predictions() is None
    (epoch,) = pulled.origins[0].epochs()  # the last that was said of it
    assert (epoch.epoch, epoch.val_accuracy, epoch.train_loss) == (1, None, None)
    assert math.isnan(epoch.seconds)


def test_several_threads_may_read_curves(server: WandbServer, read: Reader) -> None:
    expected = {}
    for seed in range(30):
        record = a_record(seed=seed)
        record.epochs = [Epoch(n, seed + n, None, 0.5, 0.1, 1.0) for n in (2, 1, 3)]
        put(server, record)
        expected[record.run_id] = sorted(record.epochs, key=lambda epoch: epoch.epoch)
    pulled = read()
    with ThreadPoolExecutor(8) as pool:
        curves = list(pool.map(lambda origin: origin.epochs(), pulled.origins))
    assert dict(zip([info.run_id for info in pulled.info], curves, strict=True)) == expected


def log_predictions(pipe: Connection, rows: int, folder: str) -> None:
    """A run with as large a table of predictions, by the real client."""
    import wandb

    with wandb.init(project="har", id="large", dir=folder) as run:
        columns: list[str | int] = ["path", "split", "label", "prediction", "confidence"]
        run.log({"predictions": wandb.Table(columns, [[f"{i}.jpg", "val", "a", "b", 0.5] for i in range(rows)])})


def test_a_table_of_predictions_comes_whole_or_not_at_all(server: WandbServer, read: Reader, tmp_path: Path) -> None:
    server.key = None
    folders = {"WANDB_DATA_DIR": str(tmp_path), "WANDB_CACHE_DIR": str(tmp_path)}
    attempt(log_predictions, 10_003, str(tmp_path), **server.environment, **folders).end()
    server.key = KEY
    predictions = read().origins[0].predictions()
    assert predictions is not None
    assert predictions["path"].tolist() == [f"{i}.jpg" for i in range(10_003)]
    server.collections.clear()  # then there is but the first part
    server.runs["large"].writes += 1
    assert read().origins[0].predictions() is None
    server.runs["large"].files.clear()
    server.runs["large"].writes += 1
    assert read().origins[0].predictions() is None


# What goes wrong


def failure(read: Callable[[], Any]) -> InputError:
    with pytest.raises(InputError) as caught:
        read()
    return caught.value


@pytest.mark.parametrize(
    ("key", "says", "hint"),
    [
        ("z" * 40, "does not take the API key", "wandb login"),
        ("short", "does not take the API key", "WANDB_API_KEY"),
        ("", "no API key", "wandb login"),
    ],
)
def test_a_key_that_is_missing_or_wrong_is_said(
    server: WandbServer, read: Reader, monkeypatch: pytest.MonkeyPatch, key: str, says: str, hint: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    error = failure(read)
    assert says in error.message
    assert server.url in error.message
    assert hint in error.hint
    assert KEY not in error.message + error.hint


def test_what_is_not_there_is_said(server: WandbServer, read: Reader, tmp_path: Path) -> None:
    assert f"no project {ENTITY}/har that you may read" in failure(read).message
    server.projects.add("har")
    assert failure(read).message == f"{ENTITY}/har has no runs."
    put(server, a_record())
    error = failure(lambda: read("?group=swep"))
    assert error.message == f'No run of {ENTITY}/har fits {{"group": "swep"}}.'
    assert error.hint == "Its latest groups are sweep."
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("failures", [[429, 429], [500], [None, 500], [None, None, None, 429, 502]])
def test_a_server_that_is_busy_or_fails_for_a_moment_is_asked_again(
    server: WandbServer, read: Reader, failures: list[int | None]
) -> None:
    put(server, a_record())
    server.failures = failures
    assert len(read().rows) == 1
    assert not server.failures


def test_a_pull_goes_on_where_a_server_failed_for_good(server: WandbServer, read: Reader, tmp_path: Path) -> None:
    record = a_record()
    for number in range(3 * PAGE):
        record.run_id = f"run{number}"
        put(server, record)
    pages = 3 + 1  # the list, and the first of three pages
    server.fails_at = lambda what, before: 500 if what == "Runs" and before >= pages else None
    error = failure(read)
    assert [what for what, _ in server.asked].count("Runs") == pages + 4  # what fails is asked four times, and given up
    assert "HTTP 500" in error.message
    assert f"{PAGE} of {3 * PAGE} runs have been read; the next pull goes on from there." in error.message
    assert [file.name for file in (tmp_path / "cache").rglob("*.*")] == ["runs.json"]
    server.fails_at = lambda what, before: None
    asked(server)
    assert len(read().rows) == 3 * PAGE
    assert asked(server) == {"Runs": 3 + 2}


def test_nothing_is_left_behind_but_the_cache(server: WandbServer, tmp_path: Path) -> None:
    put(server, a_record())
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    (tmp_path / "tmp").mkdir()
    code = f"{PULL}pulled = pull('wandb://har', Path(sys.argv[1]), print); print(pulled.origins[0].epochs())"
    environment = {**server.environment, "HOME": str(home), "TMPDIR": str(tmp_path / "tmp"), "PATH": "/usr/bin:/bin"}
    environment["PYTHONPATH"] = str(PACKAGE.parent)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "cache")], cwd=here, env=environment, stdout=subprocess.PIPE
    )
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert b"Epoch(epoch=1" in output
    left = [path for folder in ("home", "here", "tmp") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert not left
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(process.pid) in (p.info["cmdline"] or [])]
    assert len(msgspec.json.decode(next((tmp_path / "cache").rglob("runs.json")).read_bytes())["runs"]) == 1
