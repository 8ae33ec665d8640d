"""The gate's answers on histories whose truth is known."""

import pytest

from lora_bench.errors import LoraBenchError
from lora_bench.gate import judge, night_of
from lora_bench.gate.accepting import accepted_night
from lora_bench.gate.past import DRIFT_NIGHTS
from lora_bench.records.analysis import Analysis
from lora_bench.records.probe_record import StepBytes
from tests.gate.histories import LEVEL, accepted, changed, more_parameters, night, night_records, number_of, repeated
from tests.probe.records import probe_record
from tests.sample_records import ENVIRONMENT, MIB


def statuses(answer):
    return {one.name.method: one.status for one in answer.series}


def kinds(answer, method):
    (one,) = (one for one in answer.series if one.name.method == method)
    return [finding.kind for finding in one.findings]


def test_an_unchanged_night_passes():
    answer = judge(night("tonight"), accepted(20), "nightly")
    assert (answer.verdict, answer.exit_code) == ("pass", 0)
    assert statuses(answer) == dict.fromkeys(LEVEL, "pass")
    assert all(one.findings == () and len(one.history) == 20 for one in answer.series)


def test_a_loss_is_undecided_until_two_sets_of_new_seeds_confirm_it():
    history = accepted(20)
    tonight = night("tonight", shift={"lora": -0.03})
    first = judge(tonight, history, "nightly")
    assert first.verdict == "undecided" and [one.name.method for one in first.suspects] == ["lora"]
    again = repeated(shift={"lora": -0.03}, methods=["lora"])
    once = judge(tonight, history, "nightly", again[:1])
    assert once.verdict == "undecided" and [one.name.method for one in once.suspects] == ["lora"]
    second = judge(tonight, history, "nightly", again)
    assert len(second.series[0].confirmation) == 6 and second.confirmed_by == "tonight-confirm-confirm"
    assert (second.verdict, second.exit_code) == ("regression", 1)
    assert statuses(second) == {"lora": "regression", "full": "pass", "prefix_tuning": "pass"}
    assert second.series[0].name.method == "lora" and not second.suspects


def test_a_run_with_one_answer_for_every_item_is_a_loss_where_that_has_no_correlation():
    history = accepted(20, metric="pearson")

    def collapsed(label, seeds):
        records = night_records(label, metric="pearson")
        return [
            one.model_copy(update={"scores": {}}) if one.spec.seed in seeds and one.spec.method.name == "lora" else one
            for one in records
        ]

    tonight = night_of(collapsed("tonight", [1]), "tonight")
    (lora,) = (cell for cell in tonight.cells if cell.name.method == "lora")
    assert lora.scores[1] == 0.0 and min(lora.scores[0], lora.scores[2]) > 0.7
    sets = [
        night_of([one for one in collapsed(label, [0]) if one.spec.method.name == "lora"], label)
        for label in ("tonight-confirm", "tonight-confirm-confirm")
    ]
    assert judge(tonight, history, "nightly", sets[:1]).exit_code == 4
    answer = judge(tonight, history, "nightly", sets)
    assert answer.exit_code == 1 and statuses(answer) == {"lora": "regression", "full": "pass", "prefix_tuning": "pass"}


def test_a_loss_that_new_seeds_do_not_show_is_flaky_and_passes():
    history = accepted(20)
    tonight = night("tonight", shift={"lora": -0.03})
    answer = judge(tonight, history, "nightly", [night("tonight-confirm", methods=["lora"])])
    assert (answer.verdict, answer.exit_code) == ("pass", 0)
    assert statuses(answer)["lora"] == "flaky"


def test_a_gain_is_flagged_and_is_no_failure():
    tonight = night("tonight", shift={"full": 0.03})
    again = repeated(shift={"full": 0.03}, methods=["full"])
    answer = judge(tonight, accepted(20), "nightly", again)
    assert (answer.exit_code, statuses(answer)["full"]) == (0, "improved")


def test_a_gain_of_what_is_better_low_is_a_loss():
    history = accepted(20, higher_is_better=False)
    tonight = night("tonight", shift={"full": 0.03}, higher_is_better=False)
    assert [one.name.method for one in judge(tonight, history, "nightly").suspects] == ["full"]


