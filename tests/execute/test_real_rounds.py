"""Seeds that are added until decided: trained in whatever way, a suite comes to the same runs, scores and verdicts.

Full fine-tuning learns these texts whole. Prefixes at a rate next to nothing learn none of them, so four seeds show it. The
two LoRAs do on some seeds and not on others, which is open after four seeds as after five.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from lora_bench.cli import main
from lora_bench.execute.run_suite import run_suite, runs_folder
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.record import Record
from lora_bench.records.store import answers_in, read_records
from lora_bench.report.model.comparison import compare
from lora_bench.report.model.judged import judge_comparison
from lora_bench.suite.load_suite import load_suite
from tests.execute.test_choices import Said
from tests.execute.test_rounds import seeds_of
from tests.project import BAD, GOOD, WORDS, write_project

UNTIL_DECIDED = """\
suite: tickets
tasks:
  - {task: tickets, data: tickets.csv, text: subject, label: queue}
models: [base]
methods:
  - {method: full, learning_rate: 1e-2}
  - {method: lora, learning_rate: 3e-3}
  - {method: lora, label: wide, rank: 16, learning_rate: 3e-3}
  - {method: prefix_tuning, learning_rate: 1e-6}
seeds: {until: decided, at_least: 4, at_most: 5}
budget: {train_examples: 256}
training: {batch_size: 8, max_length: 16, masks: keyed}
analysis: {reference: full, alpha: 0.2}  # no p-value of four pairs is below 0.03 at a first look where runs stand apart
"""
SENTENCE = "decided with 4 seeds: prefix_tuning is worse than full for tickets on base"


def write_rounds(folder: Path) -> Path:
    """A project of this suite, with texts that say their label twice; the path of the suite."""
    path = write_project(folder, UNTIL_DECIDED)
    rows = [
        f"{word} {word} {one} {word} {other},{label}"
        for one in WORDS
        for other in WORDS
        for words, label in ((GOOD, "praise"), (BAD, "complaint"))
        for word in words
    ]
    (folder / "tickets.csv").write_text("\n".join(["subject,queue", *rows, ""]), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Found:
    """What a folder of runs says.

    Args:
        records: Every record, by its run id.
        decided: The sentences of what is decided.
        verdicts: Of each method.
        p_values: Of the same.
    """

    records: dict[str, Record]
    decided: tuple[str, ...]
    verdicts: dict[str, str]
    p_values: dict[str, float]


def found_in(path: Path, runs: Path) -> Found:
    """What all commands left there; nothing may be left to do."""
    suite = load_suite(path)
    folder = runs_folder(suite, runs)
    plan = make_plan(suite, folder)
    assert not plan.missing and not plan.waiting
    records = read_records(folder)
    assert [(one.status, one.attempts) for one in records] == [("ok", 1)] * len(records)
    judged = judge_comparison(compare(records), records, answers_in(folder, records))
    return Found(
        {one.run_id: one for one in records},
        tuple(plan.decided),
        {held.row.label: held.verdict.verdict for held in judged.held},
        {held.row.label: held.verdict.p_value for held in judged.held},
    )


def assert_same(found: Found, other: Found) -> None:
    """Runs and what is decided are the same, and scores and p-values up to the rounding of packs."""
    assert found.records.keys() == other.records.keys()
    assert (found.decided, found.verdicts) == (other.decided, other.verdicts)
    for run_id, record in found.records.items():
        assert record.scores == pytest.approx(other.records[run_id].scores, abs=1e-6), record.spec.method.label
    assert found.p_values == pytest.approx(other.p_values, abs=1e-6)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rounds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORA_BENCH_CACHE", str(folder / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield write_rounds(folder / "project")


@pytest.fixture(scope="module")
def alone(path, tmp_path_factory):
    """What one process finds that does one run after the other."""
    runs, said = tmp_path_factory.mktemp("alone"), Said()
    run_suite(load_suite(path), runs=runs, workers=0, pack=False, display=said)
    assert said.lines.count(SENTENCE) == 1
    return found_in(path, runs)


def test_a_method_that_four_seeds_decide_is_trained_no_more_and_the_others_are(alone):
    five = [0, 1, 2, 3, 4]
    assert seeds_of(alone.records.values()) == {"full": five, "lora": five, "wide": five, "prefix_tuning": five[:4]}
    assert alone.decided == (SENTENCE,)
    assert alone.verdicts == {"lora": "inconclusive", "wide": "inconclusive", "prefix_tuning": "worse"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="workers are forked")
def test_two_workers_come_to_the_same(path, alone, tmp_path):
    said = Said()
    run_suite(load_suite(path), runs=tmp_path, workers=2, pack=False, display=said)
    found = found_in(path, tmp_path)
    assert_same(found, alone)
    assert said.lines.count(SENTENCE) == 1
    # No rounding either: each run is trained as it is alone.
    assert {run_id: one.scores for run_id, one in found.records.items()} == {
        run_id: one.scores for run_id, one in alone.records.items()
    }


@pytest.mark.slow
def test_packs_come_to_the_same_and_each_round_has_packs_of_its_own(path, alone, tmp_path):
    said = Said()
    run_suite(load_suite(path), runs=tmp_path, workers=0, display=said)
    found = found_in(path, tmp_path)
    assert_same(found, alone)
    assert said.lines.count(SENTENCE) == 1
    company = {(one.spec.method.label, one.spec.seed): len(one.packed_with) + 1 for one in found.records.values()}
    # Both LoRAs share a pack, of four seeds and then of one; full fine-tuning has no base to share.
    lora = {(label, seed): 2 if seed == 4 else 8 for label in ("lora", "wide") for seed in range(5)}
    prefixes = {("prefix_tuning", seed): 4 for seed in range(4)}
    assert company == {**lora, **prefixes, **{("full", seed): 1 for seed in range(5)}}


@pytest.mark.slow
def test_two_commands_at_one_folder_come_to_the_same(path, alone, tmp_path, capsys):
    assert main(["plan", str(path), "--prepare", "--runs", str(tmp_path)]) == 0
    command = [sys.executable, "-m", "lora_bench.cli", "work", str(tmp_path / "tickets"), "--workers", "0", "--no-pack"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    for process in both:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
        assert SENTENCE in output
    assert_same(found_in(path, tmp_path), alone)
