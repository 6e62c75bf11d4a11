"""Fetch data and weights ahead, for machines without network: ``python -m har_sweep.prefetch data=har model=a,b``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from har_sweep import events
from har_sweep.config.check import usable_folders
from har_sweep.config.compose import compose_all, copied
from har_sweep.config.schema import Config, ModelConfig
from har_sweep.console import Console
from har_sweep.data.sources import list_items
from har_sweep.data.sources.har import KAGGLE_DATASET, har_differences
from har_sweep.data.sources.listing import problems
from har_sweep.errors import InputError, first_line
from har_sweep.spec import weights
from har_sweep.spec.hub import Hub
from har_sweep.units import byte_size

USAGE = """\
Fetch data and pretrained weights ahead, so that sweeps run on machines without network.

  python -m har_sweep.prefetch data=har model=resnet18,vit_base
  python -m har_sweep.prefetch experiment=paper model=resnet18,vit_base,vit_tiny paths.data=/shared/data

It takes the overrides of a sweep, with its -m or without. Weights go to the Hugging Face cache (HF_HOME), data=har
comes from Kaggle into paths.data (a link into kagglehub's cache, KAGGLEHUB_CACHE), data=hub from the Hugging Face hub.
Given again, it skips what is there; Kaggle's archive goes on where it broke off, one model's file of weights begins
anew.
Exit status: 0 if all is there, 2 if something could not be had."""


@dataclass(frozen=True)
class Part:
    """One line of the closing table. ``size_bytes`` is None where nothing was to fetch; ``error`` if it failed."""

    what: str
    where: str = ""
    size_bytes: int | None = None
    status: str = ""
    error: InputError | None = None


def main(arguments: list[str]) -> int:
    """The command; returns the exit status."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0
    console = Console(stderr=True)
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # the client says each time that it tries again; we say why not
    if not console.is_terminal:
        os.environ.setdefault("TQDM_MININTERVAL", "10")  # kagglehub's bar, which a log file should not be full of
    try:
        configs = compose_all(copied(arguments))
    except InputError as e:
        console.print(f"{e.message}\n{e.hint}", style="red", soft_wrap=True)
        return 2
    parts = []
    for part in fetch(configs, console):
        console.print(f"{part.what}: {part.status or 'failed'}", soft_wrap=True)
        parts.append(part)
    table = Table("what", Column("where", overflow="fold"), Column("size", justify="right"), "status")
    for part in parts:
        size = "" if part.size_bytes is None else byte_size(part.size_bytes)
        table.add_row(part.what, part.where, size, part.status or "failed", style="red" if part.error else "")
    Console().print(table)
    for part in parts:
        if part.error:
            console.print(f"{part.what}: {part.error.message}\n  {part.error.hint}", style="red", soft_wrap=True)
    return 2 if any(part.error for part in parts) else 0


def fetch(configs: list[Config], console: Console) -> Iterator[Part]:
    """Everything that runs of ``configs`` would need, each thing once; what fails does not keep the rest away."""
    hub = Hub()
    seen = set()
    for config in configs:
        model = config.model
        key = repr((model.timm_name, model.pretrained_tag, model.weights))
        if key not in seen:
            seen.add(key)
            try:
                with usable_folders(config.paths):
                    part = _weights(model, hub, Path(config.paths.cache), console)
            except InputError as e:
                part = Part(f"weights of {model.name}", error=e)
            yield part
    for config in configs:
        key = repr(config.data)
        if key not in seen:
            seen.add(key)
            try:
                with usable_folders(config.paths):
                    part = _data(config, console)
            except InputError as e:
                part = Part(f"data {config.data.name}", error=e)
            yield part


def _weights(model: ModelConfig, hub: Hub, cache: Path, console: Console) -> Part:
    what = f"weights of {model.name}"
    if model.weights == "scratch":
        return Part(what, status="scratch: nothing to fetch")
    if model.weights == "if_available":
        model = replace(model, weights="pretrained")
    told = set()
    with _bar(console) as progress:

        def tell(task: str, done: int, total: int) -> None:
            told.add(task)
            progress(task, done, total)

        plan = weights.resolve(model, hub, cache, tell)
    file = plan.weights_file
    assert file is not None
    fetched = any(task.endswith(file.name) for task in told)
    return Part(
        f"{what} ({plan.weights[:20]})", str(file), file.stat().st_size, "fetched" if fetched else "already there"
    )


def _data(config: Config, console: Console) -> Part:
    data = config.data
    status = "already there"
    own = Path(config.paths.data) / "har"
    if data.source == "har" and not (root := Path(data.root or own).expanduser()).exists():
        if root != own:
            raise InputError(
                f"data.root={data.root} does not exist.",
                f"Leave data.root out to fetch HAR into {own}, or correct it.",
            )
        status = _fetch_har(own)
    with _bar(console) as progress:
        told = []

        def tell(task: str, done: int, total: int) -> None:
            told.append(task)
            progress(task, done, total)

        listing = list_items(data, config.paths, tell)
    if data.source in ("hub", "sample") and told:
        status = "fetched" if data.source == "hub" else "drawn"
    if data.source == "har" and (differences := har_differences(listing)):
        raise InputError(
            f"{listing.root} is not the whole HAR dataset: {'; '.join(differences)}.",
            "Delete it and give the same command again; if it is meant so, train on it with data=folder or data=csv.",
        )
    if (broken := listing.broken()) and data.on_error == "fail":
        lines = problems([f"{path}: {why}" for path, why in broken], "broken image", "broken images")
        raise InputError(f"{listing.root}: {lines}", "Repair or remove them, or set data.on_error=skip.")
    files = [listing.root / item.path for item in listing.items]
    size = sum(file.stat().st_size for file in files if file.is_file())
    what = f"data {data.name}: {len(listing.items):,} images, {len(listing.classes)} classes"
    return Part(what, str(listing.root), size, status)


def _fetch_har(target: Path) -> str:
    """Download the Kaggle dataset into kagglehub's cache, which resumes, and link ``target`` to it: no second copy."""
    import requests
    from kagglesdk.kaggle_env import get_endpoint, get_env  # type: ignore[import-untyped]

    credentials = (
        "Get a token at https://www.kaggle.com/settings and put it into ~/.kaggle/access_token or KAGGLE_API_TOKEN; "
        "or download the archive in a browser and unpack it to " + str(target) + "."
    )
    try:
        # kagglehub itself waits for a dead network without a limit.
        requests.head(get_endpoint(get_env()), timeout=5)
        import kagglehub

        folder = Path(kagglehub.dataset_download(KAGGLE_DATASET))
    except requests.HTTPError as e:
        status = e.response.status_code if e.response is not None else 0
        if status in (401, 403):
            raise InputError(
                f"Kaggle refuses {KAGGLE_DATASET}: status {status}, not logged in or no permission.", credentials
            ) from e
        raise InputError(
            f"Kaggle answers status {status} for {KAGGLE_DATASET}.", "Try again later. " + credentials
        ) from e
    except requests.RequestException as e:
        raise InputError(
            f"The download of {KAGGLE_DATASET} from Kaggle failed: {first_line(e)}.",
            "Give the same command again to go on from there, on a machine with network.",
        ) from e
    except Exception as e:  # kagglehub's own, of credentials, checksums and archives, share no base
        raise InputError(f"{KAGGLE_DATASET} cannot be had from Kaggle: {first_line(e)}.", credentials) from e
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # a link whose cache was deleted
    target.symlink_to(folder.resolve(), target_is_directory=True)
    return "fetched"


@contextmanager
def _bar(console: Console) -> Iterator[events.Progress]:
    """A progress bar for each thing that is told of, on a terminal; silent in a log file."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, int] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=None)
            bars.update(tasks[what], completed=done, total=total)  # type: ignore[arg-type]

        yield tell


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