def test_a_significant_loss_within_the_margin_passes():
    # A spread of a ten-thousandth makes .004 a surprise; the margin of accuracy is half a point.
    tonight = night("tonight", shift={"lora": -0.004}, sd=1e-4)
    assert judge(tonight, accepted(20, sd=1e-4), "nightly").verdict == "pass"
    narrow = {"changes": {"analysis": Analysis(reference="full", margin=0.001)}}
    tonight = night("tonight", shift={"lora": -0.004}, sd=1e-4, **narrow)
    assert judge(tonight, accepted(20, sd=1e-4, **narrow), "nightly").suspects


@pytest.mark.parametrize(("nights", "verdict"), [(0, "undecided"), (7, "undecided"), (8, "pass")])
def test_fewer_than_eight_nights_decide_nothing(nights, verdict):
    answer = judge(night("tonight"), accepted(nights), "nightly")
    assert answer.verdict == verdict
    if verdict == "undecided":
        assert answer.exit_code == 4 and all(finding == "history" for finding in kinds(answer, "lora"))


def test_history_begins_anew_with_an_acknowledged_change():
    low = night("n21", shift={"lora": -0.03})
    lora = next(series for series, cell in low.by_series().items() if cell.name.method == "lora")
    history = [*accepted(20), number_of(low, 21, acknowledged=(lora,))]
    answer = judge(night("tonight", shift={"lora": -0.03}), history, "nightly")
    assert statuses(answer) == {"full": "pass", "prefix_tuning": "pass", "lora": "undecided"}
    history += [number_of(night(f"n{n}", shift={"lora": -0.03}), n) for n in range(22, 29)]
    answer = judge(night("tonight", shift={"lora": -0.03}), history, "nightly")
    assert answer.verdict == "pass"
    (one,) = (one for one in answer.series if one.series == lora)
    assert [point.label for point in one.history] == [f"n{n}" for n in range(21, 29)]


def test_a_slow_drift_is_seen_from_where_it_began():
    # A tenth of a standard deviation a night: no night is a surprise, and the last five are far from the first eight.
    def drifting(number):
        return {"lora": -0.0006 * number}

    history = [number_of(night(f"n{n}", shift=drifting(n)), n) for n in range(1, 60)]
    tonight = night("tonight", shift=drifting(60))
    answer = judge(tonight, history, "nightly")
    assert kinds(answer, "lora") == ["drift"] and answer.verdict == "undecided" and kinds(answer, "full") == []
    # Confirmed by new seeds as a level is: alone against the first nights.
    only = {"methods": ["lora"]}
    assert judge(tonight, history, "nightly", repeated(shift=drifting(60), **only)[:1]).verdict == "undecided"
    assert judge(tonight, history, "nightly", repeated(shift=drifting(60), **only)).verdict == "regression"
    assert statuses(judge(tonight, history, "nightly", repeated(**only)))["lora"] == "flaky"


def test_drift_takes_a_release_that_none_of_the_last_nights_is_of():
    sinking = {"lora": -0.05}
    before = [*accepted(8), *(number_of(night(f"n{n}", shift=sinking), n) for n in range(9, DRIFT_NIGHTS + 1))]
    assert DRIFT_NIGHTS == 12
    assert "drift" not in kinds(judge(night("tonight", shift=sinking), before[:-1], "nightly"), "lora")
    assert "drift" in kinds(judge(night("tonight", shift=sinking), before, "nightly"), "lora")


@pytest.mark.parametrize("status", ["failed", "timeout", "out_of_memory"])
def test_a_crash_is_trouble_and_no_regression(status):
    records = [one for one in night_records("tonight") if (one.spec.method.name, one.spec.seed) != ("lora", 1)]
    crashed = night_records("tonight", methods=["lora"], seeds=[1], status=status, reason="No space left on device")
    answer = judge(night_of([*records, *crashed], "tonight"), accepted(20), "nightly")
    assert (answer.verdict, answer.exit_code) == ("failed", 3)
    assert statuses(answer) == {"lora": "failed", "full": "pass", "prefix_tuning": "pass"}
    assert "No space left on device" in answer.series[0].findings[0].text


