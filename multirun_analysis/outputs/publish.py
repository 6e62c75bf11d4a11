"""An analysis as a report in Weights & Biases, beside the runs: what a team reviews."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import msgspec
import numpy as np

from har_sweep.errors import InputError
from har_sweep.files import atomic, short_hash
from har_sweep.record.record import EPOCH_KEYS
from multirun_analysis.findings import Analysis, Block
from multirun_analysis.outputs.pictures import Pictures, disputed_pictures, log_pictures
from multirun_analysis.quantities import Quantity
from multirun_analysis.sources.wandb_client import Client, parse_address
from multirun_analysis.tables.table import Table
from multirun_analysis.tables.tables import tables

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr

MOST_RUNS = 1000  # that a set of runs names one by one
MOST_ROWS = 200  # of a table
HALF = 12  # of a grid's 24 columns


@dataclass
class _Published:
    """What is remembered of a report, to publish it again in its place."""

    url: str


def publish_for(analysis: Analysis, sources: Sequence[str], project: str | None, cache: Path) -> str:
    """Publish in ``project`` (``[ENTITY/]PROJECT``), or where the first source in W&B is. Returns the address.

    Raises
    ------
    InputError
        as ``publish``, and if it is not told where.
    """
    address = next((source for source in sources if source.startswith("wandb:")), None)
    if project is not None:
        where = parse_address(f"wandb://{project}")
    elif address is not None:
        where = parse_address(address)
    else:
        raise InputError("It is not told where the report belongs.", "Add --project ENTITY/PROJECT.")
    return publish(analysis, where.project, where.entity, cache)


def publish(analysis: Analysis, project: str, entity: str | None, cache: Path, title: str = "") -> str:
    """Publish the analysis as a report of ``project``, in the place of the one of the same title that was published
    from this ``cache`` before, with what was discussed there. Returns its address.

    Raises
    ------
    InputError
        if the server cannot be reached, or does not let one write there.
    """
    client = Client()
    try:
        entity, project = client.where(entity, project)
        title = (title or "Accuracy against cost: " + ", ".join(b.name or "runs" for b in analysis.blocks))[:128]
        memory = cache / "wandb" / f"report-{short_hash([client.url, entity, project, title])}.json"
        return _publish(client, analysis, project, entity, title, memory)
    finally:
        client.close()


def _publish(client: Client, analysis: Analysis, project: str, entity: str, title: str, memory: Path) -> str:
    import wandb_workspaces.reports.v2 as wr

    with client.explained(f"{entity}/{project}"):
        report = _earlier(memory)
    if report is None:
        report = wr.Report(project=project, entity=entity)  # type: ignore[call-arg]  # its id comes later
    report.title = title
    report.description = f"Made by multirun_analysis, {analysis.created_at[:10]}: {analysis.command}"
    report.width = "fluid"
    pictures = disputed_pictures(analysis.blocks)
    if pictures:
        log_pictures(client, pictures, entity, project, _pictures_run(title))
    report.blocks = _blocks(client, analysis, project, entity)
    if pictures:
        report.blocks += _gallery(pictures, project, entity, _pictures_run(title))
    with client.explained(f"{entity}/{project}"):
        report.save()
        home = report.url.partition("/reports/")[0]
    url = f"{home}/reports/{_slug(title)}--{report.id.rstrip('=')}"
    with atomic(memory) as file:
        file.write(msgspec.json.encode(_Published(url)))
    return url


def _pictures_run(title: str) -> str:
    """The id of the run that logs a report's pictures."""
    return f"pictures-{hashlib.sha256(title.encode()).hexdigest()[:10]}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")


def _earlier(memory: Path) -> wr.Report | None:
    """The report that was published before, if there still is one."""
    import wandb_workspaces.reports.v2 as wr

    try:
        url = msgspec.json.decode(memory.read_bytes(), type=_Published).url
    except (OSError, msgspec.MsgspecError):
        return None
    try:
        return wr.Report.from_url(url)
    except TypeError:  # the server has nothing of that id: it was deleted
        return None


def _blocks(client: Client, analysis: Analysis, project: str, entity: str) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [wr.TableOfContents()]
    for block in analysis.blocks:
        blocks.append(wr.H1(text=block.name or "Findings"))
        said = [*filter(None, [block.headline]), *block.sentences]
        said += block.recommendation.sentences if block.recommendation else ()
        blocks.append(_list(said or ["Nothing can be said yet."]))
        runsets = _runsets(client, analysis, block, project, entity)
        if runsets:
            blocks.append(wr.PanelGrid(runsets=runsets, panels=_panels(analysis.chosen_costs, block)))
        else:
            blocks.append(wr.P(f"None of these runs is in {entity}/{project}: there are no plots of them here."))
        if block.notes:
            blocks += [wr.H2(text="To be minded"), _list(block.notes)]
    blocks.append(wr.H1(text="Tables"))
    for table in tables(analysis):
        blocks += [wr.H2(text=table.title), wr.MarkdownBlock(text=_first_rows(table).markdown())]
    if analysis.notes:
        blocks += [wr.H1(text="About the data"), _list(analysis.notes)]
    blocks.append(wr.P(text=["Sources: ", ", ".join(analysis.sources)]))
    return blocks


