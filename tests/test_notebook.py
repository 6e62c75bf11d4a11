"""In a notebook: one output a sweep, brought up to date in place, and an example that runs as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbclient
import nbformat
from small import SMALL, runs

EXAMPLE = Path(__file__).parent.parent / "examples" / "quick_start.ipynb"


class Watched(nbclient.NotebookClient):
    """Keeps every message that a front end would be sent."""

    def process_message(self, message: dict[str, Any], *args: Any) -> Any:
        self.__dict__.setdefault("seen", []).append(message)
        return super().process_message(message, *args)


def executed(notebook: Any, folder: Path) -> Watched:
    client = Watched(notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    return client


def test_the_example_runs_in_a_kernel(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLE, as_version=4)
    executed(notebook, tmp_path)
    assert {record.status for record in runs(tmp_path).values()} == {"done"}
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output.output_type for output in outputs] == ["display_data", "execute_result"], outputs


def test_the_example_is_kept_without_outputs() -> None:
    for cell in nbformat.read(EXAMPLE, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_a_sweep_has_one_output_that_shows_what_goes_on_and_then_the_table(tmp_path: Path) -> None:
    source = f"import har_sweep\ndone = har_sweep.sweep({[*SMALL, 'trainer.epochs=1']})"
    refused = "try:\n    har_sweep.sweep(modle=1)\nexcept har_sweep.InputError as e:\n    print(e.hint)"
    cells = [nbformat.v4.new_code_cell(text) for text in (source, "done", refused)]
    client = executed(nbformat.v4.new_notebook(cells=cells), tmp_path)
    [shown], [again], [hint] = (cell.outputs for cell in cells)
    assert "Records:" in shown.data["text/plain"]
    assert "acc %" in shown.data["text/html"]
    assert "Loading torch" not in shown.data["text/plain"]
    assert "acc %" in again.data["text/html"]
    assert "Did you mean 'model'" in hint.text
    updates = [
        m["content"]["data"]["text/plain"] for m in client.__dict__["seen"] if m["msg_type"] == "update_display_data"
    ]
    assert any("Loading torch" in text and "Records:" not in text for text in updates)
