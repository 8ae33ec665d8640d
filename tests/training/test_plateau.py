"""A run that is trained until it stops improving ends where its curve says, by a rule that a reader can follow by hand."""

from types import SimpleNamespace

import pytest

from lora_bench.errors import BadInput
from lora_bench.pack.group_runs import company_of
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.record import CurvePoint, PlateauEnd
from lora_bench.records.spec import PlateauRule
from lora_bench.report import Report, render_markdown
from lora_bench.suite.load_suite import load_suite
from lora_bench.training import callbacks as loop
from lora_bench.training.checkpoint import latest_checkpoint
from lora_bench.training.run import run_job
from lora_bench.training.step_plan import UntilNoRise
from tests.project import SUITE, write_project
from tests.sample_records import METHODS, record

FULL = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[{method: full, learning_rate: 3e-3}]")
UNTIL = FULL.replace("{train_examples: 48}", "{epochs: {until: plateau, at_most: 12}}")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    loop.request_stop(None)


def job(tmp_path, suite, runs="runs"):
    (cell,) = make_plan(load_suite(write_project(tmp_path / "project", suite)), tmp_path / runs).cells
    return cell.job


def rule(scores, *, steps=100, warmup=10, higher_is_better=True, **more):
    """The rule of a run of at most 100 steps with a score every 10, of which the scores so far are given."""
    training = SimpleNamespace(
        plateau=PlateauRule(**{"rise": 0.01, "patience": 2, "decay": 0.2, **more}), steps=steps, warmup_steps=warmup
    )
    task = SimpleNamespace(metric="accuracy", higher_is_better=higher_is_better)
    curve = [CurvePoint(step=10 * (n + 1), scores={"accuracy": score}) for n, score in enumerate(scores)]
    return UntilNoRise(SimpleNamespace(training=training, task=task), curve)


def test_two_scores_without_a_rise_begin_the_decay_which_is_a_fifth_of_the_run():
    assert rule([0.5, 0.7, 0.705]).end(30) is None
    # 0.705 and 0.71 are no more than 0.01 above 0.7; 40 steps are four fifths of 50.
    assert rule([0.5, 0.7, 0.705, 0.71]).end(40) == PlateauEnd(by="plateau", decay_after=40, step=50)
    # Scores of the decay change nothing.
    assert rule([0.5, 0.7, 0.705, 0.71, 0.9]).end(50) == PlateauEnd(by="plateau", decay_after=40, step=50)


def test_small_rises_count_together():
    assert rule([0.5, 0.508, 0.516, 0.524, 0.532]).end(50) is None


def test_a_run_that_has_not_risen_may_have_more_patience():
    # 0.505 is no rise above the first score, so that the run still waits; after 0.6 two scores are enough.
    assert rule([0.5, 0.5, 0.505, 0.5], first_patience=4).end(40) is None
    assert rule([0.5, 0.5, 0.505, 0.5, 0.5], first_patience=4).end(50).decay_after == 50
    assert rule([0.5, 0.5, 0.505, 0.5, 0.6, 0.6], first_patience=4).end(60) is None
    assert rule([0.5, 0.5, 0.505, 0.5, 0.6, 0.6, 0.6], first_patience=4).end(70).decay_after == 70


def test_a_loss_falls():
    assert rule([3.0, 2.0, 1.0], higher_is_better=False).end(30) is None
    assert rule([1.0, 2.0, 3.0], higher_is_better=False).end(30).decay_after == 30


def test_scores_of_the_warm_up_are_not_counted():
    assert rule([0.7, 0.5, 0.6, 0.6, 0.6], warmup=20).end(50) == PlateauEnd(by="plateau", decay_after=50, step=63)


def test_a_run_without_a_plateau_decays_before_its_cap():
    rising = [0.1 * n for n in range(1, 9)]
    assert rule(rising).end(79) is None
    assert rule(rising).end(80) == PlateauEnd(by="cap", decay_after=80, step=100)


def test_the_rate_rises_stays_and_falls_in_equal_steps():
    flat = rule([0.5, 0.5, 0.5])  # the decay begins after step 30, and the run ends after 30 / 0.8 = 37.5
    assert [flat.factor(step) for step in (30, 34, 37, 38)] == [1.0, 0.5, 0.125, 0.0]
    rising = rule([0.5, 0.6])
    assert [rising.factor(step) for step in (0, 5, 10, 25)] == [0.0, 0.5, 1.0, 1.0]