def test_what_crashed_before_it_knew_where_it_ran_stands_with_the_rest_of_its_cell():
    records = [one for one in night_records("tonight") if (one.spec.method.name, one.spec.seed) != ("lora", 1)]
    lost = night_records("tonight", methods=["lora"], seeds=[1], status="failed", reason="killed", environment=None)
    answer = judge(night_of([*records, *lost], "tonight"), accepted(20), "nightly")
    assert [finding for finding in kinds(answer, "lora")] == ["crash"] and len(answer.series) == 3


def test_a_missing_cell_and_a_missing_seed_are_never_green():
    answer = judge(night("tonight", methods=["full", "lora"]), accepted(20), "nightly")
    assert (answer.verdict, answer.exit_code) == ("failed", 3)
    assert kinds(answer, "prefix_tuning") == ["missing"]
    fewer = [one for one in night_records("tonight") if (one.spec.method.name, one.spec.seed) != ("lora", 2)]
    answer = judge(night_of(fewer, "tonight"), accepted(20), "nightly")
    assert answer.exit_code == 3 and "2 of 3 runs" in " ".join(one.text for one in answer.series[0].findings)


def test_other_seeds_do_not_replace_those_of_the_nights_before():
    answer = judge(night("tonight", seeds=(0, 1, 7)), accepted(20), "nightly")
    assert answer.exit_code == 3 and kinds(answer, "lora") == ["missing"]
    assert (
        "2 of 3 runs that n20 has are there, and other seeds (7) are no substitute" in answer.series[0].findings[0].text
    )


@pytest.mark.parametrize("nights", [0, 20])
def test_a_run_that_ended_without_a_score_is_the_nights_finding(nights):
    records = night_records("tonight")
    records[0] = records[0].model_copy(update={"scores": {}})
    answer = judge(night_of(records, "tonight"), accepted(nights), "nightly")
    assert answer.exit_code == 4 and kinds(answer, records[0].spec.method.name)[0] == "score"
    with pytest.raises(LoraBenchError, match="acknowledge them with --change"):
        accepted_night(night_of(records, "tonight"), accepted(nights), answer, "the gate ended with 4")


def test_a_night_without_any_of_the_cells_is_no_pass():
    one = night("tonight", task="another_task")
    answer = judge(one, accepted(20), "nightly")
    assert answer.exit_code == 3 and sum(found.status == "failed" for found in answer.series) == 3


def test_a_newly_unsupported_pair_is_a_regression_and_one_that_always_was_is_none():
    def tonight(label):
        gone = night_records(label, methods=["lora"], status="unsupported", reason="no such module")
        return night_of([*night_records(label, methods=["full"]), *gone], label)

    answer = judge(tonight("tonight"), accepted(20, methods=["full", "lora"]), "nightly")
    assert kinds(answer, "lora") == ["unsupported"] and answer.exit_code == 1
    history = [number_of(tonight(f"n{n}"), n) for n in range(1, 9)]
    assert judge(tonight("tonight"), history, "nightly").exit_code == 0


def test_more_runs_that_diverge_are_confirmed_like_a_loss():
    def with_diverged(label, **more):
        records = [one for one in night_records(label, **more) if one.spec.seed != 1]
        return night_of([*records, *night_records(label, seeds=[1], status="diverged", reason="nan", **more)], label)

    only = {"methods": ["lora"]}
    history = accepted(20, **only)
    first = judge(with_diverged("tonight", **only), history, "nightly")
    assert first.suspects and first.exit_code == 4
    again = [with_diverged(f"tonight{'-confirm' * number}", **only) for number in (1, 2)]
    assert judge(with_diverged("tonight", **only), history, "nightly", again[:1]).exit_code == 4
    confirmed = judge(with_diverged("tonight", **only), history, "nightly", again)
    assert confirmed.exit_code == 1 and kinds(confirmed, "lora")[0] == "diverged"
    flaky = judge(with_diverged("tonight", **only), history, "nightly", repeated(**only))
    assert statuses(flaky) == {"lora": "flaky"}
    second = judge(with_diverged("tonight", **only), history, "nightly", [again[0], repeated(**only)[1]])
    assert statuses(second) == {"lora": "flaky"}


