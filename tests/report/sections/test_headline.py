"""The headline says what the verdicts say: each of its numbers is one of theirs, and no word is stronger than they are."""

import re

import pytest

from lora_bench.records.analysis import Analysis
from lora_bench.records.budget import Budget
from lora_bench.records.protocol import PROTOCOLS
from lora_bench.records.record import CurvePoint, Weights
from lora_bench.report.markdown import render_markdown
from lora_bench.report.model.report_model import report_model
from lora_bench.report.sections.headline import headline_lines, headline_of
from lora_bench.report.sections.summary import next_step, summary_table
from tests.report.test_unplanned import unplanned
from tests.sample_records import BUDGET, METHODS, record, sample_suite

TUNED = BUDGET.model_copy(update={"trials": 4})
RULES = Analysis(reference="full", margin=0.01)
BASE = (0.80, 0.81, 0.79, 0.80, 0.82, 0.78, 0.80, 0.81, 0.79, 0.80)
KEPT = {"weights": Weights(folder="weights", stored_bytes=2**20, step=200)}


def runs(method, by, seeds=10, rules=RULES, changes=None, **given):
    """A run a seed, whose score differs from that of `BASE` by *by*, give or take a tenth of a point."""
    return [
        record(
            method, seed=seed, score=BASE[seed] + by + (0.001 if seed % 2 else -0.001) * (by != 0),
            changes={"analysis": rules, **(changes or {})}, **{"budget": TUNED, **given},
        )
        for seed in range(seeds)
    ]  # fmt: skip


def headline(records):
    model = report_model(records)
    return headline_of(model.seen, records), model.seen


def said(records):
    """All words of a headline with its next step."""
    found, _ = headline(records)
    return "\n".join([*headline_lines(found), *next_step(found.next)])


def test_it_names_the_cheapest_method_that_is_not_worse_and_the_gain_of_a_dearer_one():
    # Against lora, full gains 3 points with 145 times the file; the adapter is equivalent and prefixes lose 5.
    rules = Analysis(reference="lora", margin=0.01)
    records = [
        *runs("full", 0.03, rules=rules), *runs("lora", 0, rules=rules),
        *runs("bottleneck_adapter", 0.0001, rules=rules), *runs("prefix_tuning", -0.05, rules=rules),
    ]  # fmt: skip
    found, _ = headline(records)
    assert (
        found.lead
        == "Take `lora`, or `full` if a file about 145 times as large is no matter: it scores 3.0 points better."
    )
    assert "`bottleneck_adapter` is as good within 1 point unless runs collapse" in found.further[0]
    assert "`prefix_tuning` is worse, by 5.0 points: avoid it" in found.further[0]
    assert found.strength.startswith("Strength: **recommendation** (10 seeds, rules declared before the runs).")
    assert "this base model and `vader_film`; not tested on others" in found.strength


def test_a_smaller_file_that_is_shown_not_to_be_worse_is_taken_over_the_reference():
    found, _ = headline(runs("full", 0) + runs("lora", 0.02) + runs("prefix_tuning", -0.05))
    assert found.lead == "Take `lora`: compared with `full` it is better, by 2.0 points, with a file 145 times smaller."
    # Ten seeds do not exclude that runs collapse now and then, so that such a claim of a margin is weaker.
    found, _ = headline(runs("full", 0) + runs("lora", 0.0001) + runs("prefix_tuning", -0.05))
    said = "compared with `full` it is as good within 1 point unless runs collapse, with a file 145 times smaller"
    assert found.lead == f"Lean towards `lora`: {said}." and "**indicative** (10 seeds" in found.strength


def test_where_all_others_are_worse_the_reference_stays():
    found, _ = headline(runs("full", 0) + runs("lora", -0.03) + runs("prefix_tuning", -0.05))
    assert found.lead == "Take `full`: the 2 other methods score 3.0 to 5.0 points worse."


