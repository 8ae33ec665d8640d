"""Seeds are added to what is open alone: which runs are planned, in which order, and what is said of it.

No model is trained: the stand-in of `test_choices` makes each run's score of its spec.
"""

from collections import Counter

import pytest

from lora_bench.errors import BadInput
from lora_bench.execute.run_suite import runs_folder
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.store import read_records
from lora_bench.report.model.comparison import compare
from lora_bench.report.model.judged import judge_comparison
from lora_bench.suite.load_suite import load_suite
from tests.choosing import SEEDS
from tests.execute.test_choices import Said, _own_cache, command, written  # noqa: F401  # fixtures


def seeds_of(records):
    """The seeds of each method's results, not of trials."""
    found: dict = {}
    for record in records:
        if record.spec.seed != 100:
            found.setdefault(record.spec.method.label, []).append(record.spec.seed)
    return {label: sorted(seeds) for label, seeds in found.items()}


def test_a_method_that_is_decided_gets_no_more_seeds_and_the_reference_goes_on_with_the_others(tmp_path, command):  # noqa: F811
    path, said = written(tmp_path, "seeds"), Said()
    outcome = command(path, tmp_path / "runs", display=said)
    # Looks at 4, 6 and 8 seeds. Prefixes are a hundred points worse; scores of the others are drawn alike.
    assert seeds_of(outcome.records) == {
        "prefix_tuning": [0, 1, 2, 3],
        **{label: list(range(8)) for label in ("full", "lora", "bottleneck_adapter")},
    }
    assert outcome.later == 0
    told = [line for line in said.lines if line.startswith("decided with")]
    assert told == ["decided with 4 seeds: prefix_tuning is worse than full for tickets on base"]
    # Nothing is left to do, and nothing is decided anew.
    assert command(path, tmp_path / "runs").done == 0


def test_a_round_waits_for_the_one_before_it(tmp_path, command):  # noqa: F811
    path, runs = written(tmp_path, "seeds"), tmp_path / "runs"
    suite = load_suite(path)
    plan = make_plan(suite, runs_folder(suite, runs))
    # A method whose learning rate is not chosen yet keeps the first round open.
    known = Counter(cell.job.spec.method.label for cell in plan.cells if not cell.job.trial)
    assert known == {"full": 4, "bottleneck_adapter": 4, "prefix_tuning": 4}
    began = []
    command(path, runs, lambda job: began.append((job.spec.seed, job.spec.method.label)))
    of_results = [seed for seed, _ in began if seed != 100]
    rounds = [4, 2, 2]  # seeds of each round, to 4, 6 and 8
    methods = [4, 3, 3]
    place = 0
    for first, (seeds, labels) in zip([0, 4, 6], zip(rounds, methods, strict=True), strict=True):
        part = of_results[place : place + seeds * labels]
        assert Counter(part) == dict.fromkeys(range(first, first + seeds), labels)
        place += len(part)
    assert place == len(of_results)


@pytest.mark.parametrize(("minutes", "seeds"), [(21, 4), (22, 6), (27, 6), (28, 8)])
def test_no_seeds_are_added_that_the_declared_time_does_not_hold(tmp_path, command, minutes, seeds):  # noqa: F811
    path, runs = written(tmp_path, "seeds"), tmp_path / "runs"
    path.write_text(path.read_text().replace("at_most: 8", f"at_most: 8, minutes: {minutes}"))
    # A run takes a minute: four methods have 4 seeds after 16, and the three that are open 6 after 22, and 8 after 28.
    outcome = command(path, runs)
    assert seeds_of(outcome.records) == {
        "prefix_tuning": [0, 1, 2, 3],
        **{label: list(range(seeds)) for label in ("full", "lora", "bottleneck_adapter")},
    }
    assert (outcome.later, command(path, runs).done) == (0, 0)


def test_the_records_carry_the_rule_and_each_comparison_has_the_share_of_its_look(tmp_path, command):  # noqa: F811
    path, runs = written(tmp_path, "seeds"), tmp_path / "runs"
    command(path, runs)
    records = read_records(runs_folder(load_suite(path), runs))
    assert all(record.analysis.seeds.looks == (4, 6, 8) for record in records)
    judged = judge_comparison(compare(records), records)
    assert judged.declared == "before"
    of = {held.row.label: held for held in judged.held}
    # p-values: of t over 4 pairs in a first look of three, which has an eighth of alpha, and over 8 pairs with three quarters.
    for label, share in (("prefix_tuning", 0.25 / 2), ("lora", 0.75)):
        plain = of[label].difference.estimate.p_value()
        assert of[label].verdict.p_value == pytest.approx(min(1.0, plain / share))
    assert of["prefix_tuning"].verdict.verdict == "worse" and of["lora"].verdict.verdict == "inconclusive"


def test_a_run_that_failed_ends_no_round_by_itself_and_a_method_without_scores_gets_no_more_seeds(tmp_path, command):  # noqa: F811
    path, runs = written(tmp_path, "seeds"), tmp_path / "runs"

    def disturb(job):
        return "out_of_memory" if job.spec.method.label == "bottleneck_adapter" and not job.trial else None

    outcome = command(path, runs, disturb)
    assert seeds_of(outcome.records)["bottleneck_adapter"] == [0, 1, 2, 3]
    assert seeds_of(outcome.records)["lora"] == list(range(8))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("at_least: 4", "at_least: 2"), "at_least"),
        (("at_most: 8", "at_most: 8, minuts: 3"), "seeds.minuts: unknown key; did you mean 'minutes'?"),
        (("at_most: 8", "at_most: 2"), "at_most (2) must be no less than at_least (4)"),
        (("until: decided", "until: tired"), "decided"),
        (("tuning: {seeds: [100]}", "tuning: {seeds: [5]}"), "must not be among the reported seeds, as 5 is"),
        (("tuning: {seeds: [100]}", "tuning: {seeds: [100]}\nprotocol: paper"), "chooses on the selection split"),
        (("tuning: {seeds: [100]}", "tuning: {seeds: [100]}\nprotocol: {protocol: paper}"), "chooses on the selection split"),
        (("tuning: {seeds: [100]}", "tuning: {seeds: [100]}\nrecipes: [{tasks: tickets, start: other}]"), "`start`"),
        (("[full, {method: lora, learning_rate: [1e-2, 1e-3]}, bottleneck_adapter, prefix_tuning]", "[full]"), "two methods"),
        (("tuning:", "analysis: {reference: full, seeds: {until: decided}}\ntuning:"), "analysis.seeds: unknown key"),
        (("tuning:", "analysis: {reference: full, fixed_seeds: 3}\ntuning:"), "analysis.fixed_seeds: unknown key"),
    ],
)  # fmt: skip
def test_what_cannot_go_with_added_seeds_is_refused_with_its_line(tmp_path, change, said):
    text = SEEDS.replace(*change)
    assert text != SEEDS
    file = tmp_path / "tickets.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput) as error:
        load_suite(file)
    assert said in str(error.value) and "tickets.yaml:" in str(error.value)
    assert "must be a list" not in str(error.value), "the other form of seeds is not asked for"
