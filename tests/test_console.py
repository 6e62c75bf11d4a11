"""What others named is shown on the screen and in run.log, and never obeyed."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from har_sweep.console import Console
from har_sweep.events import Line, Phase
from har_sweep.launch.board import Standing
from har_sweep.launch.job import log_to
from har_sweep.launch.terminal import Screen
from multirun_analysis.outputs import terminal
from multirun_analysis.tables.columns import Cell
from multirun_analysis.tables.table import Table

NASTY = "\x1b]0;owned\x07 \x9b31m \u202egnp.exe \r \udcff [/b] [red]"
SHOWN = r"\x1b]0;owned\x07 \x9b31m \u202egnp.exe \r \udcff [/b] [red]"
OBEYED = ("\x1b]", "\x07", "\x9b", "\u202e", "\udcff")


@pytest.mark.parametrize("terminal_too", [False, True])
def test_a_sweep_s_screen_shows_every_name_and_obeys_none(terminal_too: bool) -> None:
    out = io.StringIO()
    screen = Screen(Console(file=out, width=300, force_terminal=terminal_too))
    screen.warn(NASTY)
    screen.error(NASTY, NASTY)
    with screen.live():
        screen.show(NASTY, Phase(NASTY))
        screen.show(NASTY, Line(NASTY))
        screen.progress(NASTY, 1, 2, NASTY)
    with screen.board() as show:
        show([Standing(NASTY, NASTY, "running", NASTY, NASTY, NASTY, NASTY, NASTY, NASTY)], NASTY)
    screen.table(NASTY, [(None, NASTY, NASTY, NASTY)])
    assert not [text for text in OBEYED if text in out.getvalue()]
    assert out.getvalue().count(SHOWN) > 4


def test_time_left_is_that_of_what_goes_on_and_not_said_before_any_of_it_is_done() -> None:
    out = io.StringIO()
    screen = Screen(Console(file=out, width=300))
    for number, model in enumerate("abc"):
        screen.progress(f"Measuring {model}", number, 3)
    screen.progress("Decoding", 10, 20)
    screen.progress("Decoding", 20, 20)
    said = ["Measuring a  0/3", "Measuring b  1/3", "Measuring c  2/3", "Decoding  10/20", "Decoding  20/20  0:00 left"]
    assert out.getvalue().splitlines() == said


def test_the_analysis_shows_every_name_and_obeys_none(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say(NASTY)
    terminal.error(NASTY)
    with terminal.progress() as progress:
        progress(NASTY, 1, 2)
    terminal.console().print(
        terminal.draw(Table("kind", NASTY, [NASTY, NASTY], [[Cell(0, NASTY), Cell(0, NASTY)]]), 300)
    )
    said = "".join(capsys.readouterr())
    assert not [text for text in OBEYED if text in said]
    assert SHOWN in said


def test_a_run_s_log_shows_every_name_and_obeys_none(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        log_to(tmp_path / "run.log")(Line(NASTY))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert SHOWN in (tmp_path / "run.log").read_text()
