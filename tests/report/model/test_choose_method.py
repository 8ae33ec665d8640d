"""The cheapest method that is shown to be no worse than the best by more than the margin."""

import pytest

import lora_bench
from lora_bench.errors import LoraBenchError
from lora_bench.records.sealed_records import to_json
from lora_bench.report import Report, render_markdown
from lora_bench.report.model.choose_method import amount_words, cheapest, choose_among
from lora_bench.report.model.rows import least_learned
from lora_bench.stats.expected_loss import Loss
from tests.report.model.test_verdicts import FULL, answers_of, runs, shifted
from tests.sample_records import record

# Differences to full that scatter a little around -0.001, and around -0.05.
CLOSE, FAR = (-0.002, 0.0, -0.001), (-0.06, -0.05, -0.04)


def chosen(records, **given):
    (choice,) = choose_among(records, **given)
    return choice


def test_the_cheapest_of_those_that_are_expected_to_lose_at_most_the_margin_is_chosen():
    records = [*runs("full", FULL), *runs("lora", shifted(CLOSE)), *runs("prefix_tuning", shifted(FAR))]
    choice = chosen(records, margin=0.01)
    assert (choice.method, choice.best.label) == ("lora", "full")
    full, lora, prefix = choice.losses
    # The differences of means are .001 and .05; the rest is the chance that runs collapse.
    assert 0.001 <= lora.expected < 0.003 and prefix.expected == pytest.approx(0.05, abs=0.003)
    assert full.expected < lora.expected <= lora.at_most < prefix.expected
    assert choice.reasons[0].startswith(
        "full: 0.8000 over 10 seeds, the best mean, expected to lose 0.1 points, at most "
    )
    assert choice.reasons[0].endswith(" with 90 %; stores 86.6 MiB")
    assert choice.reasons[1].endswith("; stores 0.6 MiB; chosen")


def test_a_file_that_is_hardly_smaller_is_no_reason_to_leave_the_best():
    # LoRA stores 156,680 parameters, the adapters 156,776.
    records = [*runs("full", FULL), *runs("lora", shifted((0.018, 0.019))), *runs("bottleneck_adapter", shifted(0.02))]
    assert chosen(records, margin=0.01).method == "bottleneck_adapter"


def test_a_cost_of_nothing_is_a_cost_and_an_unknown_one_is_none():
    lost = [Loss(expected=expected, at_most=0.01) for expected in (0.005, 0.0, 0.001)]
    assert cheapest((0, 1, 2), lost, (0.0, 5.0, None), 0.01) == 0
    assert cheapest((0, 1, 2), lost, (5.4, 80.0, 5.0), 0.01) == 2, "of like costs the one that loses least"
    assert cheapest((0, 1, 2), lost, (None, None, None), 0.01) == 1
    assert cheapest((0, 2), lost, (1.0, 1.0, 1.0), 0.0) == 2, "none is within the margin"


def test_a_margin_that_is_too_narrow_to_show_leaves_the_best():
    records = [*runs("full", FULL), *runs("lora", shifted(CLOSE))]
    assert chosen(records, margin=0.0005).method == "full"


def test_a_bound_that_is_no_more_than_the_mean_loss_is_said_in_words():
    # The mean difference is .001; the rest of the loss is that one run in many collapses, which 90 % of the draws do not see.
    records = [*runs("full", FULL), *runs("lora", shifted(CLOSE))]
    loss = chosen(records).loss
    assert loss.expected == loss.at_most and amount_words(loss.expected, "points") == "0.2"
    assert "**Take `lora`: expected to score 0.2 points below the best of 2, with 90 % no more, " in render_markdown(
        Report(records)
    )


def test_a_further_seed_of_one_method_does_not_choose_it():
    # On the seed that both have, full is better by a point; the second seed is an easier one.
    full, lora = runs("full", (0.80,)), runs("lora", (0.79, 0.84))
    choice = chosen([*full, *lora])
    assert (choice.method, choice.best.label, choice.loss) == ("full", "full", None)
    assert choice.reasons[0].startswith("full: 0.8000 over 1 seed, the best mean over the seeds that all have; ")
    assert choice.reasons[1].startswith("lora: 0.8150 over 2 seeds; ")
    page = render_markdown(Report([*full, *lora]))
    assert "**Take `full`: its mean over the seeds that all have is the best; one such seed does not tell" in page


def test_of_one_seed_the_test_rows_and_the_usual_spread_of_runs_tell_a_loss():
    # Of 200 rows full is right on 170, LoRA on 168 of these, and the prefixes on the last 120.
    of_rows = {"full": [*range(170)], "lora": [*range(168)], "prefix_tuning": [*range(80, 200)]}
    records = [run for label, right in of_rows.items() for run in runs(label, (len(right) / 200,))]
    answers = answers_of(dict(zip([run.run_id for run in records], of_rows.values(), strict=True)), 200)
    choice = chosen(records, answers=answers, margin=0.05)
    full, lora, prefixes = choice.losses
    assert choice.usual and choice.method == "lora", "the cheapest whose expected loss is within the margin"
    assert 0.0 < full.expected <= lora.expected < 0.05 < prefixes.expected and lora.at_most > 2 * lora.expected
    page = render_markdown(Report(records, answers=answers))
    assert (
        "**Take `full`: expected to score " in page and " with 90 %, by one seed and the usual spread of runs" in page
    )
    # A second seed of one method, though better, leaves the choice to the seed that all have.
    second = runs("prefix_tuning", (0.6, 0.99))
    seeds = {run.run_id: of_rows["prefix_tuning"] if run.spec.seed == 0 else [*range(198)] for run in second}
    right = dict(zip([run.run_id for run in records[:2]], [*of_rows.values()][:2], strict=True)) | seeds
    uneven = chosen([*records[:2], *second], answers=answers_of(right, 200), margin=0.05)
    assert uneven.method == "lora" and uneven.losses[2].expected == pytest.approx(prefixes.expected, rel=0.1)
    assert uneven.by_usual == ", by the one seed that all have and the usual spread of runs"
    assert chosen(records, margin=0.05).loss is None, "its test rows are unknown"


