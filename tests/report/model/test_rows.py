"""One row of a comparison: what of its runs is in which number."""

import pytest

from lora_bench.plan.selection import trials_among
from lora_bench.report import Report, render_markdown
from lora_bench.report.model.rows import fallen_runs, make_row
from tests.sample_records import ENVIRONMENT, MIB, record

WHOLE = record("lora", seed=0, score=0.7, peak_mib=300, step_seconds=0.05)
RESUMED = record("lora", seed=1, score=0.8, peak_mib=900, step_seconds=5.0, changes={"resumed": True})


def test_a_run_that_went_on_from_a_checkpoint_is_scored_and_not_measured():
    row = make_row([WHOLE, RESUMED], [ENVIRONMENT])
    assert (row.score.n, len(row.records)) == (2, 2)
    assert row.step_seconds == 0.05 and row.train_peak_bytes == 300 * MIB
    assert row.train_seconds == WHOLE.speed.train_seconds
    # What the suite took is another question.
    assert row.train_seconds_total == WHOLE.speed.train_seconds + RESUMED.speed.train_seconds


def test_a_row_of_such_runs_alone_has_no_measurement():
    row = make_row([RESUMED], [ENVIRONMENT])
    assert row.score.n == 1 and row.step_seconds is None and row.exclusive is None
    assert (row.measured.step_seconds, row.measured.train_peak_bytes) == (5.0, 900 * MIB)
    assert make_row([WHOLE, RESUMED], [ENVIRONMENT]).measured.step_seconds == 0.05


def test_what_is_known_of_such_runs_alone_is_shown_with_a_mark():
    page = render_markdown(Report([record("full", seed=1), RESUMED]))
    assert "| 900¶ | 5,000¶ |" in page
    assert "\n¶ The runs went on from a checkpoint, and the number is of the part after it." in page
    assert "but those marked ¶: of the part after it, training seconds of both." in page


def test_a_page_says_how_many_went_on():
    said = "1 run went on from a checkpoint after a stop, and is in no speed or memory number."
    assert said in render_markdown(Report([WHOLE, RESUMED, record("full")]))
    assert "went on from a checkpoint" not in render_markdown(Report([WHOLE, record("full")]))


def test_the_floor_of_a_correlation_is_0_where_a_constant_has_none():
    def floor(metric, own):
        made = record("lora", score=0.5, seed=1, metric=metric)
        made = made.model_copy(update={"data": made.data.model_copy(update={"majority_score": own})})
        return make_row([made], [ENVIRONMENT]).majority_score

    assert (floor("pearson", None), floor("accuracy", 0.4), floor("bleu", None)) == (0.0, 0.4, None)


def test_a_run_within_two_standard_errors_of_a_constant_answer_learned_nothing():
    def learned(metric, own, items):
        made = record("lora", score=0.107, seed=1, metric=metric)
        data = made.data.model_copy(update={"majority_score": own, "examples": {"test": items}})
        return make_row([made.model_copy(update={"data": data})], [ENVIRONMENT]).least_learned

    # 1 / √(257 − 1) = 1/16 for a correlation, √(0.5 · 0.5 / 400) = 1/40 for a share
    assert learned("pearson", None, 257) == learned("matthews_correlation", 0.0, 257) == 2 / 16
    assert learned("accuracy", 0.5, 400) == pytest.approx(0.5 + 2 / 40)
    assert (learned("rmse", 1.2, 400), learned("bleu", None, 400)) == (1.2, None)
    # That of ROC AUC depends on the rows of each class.
    assert (learned("roc_auc", 0.5, 400), learned("average_precision", 0.2, 400)) == (0.5, 0.2)


def of_fold(seed, score, majority=0.5, **given):
    made = record("lora", seed=seed, score=score, majority=majority, **given)
    task = made.spec.task.model_copy(update={"definition": {"task": "vader_film", "split": {"folds": 5}}})
    data = made.data.model_copy(update={"examples": {"train": 1600, "selection": 400, "test": 400}})
    return made.model_copy(update={"spec": made.spec.model_copy(update={"task": task}), "data": data})


def test_of_two_seeds_that_test_one_fold_the_first_counts():
    """A suite whose seeds were edited tests no new rows."""
    row = make_row([of_fold(seed, 0.7 + seed / 100) for seed in range(10)], [ENVIRONMENT])
    assert [score.seed for score in row.scores] == [0, 1, 2, 3, 4] and row.score.n == 5 and len(row.seeds) == 10
    trials = [of_fold(seed, 0.8, spec={"score_on": "selection"}) for seed in (100, 105)]
    assert make_row(trials, [ENVIRONMENT]).score.n == 2


def test_the_overlap_of_folds_is_of_the_rows_that_draws_come_from():
    row = make_row([of_fold(seed, 0.7 + seed / 100, training={"distinct_examples": 16}) for seed in range(5)], [])
    assert row.overlap == 400 / 1600


def test_a_run_of_a_fold_is_compared_with_a_constant_answer_on_its_own_rows():
    floors, scores = (0.3, 0.9, 0.5, 0.6, 0.5), (0.6, 0.98, 0.8, 0.85, 0.8)
    runs = [of_fold(seed, *of) for seed, of in enumerate(zip(scores, floors, strict=True))]
    row = make_row(runs, [ENVIRONMENT])
    assert row.least_learned > 0.6 and fallen_runs(row, True, row.least_learned) == 0
    # The same scores the other way round: 0.85 is less than the 0.9 of a constant answer, 0.6 is more than the 0.3.
    low = [run.model_copy(update={"scores": {"accuracy": 0.85}}) if run.spec.seed == 1 else run for run in runs]
    assert fallen_runs(make_row(low, [ENVIRONMENT]), True, None) == 1
    trials = trials_among(runs, "halve_seeds")
    assert trials.going(1) == trials.best and trials.error(0) is not None and trials.error(0).freedom == 4
    assert trials_among(low, "halve_seeds").error(0).freedom == 3


def test_a_run_that_gave_one_answer_counts_as_no_correlation():
    """Without it the mean is of the runs that learned something: 0.6, not 0.4."""
    runs = [record("lora", seed=seed, score=0.6, metric="pearson") for seed in (0, 1)]
    one_answer = record("lora", seed=2, score=0.6, metric="pearson", changes={"scores": {}})
    row = make_row([*runs, one_answer], [ENVIRONMENT])
    assert (row.score.n, row.score.mean, row.score.least) == (3, pytest.approx(0.4), 0.0)
    other = record("lora", seed=2, score=0.6, metric="bleu", changes={"scores": {}})
    assert make_row([other], [ENVIRONMENT]).score is None


def test_a_process_that_ends_below_its_start_measured_no_memory():
    """A worker that gives back pages of earlier runs while it trains ends with less than it had."""
    shrunk = [record(name, seed=seed, peak_mib=-20) for name in ("lora", "full") for seed in (0, 1)]
    assert [one.memory.train_peak_bytes for one in shrunk] == [None] * 4
    assert record("lora", peak_mib=1).memory.train_peak_bytes == MIB
    assert make_row(shrunk[:1], [ENVIRONMENT]).train_peak_bytes is None
    one_shrank = [record("lora", peak_mib=-20), record("full", peak_mib=300)]
    assert "MiniLM" in render_markdown(Report([*one_shrank, *shrunk[1::2]]))
