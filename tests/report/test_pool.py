"""Several suites analysed as one, on records whose sums a reader can do."""

import math
import shutil
from pathlib import Path

import pytest

from lora_bench.cli import main
from lora_bench.records.sealed_records import to_json
from lora_bench.report import Report
from lora_bench.report.model.pool import pool
from lora_bench.report.sections.pool_page import pool_page
from lora_bench.stats.estimate import student_quantile
from tests.sample_records import METHODS, record

ROOT = Path(__file__).parents[2]


def runs(task, points, suite="one", method="full", first_seed=0, spread=0.001, **more):
    """Three seeds of lora, and of a method that is better by these points in the mean, with a spread of a tenth of one."""
    return [
        record(name, seed=seed, score=score, task=task, suite=suite, **more)
        for seed, by in enumerate((-spread, 0.0, spread), start=first_seed)
        for name, score in (("lora", 0.7 + seed / 100), (method, 0.7 + seed / 100 + points / 100 + by))
    ]


def pooled(**suites):
    return pool([Report(records, name=name) for name, records in suites.items()])


def test_three_tasks_of_two_suites_are_one_t_interval():
    found = pooled(one=runs("a", 2.0) + runs("b", 4.0), two=runs("c", 6.0, suite="two"))
    (claim,) = found.claims
    # Of 2, 4 and 6 points the mean is 4 and the variance 4.
    half = student_quantile(2, 0.025) * 2 / math.sqrt(3)
    assert (claim.first, claim.second, claim.pairs) == ("full", "lora", 9)
    assert claim.found.estimate.value == pytest.approx(4.0)
    assert (claim.interval.low, claim.interval.high) == pytest.approx((4 - half, 4 + half))
    # The noise of a task's mean is 0.1 / √3.
    assert claim.found.task_sd == pytest.approx(math.sqrt(4 - 0.01 / 3))


def test_a_run_that_stands_in_two_suites_counts_once():
    first, second = runs("a", 2.0) + runs("b", 4.0), runs("b", 4.0, suite="two") + runs("c", 6.0, suite="two")
    found = pooled(one=first, two=second)
    assert found.claims == pooled(one=first, two=runs("c", 6.0, suite="two")).claims
    one, two = found.suites
    assert (one.runs, one.shared, one.pairs) == (12, 6, 6)
    assert (two.runs, two.shared, two.places, two.pairs) == (12, 6, 1, 3)
    # Without the second suite the mean is that of 2 and 4 points; without the first, of 4 and 6.
    assert (two.moved, one.moved) == (pytest.approx(1.0), pytest.approx(1.0))
    assert found.runs == 18


def test_seeds_of_one_task_in_two_suites_are_one_difference_weighted_by_pairs():
    more = runs("a", 8.0, suite="two", first_seed=3)[:4]
    (claim,) = pooled(one=runs("a", 2.0) + runs("b", 4.0), two=more).claims
    # Two pairs at 8 points, less half of 0.1 for their lower seeds, and three at 2.
    assert claim.found.tasks["a"] == pytest.approx((3 * 2 + 2 * 7.95) / 5)


def test_all_claims_are_one_family():
    pair = runs("a", 2.0) + runs("b", 2.1)
    third = [one for task in "ab" for one in runs(task, 5.0, method="prefix_tuning", spread=0.002)[1::2]]
    (alone,) = pooled(one=pair).claims
    claims = {(claim.first, claim.second): claim for claim in pooled(one=pair + third).claims}
    assert claims.keys() == {("full", "lora"), ("full", "prefix_tuning"), ("lora", "prefix_tuning")}
    widened = claims["full", "lora"]
    assert widened.found == alone.found
    # By Holm: the tasks agree best on lora and prefixes, whose spread is the noise; the second is multiplied by 2.
    assert alone.p_value < widened.p_value <= 3 * alone.p_value
    ratio = student_quantile(1, 0.025 / 3) / student_quantile(1, 0.025)
    assert widened.interval.high - 2.05 == pytest.approx(ratio * (alone.interval.high - 2.05))