def test_an_undecided_method_is_never_recommended_or_called_worse():
    wide = [record("lora", seed=seed, score=BASE[seed] + (0.06, -0.05)[seed % 2], budget=TUNED, changes={"analysis": RULES})
            for seed in range(10)]  # fmt: skip
    found, _ = headline(runs("full", 0) + wide + runs("prefix_tuning", -0.05))
    assert found.lead.startswith("Take `full`: no other method is shown to be as good")
    assert "`lora` is undecided" in found.further[0]


@pytest.mark.parametrize(
    ("seeds", "verb", "strength"),
    [(10, "Take", "recommendation"), (6, "Lean towards", "indicative"), (4, "Try", "exploratory")],
)
def test_few_seeds_have_weaker_words(seeds, verb, strength):
    found, _ = headline(runs("full", 0, seeds) + runs("prefix_tuning", -0.05, seeds))
    assert found.lead.startswith(f"{verb} `full`") and f"**{strength}** ({seeds} seeds" in found.strength
    assert ("avoid" in " ".join(found.further)) == (strength == "recommendation")
    more = "`seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]`"
    assert (more in "".join(found.next)) == (strength != "recommendation")


def test_where_nothing_is_decided_it_says_what_would_decide():
    records = runs("full", 0, 2) + runs("lora", 0.01, 2)
    text = said(records)
    assert "**Nothing is decided: 2 seeds of each method are too few, a verdict takes 3.**" in text
    assert "With 8 more seeds a method (10 in all" in text and "Strength: **undecided**" in text
    assert "in the suite set `seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]`, then run `lora-bench run quickstart`" in text
    open_ones = [
        record("lora", seed=seed, score=BASE[seed] + by, budget=TUNED) for seed, by in enumerate((0.05, -0.01, 0.02))
    ]
    found, seen = headline(runs("full", 0, 3, rules=None) + open_ones)
    (needed,) = {contrast.verdict.needed.seeds for contrast in seen.contrasts}
    assert f"About {needed - 3} more seeds a method" in " ".join(found.further)


def test_what_makes_a_ranking_doubtful_stands_before_it():
    untuned = runs("full", 0, budget=BUDGET) + runs("lora", -0.05, budget=BUDGET)
    assert said(untuned).startswith("**No learning rate was tuned in these runs:**")
    assert "tuned" not in said(runs("full", 0) + runs("lora", -0.05))
    trials = [record(seed=100, learning_rate=rate, spec={"score_on": "selection"}) for rate in (1e-3, 3e-3)]
    assert "tuned" not in said(untuned + trials)
    floor = runs("full", 0, majority=0.805) + runs("lora", -0.05, majority=0.805)
    assert said(floor).startswith(
        "**Most runs learned nothing.** Read the ranking with care: 17 of 20 runs scored no better"
    )
    falling = tuple(CurvePoint(step=step, loss=1 / step) for step in range(1, 41))
    improving = runs("full", 0, changes={"curve": falling}) + runs("lora", -0.05)
    assert said(improving).startswith("Read the ranking with care: 10 of 20 runs were still improving")


@pytest.mark.parametrize("records", [
    sample_suite(),
    runs("full", 0.03) + runs("lora", 0) + runs("bottleneck_adapter", 0.02) + runs("prefix_tuning", -0.05),
    [one for model, by in (("a", 0.02), ("b", 0.04)) for one in runs("full", 0, model=model) + runs("lora", by, model=model)],
    [one for task in ("a", "b") for one in runs("full", 0, task=task) + runs("lora", -0.02, task=task)],
])  # fmt: skip
def test_every_size_in_the_headline_is_a_difference_of_the_verdicts(records):
    found, seen = headline(records)
    differences = {f"{abs(100 * contrast.verdict.difference):.1f}" for contrast in seen.contrasts}
    margins = {
        f"{100 * contrast.verdict.margin:g}" for contrast in seen.contrasts if contrast.verdict.margin is not None
    }
    text = " ".join([found.lead, *found.further])
    sizes = re.findall(r"([\d.]+)(?: to ([\d.]+))? points?", text)
    assert {size for pair in sizes for size in pair if size} <= differences | margins
    counts = re.findall(r"in all (\d+)|in \d+ of (\d+)", text)
    numbers = {
        sum(contrast.label == label for contrast in seen.contrasts) for label in {one.label for one in seen.contrasts}
    }
    assert {int(number) for pair in counts for number in pair if number} <= numbers
    ratios = [line.file_ratio for line in seen.methods if line.file_ratio]
    for shown in re.findall(r"(?:about|a file) ([\d.]+) times", text):
        assert any(float(shown) == pytest.approx(one / other, rel=0.05) for one in ratios for other in ratios)


