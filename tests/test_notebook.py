"""The notebook of the examples runs from its first cell to its last, with less work than it has for readers."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.assets
def test_the_notebook_shows_an_answer_a_report_and_a_winner(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    notebook = nbformat.read(ROOT / "examples" / "first_comparison.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    for cell in notebook.cells:
        cell.source = re.sub(r".*method: (?:bottleneck_adapter|prefix_tuning).*\n", "", cell.source)
        cell.source = re.sub(r"learning_rate: \[(\S+), \S+\]", r"learning_rate: \1", cell.source)
        cell.source = cell.source.replace(
            "seeds: [0, 1, 2, 3]\ntuning: {seeds: [100, 101], extend: false}", "seeds: [0]"
        )
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    ran = [cell for cell in client.execute().cells if cell.cell_type == "code"]
    shown = [[*output.get("data", {}), output.get("name")] for cell in ran for output in cell.outputs]
    assert not ran[0].outputs
    assert ran[3].outputs[0].data["text/html"].startswith('<div class="lora-bench-answer">')
    assert any("image/svg+xml" in of_one for of_one in shown) and any("text/markdown" in of_one for of_one in shown)
    assert any("lora" in output.data["text/html"] for output in ran[4].outputs)
    assert ran[-1].outputs[0].text.split("\n")[0] in ("full", "lora")
