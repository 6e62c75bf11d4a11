"""Figures fit for a paper: whole files that say the truth, whatever names they are given, in colour and in grey."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import analyses
import numpy as np
import pandas as pd
import pytest
from made_runs import quiet
from matplotlib import style
from matplotlib.colors import to_rgb
from matplotlib.text import Annotation, Text
from PIL import Image

from multirun_analysis.figures.figures import figures, plan_figures
from multirun_analysis.figures.labels import Label
from multirun_analysis.figures.pareto import pareto
from multirun_analysis.figures.style import MOST_OF_A_NAME, STYLE, clean, short_names, spread, styles_of
from multirun_analysis.findings import Analysis
from multirun_analysis.quantities import Goal, Quantity


def draw(analysis: Analysis, folder: Path, *formats: str) -> set[str]:
    """The names of the files; a warning is a mistake, as users would see it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {path.name for path in figures(analysis, folder, formats, quiet)}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    draw(analyses.small(), folder, "png", "svg", "pdf")
    return folder


def test_there_is_a_figure_for_each_cost_and_each_question_in_each_format(small: Path) -> None:
    names = {path.stem for path in small.iterdir()}
    wanted = {"pareto-training_time", "pareto-macs", "scaling", "trials", "learning-curves", "comparisons", "recall"}
    assert wanted <= names
    assert any(name.startswith("confusion-") for name in names)
    assert {path.name for path in small.iterdir()} == {
        f"{name}.{kind}" for name, kind in itertools.product(names, ("png", "svg", "pdf"))
    }


def test_every_file_is_whole_and_a_column_wide(small: Path) -> None:
    for path in small.iterdir():
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
                assert 900 <= image.width <= 1500, path.name  # at 300 dots an inch, from 3.3 inches on
        elif path.suffix == ".pdf":
            data = path.read_bytes()
            assert data.startswith(b"%PDF")
            assert b"%%EOF" in data[-20:]
            assert b"/FontFile2" in data  # letters are TrueType: journals refuse the other kind
            assert b"/Type3" not in data
        else:
            root = ElementTree.parse(path).getroot()
            assert "vit_tiny" in "".join(root.itertext()), path.name


def test_the_same_analysis_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        draw(analyses.equal(), tmp_path / folder, "png", "svg", "pdf")
    for path in (tmp_path / "one").iterdir():
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_labels_of_axes_stand_beyond_those_of_the_ticks() -> None:
    for plan in plan_figures(analyses.small()):
        if figure := plan.draw():
            figure.draw_without_rendering()
            for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) if axis.label.get_text()):
                label = axis.label.get_window_extent()
                for tick in (tick.get_window_extent() for tick in axis.get_ticklabels() if tick.get_text()):
                    beyond = label.y1 <= tick.y0 if axis.axis_name == "x" else label.x1 <= tick.x0
                    assert beyond, (plan.name, axis.axis_name)


def test_only_what_is_asked_for_is_written(tmp_path: Path) -> None:
    assert {name.rpartition(".")[2] for name in draw(analyses.alone(), tmp_path, "svg")} == {"svg"}


@pytest.mark.parametrize(
    "make",
    [
        analyses.hostile, analyses.alone, analyses.equal, analyses.bare,
        lambda: analyses.bare(costs=True), lambda: analyses.many(1000),
    ],
    ids=["hostile", "alone", "equal", "bare", "bare with costs", "many"],
)  # fmt: skip
def test_any_analysis_can_be_drawn(make: Callable[[], Analysis], tmp_path: Path) -> None:
    names = draw(make(), tmp_path, "png")
    assert names == {path.name for path in tmp_path.iterdir()}
    for name in names:
        assert len(name) < 120
        assert not set(name) & set('/\\:*?"<>|$\n'), name


def test_several_datasets_have_figures_of_their_own(tmp_path: Path) -> None:
    names = draw(analyses.several(), tmp_path, "svg")
    assert {"har-pareto-macs.svg", "elpv-pareto-macs.svg"} <= names


def test_the_line_that_is_drawn_is_the_front() -> None:
    analysis = analyses.small()
    (block,) = analysis.blocks
    for front in (front for front in block.fronts.values() if len(front.costs) == 1):
        (cost,) = front.costs
        with style.context(["default", STYLE]):
            figure = pareto(block, front, styles_of(analysis))
        assert figure is not None
        (line,) = [line for line in figure.axes[0].lines if line.get_gid() == "front"]
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        corners = {(round(a, 6), round(b, 6)) for a, b in zip(x, y, strict=True)}
        values = block.means[cost.column].to_numpy()[front.on], block.means[block.accuracy.column].to_numpy()[front.on]
        assert len(corners) >= front.on.sum()
        # The scale of the axis is free, but each member is a corner.
        scale = max(a for a, _ in sorted(corners)[:-1]) / values[0].max()
        for a, b in zip(*values, strict=True):
            assert any(np.isclose(p, a * scale) and np.isclose(q, b * 100) for p, q in corners), cost.column