def test_a_run_ends_at_its_plateau_and_says_so(tmp_path):
    one = job(tmp_path, UNTIL)
    training = one.spec.training
    # 315 training rows in batches of 16 are 19.7 steps: half an epoch is less than the least spacing of 20.
    assert (one.spec.selection_every, training.warmup_steps) == (20, 20)
    assert training.plateau == PlateauRule(rise=0.0025, patience=6, decay=0.2, first_patience=18)
    assert training.train_examples == 12 * 315
    found = run_job(one)
    scores = [(point.step, point.scores["accuracy"]) for point in found.curve if point.scores is not None]
    best_at = next(step for step, score in scores if score == 1.0)
    assert found.plateau == PlateauEnd(by="plateau", decay_after=best_at + 120, step=(best_at + 120) * 5 // 4)
    assert found.speed.train_steps == found.plateau.step == scores[-1][0] < training.steps
    assert found.capped_by is None and found.score == 1.0 and not found.warnings


def test_a_run_ends_at_its_cap_and_says_so(tmp_path):
    found = run_job(job(tmp_path, FULL.replace("48", "{until: plateau, at_most: 800}")))
    assert found.plateau == PlateauEnd(by="cap", decay_after=40, step=50) and found.speed.train_examples == 800


@pytest.mark.parametrize(
    "stop", [pytest.param(75, marks=pytest.mark.slow), 130]
)  # at the constant rate, and in the decay
def test_a_stopped_run_that_goes_on_equals_one_that_was_not(tmp_path, stop):
    whole = run_job(job(tmp_path, UNTIL, "whole"))
    assert whole.plateau.by == "plateau" and whole.plateau.decay_after < 190
    stopped = job(tmp_path, UNTIL, "stopped")
    stop = stop if stop < whole.plateau.decay_after else whole.plateau.decay_after + 7
    run_job(stopped, lambda step, steps, loss: loop.request_stop("SIGTERM") if step == stop else None)
    assert latest_checkpoint(stopped.folder.checkpoints).step == stop
    loop.request_stop(None)
    resumed = run_job(stopped)
    own = {"speed", "memory", "started_at", "attempts", "resumed", "environment"}
    assert resumed.resumed and resumed.model_dump(exclude=own) == whole.model_dump(exclude=own)


def test_the_rule_is_part_of_the_run_id_and_no_rule_leaves_it(tmp_path):
    until = "{until: plateau, at_most: 48"
    rules = [
        "48",
        f"{until}}}",
        f"{until}, patience: 5}}",
        f"{until}, first_patience: 6}}",
        f"{until}, first_patience: 18}}",
    ]
    ids = [job(tmp_path, FULL.replace("48", given)).run_id for given in rules]
    # 18 is three times the patience, the default.
    assert len(set(ids)) == 4 and ids[4] == ids[1]
    # The id of a rule with one patience, as it was before there were two.
    assert job(tmp_path, FULL.replace("48", rules[3])).spec.training.plateau.first_patience is None
    plain = job(tmp_path, FULL).spec
    assert plain.training.plateau is None and "plateau" in type(plain.training).later()


def test_runs_that_end_apart_are_in_no_pack(tmp_path):
    lora = "[{method: lora, learning_rate: 1e-3}]\ntraining: {masks: keyed}"
    for suite, packed in ((FULL, True), (UNTIL, False)):
        assert (
            company_of(job(tmp_path, suite.replace("[{method: full, learning_rate: 3e-3}]", lora))) is None
        ) != packed


def test_trials_are_trained_until_a_plateau_too(tmp_path):
    suite = UNTIL.replace("3e-3", "[3e-3, 1e-3]") + "tuning: {seeds: [100]}\n"
    trials = make_plan(load_suite(write_project(tmp_path / "project", suite)), tmp_path / "runs").cells
    assert {(cell.job.trial, cell.job.spec.selection_every) for cell in trials} == {(True, 20)}


def test_a_recipe_may_give_a_task_its_own_end(tmp_path):
    fixed = job(tmp_path, UNTIL + "recipes: [{tasks: tickets, epochs: 2}]\n").spec.training
    assert (fixed.plateau, fixed.train_examples) == (None, 630)
    until = job(tmp_path, FULL + "recipes: [{tasks: tickets, epochs: {until: plateau, at_most: 2}}]\n").spec.training
    assert (until.plateau.patience, until.train_examples) == (6, 630)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("training: {schedule: cosine}", "is a constant rate and a linear decay"),
        ("training: {processes: 2}", "one process scores it"),
        ("protocol: paper", "scores on the selection split"),
    ],
)
def test_what_cannot_go_with_a_plateau_is_refused_in_words(tmp_path, more, words):
    with pytest.raises(BadInput, match=words):
        load_suite(write_project(tmp_path, f"{UNTIL}{more}\n"))


def test_caps_and_parts_of_examples_are_refused_in_words(tmp_path):
    with pytest.raises(BadInput, match="leave `caps` out"):
        load_suite(write_project(tmp_path, UNTIL.replace("12}}", "12}, caps: {train_seconds: 5}}")))
    with pytest.raises(BadInput, match=r"at_most: 1\.5"):
        load_suite(write_project(tmp_path, FULL.replace("48", "{until: plateau, at_most: 1.5}")))


def test_a_report_counts_the_runs_that_ended_by_the_cap():
    ends = {"full": "plateau", "lora": "cap"}
    training = {"plateau": PlateauRule(rise=0.0025, patience=4, decay=0.2)}
    runs = [
        record(
            METHODS[method],
            seed=seed,
            training=training,
            changes={"plateau": PlateauEnd(by=end, decay_after=80, step=100)},
        )
        for method, end in ends.items()
        for seed in range(4)
    ]
    page = render_markdown(Report(runs))
    assert "4 (`lora` 4) of 8 runs that were trained until a plateau ended by the cap" in page
    assert "at most 3,200" in page


def test_a_report_counts_the_runs_that_never_rose_before_their_plateau():
    # After the first score four more without a rise are the rule's patience: the decay begins at the fifth.
    training = {"plateau": PlateauRule(rise=0.0025, patience=4, decay=0.2)}
    runs = []
    for seed, (risen, method) in enumerate(
        [(0, "full"), (0, "full"), (1, "full"), (0, "lora"), (1, "lora"), (1, "lora")]
    ):
        scores = [0.5] * 5 if not risen else [0.5, 0.6] + [0.6] * 4
        curve = tuple(
            CurvePoint(step=20 * number, loss=None, scores={"accuracy": score})
            for number, score in enumerate(scores, start=1)
        )
        end = PlateauEnd(by="plateau", decay_after=20 * len(scores), step=25 * len(scores))
        runs.append(record(METHODS[method], seed=seed % 3, training=training, changes={"plateau": end, "curve": curve}))
    page = render_markdown(Report(runs))
    assert (
        "None of 6 runs that were trained until a plateau ended by the cap, 3 (`full` 2, `lora` 1) as soon as" in page
    )
    assert "3 of 6 runs were taken to be at a plateau, and ended, before their score had risen once" in page
