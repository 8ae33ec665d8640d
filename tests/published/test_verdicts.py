"""The verdict on a published number, on scores whose spread and interval can be computed by hand."""

import dataclasses
import math
import statistics

import pytest
from scipy.stats import t as student

from lora_bench.published import PublishedCell, PublishedTable, expected_from, fields, judge, judge_average, judge_table
from lora_bench.published.table import Unlike
from lora_bench.records.protocol import PROTOCOLS
from lora_bench.records.spec import Decoding, Start
from lora_bench.tasks import Release
from tests.sample_records import PARAMETERS, record

MODEL = "FacebookAI/roberta-base"
PAPER = {"protocol": "paper", "rules": PROTOCOLS["paper"]}
MEANS = {"protocol": "paper", "rules": PROTOCOLS["paper"].model_copy(update={"aggregation": "mean"})}


def cell(value=0.75, *, printed=None, spread=None, statistic="mean", seeds=5, **changes) -> PublishedCell:
    made = PublishedCell(
        line=2, row="LoRA", method="lora", model=MODEL, task="rte", score="accuracy", printed_metric=None, value=value,
        spread=spread, printed=printed or f"{100 * value:.1f}", printed_spread=None if spread is None else "0.1", step=0.0005,
        statistic=statistic, seeds=seeds, source="A paper", table="Table 2", printed_parameters=None,
        adapter_parameters=7_680, copied=None, unpublished=(), no_run=None, derived=(), notes=(),
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def runs(*scores, spec=MEANS, hub=True, **more):
    given = {"task": "rte", "model": MODEL, "spec": spec, **more}
    made = [record("lora", score=score, seed=seed, **given) for seed, score in enumerate(scores)]
    return [from_hub(one) for one in made] if hub else made


def from_hub(one):
    model = one.spec.model.model_copy(update={"revision": "0" * 40})
    return one.model_copy(update={"spec": one.spec.model_copy(update={"model": model})})


def verdict(published, records, asked=None):
    expected = fields((asked or records)[0].spec) if records else None
    return judge(published, records, expected)


def names(found):
    return [one.field for one in found.differs]


# --- reproduced or not -----------------------------------------------------------------------------------------------


def test_the_width_is_that_of_the_prediction_interval():
    scores = (0.70, 0.72, 0.74)  # mean 0.72, standard deviation 0.02
    found = verdict(cell(0.75, seeds=6), runs(*scores))
    width = student.ppf(0.975, 2) * 0.02 * math.sqrt(1 / 3 + 1 / 6)
    assert found.measured.value == pytest.approx(0.72)
    assert found.measured.width == pytest.approx(width)
    assert found.measured.own_width == pytest.approx(student.ppf(0.975, 2) * 0.02 / math.sqrt(3))
    assert found.difference == pytest.approx(-0.03)


def test_both_p_values_are_those_of_students_t_with_rounding_held_against_both_claims():
    found = verdict(cell(0.715, seeds=6, step=0.0005), runs(0.70, 0.72, 0.74))
    error = 0.02 * math.sqrt(1 / 3 + 1 / 6)
    assert found.gap.difference_p() == pytest.approx(2 * student.sf((0.005 - 0.0005) / error, 2))
    assert found.gap.equivalence_p() == pytest.approx(student.sf((0.01 - 0.0005 - 0.005) / error, 2))


def test_a_published_spread_enters_with_its_seeds():
    found = verdict(cell(0.72, spread=0.01, seeds=5), runs(0.70, 0.72, 0.74))
    pooled = math.sqrt((2 * 0.02**2 + 4 * 0.01**2) / 6)
    assert found.measured.width == pytest.approx(student.ppf(0.975, 6) * pooled * math.sqrt(1 / 3 + 1 / 5))


def test_a_spread_without_its_seeds_does_not_enter_and_the_number_is_one_runs():
    found = verdict(cell(0.72, spread=0.001, seeds=None), runs(0.70, 0.72, 0.74))
    assert found.measured.width == pytest.approx(student.ppf(0.975, 2) * 0.02 * math.sqrt(1 / 3 + 1))


def test_a_median_is_compared_with_a_median_which_varies_more():
    scores = (0.70, 0.71, 0.72, 0.73, 0.94)
    found = verdict(cell(0.72, statistic="median"), runs(*scores, spec=PAPER))
    assert found.measured.value == 0.72
    sd = statistics.stdev(scores)
    assert found.measured.width == pytest.approx(student.ppf(0.975, 4) * sd * math.sqrt(2 / 5 * math.pi / 2))


def test_a_printed_zero_spread_is_unknown_rounding_and_does_not_enter():
    zero, unknown = (verdict(cell(0.72, spread=spread), runs(0.70, 0.72, 0.74)) for spread in (0.0, None))
    assert zero.measured.width == pytest.approx(unknown.measured.width)
    assert zero.measured.width == pytest.approx(student.ppf(0.975, 2) * 0.02 * math.sqrt(1 / 3 + 1 / 5))


def test_runs_of_one_start_are_wider_by_that_starts_own_luck_and_by_theirs():
    started = {**MEANS, "start": Start(task="mnli", run_id="0" * 16)}
    found = verdict(cell(0.72), runs(0.70, 0.72, 0.74, spec=started))
    assert found.measured.width == pytest.approx(student.ppf(0.975, 2) * 0.02 * math.sqrt(1 / 3 + 1 / 5 + 2))


@pytest.mark.parametrize(
    ("value", "expected", "direction"),
    [
        (0.720, "reproduced", None),
        (0.7290, "reproduced", None),  # one point, less half of one in the last printed digit
        (0.7310, "not reproduced", "lower"),
        (0.7090, "not reproduced", "higher"),
    ],
)
def test_runs_that_hardly_differ_are_held_to_one_point(value, expected, direction):
    found = verdict(cell(value), runs(0.7199, 0.72, 0.7201))
    assert (found.verdict, found.direction) == (expected, direction)


def test_no_shown_difference_is_in_line_and_not_reproduced_by_noise():
    noisy = runs(0.712, 0.72, 0.728)  # standard deviation 0.008: no equivalence within a point can be shown
    assert verdict(cell(0.72), noisy).verdict == "in line"
    assert verdict(cell(0.735), noisy).verdict == "in line"
    assert verdict(cell(0.78), noisy).verdict == "not reproduced"


def test_a_difference_of_two_points_is_not_reproduced_by_noise():
    import random

    draw = random.Random(5)
    words = [
        verdict(
            cell(statistics.fmean(draw.gauss(0.72, 0.01) for _ in range(5)), step=1e-6),
            runs(*(draw.gauss(0.70, 0.01) for _ in range(5))),
        ).verdict
        for _ in range(200)
    ]
    assert words.count("reproduced") == 0
    assert words.count("not reproduced") >= 100  # 73 % by simulation


def test_what_is_no_share_is_held_to_one_percent():
    def e2e(value):
        published = cell(value, score="nist", seeds=3, step=0.005)
        return verdict(published, runs(8.8499, 8.85, 8.8501, metric="nist"))

    assert e2e(8.93).verdict == "reproduced"  # 8.93 × 0.01 = 0.0893, less 0.005, is above 0.08
    assert e2e(8.95).verdict == "not reproduced"  # 0.0895 − 0.005 is below 0.1
    assert e2e(8.95).direction == "lower"


def test_direction_is_that_of_our_value_also_where_less_is_better():
    published = cell(0.46, score="ter")
    found = verdict(published, runs(0.4999, 0.5, 0.5001, metric="ter", higher_is_better=False))
    assert (found.verdict, found.direction) == ("not reproduced", "higher")


def test_of_the_same_kind_of_runs_one_of_twenty_is_not_reproduced():
    import random

    draw = random.Random(7)

    def mean(count):
        return [draw.gauss(0.7, 0.01) for _ in range(count)]

    tried, refuted = 600, 0
    for _ in range(tried):
        printed = statistics.fmean(mean(5))
        refuted += verdict(cell(printed, step=1e-6), runs(*mean(5))).verdict == "not reproduced"
    assert 15 <= refuted <= 45  # 30, give or take 5.3


# --- not comparable --------------------------------------------------------------------------------------------------


def test_fewer_than_three_runs_are_not_comparable():
    found = verdict(cell(0.72), runs(0.72, 0.72))
    assert (found.verdict, names(found)) == ("not comparable", ["runs"])
    assert (found.differs[0].asked, found.differs[0].run) == ("3 or more", 2)
    assert found.measured.n == 2
    assert verdict(cell(0.72), runs(0.72)).measured.own_width is None


def test_runs_that_differ_so_much_that_any_number_would_pass_are_not_comparable():
    wide = (0.5, 0.7, 0.9)
    assert names(verdict(cell(0.8), runs(*wide))) == ["spread"]
    assert names(verdict(cell(0.7), runs(*wide))) == ["spread"]
    assert verdict(cell(0.01), runs(*wide)).verdict == "not reproduced"
    # Three points: 4.303 × s × √(1/3 + 1/5) is 2.98 for an s of 0.95 points, and 3.05 for one of 0.97.
    assert verdict(cell(0.72), runs(0.7105, 0.72, 0.7295)).verdict == "in line"
    assert names(verdict(cell(0.72), runs(0.7103, 0.72, 0.7297))) == ["spread"]


def test_a_stand_in_is_told_by_its_name_and_by_its_count():
    found = verdict(cell(0.72), runs(0.72, 0.72, 0.72, model="./tiny"))
    assert (found.verdict, names(found)) == ("not comparable", ["model"])
    assert (found.differs[0].asked, found.differs[0].run) == (MODEL, "./tiny")
    folder = verdict(cell(0.72), runs(0.72, 0.72, 0.72, hub=False))
    assert names(folder) == ["model"]  # a folder of that name
    small = PARAMETERS["lora"].model_copy(update={"adapter": 96})
    under_its_name = verdict(cell(0.72), runs(0.72, 0.72, 0.72, parameters=small))
    assert names(under_its_name) == ["adapter parameters"]
    assert (under_its_name.differs[0].asked, under_its_name.differs[0].run) == (7_680, 96)


def test_a_short_name_of_the_same_repository_is_no_stand_in():
    assert verdict(cell(0.72), runs(0.72, 0.72, 0.72, model="roberta-base")).verdict == "reproduced"


@pytest.mark.parametrize(
    ("more", "field", "asked", "run"),
    [
        ({"training": {"train_examples": 100, "steps": 7}}, "training.train_examples", 3_200, 100),
        ({"learning_rate": 2e-3}, "training.learning_rate", 1e-3, 2e-3),
        ({"training": {"label_smoothing": 0.1}}, "training.label_smoothing", 0.0, 0.1),
        ({"spec": {**MEANS, "decoding": Decoding(beams=5)}}, "decoding.beams", "nothing", 5),
        ({"spec": {**MEANS, "start": Start(task="mnli", run_id="0" * 16)}}, "start", "nothing", "mnli"),
        ({"spec": {"protocol": "strict"}}, "rules.checkpoint", "best", "last"),
    ],
)
def test_another_recipe_is_told_field_by_field(more, field, asked, run):
    found = verdict(cell(0.72), runs(0.72, 0.72, 0.72, **more), asked=runs(0.72))
    assert found.verdict == "not comparable"
    (one,) = (one for one in found.differs if one.field == field)
    assert (one.asked, one.run) == (asked, run)
    assert found.difference == pytest.approx(0)


def test_data_that_is_not_the_released_one_is_told_by_counts_and_by_hash():
    three = runs(0.52, 0.52, 0.52)  # of 8,000 + 800 training rows and 1,768 test rows
    sha256 = three[0].spec.task.data_sha256

    def judged(release):
        expected = expected_from([three[0].spec], releases={"rte": release})
        return judge(cell(0.72), three, expected(cell()))

    right = Release(examples={"train": 8_800, "test": 1_768}, sha256=("0" * 64, sha256))
    assert judged(right).verdict == "not reproduced"
    cut = judged(Release(examples={"train": 8_551, "test": 1_043}))
    assert cut.verdict == "not comparable"
    assert [(one.field, one.asked, one.run) for one in cut.differs] == [
        ("data.examples.train", 8_551, 8_800), ("data.examples.test", 1_043, 1_768)
    ]  # fmt: skip
    other = judged(Release(examples=right.examples, sha256=("0" * 64,)))
    assert (other.verdict, names(other)) == ("not comparable", ["data.sha256"])
    apart = judged(Release(examples={"train": 8_000, "selection": 800, "test": 1_768, "mismatched": 9}))
    assert [(one.field, one.run) for one in apart.differs] == [("data.examples.mismatched", "unknown")]


def test_seed_threads_and_parts_of_a_batch_are_no_part_of_a_recipe():
    parts = {"threads": 4, "arguments": {"gradient_accumulation_steps": 2}}
    one, other = runs(0.72, 0.72), runs(0.72, 0.72, training=parts)
    assert fields(one[0].spec) == fields(other[1].spec)


def test_a_run_that_starts_from_another_run_of_the_same_task_is_of_the_same_recipe():
    started = [Start(task="mnli", run_id=digit * 16) for digit in "01"]
    one, other = (runs(0.72, spec={**MEANS, "start": start})[0].spec for start in started)
    assert fields(one) == fields(other)
    assert fields(one)["start"] == "mnli"


def test_a_number_of_another_statistic_or_metric_is_not_comparable():
    three = runs(0.72, 0.72, 0.72)
    assert names(verdict(cell(0.72, statistic="median"), three)) == ["rules.aggregation"]
    assert names(verdict(cell(0.72, printed_metric="F1, by its size"), three)) == ["metric"]
    assert verdict(cell(0.72, statistic=None), three).verdict == "reproduced"


def test_what_no_suite_can_say_is_a_difference():
    unlike = (Unlike("loss", "the sum over a text's tokens", "the mean over a batch's tokens"),)
    found = verdict(cell(0.72, unlike=unlike), runs(0.72, 0.72, 0.72))
    assert (found.verdict, names(found)) == ("not comparable", ["loss"])
    assert (found.differs[0].asked, found.differs[0].run) == unlike[0][1:]


def test_runs_that_nobody_held_against_the_suite_are_not_comparable():
    found = judge(cell(0.72), runs(0.72, 0.72, 0.72), None)
    assert (found.verdict, names(found)) == ("not comparable", ["recipe"])


def test_of_several_recipes_the_one_that_was_asked_for_is_judged():
    right, wrong = runs(0.72, 0.72, 0.72), runs(0.5, 0.5, 0.5, 0.5, learning_rate=2e-3)
    found = verdict(cell(0.72), [*wrong, *right], asked=right)
    assert (found.verdict, found.measured.n) == ("reproduced", 3)
    assert set(found.measured.run_ids) == {one.run_id for one in right}


def test_a_choice_of_ours_can_meet_a_number_and_cannot_refute_it():
    published = cell(0.72, unpublished=("learning_rate", "statistic"))
    assert verdict(published, runs(0.72, 0.721, 0.719)).verdict == "reproduced"
    missed = verdict(published, runs(0.62, 0.621, 0.619))
    assert (missed.verdict, names(missed)) == ("not comparable", ["learning_rate"])
    assert missed.differs[0].asked is None
    assert [one.refutable for one in (missed, verdict(published, runs(0.72, 0.721, 0.719)))] == [False, False]
    assert verdict(cell(0.72), runs(0.72, 0.721, 0.719)).refutable


# --- not run, and diverged -------------------------------------------------------------------------------------------


def test_a_cell_without_runs_is_not_run_with_the_reason():
    assert judge(cell(), [], None).reason == "no run of this cell is among the records"
    no_method = cell(method=None, no_run="no method here does this")
    assert judge(no_method, runs(0.7, 0.7, 0.7), None).reason == "no method here does this"
    unsupported = runs(None, None, status="unsupported", reason="no biases")
    assert verdict(cell(), unsupported).reason == "2 of 2 runs ended unsupported: no biases"
    other = verdict(cell(score="meteor"), runs(0.7, 0.7, 0.7))
    assert (other.verdict, other.reason) == ("not run", "no run has the score 'meteor'")


def test_diverged_runs_are_counted_and_most_of_them_are_no_reproduction():
    def with_diverged(ok, count):
        ended = runs(*[0.0] * ok, *[None] * count, status="diverged", reason="nan")[ok:]
        return verdict(cell(0.72), [*runs(*[0.72] * ok), *ended])

    found = with_diverged(4, 1)
    assert (found.verdict, found.measured.n, found.measured.diverged) == ("reproduced", 4, 1)
    half = with_diverged(2, 2)
    assert (half.verdict, half.reason) == ("not reproduced", "2 of 4 runs diverged")
    every = with_diverged(0, 3)
    assert (every.verdict, every.reason, every.measured) == ("not reproduced", "all 3 runs diverged", None)


# --- tables and averages ---------------------------------------------------------------------------------------------


def table(*cells):
    from pathlib import Path

    return PublishedTable(
        name="made", title="A table", source="A paper", no_suite=None, notes=(), folder=Path("made"), cells=cells
    )


AVERAGE = {
    "method": None, "task": "glue", "score": "average", "statistic": None,
    "derived": (("rte", ("accuracy",)), ("qqp", ("accuracy", "f1"))),
}  # fmt: skip


def qqp(*pairs, **more):
    made = runs(*(accuracy for accuracy, _ in pairs), task="qqp", **more)
    return [
        one.model_copy(update={"scores": {"accuracy": accuracy, "f1": f1}})
        for one, (accuracy, f1) in zip(made, pairs, strict=True)
    ]


def test_an_average_is_made_of_its_cells():
    cells = (cell(0.72), cell(0.90, task="qqp"), cell(0.88, task="qqp", score="f1"), cell(0.805, **AVERAGE))
    pairs = [(0.89, 0.87), (0.90, 0.88), (0.91, 0.89)]
    records = [*runs(0.70, 0.72, 0.74), *qqp(*pairs)]
    asked = {one.spec.task.name: fields(one.spec) for one in records}
    rte, accuracy, f1, average = judge_table(table(*cells), records, lambda one: asked[one.task])
    assert average.measured.value == pytest.approx((0.72 + (0.90 + 0.88) / 2) / 2)
    # QQP's two scores are of the same runs, so their errors are averaged; the tasks' are independent.
    of_rte, of_accuracy, of_f1, of_average = (one.measured.uncertainty for one in (rte, accuracy, f1, average))
    errors = (of_rte.error, (of_accuracy.error + of_f1.error) / 2)
    assert of_average.error == pytest.approx(math.hypot(*errors) / 2)
    # Welch and Satterthwaite, with 2 degrees of freedom each.
    assert of_average.freedom == pytest.approx(2 * (errors[0] ** 2 + errors[1] ** 2) ** 2 / sum(e**4 for e in errors))
    assert [names(one) for one in (rte, accuracy, f1)] == [["spread"]] * 3
    assert average.verdict == "in line"


def test_the_cells_of_a_table_are_judged_as_one_family():
    # p is 0.03 in one cell of thirty: a difference alone, and what one of thirty looks like by chance.
    found = verdict(cell(0.742), runs(0.715, 0.72, 0.725))
    assert 0.02 < found.gap.difference_p() < 0.04 and found.verdict == "not reproduced"
    cells = tuple(cell(0.742 if number == 0 else 0.72, task=f"task{number}") for number in range(30))
    records = [one for number in range(30) for one in runs(0.715, 0.72, 0.725, task=f"task{number}")]
    asked = {one.spec.task.name: fields(one.spec) for one in records}
    judged = judge_table(table(*cells), records, lambda one: asked[one.task])
    assert [one.verdict for one in judged] == ["in line"] * 30
    (alone,) = judge_table(table(cells[0]), records, lambda one: asked[one.task])
    assert alone.verdict == "not reproduced"


def test_an_average_lacks_what_its_cells_lack():
    cells = (cell(0.72), cell(0.90, task="qqp"), cell(0.88, task="qqp", score="f1"), cell(0.805, **AVERAGE))
    records = runs(0.72, 0.72, 0.72)
    *_, average = judge_table(table(*cells), records, lambda one: fields(records[0].spec))
    assert average.verdict == "not run"
    assert average.reason == "not all of its cells are run: qqp accuracy, qqp f1"


def test_an_average_over_something_not_comparable_is_not_comparable_either():
    parts = [
        [verdict(cell(0.72), runs(0.72, 0.72, 0.72))],
        [verdict(cell(0.72, task="qqp"), runs(0.72, 0.72, 0.72, model="./tiny"))],
    ]
    found = judge_average(cell(0.72, **AVERAGE), parts)
    assert (found.verdict, names(found)) == ("not comparable", ["model"])


def test_records_find_their_cells_and_stand_ins_those_of_the_model_they_stand_for():
    large = "FacebookAI/roberta-large"
    cells = (cell(0.72), cell(0.72, model=large), cell(0.72, row="FT", method="full"))
    records = runs(0.72, 0.72, 0.72, model="./tiny")
    stand_ins = {MODEL: "./tiny", large: "./tiny"}
    base, other, full = judge_table(table(*cells), records, lambda one: fields(records[0].spec), stand_ins)
    assert [names(base), names(other)] == [["model"], ["model"]]
    assert full.verdict == "not run"
    assert {one.verdict for one in judge_table(table(*cells), records, lambda one: None)} == {"not run"}


def test_what_was_asked_comes_from_the_specs_of_a_plan_and_trials_are_passed_over():
    records = runs(0.72, 0.72, 0.72, model="./tiny")
    trials = runs(0.1, 0.1, 0.1, 0.1, model="./tiny", learning_rate=5e-1, spec={**MEANS, "score_on": "selection"})
    stand_ins = {MODEL: "./tiny"}
    expected = expected_from([one.spec for one in (*records, *trials)], stand_ins)
    assert expected(cell()) == fields(records[0].spec)
    assert expected(cell(task="cola")) is None
    (found,) = judge_table(table(cell(0.72)), [*trials, *records], expected, stand_ins)
    assert (found.measured.n, names(found)) == (3, ["model"])
    (only_trials,) = judge_table(table(cell(0.72)), trials, expected, stand_ins)
    assert only_trials.verdict == "not run"


def test_lists_in_a_recipe_can_differ():
    parts = [[verdict(cell(0.72), runs(0.72, 0.72, 0.72), asked=[_with_targets(["all"])])]]
    assert names(parts[0][0]) == ["method.options.targets"]
    assert names(judge_average(cell(0.72, **AVERAGE), parts)) == ["method.options.targets"]


def _with_targets(targets):
    one = runs(0.72)[0]
    options = {**one.spec.method.options, "targets": targets}
    return one.model_copy(
        update={"spec": one.spec.model_copy(update={"method": one.spec.method.model_copy(update={"options": options})})}
    )
