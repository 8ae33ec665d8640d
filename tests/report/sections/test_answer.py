"""The paragraph on methods names what a report used, with sources that the page on statistics has, and nothing else."""

import re
from pathlib import Path

import pytest

from lora_bench.records.analysis import Analysis
from lora_bench.report import Report, render_files, render_markdown
from lora_bench.report.model.reference import Question
from lora_bench.report.sections.answer import methods_paragraph, table_note
from tests.report.model.test_verdicts import FULL, MANY, judged, runs, shifted

STATISTICS = (Path(__file__).parents[3] / "docs" / "statistics.md").read_text(encoding="utf-8")
IN_SEVERAL = ("Holm 1979", "Shaffer 1986", "Bonferroni")


def paragraph(records, **given):
    return methods_paragraph(judged(records, **given))


@pytest.fixture(scope="module")
def one():
    return [*runs("full", FULL), *runs("lora", shifted((0.01, 0.03)))]


@pytest.fixture(scope="module")
def two(one):
    return [*one, *runs("prefix_tuning", shifted((-0.01, 0.0)))]


def test_rules_and_counts_are_those_of_the_records(two):
    said = paragraph(two)
    assert said.startswith(
        "`lora` and `prefix_tuning` were compared with `full` (exempt from the parameter budget) on 1 task and 1 base model, "
        "paired by seed: 2 comparisons with an error level of 0.05 over all of them (Holm) and a margin of 0.005"
    )
    assert "Each comparison is of 10 seeds a method" in said and "declared before the runs" in said
    other = paragraph(two, asked=Question(margin=0.02, alpha=0.1))
    assert "an error level of 0.1 over" in other and "a margin of 0.02" in other and "asked afterwards" in other
    assert "Intervals of differences are at 90 %" in other and "together with 80 % probability" in other


def test_a_procedure_over_several_comparisons_is_named_where_there_are_several(one, two):
    assert not any(name in paragraph(one) or name in table_note(judged(one)) for name in (*IN_SEVERAL, "(Holm)"))
    assert all(name in paragraph(two) for name in IN_SEVERAL)


@pytest.mark.parametrize(
    "words, used, unused",
    [
        ("Schuirmann 1987", {}, {"metric": "nist", "rules": Analysis(reference="full")}),
        ("fewer than 4 seeds", {"scores": FULL[:3]}, {}),
        ("2 / 4ⁿ", {"scores": (*FULL[:9], 0.5)}, {"scores": MANY}),
        ("Sign-flip tests", {}, {"scores": FULL[:5]}),
        ("Means over tasks", {"tasks": ("a", "b")}, {}),
    ],
)
def test_what_was_not_used_is_not_named(words, used, unused):
    def said(scores=FULL, tasks=("vader_film",), **given):
        rows = {"full": scores, "lora": shifted((0.01, 0.03), scores)}
        return paragraph([run for task in tasks for name in rows for run in runs(name, rows[name], task=task, **given)])

    assert words in said(**used) and words not in said(**unused)


def test_looks_that_nobody_planned_are_paid_for_in_the_paragraph_too(one):
    looks = [Analysis(reference="full", margin=0.005, fixed_seeds=seeds) for seeds in (5, 10)]
    added = [record.model_copy(update={"analysis": looks[record.spec.seed >= 5]}) for record in one]
    assert "p-values are multiplied by the number of looks, 2." in paragraph(added)
    assert "number of looks" not in paragraph(one)


def test_every_source_is_one_of_the_page_on_statistics(two):
    named = re.findall(r"(?:doi:|arXiv:|JSTOR )([\w./]*\w)", paragraph(two))
    assert len(named) >= 4 and all(source in STATISTICS for source in named)


def test_the_paragraph_is_folded_on_the_page_and_first_in_the_file_for_a_paper(two):
    report = Report(two, latex=True)
    assert f"<details><summary>Methods, as a paragraph for a paper</summary>\n\n{paragraph(two)}" in render_markdown(
        report
    )
    latex = render_files(report)["report.tex"].decode()
    assert latex.index(r"\paragraph{Statistical methods.} \texttt{lora} and") < latex.index(r"\begin{table}")