def test_pairs_on_one_task_have_no_claim_and_trials_do_not_count():
    found = pooled(one=runs("a", 2.0), two=runs("b", 3.0, suite="two", spec={"score_on": "selection"}))
    assert (found.claims, found.one_task) == ((), 1)
    assert "**Nothing can be pooled" in pool_page(found, "lora-bench pool one two")


def test_a_lower_loss_is_a_better_one():
    (claim,) = pooled(one=runs("a", -2.0, higher_is_better=False) + runs("b", -4.0, higher_is_better=False)).claims
    assert claim.found.estimate.value == pytest.approx(3.0)


def test_base_models_have_claims_of_their_own_and_one_together():
    other = {"model": "other", "model_type": "roberta"}
    found = pooled(one=runs("a", 2.0) + runs("b", 4.0) + runs("a", 4.0, **other) + runs("b", 6.0, **other))
    assert [(claim.model, claim.models) for claim in found.claims] == [
        (None, 2), ("MiniLM-L6 in the RoBERTa class", 1), ("other", 1),
    ]  # fmt: skip
    assert [claim.found.estimate.value for claim in found.claims] == pytest.approx([4.0, 3.0, 5.0])


def test_methods_that_share_a_label_are_told_apart_by_their_options():
    options = {**METHODS["lora"].options, "scaling": 4.0}
    strong = METHODS["lora"].model_copy(update={"options": options, "chosen": {"rank": 4, "scaling": 4.0}})
    others = [
        one for task in "ab" for one in runs(task, 1.0, method=strong, spread=0.002)[1::2] + runs(task, 2.0)[1::2]
    ]
    found = pooled(one=runs("a", 2.0) + runs("b", 4.0), two=others)
    assert {name for claim in found.claims for name in (claim.first, claim.second)} == {
        "full", "lora (scaling=2.0)", "lora (scaling=4.0)",
    }  # fmt: skip


def test_the_command_reads_the_folders_that_report_reads(tmp_path, capsys):
    for suite, records in (("one", runs("a", 2.0) + runs("b", 2.2)), ("two", runs("c", 2.1, suite="two"))):
        for one in records:
            folder = tmp_path / "runs" / suite / one.run_id
            folder.mkdir(parents=True)
            (folder / "record.json").write_bytes(to_json(one))
    assert main(["pool", str(tmp_path / "runs" / "one"), str(tmp_path / "runs" / "two")]) == 0
    page = capsys.readouterr().out
    assert "**Shown, 1 of 1 comparison: `full` beats `lora` by 2.1 points on MiniLM-L6 in the RoBERTa class.**" in page
    assert "| `full` | `lora` | MiniLM-L6 in the RoBERTa class | 9 | **+2.1** | +1.9 to +2.3 |" in page
    # Without the first suite one task is left, and without the second the mean is 2.1 as well.
    assert "| `one` | 12 | 0 | 2 | 6 | – |\n| `two` | 6 | 0 | 1 | 3 | 0.0 |" in page
    # Another folder of the same name is another suite.
    shutil.copytree(tmp_path / "runs" / "two", tmp_path / "again" / "one")
    assert main(["pool", str(tmp_path / "runs" / "one"), str(tmp_path / "again" / "one")]) == 0
    assert "| 9 | **+2.1** | +1.9 to +2.3 |" in capsys.readouterr().out
    # A suite of probes has no scores.
    shutil.copytree(ROOT / "baselines" / "system-claims", tmp_path / "runs" / "zero")
    assert main(["pool", str(tmp_path / "runs"), "--out", str(tmp_path / "pool.md")]) == 0
    written = (tmp_path / "pool.md").read_text(encoding="utf-8")
    assert "zero: it has no records" in written
    # The differences are the same.
    assert written.split("## ")[1] == page.split("## ")[1]