def test_the_next_step_loads_weights_that_were_kept():
    kept = runs("full", 0, changes=KEPT) + runs("lora", -0.05, changes=KEPT)
    assert "**Next:** `lora-bench use runs/quickstart full` loads `full`." in said(kept)
    assert "in the suite set `keep_weights: last` to keep trained weights, then run" in said(
        runs("full", 0) + runs("lora", -0.05)
    )


def test_reports_without_verdicts_have_a_headline_of_their_own():
    rates = [
        record(learning_rate=rate, score=500 * rate, spec={"score_on": "selection"}) for rate in (1e-4, 3e-4, 1e-3)
    ]
    assert "**This is a search: it chooses learning rates and ranks no method.**" in said(rates)
    assert "1 best rate" in said(rates) and "1 of them is the smallest or largest rate tried" in said(rates)
    paper = {"protocol": "paper", "rules": PROTOCOLS["paper"]}
    assert "the protocol `paper` chooses on the split that it reports" in said(
        [record(method, spec=paper) for method in ("full", "lora")]
    )
    assert "**Only `lora` was run, so there is nothing to compare it with.**" in said([record()])
    assert "**No run has a score, so there is nothing to compare.**" in said([record(status="failed", reason="no")])
    own = said([unplanned("LOHA"), unplanned("IA3", 0.8)])
    assert "own script" in own and "No suite planned these runs" in own and "Take" not in own


def test_a_published_table_gives_its_counts_to_the_headline():
    section = ["## Published: a table", "", "Compared with the printed numbers: 3 cells.", "", "Its source."]
    page = render_markdown(sample_suite(), "report", [section])
    assert page.startswith("# quickstart\n\n**Compared with the printed numbers: 3 cells.**\n\n")


def test_the_first_forty_lines_have_headline_picture_table_and_next_step():
    lines = render_markdown(sample_suite(seeds=3), "report").splitlines()[:40]
    order = [
        next(index for index, line in enumerate(lines) if line.startswith(start))
        for start in ("Strength: **", "![Difference of each method", "| method |", "**Next:**")
    ]
    assert order == sorted(order)


def test_the_small_table_marks_what_was_computed_and_what_was_not_measured_alone():
    records = runs("full", 0, peak_mib=400, step_seconds=0.1) + runs("lora", -0.05, peak_mib=200, exclusive=False)
    _, seen = headline(records)
    header, _, full, lora, _, note = summary_table(seen)
    cells = dict(zip(header.split(" | "), lora.split(" | "), strict=True))
    # 156,680 stored parameters of 4 bytes are 0.6 MiB; steps of 50 against 100 ms, 200 against 400 MiB.
    assert (cells["file to ship, MiB"], cells["training time"], cells["peak memory |"]) == (
        "≈ 0.6",
        "0.5 ×‡",
        "0.5 ×‡ |",
    )
    assert cells["verdict"] == "**worse**" and full.startswith("| `full` (reference) |")
    assert "≈ 4 bytes a stored parameter." in note and "‡ Other work ran beside." in note


def test_many_methods_leave_the_small_table_small():
    options = [{"rank": rank} for rank in range(1, 64)]
    specs = [
        METHODS["lora"].model_copy(update={"label": f"lora {one['rank']}", "options": one, "chosen": one})
        for one in options
    ]
    records = [
        record(spec, score=0.5 + index / 200, budget=Budget(train_examples=3_200)) for index, spec in enumerate(specs)
    ]
    _, seen = headline(records)
    table = summary_table(seen)
    assert len(table) == 2 + 10 + 2 and "The 10 with the highest means of 63; [all scores](#scores)." in table[-1]