@pytest.mark.parametrize("goals", list(itertools.product(("min", "max"), repeat=2)))
def test_what_is_shaded_holds_every_candidate_whichever_way_is_better(goals: tuple[Goal, Goal]) -> None:
    random = np.random.default_rng(0)
    table = pd.DataFrame(random.uniform(1, 5, (30, 2)), columns=["score", "price"])
    score, price = Quantity("score", goals[0], "score"), Quantity("price", goals[1], "price")
    analysis = analyses.from_table(table, [score], [price])
    (block,) = analysis.blocks
    with style.context(["default", STYLE]):
        figure = pareto(block, block.fronts["price"], styles_of(analysis))
    assert figure is not None
    axes = figure.axes[0]
    (area,) = axes.patches
    corners = np.asarray(area.get_path().vertices)
    best = corners[:, 0].min() if goals[1] == "min" else corners[:, 0].max()
    assert np.isclose(best, block.means["price"].agg(goals[1]))
    # A little towards what is worse, as members of the front lie on the edge itself.
    inwards = np.array([1e-6 if goals[1] == "min" else -1e-6, 1e-6 if goals[0] == "min" else -1e-6])
    assert area.get_path().contains_points(block.means[["price", "score"]].to_numpy() + inwards).all()


def test_who_is_marked_is_hollow_and_the_note_says_why() -> None:
    analysis = analyses.small()
    (block,) = analysis.blocks
    marked = {c.label for c in block.candidates if any(m.spoils("cost/training/seconds") for m in c.marks)}
    assert len(marked) == 1
    with style.context(["default", STYLE]):
        figure = pareto(block, block.fronts["cost/training/seconds"], styles_of(analysis))
        elsewhere = pareto(block, block.fronts["cost/macs"], styles_of(analysis))
    assert figure is not None
    assert elsewhere is not None
    assert sum(line.get_markerfacecolor() == "white" for line in figure.axes[0].lines) == 1
    assert "waited for data" in figure.get_supxlabel()
    assert not any(line.get_markerfacecolor() == "white" for line in elsewhere.axes[0].lines)
    assert "†" not in elsewhere.get_supxlabel()


def test_what_looks_like_a_formula_is_drawn_as_it_is_written(tmp_path: Path) -> None:
    analysis = analyses.bare(costs=True)
    (block,) = analysis.blocks
    named = [dataclasses.replace(c, label=f"$\\frac{{{i}$") for i, c in enumerate(block.candidates)]  # not TeX: no end
    odd = dataclasses.replace(analysis, blocks=[dataclasses.replace(block, candidates=named)])
    assert draw(odd, tmp_path, "svg")
    assert "$\\frac{0$" in next(tmp_path.iterdir()).read_text()


def test_labels_cover_neither_each_other_nor_the_edges() -> None:
    for analysis in (analyses.small(), analyses.hostile(), analyses.many(50)):  # the last: more than find a place
        (block,) = analysis.blocks
        for front in (front for front in block.fronts.values() if len(front.costs) == 1):
            with style.context(["default", STYLE]):
                figure = pareto(block, front, styles_of(analysis))
            assert figure is not None
            figure.draw_without_rendering()
            boxes = [
                Text.get_window_extent(text)  # without its line to the point
                for text in figure.axes[0].texts
                if isinstance(text, Annotation) and text.get_text()
            ]
            assert len(boxes) >= min(int(front.on.sum()), 3)
            area = figure.axes[0].get_window_extent()
            for box in boxes:
                assert area.x0 - 1 <= box.x0 <= box.x1 <= area.x1 + 1
            for one, other in itertools.combinations(boxes, 2):
                assert not one.overlaps(other)


def test_models_can_be_told_apart_without_colour() -> None:
    analysis = analyses.small()
    found = styles_of(analysis).candidates.values()
    greys = [round(float(np.dot(to_rgb(one.colour), (0.299, 0.587, 0.114))), 1) for one in found]
    seen = {(one.marker, str(one.line), grey) for one, grey in zip(found, greys, strict=True)}
    assert len(seen) == len(list(found))
    families = styles_of(analysis).families.values()
    assert len({one.marker for one in families}) == len(list(families))


def test_names_become_one_line_that_the_font_can_write() -> None:
    assert clean("two\nlines\t of text") == "two lines of text"
    assert clean("$x_1$ & <b>") == "$x_1$ & <b>"
    assert clean("漢 ok") == "□ ok"
    assert len(clean("x" * 300)) == 24
    assert list(short_names(["a" * 30 + "b", "a" * 31 + "b"]).values())[1].endswith("(2)")


def test_what_tells_a_model_from_its_namesakes_is_never_cut_and_goes_below_a_long_name() -> None:
    names = ["mobilenetv2_100 (file 518938)", "mobilenetv2_100 (scratch)", "resnet18 (int8 static)"]
    assert list(short_names(names, MOST_OF_A_NAME)) == names
    assert Label(names[0], 0, 0, needed=True).lines == ["mobilenetv2_100", "(file 518938)"]
    assert Label(names[2], 0, 0, needed=True).lines == [names[2]]


def test_an_axis_is_logarithmic_where_numbers_span_more_than_ten_times() -> None:
    assert spread(np.array([1.0, 11.0]))
    assert not spread(np.array([1.0, 9.0]))
    assert not spread(np.array([0.0, 100.0]))
