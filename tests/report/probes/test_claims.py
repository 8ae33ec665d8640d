"""docs/probes.md: what the LoRA paper claims, beside what the committed probes found."""

import csv
import re
import statistics
from pathlib import Path

import pytest

from lora_bench.records.probe_store import read_probes
from lora_bench.report.probes.cells import STEP, longer_passes, probed_cells
from tests.shared import shared

ROOT = Path(__file__).parents[3]
TABLE = (ROOT / "docs" / "probes.md").read_text(encoding="utf-8").partition("| claim |")[2].partition("\n\n")[0]
ROWS = {
    cells[1].strip(): [cell.strip() for cell in cells[2:5]]
    for line in TABLE.splitlines()
    if (cells := line.split("|"))[1:]
}


@pytest.fixture(scope="module")
def pairs():
    """The cell that trains all weights of each base model, with that of LoRA."""
    cells = {
        (cell.spec.model.name, cell.spec.method.name): cell
        for cell in probed_cells(read_probes(ROOT / "baselines" / "system-claims"))
    }
    return [(whole, cells[model, "lora"]) for (model, method), whole in cells.items() if method == "full"]


def said(claim):
    """The numbers of a row on what was found here."""
    return [float(number.replace("−", "-")) for number in re.findall(r"[−+]?\d+\.?\d*", ROWS[claim][2])]


@pytest.mark.parametrize(
    ("claim", "of", "digits"),
    [
        ("trained weights, without heads", "parameters.adapter", 0),
        ("memory in training", "measured.peak_bytes", 2),
        ("stored weights, without heads", "checkpoint.adapter_bytes", 0),
    ],
)
def test_so_many_times_less_than_all_weights_is_the_quotient_of_both_cells(pairs, claim, of, digits):
    times = sorted(round(whole.value(of) / lora.value(of), digits) for whole, lora in pairs)
    assert said(claim) == [times[0], times[-1]]


def test_the_speed_is_that_of_the_steps(pairs):
    faster = sorted(round(100 * (whole.value(STEP) / lora.value(STEP) - 1)) for whole, lora in pairs)
    assert said("speed of training") == [faster[0], faster[-1]]


def test_latencies_are_those_of_the_passes_and_of_the_paper():
    cells = probed_cells(read_probes(ROOT / "baselines" / "system-claims"))
    for method in ("adapter_l", "adapter_h"):
        (cell,) = (cell for cell in cells if cell.spec.method.label == method)
        found = 100 * statistics.median(longer_passes(cell, (1, 128), "adapted"))
        assert said(f"latency of `{method}`, 1 × 128")[0] == pytest.approx(found, abs=0.05)
    file = shared("published") / "lora_table01_gpt2m_inference_latency.csv"
    with file.open(encoding="utf-8", newline="") as lines:
        printed = [
            f"+{line['value']} %" for line in csv.DictReader(lines) if line["metric"] == "slowdown_pct_vs_no_adapter"
        ]
    ours = [cells[0] for claim, cells in ROWS.items() if claim.startswith("latency of `adapter")]
    assert sorted(ours) == sorted(printed)