def test_one_seed_without_test_rows_tells_no_loss_so_that_the_best_is_chosen_and_two_tell_one():
    records = [*runs("full", FULL[:1]), *runs("lora", shifted(CLOSE, FULL[:1]))]
    choice = chosen(records, margin=0.5)
    assert (choice.method, choice.loss) == ("full", None)
    records = [*runs("full", FULL[:2]), *runs("lora", shifted(CLOSE, FULL[:2]))]
    assert chosen(records, margin=0.5).method == "lora" and chosen(records, margin=0.5).loss.expected > 0


def test_where_a_report_finds_no_result_a_method_is_chosen_and_the_doubt_said():
    records = [*runs("full", (0.5, 0.51, 0.52, 0.5)), *runs("lora", (0.51, 0.5, 0.5, 0.53))]
    assert Report(records).decision.winner is None and "No result" in render_markdown(Report(records))
    choice = chosen(records, margin=0.01)
    assert choice.method in ("full", "lora")
    assert choice.doubt.startswith("No result: too many runs did no better than a constant answer; train longer.")
    assert chosen([*runs("full", FULL), *runs("lora", shifted(CLOSE))]).doubt is None


def test_where_most_runs_fall_below_the_line_all_count_as_they_are():
    # As on folds of CoLA: one run of each of two is above the line. LoRA's is the best of all, and its mean the lower one.
    line = least_learned(record("full", score=0.5, seed=0))
    full = [line + by for by in (0.015, -0.049, -0.069, -0.070, -0.017)]
    lora = [line + by for by in (-0.091, -0.014, -0.138, -0.158, 0.034)]
    none = [line + by for by in (-0.171, -0.184, -0.158, -0.160, -0.015)]
    records = [*runs("full", full), *runs("lora", lora), *runs("prefix_tuning", none)]
    assert chosen(records, margin=0.0).method == "full"


def test_where_the_sound_runs_are_too_few_to_tell_a_loss_all_count():
    # As on two folds of MRPC, with a third of one seed that is no better than a constant answer: the sound runs share no seed.
    line = least_learned(record("full", score=0.5, seed=0))
    full, lora = (line - 0.02, line + 0.01), (line + 0.001, line + 0.009)
    choice = chosen([*runs("full", full), *runs("lora", lora), *runs("prefix_tuning", (line - 0.1,))], margin=0.01)
    assert choice.method == "lora" and choice.loss.expected < choice.loss.at_most < 0.03
    assert choice.losses[2].expected > 0.05, "it is a tenth below the others on the seed that all have"


def test_each_cost_has_its_own_cheapest():
    records = [
        *runs("full", FULL, peak_mib=600, step_seconds=0.02),
        *runs("lora", shifted(CLOSE), peak_mib=300, step_seconds=0.05),
        *runs("bottleneck_adapter", shifted(CLOSE), peak_mib=200, step_seconds=0.06),
    ]
    found = {prefer: chosen(records, margin=0.01, prefer=prefer).method for prefer in ("storage", "memory", "time")}
    assert found == {"storage": "lora", "memory": "bottleneck_adapter", "time": "full"}


def test_a_metric_of_which_less_is_better_is_read_so():
    lower = {"metric": "ter", "higher_is_better": False}
    records = [*runs("full", FULL, **lower), *runs("lora", shifted(FAR), **lower)]
    assert chosen(records, margin=0.01).best.label == "lora"


def test_a_method_with_failed_runs_is_not_chosen_though_it_scores_best():
    records = [*runs("full", FULL), *runs("lora", [*shifted(0.02)[:9], None])]
    choice = chosen(records, margin=0.01)
    assert choice.method == choice.best.label == "full"
    assert "1 of 10 runs failed" in choice.reasons[1]


def test_the_function_reads_a_folder_and_knows_its_tasks_and_models(tmp_path):
    for one in [*runs("full", FULL), *runs("lora", shifted(CLOSE))]:
        (tmp_path / one.run_id).mkdir()
        (tmp_path / one.run_id / "record.json").write_bytes(to_json(one))
    (choice,) = lora_bench.choose_method(tmp_path, margin=0.01, task="vader_film")
    assert choice.method == "lora"
    with pytest.raises(LoraBenchError, match="unknown task 'vader_fil'; did you mean 'vader_film'"):
        lora_bench.choose_method(tmp_path, task="vader_fil")
    with pytest.raises(LoraBenchError, match="unknown cost 'speed'"):
        lora_bench.choose_method(tmp_path, prefer="speed")


def test_trials_are_no_results_to_choose_from():
    trials = [*runs("full", FULL, spec={"score_on": "selection"}), *runs("lora", FULL, spec={"score_on": "selection"})]
    with pytest.raises(LoraBenchError, match="only search for learning rates"):
        choose_among(trials)


def test_a_bound_is_rounded_up_and_an_amount_to_the_nearest():
    assert [amount_words(0.00636, "points", bound=bound) for bound in (False, True)] == ["0.6", "0.7"]
    assert [amount_words(0.00303, "points", bound=bound) for bound in (False, True)] == ["0.3", "0.4"]
    assert amount_words(0.003, "points", bound=True) == "0.3"
    assert amount_words(0.0004, "points", bound=True) == "under 0.1"
