"""In a notebook: one output a sweep, brought up to date in place, and an example that runs as it is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from small import SMALL, runs

from har_sweep.record.folder import RunPaths

EXAMPLES = Path(__file__).parent.parent / "examples"
EXAMPLE, ON_A_SERVICE = EXAMPLES / "quick_start.ipynb", EXAMPLES / "colab.ipynb"
SWEEP = f"import har_sweep\ndone = har_sweep.sweep({[*SMALL, 'trainer.epochs=1']})\ndone"
REFUSED = "try:\n    har_sweep.sweep(modle=1)\nexcept har_sweep.InputError as e:\n    print(e.hint)"
ENDLESS = f"har_sweep.sweep({SMALL}, trainer={{'epochs': 100000}})"


class Watched(nbclient.NotebookClient):
    """Keeps what a front end would be sent, and interrupts the kernel once its output says that an endless run
    trains."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.updates: list[str] = []
        self.interrupting: Any = None

    def process_message(self, message: dict[str, Any], *args: Any) -> Any:
        if message["msg_type"] == "update_display_data":
            self.updates.append(message["content"]["data"]["text/plain"])
            if "/100000  step" in self.updates[-1] and not self.interrupting:
                assert self.km
                interrupted: Any = self.km.interrupt_kernel()
                self.interrupting = asyncio.ensure_future(interrupted)
        return super().process_message(message, *args)


def executed(notebook: Any, folder: Path) -> Watched:
    client = Watched(notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    return client


def test_the_example_runs_in_a_kernel_and_shows_its_sweep_and_what_was_found(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLE, as_version=4)
    executed(notebook, tmp_path)
    assert {record.status for record in runs(tmp_path).values()} == {"done"}
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output.output_type for output in outputs] == ["display_data"] + 4 * ["execute_result"], outputs
    _, records, front, table, _ = (output.data.get("text/html", "") for output in outputs)
    assert "metrics/test/accuracy" in records
    for shown in (front, table):
        assert "test_resnet" in shown
        assert "test_vit" in shown
    assert "data:image/png" in front
    assert (tmp_path / "report" / "index.html").exists()


def test_the_example_for_a_notebook_service_runs_but_for_what_only_the_service_has(tmp_path: Path) -> None:
    notebook = nbformat.read(ON_A_SERVICE, as_version=4)
    left_out = [cell for cell in notebook.cells if "colab" in cell.metadata.get("tags", [])]
    notebook.cells = [cell for cell in notebook.cells if cell not in left_out]
    [parameters] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    choices = [*SMALL, "trainer.epochs=1"]
    parameters.source = f"KEPT, CHOICES = {str(tmp_path / 'drive')!r}, {choices!r}"
    executed(notebook, tmp_path)
    assert [record.status for record in runs(tmp_path / "drive").values()] == ["done"]
    assert (tmp_path / "drive" / "report" / "index.html").exists()
    commands = "\n".join(cell.source for cell in left_out)
    assert all(line in commands for line in ("drive.mount(", "%pip install -q har_sweep", "har_sweep.doctor"))


@pytest.mark.parametrize("example", [EXAMPLE, ON_A_SERVICE], ids=lambda path: path.stem)
def test_the_examples_are_kept_without_outputs(example: Path) -> None:
    for cell in nbformat.read(example, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any], list[str]]:
    """The folder of a kernel, the outputs of its cells, and what these showed in between."""
    folder = tmp_path_factory.mktemp("session")
    cells = [nbformat.v4.new_code_cell(text) for text in (SWEEP, "done", REFUSED, ENDLESS)]
    cells[-1].metadata["tags"] = ["raises-exception"]
    client = executed(nbformat.v4.new_notebook(cells=cells), folder)
    return folder, [cell.outputs for cell in cells], client.updates


Session = tuple[Path, list[Any], list[str]]


def test_a_sweep_has_one_output_that_shows_what_goes_on_and_then_the_table(session: Session) -> None:
    _, ([shown], [again], [hint], _), updates = session  # though the first cell ends with what shows itself
    assert "Records:" in shown.data["text/plain"]
    assert shown.data["text/html"].count("acc %") == 2  # of val and of test
    assert "Loading torch" not in shown.data["text/plain"]
    assert again.data["text/html"].count("acc %") == 2
    assert "Did you mean 'model'" in hint.text
    assert any("Loading torch" in text and "Records:" not in text for text in updates)


def test_interrupting_the_kernel_saves_a_checkpoint_and_says_how_to_go_on(session: Session) -> None:
    folder, (*_, (shown, raised)), _ = session
    assert raised.ename == "KeyboardInterrupt"
    assert "Run the cell again, or make the same call" in shown.data["text/plain"]
    [run_id] = [run_id for run_id, record in runs(folder).items() if record.status == "interrupted"]
    assert RunPaths(folder / "runs" / run_id).checkpoint.exists()