def test_changed_parameters_are_a_regression_on_another_machine_too():
    parameters = {"parameters": more_parameters("lora", 1)}
    tonight = night_of(changed(night_records("tonight"), "lora", **parameters), "tonight")
    answer = judge(tonight, accepted(20), "nightly")
    assert kinds(answer, "lora") == ["parameters"] and answer.exit_code == 1
    assert "7,680 before, 7,681 now" in answer.series[0].findings[0].text
    elsewhere = ENVIRONMENT.model_copy(update={"cpu": "another"})
    moved = changed(night_records("tonight"), "lora", environment=elsewhere, **parameters)
    assert kinds(judge(night_of(moved, "tonight"), accepted(20), "nightly"), "lora") == ["parameters", "history"]


def test_what_depends_on_no_machine_is_compared_across_machines_from_the_first_night():
    elsewhere = {"environment": ENVIRONMENT.model_copy(update={"cpu": "another"})}
    there = night_records("tonight", methods=["full", "prefix_tuning"], **elsewhere)
    counted = night_records("tonight", methods=["lora"], parameters=more_parameters("lora", 1), **elsewhere)
    gone = night_records("tonight", methods=["lora"], status="unsupported", reason="no such module", **elsewhere)
    for of_lora, kind, code in ((counted, "parameters", 1), (gone, "unsupported", 1), ([], "missing", 3)):
        answer = judge(night_of([*there, *of_lora], "tonight"), accepted(1), "nightly")
        assert answer.exit_code == code and kinds(answer, "lora")[0] == kind


def test_a_count_that_is_not_there_any_more_is_no_pass():
    tonight = night_of(changed(night_records("tonight"), "lora", parameters=None), "tonight")
    answer = judge(tonight, accepted(20), "nightly")
    assert answer.exit_code == 3 and set(kinds(answer, "lora")) == {"parameters"}


@pytest.mark.parametrize(
    ("what", "changes", "said"),
    [
        ("machine", {"environment": ENVIRONMENT.model_copy(update={"cpu": "Xeon"})}, "cpu: AMD EPYC 7B13 → Xeon"),
        ("driver", {"environment": ENVIRONMENT.model_copy(update={"driver": "550.54.15"})}, "driver: unknown → 550.54.15"),
        ("threads", {"training": {"threads": 4}}, "threads: 2 → 4"),
        ("precision", {"training": {"precision": "bfloat16"}}, "precision: float32 → bfloat16"),
        ("recipe", {"training": {"batch_size": 32}}, "recipe: "),
    ],
)  # fmt: skip
def test_other_conditions_open_a_new_series_with_a_marker(what, changes, said):
    answer = judge(night("tonight", **changes), accepted(20), "nightly")
    assert answer.verdict == "undecided"
    for one in answer.series:
        assert one.status == "undecided" and one.history == () and len(one.opened) == 1
        assert said in one.opened[0] and one.opened[0] in one.findings[0].text


def test_a_package_that_changed_opens_none_and_is_told():
    updated = ENVIRONMENT.model_copy(update={"packages": {**ENVIRONMENT.packages, "torch": "2.10.0"}})
    answer = judge(night("tonight", environment=updated), accepted(20), "nightly")
    assert answer.verdict == "pass"
    assert [(one.what, one.before, one.after) for one in answer.environment_changes] == [
        ("package torch", "2.9.1", "2.10.0")
    ]


def test_other_data_open_a_new_series():
    def with_other_data(record):
        task = record.spec.task.model_copy(update={"data_sha256": "f" * 64})
        return record.model_copy(update={"spec": record.spec.model_copy(update={"task": task})})

    tonight = [with_other_data(record) for record in night_records("tonight")]
    answer = judge(night_of(tonight, "tonight"), accepted(20), "nightly")
    assert {one.opened[0].partition(":")[0] for one in answer.series} == {"data"}


def test_back_on_a_machine_its_history_is_there_again():
    other = [
        number_of(night(f"n{n}", environment=ENVIRONMENT.model_copy(update={"cpu": "Xeon"})), n) for n in range(9, 12)
    ]
    answer = judge(night("tonight"), [*accepted(8), *other], "nightly")
    assert answer.verdict == "pass" and {len(one.history) for one in answer.series} == {8}