def _list(texts: Sequence[str]) -> Any:
    import wandb_workspaces.reports.v2 as wr

    return wr.UnorderedList(items=[" ".join(text.split()) for text in texts])


def _first_rows(table: Table) -> Table:
    """A table as long as one reads in a report."""
    if len(table.rows) <= MOST_ROWS:
        return table
    note = f"The first {MOST_ROWS} of {len(table.rows)} rows. {table.note}".strip()
    return replace(table, rows=table.rows[:MOST_ROWS], note=note)


def _panels(costs: Sequence[Quantity], block: Block) -> list[Any]:
    """A scatter plot for each cost, and the learning curves; of trials in several settings their parallel coordinates,
    and which setting mattered."""
    import wandb_workspaces.reports.v2 as wr

    def place(number: int) -> wr.Layout:
        return wr.Layout(x=HALF * (number % 2), y=8 * (number // 2), w=HALF, h=8)

    panels: list[Any] = [
        wr.ScatterPlot(
            title=f"{block.accuracy.label} against {cost.label}",
            x=wr.SummaryMetric(cost.column),
            y=wr.SummaryMetric(block.accuracy.column),
            log_x=_spans_decades(block, cost),
            # The best so far from the left: the Pareto front, where less of a cost and more accuracy are better.
            running_ymax=(cost.goal, block.accuracy.goal) == ("min", "max") or None,
            layout=place(number),
        )
        for number, cost in enumerate(costs)
    ]
    panels += [
        wr.LinePlot(title=f"{title} by epoch", x="epoch", y=[column], title_x="epoch", layout=place(number))
        for number, (column, title) in enumerate(
            ((EPOCH_KEYS["val_accuracy"], "val accuracy"), (EPOCH_KEYS["train_loss"], "training loss")), len(panels)
        )
    ]
    if block.varied:  # config/optimizer/lr is W&B's optimizer.lr
        settings = [column.removeprefix("config/").replace("/", ".") for column in block.varied]
        axes: list[Any] = [*map(wr.Config, settings), wr.SummaryMetric(block.selecting.column)]
        columns = [wr.ParallelCoordinatesPlotColumn(metric=axis) for axis in axes]
        panels.append(wr.ParallelCoordinatesPlot(columns=columns, title="Trials", layout=place(len(panels))))
        panels.append(wr.ParameterImportancePlot(block.selecting.column, layout=place(len(panels))))
    return panels


def _gallery(pictures: Pictures, project: str, entity: str, run_id: str) -> list[Any]:
    """A panel of pictures for each pair of candidates."""
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    filters = expr.And(expr.Metric("ID").isin([run_id]))
    runset = wr.Runset(entity=entity, project=project, name="Pictures", filters=filters)
    panels: list[Any] = [
        wr.MediaBrowser(title=title, media_keys=[key], num_columns=8, layout=wr.Layout(x=0, y=10 * number, w=24, h=10))
        for number, (key, (title, _)) in enumerate(pictures.items())
    ]
    return [wr.H1(text="Disputed images"), wr.PanelGrid(runsets=[runset], panels=panels)]


def _spans_decades(block: Block, cost: Quantity) -> bool:
    """Whether the cost needs a logarithmic scale, and can have one."""
    values = block.means[cost.column].to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    return bool(len(values)) and values.min() > 0 and values.max() >= 10 * values.min()


def _runsets(client: Client, analysis: Analysis, block: Block, project: str, entity: str) -> list[wr.Runset]:
    """The block's runs in W&B, for each project that has any of them."""
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    rows = {row for c in block.candidates for row in (*c.rows, *c.unfinished, *(r for t in c.trials for r in t.rows))}
    of_project: dict[tuple[str, str], list[str]] = {}
    for row in sorted(rows):
        info = analysis.info[row]
        if info.url:  # https://SERVER/ENTITY/PROJECT/runs/ID
            owner, name, _, run_id = map(unquote, urlsplit(info.url).path.split("/")[-4:])
        else:
            owner, name, run_id = entity, project, info.run_id
        of_project.setdefault((owner, name), []).append(run_id)
    runsets = []
    for (owner, name), ids in of_project.items():
        if not _known(client, f"{owner}/{name}", ids):
            continue
        # Too many to name, or names that its filters do not read: then all of the project.
        named = len(ids) <= MOST_RUNS and all(re.fullmatch(r"[\w.-]+", run_id) for run_id in ids)
        filters = expr.And(expr.Metric("ID").isin(ids)) if named else ""
        runsets.append(
            wr.Runset(entity=owner, project=name, name=block.name[:60] or "Runs", filters=filters,
                      groupby=["config.model.name"])
        )  # fmt: skip
    return runsets


def _known(client: Client, place: str, ids: list[str]) -> bool:
    """Whether W&B has any of these runs."""
    with client.explained(place):
        try:
            return len(client.api().runs(place, filters={"name": {"$in": ids[:MOST_RUNS]}}, per_page=1)) > 0
        except ValueError:  # no such project
            return False
