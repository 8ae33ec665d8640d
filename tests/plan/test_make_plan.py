"""What planning does once and no more, whatever the number of runs: one fit for each method, base model and target."""

from pathlib import Path

import pytest

from lora_bench.errors import LoraBenchError
from lora_bench.methods.peft import Peft
from lora_bench.models.registry import find_model
from lora_bench.plan import size_fitting as fitting
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.budget import Budget
from lora_bench.suite.load_suite import load_suite
from tests.project import SUITE, write_data, write_model, write_project

TWO_TASKS = """\
tasks:
  - {task: tickets, data: tickets.csv, text: subject, label: queue}
  - {task: calls, data: calls.csv, text: subject, label: queue}
"""


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def counted(monkeypatch):
    """The methods that were counted, in order."""
    names = []
    count = fitting.count_method

    def noted(method, *rest):
        names.append(method.name)
        return count(method, *rest)

    monkeypatch.setattr(fitting, "count_method", noted)
    return names


def test_a_method_is_fitted_once_for_a_base_model_and_a_target_whatever_the_tasks_and_seeds(tmp_path, counted):
    head, models = SUITE.split("tasks:")[0], SUITE[SUITE.index("models:") :]
    # A bottleneck adapter comes to 2,208 parameters or 2,468, neither within 1 %: a refusal is found once too.
    budget = "budget: {train_examples: 48, adapter_parameters: [2_304, 4_608], tolerance: 0.01}"
    text = (head + TWO_TASKS + models).replace("seeds: [0]", f"seeds: {list(range(100))}")
    text = text.replace("budget: {train_examples: 48}", budget)
    write_data(tmp_path / "calls.csv", rows=300)
    suite = load_suite(write_project(tmp_path, text))
    plan = make_plan(suite, tmp_path / "runs")
    # Two targets for each method that has a size, and full fine-tuning, which has none.
    assert sorted(counted) == sorted(["full", *2 * ["lora"], *2 * ["bottleneck_adapter"], *2 * ["prefix_tuning"]])
    # Two tasks, 100 seeds.
    assert len({cell.job.run_id for cell in plan.cells}) == len(plan.cells) == 2 * 100 * 7
    counted.clear()
    make_plan(suite, tmp_path / "runs")
    assert set(counted) <= {"bottleneck_adapter"}  # the fits are in the cache, a refusal is not


def test_the_id_of_a_planned_run_is_that_of_its_content(tmp_path):
    """Runs that differ in their seed share the parts of their specs, and none shares an id."""
    plan = make_plan(load_suite(write_project(tmp_path, SUITE.replace("[0]", "[0, 1, 2]"))), tmp_path / "runs")
    for cell in plan.cells:
        spec = cell.job.spec
        again = type(spec).model_validate_json(spec.model_dump_json())
        assert again == spec and again.run_id == cell.job.run_id == cell.job.folder.path.name
        assert cell.job.command.endswith(f"--only {spec.run_id}")


def test_a_method_that_reads_the_weights_of_the_base_model_is_counted(tmp_path):
    base = find_model(str(write_model(tmp_path / "base")), base=Path())
    method = Peft(type="SHIRA", targets=("query",), size_option="r", size_value=2)
    fit = fitting.count_method(method, base, "classification", 2, Budget(train_examples=16))
    # As many weights of each matrix as LoRA of that rank would add to it.
    assert fit.reason is None and fit.shape is not None and fit.parameters is not None
    assert fit.parameters.adapter == fit.shape.layers * 2 * (fit.shape.width + fit.shape.width)


def test_the_weights_of_a_base_model_beyond_the_memory_of_the_machine_are_not_read(tmp_path, monkeypatch):
    base = find_model(str(write_model(tmp_path / "base")), base=Path())
    method = Peft(type="SHIRA", targets=("query",), options={"r": 2})
    stored = (tmp_path / "base" / "model.safetensors").stat().st_size
    monkeypatch.setattr(fitting, "installed_bytes", lambda: stored // 2)
    with pytest.raises(LoraBenchError, match=r"reads the weights of model .* before it can be counted: 0 MiB"):
        fitting.count_method(method, base, "classification", 2, Budget(train_examples=16))


def test_runs_of_a_method_that_was_measured_take_as_many_times_their_estimate_also_those_that_wait(tmp_path):
    methods = "methods: [full, {method: lora, learning_rate: [1e-3, 1e-2]}]\ntuning: {seeds: [100]}\n"
    start, end = SUITE.index("methods:"), SUITE.index("seeds:")
    suite = load_suite(write_project(tmp_path, SUITE[:start] + methods + SUITE[end:]))
    counted, measured = (
        make_plan(suite, tmp_path / "runs", slowdowns=slowdowns) for slowdowns in ({}, {"full": 2.0, "lora": 0.5})
    )
    of_cells = [[cell.estimate.seconds for cell in plan.cells] for plan in (counted, measured)]
    labels = [cell.job.spec.method.label for cell in counted.cells]
    assert set(labels) == {"full", "lora"} and all(of_cells[0])
    times = [{"full": 2.0, "lora": 0.5}[label] for label in labels]
    assert of_cells[1] == pytest.approx([a * b for a, b in zip(of_cells[0], times, strict=True)])
    before, after = (sum(waiting.seconds for waiting in plan.waiting) for plan in (counted, measured))
    assert after == pytest.approx(before / 2) and before > 0