def test_the_series_of_a_cell_does_not_depend_on_seed_label_or_kept_weights():
    one, other = night("a"), night("b", seeds=(7, 8, 9))
    assert set(one.by_series()) == set(other.by_series())
    kept = [
        record.model_copy(update={"spec": record.spec.model_copy(update={"keep_weights": "last"})})
        for record in night_records("a")
    ]
    assert set(night_of(kept, "a").by_series()) == set(one.by_series())


def test_a_night_of_another_suite_is_refused():
    with pytest.raises(LoraBenchError, match="suite 'other'"):
        judge(night("tonight", suite="other"), accepted(8), "nightly")


def test_two_runs_with_one_seed_are_refused():
    with pytest.raises(LoraBenchError, match="same seed"):
        night_of([*night_records("a"), *night_records("a", seeds=[2])], "a")


def probes(factor=1.0, *, peak=300 * MIB, flops=2 * 10**11, stored=700_000):
    held = StepBytes(weight_bytes=1, gradient_bytes=1, optimizer_bytes=1, activation_bytes=1, peak_bytes=peak)
    made = [probe_record("lora", n, step_seconds=0.06 * factor * (1 + n / 500), measured=held) for n in range(3)]
    return [
        one.model_copy(
            update={
                "checkpoint": one.checkpoint.model_copy(update={"stored_bytes": stored}),
                "flops": one.flops.model_copy(update={"step": flops}),
            }
        )
        for one in made
    ]


def probed(number):
    return number_of(night_of([], f"n{number}", probes(1 + (number % 3 - 1) / 200)), number)


@pytest.mark.parametrize(
    ("changes", "found", "code"),
    [
        ({}, [], 0),
        ({"factor": 1.02}, [], 0),  # within 3 %
        ({"factor": 1.2}, ["level"], 4),  # slower, not confirmed
        ({"factor": 0.8}, ["level"], 0),  # faster
        ({"peak": 302 * MIB}, [], 0),
        ({"peak": 304 * MIB}, ["peak"], 1),  # 1.3 % above
        ({"peak": 200 * MIB}, [], 0),
        ({"flops": 2 * 10**11 + 1}, ["flops"], 1),
        ({"stored": 700_001}, ["checkpoint_bytes"], 1),
    ],
)  # fmt: skip
def test_probes_are_held_to_their_counts_and_to_three_percent_of_a_step(changes, found, code):
    history = [probed(number) for number in range(1, 21)]
    answer = judge(night_of([], "tonight", probes(**changes)), history, "costs")
    assert [finding.kind for finding in answer.series[0].findings] == found and answer.exit_code == code
    assert answer.series[0].expected == pytest.approx(0.06, rel=0.01)


def test_a_single_night_far_away_is_no_drift():
    tonight = night("tonight", shift={"lora": -0.2})
    history = accepted(20)
    assert kinds(judge(tonight, history, "nightly"), "lora") == ["level"]
    answer = judge(tonight, history, "nightly", [night("tonight-confirm", methods=["lora"])])
    assert answer.verdict == "pass" and statuses(answer)["lora"] == "flaky"


def one_bad_run(label):
    """A night in which one run of LoRA collapses."""
    records = night_records(label, methods=["lora"])
    return night_of([records[0].model_copy(update={"scores": {"accuracy": 0.2}}), *records[1:]], label)


def test_a_cleared_night_is_no_part_of_the_nights_that_follow():
    tonight, history = one_bad_run("n21"), accepted(20, methods=["lora"])
    first = judge(tonight, history, "nightly", repeated(methods=["lora"])[:1])
    assert first.exit_code == 0 and first.series[0].status == "flaky"
    with_it = [*history, accepted_night(tonight, history, first, "passed")]
    follows = [number_of(night(f"n{number}", methods=["lora"]), number) for number in range(22, 30)]
    for index, after in enumerate(follows):
        answer = judge(after, [*with_it, *follows[:index]], "nightly")
        assert answer.exit_code == 0 and answer.series[0].findings == ()
        assert answer.series[0] == judge(after, [*history, *follows[:index]], "nightly").series[0]


