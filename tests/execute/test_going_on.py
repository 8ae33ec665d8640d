"""A trial of a later rung goes on from the shorter one, and its record is that of a trial from nothing."""

import shutil

import pytest

from lora_bench.cli.plan_table import plan_tables
from lora_bench.execute.run_suite import run_suite, runs_folder
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.store import RunFolder
from lora_bench.report.model.comparison import compare
from lora_bench.suite.load_suite import load_suite
from tests.project import SUITE, write_project

# Of at most 60 steps of 16, a third is 20, whose rate falls after step 16. The warm-up takes the 5 steps up to the first score.
GOES_ON = SUITE.replace(
    "methods: [full, lora, bottleneck_adapter, prefix_tuning]",
    "methods: [{method: lora, learning_rate: {low: 1e-4, high: 1e-2}}]",
).replace(
    "budget: {train_examples: 48}",
    "budget: {trials: 4, train_examples: {until: plateau, at_most: 960}}\n"
    "selection_every: 5\n"
    "tuning: {seeds: [100], halving: 3}",
)
# Measured facts of this process and these minutes; all else must be equal.
OWN = {"speed", "memory", "started_at", "attempts", "resumed", "environment", "went_on"}


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    return lambda suite=GOES_ON: write_project(tmp_path / "project", suite)


def handovers(file, runs):
    return sorted(path.parent.name for path in runs_folder(load_suite(file), runs).glob("*/handover"))


def trials(outcome, rung):
    return [one for one in outcome.records if one.rung == rung]


def went_on(outcome):
    return [one for one in outcome.records if one.went_on is not None]


def of_nothing(file, records, runs):
    """The same runs in another folder, where no shorter trial left anything."""
    return {one.run_id: one for one in run_suite(file, runs=runs, workers=0, only=[r.run_id for r in records]).records}


KEYED = "training: {masks: keyed, order: grouped, last_layer: read_position, base_dropout: 0.1}\n"
HALF = KEYED.replace("{", "{precision: bfloat16, ")
LOWER_RISE = ("until: plateau", "until: plateau, patience: 2, first_patience: 2, rise: 2")


@pytest.mark.parametrize(
    ("change", "more", "by"),
    [
        (("", ""), "", "cap"),
        # Two scores without a rise, of which there is none of two: both trials begin to fall after the same step.
        (LOWER_RISE, "", "plateau"),
        pytest.param(("", ""), KEYED, "cap", marks=pytest.mark.slow),
        pytest.param(("", ""), HALF, "cap", marks=pytest.mark.slow),
        pytest.param(
            ("method: lora", "method: full"), "training: {base_dropout: 0.1}\n", "cap", marks=pytest.mark.slow
        ),
    ],
    ids=["cap", "plateau", "keyed", "bfloat16", "full"],
)
def test_a_trial_that_went_on_equals_one_from_nothing(tmp_path, write, change, more, by):
    file = write(GOES_ON.replace(*change) + more)
    outcome = run_suite(file, runs=tmp_path / "runs", workers=0)
    assert all(one.status == "ok" for one in outcome.records)
    short, longer = trials(outcome, 1), went_on(outcome)
    assert {one.plateau.by for one in short} == {by}
    assert [len(trials(outcome, rung)) for rung in (1, 2)] == [6, 2] and longer == trials(outcome, 2)
    assert all(one.resumed for one in longer)
    whole = of_nothing(file, longer, tmp_path / "elsewhere")
    for one in longer:
        before = next(other for other in short if other.run_id == one.went_on.run_id)
        assert one.went_on.step == before.plateau.decay_after == (16 if by == "cap" else before.plateau.decay_after)
        assert one.speed.train_seconds > one.went_on.train_seconds > 0
        assert one.speed.train_steps == one.plateau.step
        other = whole[one.run_id]
        assert other.went_on is None and not other.resumed
        assert one.model_dump(exclude=OWN) == other.model_dump(exclude=OWN)
        files = [
            RunFolder(runs_folder(load_suite(file), tmp_path / runs) / one.run_id) for runs in ("runs", "elsewhere")
        ]
        assert len({(folder.path / one.predictions.file).read_bytes() for folder in files}) == 1
    assert handovers(file, tmp_path / "runs") == []


def test_the_state_of_a_trial_waits_until_it_is_decided_and_the_plan_counts_what_is_left(tmp_path, write):
    file, runs = write(), tmp_path / "runs"
    suite = load_suite(file)
    folder = runs_folder(suite, runs)
    plan = make_plan(suite, folder)
    said = "\n".join(part.plain for part in plan_tables(plan) if hasattr(part, "plain"))
    assert "longer trials go on from shorter ones" in said
    run_suite(file, runs=runs, workers=0, only=[cell.job.run_id for cell in plan.cells])
    assert len(handovers(file, runs)) == 6
    # The two that go on are known; a trial whose state is gone begins from nothing.
    plan = make_plan(suite, folder)
    going = [cell for cell in plan.missing if cell.job.after is not None]
    assert {cell.job.after for cell in going} < {*handovers(file, runs)} and len(going) == 2
    gone, kept = going
    shutil.rmtree(folder / gone.job.after / "handover")
    (whole,) = [cell for cell in make_plan(suite, folder).missing if cell.job.run_id == gone.job.run_id]
    # 16 of 60 steps are done before.
    assert gone.estimate.seconds == kept.estimate.seconds == pytest.approx(44 / 60 * whole.estimate.seconds)
    outcome = run_suite(file, runs=runs, workers=0)
    assert [one.went_on.run_id for one in went_on(outcome)] == [kept.job.after]
    assert all(one.status == "ok" for one in outcome.records) and handovers(file, runs) == []


def test_the_report_counts_no_step_twice(tmp_path, write):
    file = write()
    outcome = run_suite(file, runs=tmp_path / "runs", workers=0)
    rows = [row for one in compare(outcome.records).settings for row in one.rows]
    shared = sum(one.went_on.train_seconds for one in went_on(outcome))
    every = sum(one.speed.train_seconds for one in outcome.records)
    assert sum(row.train_seconds_total for row in rows) == pytest.approx(every - shared)


@pytest.mark.parametrize(
    "change",
    [
        # The rate of 15 steps falls after 12, within a warm-up of 15.
        ("selection_every: 5", "selection_every: 15"),
        # A linear schedule has fallen where a longer one has not.
        ("{until: plateau, at_most: 720}", "720"),
    ],
)
def test_a_trial_whose_beginning_depends_on_its_length_starts_from_nothing(tmp_path, write, change):
    plan = make_plan(load_suite(write(GOES_ON.replace("960", "720").replace(*change))), tmp_path / "runs")
    cells = [*plan.cells, *(cell for waiting in plan.waiting for cell in waiting.cells)]
    assert {(cell.job.after, cell.job.whole_steps) for cell in cells} == {(None, None)}


@pytest.mark.slow
def test_every_rung_of_a_halving_goes_on(tmp_path, write):
    suite = GOES_ON.replace("halving: 3", "halving: 2, rungs: 3").replace("trials: 4", "trials: 6")
    outcome = run_suite(write(suite), runs=tmp_path / "runs", workers=2)
    by_id = {one.run_id: one for one in outcome.records}
    for rung in (2, 3):
        assert {by_id[one.went_on.run_id].rung for one in trials(outcome, rung)} == {rung - 1}
