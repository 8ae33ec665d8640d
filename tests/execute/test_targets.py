"""Several targets in one suite: every method at each of them, the reference line once, and a report that reads as curves."""

import shlex

import pytest

from lora_bench.cli import main
from lora_bench.errors import BadInput
from lora_bench.execute.run_suite import run_suite
from lora_bench.plan.make_plan import make_plan
from lora_bench.plan.probe_plan import plan_probes
from lora_bench.report import Report, render_markdown
from lora_bench.report.model.comparison import compare
from lora_bench.suite.load_suite import load_suite
from tests.project import SUITE, write_project

# lora: 2 layers * 2 * (32 r + 32 r) = 256 r; a bottleneck adapter has 4 * (65 b + 32); a prefix 2 * 2 * 32 P = 128 P.
CURVE = SUITE.replace("48}", "48, adapter_parameters: [1_168, 2_304], tolerance: 0.1}").replace(
    "[full, lora, bottleneck_adapter, prefix_tuning]", "[full, lora, bottleneck_adapter]"
)


@pytest.fixture(autouse=True)
def _own_place(monkeypatch, shared_cache):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(shared_cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def plan_of(tmp_path, suite):
    return make_plan(load_suite(write_project(tmp_path / "project", suite)), tmp_path / "runs")


def test_every_method_is_fitted_to_each_target_and_the_reference_is_run_once(tmp_path):
    cells = plan_of(tmp_path, CURVE).cells
    found = [
        (cell.job.spec.method.label, cell.job.budget.adapter_parameters, cell.fit.parameters.adapter) for cell in cells
    ]
    full = cells[0].fit.parameters.adapter
    assert found == [
        ("full", None, full),
        # Ranks 4 and 5 give 1,024 and 1,280: the second is nearer to 1,168. Rank 9 gives 2,304.
        ("lora", 1_168, 1_280), ("lora", 2_304, 2_304),
        # Widths 4 and 8: 4 * (260 + 32) and 4 * (520 + 32).
        ("bottleneck_adapter", 1_168, 1_168), ("bottleneck_adapter", 2_304, 2_208),
    ]  # fmt: skip
    assert len({cell.job.run_id for cell in cells}) == 5


def test_a_run_of_several_targets_is_the_run_of_a_suite_with_that_target_alone(tmp_path):
    ids = {cell.job.run_id for cell in plan_of(tmp_path, CURVE).cells}
    alone = {
        cell.job.run_id
        for target in ("1_168", "2_304")
        for cell in plan_of(tmp_path / target, CURVE.replace("[1_168, 2_304]", target)).cells
    }
    assert alone == ids


def test_targets_that_give_a_method_one_size_are_refused(tmp_path):
    with pytest.raises(BadInput) as caught:
        plan_of(tmp_path, CURVE.replace("[1_168, 2_304]", "[2_304, 2_310]"))
    said = "tickets.yaml:10: budget.adapter_parameters: 2,304 and 2,310 both give 'lora' on 'base' for 'tickets' the rank 9"
    assert said in str(caught.value)


def test_a_target_that_no_method_meets_is_refused_and_one_that_some_miss_is_a_row(tmp_path):
    with pytest.raises(BadInput, match="no size meets 3 adapter parameters"):
        plan_of(tmp_path, CURVE.replace("[1_168, 2_304]", "[3, 2_304]"))
    cells = plan_of(tmp_path / "tight", CURVE.replace("tolerance: 0.1", "tolerance: 0.01")).cells
    reasons = {(cell.job.spec.method.label, cell.job.budget.adapter_parameters): cell.reason for cell in cells}
    assert "the nearest is size 5 with 1,280" in reasons["lora", 1_168] and reasons["lora", 2_304] is None
    assert reasons["bottleneck_adapter", 1_168] is reasons["full", None] is None


def test_a_pair_that_never_works_is_a_row_at_each_target(tmp_path):
    ia3 = CURVE.replace(
        ", bottleneck_adapter]",
        ", {method: peft, type: LORA, size_option: r, size_value: 4, options: {target_modules: [no]}}]",
    )
    cells = [cell for cell in plan_of(tmp_path, ia3).cells if cell.reason is not None]
    assert [cell.job.budget.adapter_parameters for cell in cells] == [1_168, 2_304]
    assert len({cell.job.run_id for cell in cells}) == 2


def test_the_records_read_as_curves_and_the_reference_is_counted_once(tmp_path, capsys, monkeypatch):
    path = write_project(tmp_path / "project", CURVE)
    records = run_suite(path, runs=tmp_path / "runs", workers=0).records
    assert [record.status for record in records] == ["ok"] * 5
    comparison = compare(records)
    assert [[row.label for row in setting.rows] for setting in comparison.settings] == [
        ["full", "bottleneck_adapter", "lora"]
    ] * 2
    page = render_markdown(Report(records))
    assert "Of 5 runs, 5 ended `ok`" in page
    for name in ("1,168 adapter parameters", "2,304 adapter parameters"):
        assert f"### `tickets` ({name})" in page
    # The runs behind the numbers, each once; the reference's is of both settings.
    listed = page.split("5 records</summary>")[1]
    assert all(listed.count(record.run_id) == 1 for record in records)
    assert "`tickets` (1,168 adapter parameters) and `tickets` (2,304 adapter parameters)" in listed

    # One record alone, by the command that it names.
    (large,) = (
        record for record in records if record.spec.method.label == "lora" and record.budget.adapter_parameters == 2_304
    )
    assert large.command == shlex.join(["lora-bench", "run", "tickets.yaml", "--only", large.run_id])
    monkeypatch.chdir(path.parent)
    assert (
        main(["run", "tickets.yaml", "--only", large.run_id, "--runs", str(tmp_path / "alone"), "--workers", "0"]) == 0
    )
    assert [
        found.name for found in (tmp_path / "alone" / "tickets").iterdir() if (found / "record.json").is_file()
    ] == [large.run_id]
    assert "(rank 9)" in capsys.readouterr().out


def test_a_plan_shows_each_target(tmp_path, capsys, monkeypatch):
    path = write_project(tmp_path / "project", CURVE)
    monkeypatch.chdir(path.parent)
    assert main(["plan", "tickets.yaml", "--runs", str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr().out
    assert "1,168 and 2,304 adapter parameters ± 10%" in shown
    rows = [
        line.split() for line in shown.splitlines() if line.split()[:1] in (["full"], ["lora"], ["bottleneck_adapter"])
    ]
    assert [row[:3] for row in rows[1:]] == [
        ["lora", "5", "1,280"], ["lora", "9", "2,304"],
        ["bottleneck_adapter", "4", "1,168"], ["bottleneck_adapter", "8", "2,208"],
    ]  # fmt: skip


def test_learning_rates_are_chosen_within_a_target(tmp_path):
    """Each target has trials of its own, and what is reported at it has the best of their rates."""
    tuned = CURVE.replace("[full, lora, bottleneck_adapter]", "[{method: lora, learning_rate: [1e-6, 1e-2]}]").replace(
        "train_examples: 48", "train_examples: 320"
    )
    path = write_project(tmp_path / "project", tuned + "tuning: {seeds: [7], extend: false}\n")
    records = run_suite(path, runs=tmp_path / "runs", workers=0).records
    for target in (1_168, 2_304):
        of_target = [record for record in records if record.budget.adapter_parameters == target]
        trials = {
            record.spec.training.learning_rate: record.score
            for record in of_target
            if record.spec.score_on == "selection"
        }
        (reported,) = (record for record in of_target if record.spec.score_on == "test")
        assert len(trials) == 2 and reported.spec.training.learning_rate == max(trials, key=trials.get)
    names = [line for line in render_markdown(Report(records)).splitlines() if line.startswith("### `tickets`")]
    assert names == [
        "### `tickets` (1,168 adapter parameters)", "### `tickets` (2,304 adapter parameters)",
        "### `tickets` (trials, 1,168 adapter parameters)", "### `tickets` (trials, 2,304 adapter parameters)",
    ]  # fmt: skip


@pytest.mark.slow
def test_each_size_is_probed(tmp_path):
    suite = load_suite(write_project(tmp_path / "project", CURVE))
    plan = plan_probes(suite, tmp_path / "runs", processes=1)
    sizes = [(cell.spec.method.label, cell.fit.size) for cell in plan.cells]
    assert sizes == [("full", None), ("lora", 5), ("lora", 9), ("bottleneck_adapter", 4), ("bottleneck_adapter", 8)]
    assert len({job.run_id for job in plan.jobs}) == 6  # five cells and one twin
