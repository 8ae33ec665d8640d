"""Files of a run that a user deleted or copied: said, passed over, and made again."""

import shutil

import pytest

from lora_bench.execute.run_suite import Silent, run_suite
from tests.project import SUITE, write_project

TWO = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora, bottleneck_adapter]")


class Notes(Silent):
    def __init__(self):
        self.said = []

    def say(self, message):
        self.said.append(message)


@pytest.fixture
def again(tmp_path, monkeypatch):
    """Runs a project, and gives its outcome and what was said."""
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    path = write_project(tmp_path, TWO)

    def run(**options):
        notes = Notes()
        return run_suite(path, runs=tmp_path / "runs", workers=0, display=notes, **options), notes.said

    return run


def test_deleted_predictions_are_said_and_made_again_by_a_retry(tmp_path, again):
    first, _ = again()
    file = tmp_path / "runs" / "tickets" / first.records[0].run_id / "predictions.json"
    content = file.read_bytes()
    file.unlink()
    outcome, said = again()
    assert outcome.done == 0 and not file.exists()
    assert [one for one in said if "is gone" in one and str(file) in one and "--retry makes them again" in one]
    outcome, said = again(retry=True)
    assert outcome.done == 1 and file.read_bytes() == content and not [one for one in said if "gone" in one]
    assert outcome.records[0].scores == first.records[0].scores


def test_a_run_takes_no_other_runs_record_for_its_own(tmp_path, again):
    first, _ = again()
    one, other = (tmp_path / "runs" / "tickets" / record.run_id for record in first.records)
    shutil.copy(other / "record.json", one / "record.json")
    outcome, said = again()
    assert outcome.done == 1 and any(f"is the record of another run, {other.name}" in line for line in said)
    assert [record.scores for record in outcome.records] == [record.scores for record in first.records]