def test_a_loss_is_found_as_well_after_a_cleared_night_as_without_it():
    low = {"methods": ["lora"], "shift": {"lora": -0.02}}
    tonight, history = one_bad_run("n21"), accepted(20, methods=["lora"])
    cleared = accepted_night(
        tonight, history, judge(tonight, history, "nightly", repeated(methods=["lora"])[:1]), "passed"
    )
    answer = judge(night("tonight", **low), [*history, cleared], "nightly", repeated(**low))
    assert answer.verdict == "regression" and answer.series[0].worst - answer.series[0].observed > 0.01
    # As a part of the past the collapsed run would hide the loss from the level test.
    kept = judge(night("tonight", **low), [*history, number_of(tonight, 21)], "nightly").series[0]
    assert kept.worst < kept.observed


def test_a_loss_of_a_young_series_that_new_seeds_do_not_show_is_cleared():
    tonight, history = one_bad_run("n5"), accepted(4, methods=["lora"])
    first = judge(tonight, history, "nightly")
    assert first.exit_code == 4 and [one.name.method for one in first.suspects] == ["lora"]
    cleared = judge(tonight, history, "nightly", repeated(methods=["lora"])[:1])
    assert kinds(cleared, "lora") == ["history", "loss"] and not cleared.suspects
    one = accepted_night(tonight, history, cleared, "no history yet")
    assert one.flaky == (cleared.series[0].series,) and one.acknowledged == ()
    sunk = {"methods": ["lora"], "shift": {"lora": -0.1}}
    confirmed = judge(night("n5", **sunk), history, "nightly", repeated(**sunk))
    assert not confirmed.suspects
    with pytest.raises(LoraBenchError, match="acknowledge them with --change"):
        accepted_night(night("n5", **sunk), history, confirmed, "no history yet")


def of_lora(label, statuses, **more):
    """A night of LoRA alone, a run for each status."""
    records = []
    for seed, status in enumerate(statuses):
        reason = {} if status == "ok" else {"status": status, "reason": "nan"}
        records += night_records(label, methods=["lora"], seeds=[seed], **reason, **more)
    return night_of(records, label)


DIVERGED = ("diverged", "ok", "ok")


@pytest.mark.parametrize("status", ["failed", "timeout", "unsupported"])
def test_new_seeds_that_give_no_score_clear_nothing(status):
    history = accepted(20, methods=["lora"])
    for tonight in (of_lora("tonight", DIVERGED), night("tonight", methods=["lora"], shift={"lora": -0.03})):
        answer = judge(tonight, history, "nightly", [of_lora("tonight-confirm", ("ok", status, "ok"))])
        (one,) = answer.series
        assert (answer.exit_code, one.suspect) == (4, False)
        assert "with new seeds gave no scores" in one.findings[0].text
        with pytest.raises(LoraBenchError, match="acknowledge them with --change"):
            accepted_night(tonight, history, answer, "the gate ended with 4")


def test_a_loss_that_shows_only_where_nothing_diverges_is_one():
    low = {"lora": -0.3}
    history = accepted(20, methods=["lora"])
    again = repeated(methods=["lora"], shift=low)
    answer = judge(of_lora("tonight", DIVERGED, shift=low), history, "nightly", again)
    assert answer.exit_code == 1 and kinds(answer, "lora") == ["diverged"]


@pytest.mark.parametrize("begins", [True, False])
def test_a_series_of_which_nothing_was_judged_does_not_pass(begins):
    """The first night of all, and a night with as many runs that diverge as the one before."""
    history = [] if begins else [*accepted(19, methods=["lora"]), number_of(of_lora("n20", DIVERGED), 20)]
    tonight = of_lora("tonight", ["diverged"] * 3) if begins else of_lora("tonight", DIVERGED, shift={"lora": -0.5})
    answer = judge(tonight, history, "nightly")
    assert answer.exit_code == 4 and kinds(answer, "lora") == ["diverged"]
    number = 3 if begins else 1
    assert (
        f"{number} of 3 runs gave no score (diverged: nan), so nothing was judged" in answer.series[0].findings[0].text
    )
    with pytest.raises(LoraBenchError, match="acknowledge them with --change"):
        accepted_night(tonight, history, answer, "the gate ended with 4")


def test_a_margin_from_the_command_line_is_one_of_scores_and_not_of_times():
    history = [probed(number) for number in range(1, 21)]
    tonight = night_of([], "tonight", probes(factor=1.2))
    answer = judge(tonight, history, "costs", margin=0.5)
    assert answer.suspects and answer.series[0].margin == pytest.approx(0.03)
