"""The page in a real browser, from the file system, with the network off."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import analyses
import numpy as np
import pandas as pd
import pytest
from made_runs import ask
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, expect, sync_playwright
from test_tuning import study

from multirun_analysis.findings import Analysis, Errors, Mark
from multirun_analysis.quantities import COSTS, METRICS, Kind, Quantity
from multirun_analysis.report import page as report
from multirun_analysis.tables.columns import Cell
from multirun_analysis.tables.table import Table
from multirun_analysis.tables.tables import tables

MODELS = Table(
    "table1",
    "Table 1: accuracy",
    ["model", "accuracy (%)", "time (s)"],
    [
        [Cell("ten", "ten"), Cell(60.5, "60.50"), Cell(1000.0, "1000")],
        [Cell("nine", "nine"), Cell(9.25, "9.25"), Cell(None, "-")],
        [Cell("best", "best"), Cell(77.0, "77.00", best=True), Cell(99.0, "99", mark="waited for <data>")],
    ],
    "Invented.",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "google-chrome", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if not program:
        missing = "No Chromium or Chrome to open the page in: tests/browser.sh installs one on Debian."
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


Open = Callable[..., Page]


@pytest.fixture(scope="module")
def complaints() -> list[str]:
    """What pages said on the console, threw, popped up, or asked the network for."""
    return []


@pytest.fixture(scope="module")
def contexts() -> list[BrowserContext]:
    """What a test has opened for itself."""
    return []


@pytest.fixture(autouse=True)
def _nothing_complains(complaints: list[str], contexts: list[BrowserContext]) -> Iterator[None]:
    complaints.clear()
    yield
    while contexts:
        contexts.pop().close()
    assert complaints == []


@pytest.fixture(scope="module")
def open_page(
    browser: Browser, complaints: list[str], contexts: list[BrowserContext], tmp_path_factory: pytest.TempPathFactory
) -> Open:
    """Opens an analysis's page, with the network off."""

    def refuse(dialog: Dialog) -> None:
        complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open_page(
        analysis: Analysis, tables: tuple[Table, ...] = (MODELS,), fragment: str = "", **options: Any
    ) -> Page:
        file = tmp_path_factory.mktemp("report") / "index.html"
        file.write_text(report.page(analysis, list(tables)), encoding="utf-8")
        context = browser.new_context(**{"offline": True, "viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.route("http*://**", lambda route: route.abort())
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else complaints.append(r.url))
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.on("dialog", refuse)
        page.goto(file.as_uri() + fragment)
        page.wait_for_selector("html[data-ready]", state="attached")
        drawn(page)
        return page

    return open_page


@pytest.fixture(scope="module")
def shared(open_page: Open, contexts: list[BrowserContext]) -> Page:
    """The page of the small analysis, opened once."""
    page = open_page(analyses.small())
    contexts.clear()
    return page


@pytest.fixture
def page(shared: Page) -> Page:
    """The page of the small analysis, as it is when it opens."""
    shared.emulate_media(media="screen", color_scheme="light")
    shared.mouse.move(0, 0)
    shared.fill("#search", "")
    shared.evaluate("() => { location.hash = '#log=0&again=' + Math.random(); }")
    shared.keyboard.press("Escape")
    drawn(shared)
    return shared


def drawn(page: Page) -> None:
    """Wait until the plot, if there is one, stands with its labels."""
    page.wait_for_function("""() => {
        const plot = document.getElementById("pareto-plot");
        return document.getElementById("pareto").hidden || (plot.data && plot.querySelector(".xtick, .plot"));
    }""")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")


def choose(page: Page, metric: str | None = None, cost: str | None = None) -> None:
    if metric:
        page.select_option("#metric", metric)
    if cost:
        page.select_option("#cost", cost)
    drawn(page)


def trace(page: Page, name: str) -> dict[str, Any]:
    """A trace of the plot as it is drawn."""
    found = page.evaluate(
        """(name) => {
        const t = document.getElementById("pareto-plot").data.find((t) => t.name === name);
        const custom = t && (t.customdata || []).map((c) => [...c]);
        return t && {x: [...t.x], y: [...t.y], custom, symbols: t.marker && t.marker.symbol};
    }""",
        name,
    )
    assert found, f"no trace {name}"
    return dict(found)


def members(page: Page) -> set[int]:
    return {custom[1] for custom in trace(page, "on")["custom"]}


def labels(page: Page) -> list[str]:
    return page.locator("#pareto-plot .annotation-text").all_text_contents()


def hover(page: Page, candidate: int, of: str = "on") -> str:
    """Put the pointer on a candidate's point; returns what the box then says."""
    page.locator("#pareto-plot").scroll_into_view_if_needed()
    at = page.evaluate(
        """([name, candidate]) => {
        const plot = document.getElementById("pareto-plot");
        const t = plot.data.find((t) => t.name === name);
        const i = t.customdata.findIndex((c) => c[1] === candidate);
        const {xaxis, yaxis} = plot._fullLayout;
        const box = plot.getBoundingClientRect();
        return [box.left + xaxis._offset + xaxis.d2p(t.x[i]), box.top + yaxis._offset + yaxis.d2p(t.y[i])];
    }""",
        [of, candidate],
    )
    page.mouse.move(2, at[1])
    page.wait_for_selector("#tip", state="hidden")
    page.mouse.move(at[0], at[1])
    page.wait_for_selector("#tip")
    return page.locator("#tip").inner_text()


def column(page: Page, number: int, host: str = "#tables-body") -> list[str]:
    """A column's texts from top to bottom, without daggers."""
    return [text.rstrip("†") for text in page.locator(f"{host} tbody tr > :nth-child({number})").all_text_contents()]


def brute_force(metric: np.ndarray, cost: np.ndarray, goals: tuple[str, str]) -> set[int]:
    """The front by its definition."""
    a, b = (-v if goal == "max" else v for v, goal in zip((metric, cost), goals, strict=True))
    known = [i for i in range(len(a)) if not np.isnan(a[i] + b[i])]
    return {i for i in known if not any(a[j] <= a[i] and b[j] <= b[i] and (a[j] < a[i] or b[j] < b[i]) for j in known)}


def test_opens_from_a_file_without_network_and_says_what_was_found(page: Page) -> None:
    analysis = analyses.small()
    text = page.locator("main").inner_text()
    block = analysis.blocks[0]
    assert block.recommendation
    for sentence in (block.headline, *block.sentences, *block.recommendation.sentences, *block.notes, *analysis.notes):
        assert sentence in text
    assert analysis.command in page.locator("header").inner_text()
    assert [
        page.locator(f"#{name}").is_visible()
        for name in ("pareto", "compare", "confusion", "curves", "scaling", "runs")
    ] == [True] * 6
    levels = [
        int(tag[1]) for tag in page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((h) => h.tagName)")
    ]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.evaluate("[...document.querySelectorAll('select, input')].filter((e) => !e.labels.length).length") == 0


def test_the_front_on_the_page_is_the_analysis_front_for_every_cost(page: Page) -> None:
    analysis = analyses.small()
    for cost in analysis.chosen_costs:
        choose(page, cost=cost.column)
        assert members(page) == set(np.flatnonzero(analysis.blocks[0].fronts[cost.column].on).tolist())


def test_the_front_on_the_page_is_exact_for_random_tables_with_ties_and_gaps(open_page: Open) -> None:
    metrics = [METRICS["metrics/test/accuracy"], METRICS["metrics/test/nll"]]
    costs = [COSTS["cost/parameters"], COSTS["cost/inference/images_per_second"]]
    blocks = []
    for seed in range(3):
        random = np.random.default_rng(seed)
        table = pd.DataFrame({q.column: random.integers(1, 9, 40) / 8 for q in (*metrics, *costs)})
        analysis = analyses.from_table(table.mask(random.random((40, 4)) < 0.1), metrics, costs)
        blocks.append(replace(analysis.blocks[0], name=f"table {seed}"))
    page = open_page(replace(analysis, blocks=blocks))
    for number, block in enumerate(blocks):
        page.select_option("#block", str(number))
        for metric in metrics:
            for cost in costs:
                choose(page, metric.column, cost.column)
                ys, xs = block.means[metric.column].to_numpy(float), block.means[cost.column].to_numpy(float)
                assert members(page) == brute_force(ys, xs, (metric.goal, cost.goal))
                assert line_is_attained(trace(page, "front"), ys * metric.scale, xs * cost.scale, metric, cost)


def line_is_attained(line: dict[str, Any], ys: np.ndarray, xs: np.ndarray, metric: Quantity, cost: Quantity) -> bool:
    """Whether the line is one of steps, and no corner is better than all candidates: then it would promise too much."""
    up, down = (1 if metric.goal == "max" else -1), (1 if cost.goal == "min" else -1)
    corners = list(zip(line["x"], line["y"], strict=True))
    if any(a[0] != b[0] and a[1] != b[1] for a, b in pairwise(corners)):
        return False
    return all(((up * (ys - y) >= -1e-9) & (down * (x - xs) >= -1e-9)).any() for x, y in corners)


def test_choosing_another_cost_moves_points_and_front_and_keeps_the_labels(page: Page) -> None:
    before, names = trace(page, "front"), set(labels(page))
    assert names == {model[0] for model in analyses.MODELS}
    choose(page, cost=analyses.MACS)
    after = trace(page, "front")
    assert after["x"] != before["x"]
    assert max(after["x"]) == pytest.approx(17.6)
    assert [text for text in page.locator("#pareto-plot .xtick").all_text_contents() if text.endswith(" G")]
    assert set(labels(page)) == names
    choose(page, metric="metrics/test/nll")
    assert members(page) == brute_force_of("metrics/test/nll", analyses.MACS)
    assert "negative log likelihood" in page.locator("#pareto-plot .ytitle").text_content()  # type: ignore[operator]


def brute_force_of(metric: str, cost: str) -> set[int]:
    means = analyses.small().blocks[0].means
    return brute_force(means[metric].to_numpy(), means[cost].to_numpy(), (METRICS[metric].goal, COSTS[cost].goal))


def test_labels_of_the_front_neither_cover_each_other_nor_leave_the_plot(shared: Page, open_page: Open) -> None:
    for page in (shared, open_page(analyses.many(2000))):
        boxes = page.evaluate("""() => [...document.querySelectorAll("#pareto-plot .annotation-text")].map((e) => {
            const {left, right, top, bottom} = e.getBoundingClientRect();
            return [left, top, right, bottom];
        })""")
        assert len(boxes) >= 5
        for i, a in enumerate(boxes):
            for b in boxes[i + 1 :]:
                assert min(a[2], b[2]) - max(a[0], b[0]) < 1 or min(a[3], b[3]) - max(a[1], b[1]) < 1
        frame = page.locator("#pareto-plot").bounding_box()
        assert frame
        assert all(a[0] >= frame["x"] and a[2] <= frame["x"] + frame["width"] for a in boxes)


def test_a_logarithmic_axis_is_the_default_for_costs_that_span_a_decade_and_can_be_switched(page: Page) -> None:
    kind = "document.getElementById('pareto-plot')._fullLayout.xaxis.type"
    assert page.evaluate(kind) == "linear"  # training time: 103 to 825 s
    choose(page, cost=analyses.MACS)
    assert page.evaluate(kind) == "log"
    assert page.locator("#log-cost").is_checked()
    assert "1 G" in page.locator("#pareto-plot .xtick").all_text_contents()
    page.uncheck("#log-cost")
    drawn(page)
    assert page.evaluate(kind) == "linear"
    assert len(labels(page)) == 7


def test_pointing_at_a_candidate_tells_all_of_it(page: Page) -> None:
    analysis = analyses.small()
    text = hover(page, 0)
    best, means = analysis.blocks[0].candidates[0], analysis.blocks[0].means
    for expected in (
        "vit_base", analyses.ACCURACY.text(means[analyses.ACCURACY.column][0]), "95 % over images and 3 runs",
        COSTS[analyses.MACS].text(means[analyses.MACS][0]), "seed 0, 1, 2", "trials",
        analysis.info[best.rows[0]].run_id, analysis.info[best.rows[0]].source, "on it in 90 % of samples",
    ):  # fmt: skip
        assert expected in text
    assert "waited for data 31 %" in hover(page, 6)
    assert "1 unfinished" in hover(page, 1)
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_clicking_a_candidate_opens_its_run(page: Page) -> None:
    page.evaluate("window.open = (...given) => { window.opened = given; }")
    hover(page, 0)
    page.mouse.down()
    page.mouse.up()
    page.wait_for_function("() => window.opened")
    assert page.evaluate("() => window.opened[0]") == "https://wandb.example/team/har/runs/vitbase-0000000000"
    link = page.locator("#runs-table a").first
    assert link.get_attribute("href") == "https://wandb.example/team/har/runs/vitbase-0000000000"
    assert "noopener" in (link.get_attribute("rel") or "")


def test_what_cannot_be_compared_is_hollow_where_it_is_spoilt_and_only_there(page: Page) -> None:

    def hollow() -> set[int]:
        return {
            custom[1]
            for name in ("on", "off")
            for custom, symbol in zip(trace(page, name)["custom"], trace(page, name)["symbols"], strict=True)
            if symbol.endswith("-open")
        }

    assert hollow() == {6}
    choose(page, cost=analyses.MACS)
    assert hollow() == set()


def test_what_is_unfinished_is_shown_and_is_on_no_front(open_page: Open) -> None:
    analysis = analyses.small()
    (block,) = analysis.blocks
    best = block.candidates[0]
    still = replace(best, rows=(), unfinished=best.rows, marks=(Mark("unfinished: 3 running"),))
    page = open_page(replace(analysis, blocks=[replace(block, candidates=[still, *block.candidates[1:]])]))
    assert 0 not in members(page)
    assert "unfinished: 3 running" in hover(page, 0, of="off")


def test_what_a_busy_machine_cost_is_shown_and_is_on_no_front_of_that_cost(open_page: Open) -> None:
    analysis = analyses.small()
    (block,) = analysis.blocks
    cost, other = analysis.chosen_costs[:2]
    busy = Mark("measured on a busy machine", frozenset([cost.column]), sets_aside=True)
    candidates = [replace(block.candidates[0], marks=(busy,)), *block.candidates[1:]]
    page = open_page(replace(analysis, blocks=[replace(block, candidates=candidates, aside={cost.column: [0]})]))
    choose(page, cost=cost.column)
    assert 0 not in members(page)
    assert "measured on a busy machine" in hover(page, 0, of="off")
    choose(page, cost=other.column)
    assert 0 in members(page)


def test_single_runs_and_all_trials_can_be_drawn(page: Page) -> None:
    analysis = analyses.small()
    page.check("#show-runs")
    page.check("#show-trials")
    drawn(page)
    assert {c[1] for c in trace(page, "runs")["custom"]} == {r for c in analysis.blocks[0].candidates for r in c.rows}
    others = {r for c in analysis.blocks[0].candidates for t in c.trials if not t.chosen for r in t.rows}
    assert {c[1] for c in trace(page, "trials")["custom"]} == others
    assert len(others) == 2


def test_each_dataset_has_its_own_findings_tables_and_front_and_the_address_keeps_the_choice(open_page: Open) -> None:
    analysis = analyses.several()
    tables = tuple(replace(MODELS, block=i, title=f"Table 1 of block {i}") for i in (1, 2))
    page = open_page(analysis, tables)
    assert "Table 1 of block 1" in page.inner_text("#tables")
    assert "Table 1 of block 2" not in page.inner_text("#tables")
    page.select_option("#block", "1")
    drawn(page)
    assert "Table 1 of block 2" in page.inner_text("#tables")
    assert analysis.blocks[1].sentences[0] in page.inner_text("#findings")
    assert members(page) == set(np.flatnonzero(analysis.blocks[1].fronts[analyses.SECONDS].on).tolist())

    choose(page, "metrics/test/nll", analyses.PARAMETERS)
    page.check("#show-runs")
    fragment = page.evaluate("() => location.hash")
    again = open_page(analysis, fragment=fragment)
    chosen = [again.input_value(f"#{name}") for name in ("block", "metric", "cost")]
    assert chosen == ["1", "metrics/test/nll", analyses.PARAMETERS]
    assert again.is_checked("#show-runs")
    assert members(again) == members(page)
    again.click('nav a[href="#reading"]')
    assert again.evaluate("() => location.hash") == fragment


def test_tables_sort_by_click_and_by_key_with_numbers_as_numbers_and_gaps_last(page: Page) -> None:
    head = page.locator("#tables-body thead th")
    assert column(page, 1) == ["ten", "nine", "best"]
    head.nth(1).locator("button").click()
    assert column(page, 2) == ["9.25", "60.50", "77.00"]
    assert head.nth(1).get_attribute("aria-sort") == "ascending"
    head.nth(2).locator("button").focus()
    page.keyboard.press("Enter")
    assert column(page, 3) == ["99", "1000", "-"]
    page.keyboard.press("Enter")
    assert column(page, 3) == ["1000", "99", "-"]
    assert [h.get_attribute("aria-sort") for h in head.all()] == ["none", "none", "descending"]
    head.nth(0).locator("button").click()
    assert column(page, 1) == ["best", "nine", "ten"]
    assert page.locator("#tables-body strong").all_text_contents() == ["77.00"]
    assert page.locator("#tables-body sup").get_attribute("title") == "waited for <data>"
    assert "† waited for <data>" in page.inner_text("#tables-body")


def test_a_cause_is_said_once_below_a_table_and_what_is_each_one_s_own_in_its_tip(open_page: Open) -> None:
    waits = ["waited for data: in 12 % of training", "waited for data: in 31 % of training"]
    rows = [[Cell(name, name), Cell(1.0, "1", mark=mark)] for name, mark in zip("ab", waits, strict=True)]
    page = open_page(analyses.small(), (Table("table2", "Costs", ["model", "time (s)"], rows),))
    marks = page.locator("#tables-body sup")
    assert [mark.get_attribute("title") for mark in marks.all()] == waits
    assert marks.all_text_contents() == ["†", "†"]
    assert page.locator("#tables-body .reasons li").all_text_contents() == ["† waited for data"]


def test_two_models_can_be_compared_either_way_round(page: Page) -> None:
    analysis = analyses.small()
    page.select_option("#first", "5")
    page.select_option("#second", "0")
    pair = next(c for c in analysis.blocks[0].comparisons if (c.first, c.second) == (0, 5))
    text = page.inner_text("#compare-body")
    assert f"−{100 * pair.difference:.1f} points" in text
    assert "vit_base is better" in text
    assert pair.oracle
    assert f"{100 * pair.oracle:.1f} %" in text
    assert f"only resnet34 {pair.only_second}" in text
    assert page.locator("#compare-body .recall tbody tr").count() == len(analyses.CLASSES)
    page.select_option("#second", "5")
    assert "Choose two different models" in page.inner_text("#compare-body")
    page.select_option("#first", "0")
    page.select_option("#second", "1")
    assert page.locator("#compare-body img").count() == 6
    assert page.evaluate("[...document.querySelectorAll('#compare-body img')].every((i) => i.naturalWidth > 0)")
    assert page.locator("#compare-body .wrong").count() == 7


def test_the_confusion_matrix_has_the_counts(page: Page) -> None:
    analysis = analyses.small()
    page.select_option("#confusion-model", "2")
    errors = analysis.blocks[0].errors
    assert errors
    row = errors.confusion[2][3]
    cell = page.locator("#confusion-body tbody tr").nth(3).locator("td").nth(3)
    assert cell.text_content() == str(round(100 * row[3] / row.sum()))
    cell.hover()
    assert (
        page.inner_text(".readout") == f"dancing → dancing: {row[3]} of {row.sum()} ({100 * row[3] / row.sum():.1f} %)"
    )


def test_of_many_classes_only_the_top_confusions_are_shown_and_that_is_said(open_page: Open) -> None:
    analysis = analyses.small()
    block, many = analysis.blocks[0], [f"class {i}" for i in range(100)]
    random = np.random.default_rng(0)
    matrices = {i: random.integers(0, 4, (100, 100)) + np.diag([50] * 100) for i in (0, 1)}
    page = open_page(replace(analysis, blocks=[replace(block, errors=Errors(many, matrices, {}))]))
    assert page.locator(".matrix").count() == 0
    assert "A matrix of 100 classes cannot be read" in page.inner_text("#confusion-body")
    assert page.locator("#confusion-body li").count() == 20
    assert page.locator("#compare-body .recall tbody tr").count() == 40


def test_runs_can_be_searched(page: Page) -> None:
    page.fill("#search", "resnet18 2")
    page.wait_for_function("() => document.getElementById('found').textContent === '1 run'")
    assert column(page, 2, "#runs-table") == ["resnet18"]


def test_names_that_try_to_be_markup_stay_text_everywhere(open_page: Open) -> None:
    analysis = analyses.hostile()
    hostile = Table(
        "table1", analyses.HOSTILE[0], ["model", analyses.HOSTILE[1]],
        [[Cell(text, text), Cell(1.0, "1", mark=text)] for text in analyses.HOSTILE], analyses.HOSTILE[0],
    )  # fmt: skip
    page = open_page(analysis, (hostile,))
    for width in (1200, 360):
        page.set_viewport_size({"width": width, "height": 900})
        page.uncheck("#show-runs")
        drawn(page)
        for candidate in members(page):
            label = " ".join(analysis.blocks[0].labels[candidate].split())
            assert label[:100] in " ".join(hover(page, candidate).split())
        page.check("#show-runs")
        page.check("#show-trials")
        drawn(page)
        page.keyboard.press("Escape")
        assert page.locator("script").count() == 3
        assert page.locator("main script, main b b, [onerror], img[src=x], main i:not([class])").count() == 0
        assert page.locator("a[href^='javascript:']").count() == 0
        # Whole where there is room, without their middle in the plot, never taken for markup.
        assert column(page, 1)[:2] == list(analyses.HOSTILE[:2])
        names = [" ".join(text.split()) for text in analyses.HOSTILE]
        shortened = {name if len(name) <= 36 else f"{name[:23]}…{name[-12:]}" for name in names}
        assert len(labels(page)) >= 4
        assert set(labels(page)) <= shortened
        assert {"<script>alert(1)</script>", "<b>bold</b><br>second line …"} & set(labels(page))
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        longest = [
            t
            for t in page.locator("#tables-body th .name").evaluate_all("(e) => e.map((x) => x.title)")
            if t.startswith("long_")
        ]
        assert longest == [analyses.HOSTILE[-1]]


def test_fits_a_phone(open_page: Open) -> None:
    page = open_page(analyses.small(), viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("document.getElementById('pareto-plot').getBoundingClientRect().right") <= 360


def test_is_light_or_dark_as_the_reader_wishes_and_follows_a_change(page: Page) -> None:
    colours = """() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
        document.getElementById("pareto-plot")._fullLayout.font.color,
        document.getElementById("pareto-plot").data.find((t) => t.name === "on").marker.color[0]]"""
    light = page.evaluate(colours)
    page.emulate_media(color_scheme="dark")
    drawn(page)
    dark = page.evaluate(colours)
    assert all(a != b for a, b in zip(light, dark, strict=True))
    assert contrast(*light[:2]) > 7
    assert contrast(*dark[:2]) > 7


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    pairs = page.evaluate("""() => {
        const clear = (e) => getComputedStyle(e).backgroundColor === "rgba(0, 0, 0, 0)";
        const seen = (e) => (e.parentElement && clear(e) ? seen(e.parentElement) : e);
        const speaks = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        return [...document.querySelectorAll("header *, nav *, main *")]
            .filter((e) => !e.closest(".plot, .matrix, option, .glyph") && e.checkVisibility() && speaks(e))
            .map((e) => [getComputedStyle(seen(e)).backgroundColor, getComputedStyle(e).color, e.textContent]);
    }""")
    assert len(pairs) > 300
    assert [text for behind, front, text in pairs if contrast(behind, front) < 4.5] == []


def contrast(one: str, other: str) -> float:
    """Of two colours as a browser writes them: WCAG 2.2's ratio of relative luminances."""

    def luminance(colour: str) -> float:
        parts = np.array([float(p) for p in colour[colour.index("(") + 1 : -1].split(",")[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_prints_white_without_controls_and_with_every_section(page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    assert page.pdf(format="A4").startswith(b"%PDF")
    width = "() => document.getElementById('pareto-plot')._fullLayout.width"
    page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(width) <= 680
    page.evaluate("() => dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(width) > 900
    page.emulate_media(media="print", color_scheme="dark")
    drawn(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("nav, .controls").evaluate_all("(all) => all.every((e) => !e.checkVisibility())")
    assert page.locator("main > section").evaluate_all("(all) => all.every((e) => e.hidden || e.checkVisibility())")
    widths = page.locator(".plot svg.main-svg").evaluate_all("(all) => all.map((e) => e.getBoundingClientRect().width)")
    assert widths
    assert max(widths) <= 680  # A4 within its margins, at 96 dots an inch
    assert page.evaluate("document.getElementById('pareto-plot')._fullLayout.font.color") == "#1a1f26"
    page.emulate_media(media="screen", color_scheme="dark")
    drawn(page)
    assert page.evaluate(width) > 900


def test_of_ten_thousand_candidates_as_much_is_drawn_as_stays_responsive(open_page: Open) -> None:
    analysis = analyses.many()
    html = report.page(analysis, [])
    assert len(html) < 12e6
    page = open_page(analysis, ())
    assert "3,000 of 10,000 candidates" in page.inner_text("#findings")
    shown = len(trace(page, "on")["x"]) + len(trace(page, "off")["x"])
    assert shown == report.MOST_CANDIDATES
    for cost in analysis.costs:
        choose(page, cost=cost.column)
        assert len(members(page)) == analysis.blocks[0].fronts[cost.column].on.sum()
    assert page.locator("#runs-table tbody tr").count() == 200
    page.locator("#runs-table thead button").nth(4).click()
    assert page.locator("#runs-table tbody tr").count() == 200
    page.click("#runs-table .more button")
    assert page.locator("#runs-table tbody tr").count() == 400


def test_numbers_read_as_on_the_terminal(open_page: Open) -> None:
    values = [
        0.0,
        0.5,
        0.9996,
        1.41e-3,
        12.3456e-6,
        822.61,
        999.6,
        1e3,
        1023.9,
        343_293_600.0,
        11_184_200.0,
        17.58e9,
        3.2e12,
    ]
    kinds = {q.kind: q for q in (*METRICS.values(), *COSTS.values())}
    quantities = [*kinds.values(), Quantity("top1", "max", "top1", "percent")]
    assert {q.kind for q in quantities} == set(get_args(Kind))
    analysis = analyses.from_table(pd.DataFrame({q.column: values for q in quantities}), quantities[:1], quantities[1:])
    analysis = replace(analysis, chosen_costs=analysis.costs)
    page = open_page(analysis)
    for number, quantity in enumerate(quantities, 5):
        expected = [quantity.text(float(value)) for value in analysis.frame[quantity.column]]
        assert column(page, number, "#runs-table") == expected


@pytest.mark.parametrize(
    "make",
    [analyses.alone, analyses.equal, analyses.bare, lambda: analyses.bare(costs=True)],
    ids=["alone", "equal", "bare", "costs"],
)
def test_little_data_makes_a_page_without_what_it_lacks(open_page: Open, make: Callable[[], Analysis]) -> None:
    analysis = make()
    page = open_page(analysis)
    block = analysis.blocks[0]
    assert page.locator("#pareto").is_visible() == bool(analysis.costs)
    assert page.locator("#confusion").is_visible() == (block.errors is not None)
    assert page.locator("#compare").is_visible() == (len(block.compared) > 1)
    assert page.locator("#curves").is_visible() == bool(block.epochs)
    assert page.locator("#runs").is_visible()
    assert page.locator("nav a:visible").count() == page.locator("main > section:visible").count()
    for cost in analysis.costs:
        if cost.column in block.fronts:
            choose(page, cost=cost.column)
            assert members(page) == set(np.flatnonzero(block.fronts[cost.column].on).tolist())


def test_nothing_at_all_still_makes_a_page(open_page: Open) -> None:
    analysis = analyses.bare()
    none, pairs, of = np.zeros(0), np.zeros((0, 2)), analysis.blocks[0].means.iloc[:0]
    block = replace(
        analysis.blocks[0],
        candidates=[],
        means=of,
        deviations=of,
        images=none,
        interval=pairs,
    )
    page = open_page(
        replace(analysis, frame=analysis.frame.iloc[:0], info=[], blocks=[block], notes=["No run has finished."]), ()
    )
    assert "No run has finished." in page.inner_text("main")


def test_tuning_is_drawn_as_steps_over_its_cost_where_something_was_tuned(
    open_page: Open, page: Page, tmp_path: Path
) -> None:
    study(tmp_path, "small", 0.5, [0.70, 0.60, 0.72])
    study(tmp_path, "<i>large", 1.0, [0.65, 0.75, 0.80])
    analysis = ask(tmp_path)
    assert not page.locator("#tuning-curves").is_visible()
    tuned = open_page(analysis, tuple(tables(analysis)))
    assert "Best so far against the cost of tuning" in tuned.inner_text("#tuning")
    traces = tuned.evaluate(
        "() => document.getElementById('tuning-plot').data.map((t) => [t.line.shape, [...t.x], [...t.y]])"
    )
    assert traces == [["hv", [1, 2, 3], [65, 75, 80]], ["hv", [0.5, 1, 1.5], [70, 70, 72]]]
    assert tuned.locator("#tuning-legend li").all_inner_texts() == ["●<i>large", "■small"]
    found = tuned.evaluate("() => document.getElementById('settings-plot').data.map((t) => [...t.y])")
    (block,) = analysis.blocks
    trials = [trial for candidate in block.candidates for trial in candidate.trials if np.isfinite(trial.selection)]
    assert len(found) == len(trials)
    assert {len(line) for line in found} == {len(block.varied) + 1}
    assert found[-1][-1] == 1  # the best is drawn last
    names = tuned.evaluate("() => document.getElementById('settings-plot').layout.xaxis.ticktext")
    assert names == ["optimizer.lr", "val accuracy (%)"]


def test_each_table_can_be_downloaded_as_it_is_sorted_and_filtered(page: Page) -> None:
    with page.expect_download() as started:
        page.locator("#tables .download button").first.click()
    rows = list(csv.reader(Path(started.value.path()).read_text().splitlines()))
    assert started.value.suggested_filename.endswith(".csv")
    shown = page.locator("#tables table").first
    assert rows[0] == shown.locator("thead th").all_inner_texts()
    assert [row[0] for row in rows[1:]] == shown.locator("tbody th").all_inner_texts()
    page.fill("#search", "vit_tiny")
    expect(page.locator("#found")).not_to_be_empty()
    with page.expect_download() as started:
        page.locator("#runs .download button").click()
    rows = list(csv.reader(Path(started.value.path()).read_text().splitlines()))
    assert rows[1:]
    assert all("vit_tiny" in ",".join(row) for row in rows[1:])


def test_a_downloaded_table_runs_nothing_in_a_spreadsheet(open_page: Open) -> None:
    page = open_page(
        analyses.hostile(), (replace(MODELS, rows=[[Cell(t, t) for t in ("=1+1", "-5", "+SUM(A1)", "a,b")]]),)
    )
    with page.expect_download() as started:
        page.locator("#tables .download button").first.click()
    text = Path(started.value.path()).read_text()
    assert "'=1+1,-5,'+SUM(A1)" in text
    assert "\n=" not in text
