"""A peak of memory is kept by taking the same batch in parts, as few as do."""

import pytest
import torch

from lora_bench.cli import main
from lora_bench.errors import BudgetUnreachable
from lora_bench.execute.run_suite import run_suite
from lora_bench.methods import known_methods
from lora_bench.models.registry import find_model
from lora_bench.plan.make_plan import make_plan
from lora_bench.plan.micro_batch import largest_part, peak_of
from lora_bench.report.model.comparison import compare
from lora_bench.suite.load_suite import load_suite
from lora_bench.training.measure.bare_step import TrainingStep
from lora_bench.training.measure.step_bytes import Allocations, static_bytes
from lora_bench.training.measure.step_costs import predicted_step
from tests.project import SUITE, write_model, write_project
from tests.tiny import HEAD_MODULES, tiny_batch, tiny_roberta


@pytest.fixture(autouse=True)
def _own_place(monkeypatch, shared_cache):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(shared_cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def peak(rows):
    """100 bytes, 10 for each example, and 50 of gradients that are held beside a part of a batch of 12."""
    return 100 + 10 * rows + (50 if rows < 12 else 0)


@pytest.mark.parametrize(
    ("target", "rows"),
    [(220, 12), (219, 6), (210, 6), (209, 4), (190, 4), (189, 3), (180, 3), (170, 2), (160, 1)],
)
def test_the_largest_divisor_that_keeps_the_peak_is_taken(target, rows):
    assert largest_part(peak, 12, target) == rows


def test_where_a_single_example_takes_more_the_error_says_how_much():
    with pytest.raises(BudgetUnreachable, match="keeps a peak of 159 bytes: the least that a step takes is 160"):
        largest_part(peak, 12, 159)
    # The gradients beside a part may be more than what the whole batch takes.
    with pytest.raises(BudgetUnreachable, match="the least that a step takes is 220"):
        largest_part(lambda rows: 220 if rows == 12 else 300, 12, 200)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_batch_in_parts_holds_no_more_than_is_said(tmp_path, method):
    """Every storage of a real step in two parts is watched, the gradients of the first part beside the second among them."""
    base = find_model(str(write_model(tmp_path / "base")), base=tmp_path)
    said = predicted_step(
        base,
        known_methods()[method](),
        kind="classification",
        labels=3,
        batch_size=8,
        length=40,
        precision="float32",
        cuda=False,
    )
    adapted = known_methods()[method]().apply(tiny_roberta(), head=HEAD_MODULES["roberta"])
    step = TrainingStep(adapted, tiny_batch((40,) * 8, labels=True), "float32")
    step.whole()
    states = sum(
        one.numel() * 4 for state in step.optimizer.state.values() for one in state.values() if torch.is_tensor(one)
    )
    with Allocations() as held:
        for _ in range(2):
            step.forward().backward()
        step.update()
    measured = static_bytes(adapted)[0] + states + held.peak
    assert peak_of(said, parts=1) < measured <= 1.01 * peak_of(said, parts=2)


def suite_of(peak_bytes):
    return SUITE.replace("48}", f"48, peak_memory_bytes: {peak_bytes}}}").replace(
        "[full, lora, bottleneck_adapter, prefix_tuning]", "[full, lora]"
    )


def peaks(path, method):
    """What a step takes by the memory model, in one part and in parts, by their rows."""
    base = find_model(str(path.parent / "base"), base=path.parent)
    steps = {
        rows: predicted_step(
            base, known_methods()[method](), kind="classification", labels=2, batch_size=rows, length=128,
            precision="float32", cuda=False,
        )
        for rows in (16, 8, 4)
    }  # fmt: skip
    return {rows: peak_of(step, parts=16 // rows) for rows, step in steps.items()}


def test_each_method_takes_the_batch_in_parts_of_its_own_and_stands_in_one_table(tmp_path, capsys, monkeypatch):
    path = write_project(tmp_path / "project")
    lora, full = peaks(path, "lora"), peaks(path, "full")
    target = lora[16]
    assert full[8] <= target < full[16]  # what is chosen below follows
    path.write_text(suite_of(target))
    cells = {cell.job.spec.method.label: cell for cell in make_plan(load_suite(path), tmp_path / "runs").cells}
    arguments = {label: cell.job.spec.training.arguments for label, cell in cells.items()}
    assert arguments == {"full": {"gradient_accumulation_steps": 2}, "lora": {}}
    # A run that keeps the peak as it is is the run of a suite that asks for none.
    path.write_text(suite_of(target).replace(f", peak_memory_bytes: {target}", ""))
    plain = {
        cell.job.spec.method.label: cell.job.run_id for cell in make_plan(load_suite(path), tmp_path / "runs").cells
    }
    assert plain["lora"] == cells["lora"].job.run_id and plain["full"] != cells["full"].job.run_id

    path.write_text(suite_of(target))
    records = run_suite(path, runs=tmp_path / "runs", workers=0).records
    assert [record.status for record in records] == ["ok", "ok"]
    assert {record.speed.train_examples for record in records} == {48} and {
        record.speed.train_steps for record in records
    } == {3}
    (setting,) = compare(records).settings
    assert [row.label for row in setting.rows] == ["full", "lora"]
    monkeypatch.chdir(path.parent)
    assert main(["report", str(tmp_path / "runs" / "tickets")]) == 0
    page = (tmp_path / "runs" / "tickets" / "report.md").read_text()
    assert (
        f"| largest peak of a step, MiB | {target / 2**20:,.1f} |" in page and "gradient_accumulation_steps" not in page
    )
    parts = {
        line.split("|")[3].strip(): line.split("|")[4].strip()
        for line in page.split("What the runs used")[1].split("## Scores")[0].splitlines()
        if line.startswith("| `tickets`")
    }
    assert parts == {"`full`†": "2", "`lora`": "1"}


def test_a_method_that_no_part_fits_is_a_row_with_the_least_that_it_takes(tmp_path):
    path = write_project(tmp_path / "project")
    path.write_text(suite_of(1_000))
    reasons = {cell.job.spec.method.label: cell.reason for cell in make_plan(load_suite(path), tmp_path / "runs").cells}
    for reason in reasons.values():
        assert "no part of a batch keeps a peak of 1,000 bytes: the least that a step takes is" in reason
