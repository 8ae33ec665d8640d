"""The section on learning against forgetting: its numbers by hand, its figure, and nothing where no suite asked."""

import pytest

from lora_bench.records.analysis import Analysis
from lora_bench.records.budget import Budget
from lora_bench.records.record import Retained
from lora_bench.records.spec import Retention
from lora_bench.report import Report, compare, render_files
from lora_bench.report.blocks import to_markdown
from lora_bench.report.sections.forgetting import forgetting_section, kept_of_base
from tests.sample_records import record, sample_suite


def runs(measure, before, after, **of_all):
    """Two methods with three seeds each."""
    return [
        record(
            method,
            seed=seed,
            score=0.8 + seed / 100,
            spec={"retention": Retention(measure=measure, data_sha256="0" * 64)},
            changes={"retention": Retained(before=before, after=lost, count=100)},
            **of_all,
        )
        for method, each in after.items()
        for seed, lost in enumerate(each)
    ]


def test_a_loss_that_rises_is_lost():
    found = to_markdown(
        forgetting_section(compare(runs("loss", 2.0, {"full": [2.5, 2.6, 2.7], "lora": [2.0, 2.0, 2.0]})), "report")
    ).splitlines()
    (full,) = (line for line in found if line.startswith("| `full` |"))
    # Mean 0.6, standard deviation 0.1, t = 4.303: 0.6 ± 4.303 × 0.1 / √3; e² = 7.39 and e^2.6 = 13.5.
    assert full == "| `full` | 0.8100 | 2.0000 | 2.6000 | +0.6000 | +0.3516 to +0.8484 | 3 | 7.39 | 13.5 |"
    (lora,) = (line for line in found if line.startswith("| `lora` |"))
    assert "| +0.0000 | – | 3 |" in lora


def test_a_correlation_that_falls_is_lost():
    found = to_markdown(
        forgetting_section(compare(runs("spearman", 0.8, {"lora": [0.7, 0.75]})), "report")
    ).splitlines()
    (line,) = (line for line in found if line.startswith("| `lora` |"))
    assert "| 0.8000 | 0.7250 | +0.0750 |" in line and "perplexity" not in " ".join(found)


def test_a_method_that_loses_more_than_the_reference_by_hand():
    after = {"lora": [2.0, 2.1, 2.0], "full": [2.5, 2.7, 2.7], "bottleneck_adapter": [2.0, 2.2, 2.0]}
    found = to_markdown(
        forgetting_section(compare(runs("loss", 2.0, after)), "report", Analysis(reference="lora", margin=0.01))
    ).splitlines()
    start = found.index("| method | lost more than `lora` | 95 % interval | p | seeds |")
    more = {line.split(" | ")[0]: line for line in found[start + 2 : start + 4]}
    # Differences 0.5, 0.6, 0.7: 0.6 ± 4.303 × 0.1 / √3; t = 10.39 with 2 degrees of freedom has p .0091, twice that is .018.
    assert more["| `full`"] == "| `full` | +0.6000 | +0.3516 to +0.8484 | 0.018 | 3 |"
    # 0, 0.1, 0: 0.0333 ± 4.303 × 0.0577 / √3, and t = 1.
    assert more["| `bottleneck_adapter`"] == "| `bottleneck_adapter` | +0.0333 | −0.1101 to +0.1768 | 0.423 | 3 |"
    without = to_markdown(forgetting_section(compare(runs("loss", 2.0, after)), "report")).splitlines()
    assert not any("lost more than" in line for line in without)


@pytest.mark.parametrize("measure", ["loss", "spearman"])
def test_a_report_shows_the_plane(measure):
    files = render_files(Report(runs(measure, 0.8, {"full": [0.5, 0.6, 0.55], "lora": [0.7, 0.75, 0.8]})))
    page = files["report.md"].decode()
    assert "## Learning against forgetting" in page and "](report/forgetting-1.svg)" in page
    assert b"lost: " in files["report/forgetting-1.svg"] and b"full" in files["report/forgetting-1.svg"]


def test_the_first_screen_says_what_is_kept():
    page = render_files(Report(runs("spearman", 0.8, {"full": [0.5, 0.6, 0.55], "lora": [0.7, 0.75, 0.8]})))[
        "report.md"
    ].decode()
    kept = "without a head, was 0.8000, and after training is 0.7500 with `lora` and 0.5500 with `full` "
    assert kept in page[: page.index("## Verdicts")]


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ({"training": {"distinct_examples": 16}}, {"training": {"distinct_examples": 32}}, ["16 rows", "32 rows"]),
        (
            {"training": {"train_examples": 160}},
            {"training": {"train_examples": 320}},
            ["160 examples", "320 examples"],
        ),
        (
            {"budget": Budget(adapter_parameters=7_680, tolerance=0.05, train_examples=3_200)},
            # Of another rate, since the size that was fitted would set its runs apart.
            {"budget": Budget(adapter_parameters=9_600, tolerance=0.05, train_examples=3_200), "learning_rate": 2e-3},
            ["7,680 adapter parameters", "9,600 adapter parameters"],
        ),
    ],
)
def test_each_setting_of_a_base_model_is_named_beside_what_it_keeps(first, second, names):
    both = [*runs("loss", 2.0, {"lora": [2.5]}, **first), *runs("loss", 2.0, {"lora": [2.1]}, **second)]
    model = "MiniLM-L6 in the RoBERTa class"
    said = [line.partition(":**")[0] for line in kept_of_base(compare(both))]
    assert said == [f"**Kept of {model} on `vader_film` ({name})" for name in names]


def test_a_single_setting_needs_no_name():
    (said,) = kept_of_base(compare(runs("loss", 2.0, {"lora": [2.5]})))
    assert said.startswith("**Kept of MiniLM-L6 in the RoBERTa class:** ")


def test_without_retention_there_is_no_section():
    files = render_files(Report(sample_suite()))
    assert b"forgetting" not in files["report.md"] and not [name for name in files if "forgetting" in name]


def test_runs_that_asked_stand_apart_from_runs_that_did_not():
    asked = runs("loss", 2.0, {"lora": [2.5]})
    assert len(compare([*asked, record("lora", score=0.5)]).settings) == 2
