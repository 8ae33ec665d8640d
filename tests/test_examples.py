"""The examples do, as a new user runs them, what they say."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lora_bench.records.sealed_records import to_json
from lora_bench.records.store import read_records, write_atomic
from tests.sample_records import record

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "own_script.py"


def run(folder, *command):
    return subprocess.run(
        [sys.executable, *command], cwd=folder, check=False, capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    shutil.copy(SCRIPT, folder)
    for method in ("lora", "full"):
        done = run(folder, "own_script.py", method)
        assert done.returncode == 0, done.stderr
    return folder


def test_a_plain_script_knows_one_line_of_lora_bench():
    lines = SCRIPT.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 40
    used = [line for line in lines if "lora_bench." in line and "gpt2_mini" not in line and '"""' not in line]
    assert len(used) == 1 and "BenchmarkCallback" in used[0]


@pytest.mark.slow
def test_it_leaves_a_record_of_each_method(folder):
    records = {one.spec.method.name: one for one in read_records(folder / "runs" / "mine")}
    assert set(records) == {"lora", "full"}
    # A and B of the fused query, key and value in each of four layers of width 256: 4 x (256 + 768); a head of 2 x 256.
    base = records["lora"].spec.model.name
    assert base == "gpt2-mini" and records["lora"].parameters.adapter == 4 * 4 * (256 + 3 * 256)
    for one in records.values():
        assert one.status == "ok" and one.score >= 0.5
        assert one.parameters.head == 2 * 256 and one.data.examples == {"train": 108, "evaluation": 36}
        assert (one.speed.train_steps, one.speed.train_examples) == (42, 3 * 108)
        assert one.spec.training.precision == "float32"


@pytest.mark.slow
def test_its_report_shows_both_and_stands_beside_records_of_the_harness(folder):
    done = run(folder, "-m", "lora_bench.cli", "report", "runs/mine")
    assert done.returncode == 0, done.stderr
    page = (folder / "runs" / "mine" / "report.md").read_text(encoding="utf-8")
    assert (
        all(f"| `mine` | gpt2-mini | `{label}` |" in page for label in ("full", "lora"))
        and "python own_script.py …" in page
    )
    assert "Not to be ranked" not in page
    both = folder / "runs" / "both"
    shutil.copytree(folder / "runs" / "mine", both)
    planned = record("lora", model="gpt2-mini", task="mine")
    write_atomic(both / planned.run_id / "record.json", to_json(planned))
    done = run(folder, "-m", "lora_bench.cli", "report", "runs/both")
    assert done.returncode == 0, done.stderr
    page = (both / "report.md").read_text(encoding="utf-8")
    assert planned.run_id in page and "Not to be ranked against the other settings of this task" in page
    assert str(folder) not in page
