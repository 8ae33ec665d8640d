"""What is chosen depends on no kill: a folder that was disturbed comes to hold what an undisturbed one holds.

The suites are real, and so are plans, locks and records; no model is trained. A stand-in for the executor makes each run's
score of its spec, and dies, stops, or lets another command work on the folder, as a test asks of it.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Callable

import pytest

from lora_bench.cli.plan_table import plan_tables
from lora_bench.execute import run_suite as running
from lora_bench.execute.executors.executor import Lost
from lora_bench.execute.run_suite import Silent, run_suite, runs_folder
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.outcomes import DISK_FULL, NO_MEMORY, is_untried
from lora_bench.records.run_lock import Elsewhere
from lora_bench.records.store import read_records
from lora_bench.suite.load_suite import load_suite
from tests import sample_records
from tests.choosing import SUITES, write_choosing


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def score_of(job) -> float:
    """A score that every process would give the run: from 0 to 1, but for prefixes, which are far worse."""
    far = 100 if job.spec.method.label == "prefix_tuning" else 0
    return -far + int(hashlib.sha256(job.run_id.encode()).hexdigest()[:8], 16) / 16**8


A_MINUTE = sample_records.record().speed.model_copy(
    update={"load_seconds": 1.0, "train_seconds": 56.0, "evaluation_seconds": 3.0}
)


class Untrained:
    """An executor without training.

    Args:
        disturb: Told of each job that is begun; what happens to it: the name of a signal that ends its worker, `stop`,
            `disk_full`, a status such as `timeout`, or None for a score.
    """

    workers = 1
    on_gpu = False

    def __init__(self, disturb: Callable) -> None:
        self.disturb = disturb
        self.units: list = []

    def submit(self, units):
        self.units = units

    def stop(self, name):
        self.units = []

    def results(self, tell):
        while self.units:
            for job in self.units.pop(0):
                yield self.do(job)

    def do(self, job):
        with_record = job.folder.record()
        lock = job.folder.try_lock() if with_record is None else None
        if lock is None:
            return with_record or Elsewhere(job.run_id)
        with lock:
            if (record := job.folder.record()) is not None:
                return record
            happens = self.disturb(job)
            if happens in ("timeout", "out_of_memory"):
                return job.folder.publish(job.record(happens, "why"))
            if happens in ("interrupted", DISK_FULL):
                self.units = []
                return job.folder.publish(job.record("failed", DISK_FULL))
            if happens is None:
                return job.folder.publish(job.record("ok", scores={job.task.metric: score_of(job)}, speed=A_MINUTE))
        return Lost(job, f"signal {happens}: it ended the worker")


class Said(Silent):
    """A display that keeps what is said."""

    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)


@pytest.fixture
def command(monkeypatch):
    """Run a suite's command once; what became of it."""

    def once(path, runs, disturb=lambda job: None, **named):
        monkeypatch.setattr(running, "_executor", lambda *given: Untrained(disturb))
        return run_suite(load_suite(path), runs=runs, **named)

    return once


def written(tmp_path, name):
    return write_choosing(tmp_path / "project", SUITES[name])


def content(path, runs):
    """What a folder says: each run and its score."""
    return {
        record.run_id: (record.status, record.score) for record in read_records(runs_folder(load_suite(path), runs))
    }


def reported(outcome):
    return sorted((record.run_id, record.status, record.score) for record in outcome.records)


def best_trial(path, runs, label="lora"):
    """The learning rate of a method whose trials are best, of an undisturbed folder."""
    by = {}
    for record in read_records(runs_folder(load_suite(path), runs)):
        if record.spec.method.label == label and record.spec.seed in (100, 101):
            by.setdefault(record.spec.training.learning_rate, []).append(record.score)
    return max(by, key=lambda rate: sum(by[rate]))


@pytest.mark.parametrize("ended_by", ["SIGKILL", "SIGSEGV"])
def test_a_killed_trial_chooses_no_other_rate(tmp_path, command, ended_by):
    path = written(tmp_path, "trials")
    whole = command(path, tmp_path / "whole")
    best = best_trial(path, tmp_path / "whole")

    def disturb(job):
        if job.trial and job.spec.method.label == "lora" and job.spec.training.learning_rate == best:
            return ended_by
        return None

    runs = tmp_path / "runs"
    first = command(path, runs, disturb)
    assert first.later == 2, "the runs of LoRA wait for its trials"
    assert not [one for one in first.records if one.spec.method.label == "lora" and one.spec.seed in (0, 1)]
    again = command(path, runs)
    assert reported(again) == reported(whole) and again.later == 0
    assert content(path, runs) == content(path, tmp_path / "whole")


def test_a_trial_that_crashes_each_time_has_failed_by_itself(tmp_path, command):
    path = written(tmp_path, "trials")
    command(path, tmp_path / "whole")
    best = best_trial(path, tmp_path / "whole")

    def disturb(job):
        return "SIGSEGV" if job.trial and job.spec.training.learning_rate == best else None

    assert command(path, tmp_path / "runs", disturb).later
    outcome = command(path, tmp_path / "runs", disturb)
    found = {
        one.spec.training.learning_rate
        for one in outcome.records
        if one.spec.seed in (0, 1) and one.spec.method.label == "lora"
    }
    assert outcome.later == 0 and best not in found and len(found) == 1
    # And nothing is done for ever.
    assert command(path, tmp_path / "runs", disturb).done == 0


def test_runs_of_a_choice_that_no_longer_stands_are_set_aside_and_come_back_with_it(tmp_path, command):
    path = written(tmp_path, "trials")
    whole = command(path, tmp_path / "whole")
    best = best_trial(path, tmp_path / "whole")

    def disturb(job):
        return "timeout" if job.trial and job.spec.training.learning_rate == best else None

    runs = tmp_path / "runs"
    wrong = command(path, runs, disturb)
    stale = {one.run_id for one in wrong.records} - {one.run_id for one in whole.records}
    assert len(stale) == 2, "a trial that made no progress by itself is one that lost"
    said = Said()
    right = command(path, runs, retry=True, display=said)
    assert reported(right) == reported(whole) and content(path, runs) == content(path, tmp_path / "whole")
    assert all(any(run_id in line for line in said.lines) for run_id in stale)
    # Where the choice is made again as it was, what was set aside is there at once.
    for record in read_records(runs_folder(load_suite(path), runs)):
        if record.spec.seed in (100, 101) and record.spec.training.learning_rate == best:
            (runs_folder(load_suite(path), runs) / record.run_id / "record.json").unlink()
    back = command(path, runs, disturb)
    assert {one.run_id for one in back.records} == {one.run_id for one in wrong.records}
    assert not {record.attempts for record in back.records if record.run_id in stale} - {1}


def test_runs_that_a_wider_search_chooses_again_state_its_trials(tmp_path, command):
    path, runs = written(tmp_path, "trials"), tmp_path / "runs"
    path.write_text(path.read_text().replace("train_examples: 48}", "train_examples: 48, trials: 2}"))
    first = command(path, runs)
    assert {record.budget.trials for record in first.records} == {2}
    # Whatever the third rate does, the trials of the others are the same runs.
    text = path.read_text().replace("trials: 2}", "trials: 3}")
    path.write_text(text.replace("[1e-2, 1e-3]", "[1e-2, 1e-3, 5e-2]").replace("[1e-3, 1e-4]", "[1e-3, 1e-4, 5e-3]"))
    second = command(path, runs)
    again = {record.run_id for record in first.records} & {record.run_id for record in second.records}
    assert again and {record.budget.trials for record in second.records} == {3}
    assert {record.budget.trials for record in read_records(runs_folder(load_suite(path), runs))} == {3}
    assert command(path, runs).done == 0


def test_a_command_whose_choice_another_one_changes_meanwhile_follows_it(tmp_path, command):
    path, runs = written(tmp_path, "trials"), tmp_path / "runs"
    whole = command(path, tmp_path / "whole")
    best = best_trial(path, tmp_path / "whole")

    def slow(job):
        return "timeout" if job.trial and job.spec.training.learning_rate == best else None

    trials = [one.run_id for one in whole.records if one.spec.seed in (100, 101)]
    command(path, runs, slow, only=trials)
    began = []

    def change(job):
        if job.spec.method.label == "lora" and not began:
            # The run that is being done here is of the other rate, and cannot be moved meanwhile.
            began.append(job)
            other = command(path, runs, retry=True)
            assert reported(other) == reported(whole)

    outcome = command(path, runs, change)
    assert began[0].run_id not in {one.run_id for one in whole.records}
    assert reported(outcome) == reported(whole) and (outcome.undone, outcome.later) == ((), 0)
    assert content(path, runs) == content(path, tmp_path / "whole")


def test_a_best_rate_at_the_edge_is_extended_once_and_another_is_not(tmp_path, command, monkeypatch):
    path = written(tmp_path, "extended")
    # LoRA is the better the greater its rate, and full fine-tuning best in the middle.
    monkeypatch.setattr(
        "tests.execute.test_choices.score_of",
        lambda job: (
            rate if (rate := job.spec.training.learning_rate) and job.spec.method.label == "lora" else -abs(rate - 3e-4)
        ),
    )
    plan = make_plan(load_suite(path), runs_folder(load_suite(path), tmp_path / "runs"))
    said = "\n".join(part.plain for part in plan_tables(plan) if hasattr(part, "plain"))
    assert "4 runs wait for the other trials, and are left out unless" in said
    outcome = command(path, tmp_path / "runs")
    tried, ran = {}, {}
    for one in outcome.records:
        where = tried if one.spec.seed in (100, 101) else ran
        where.setdefault(one.spec.method.label, set()).add(one.spec.training.learning_rate)
    # Neighbours of 1e-3, 3e-3 and 1e-2 are the root of 10 apart, on average.
    assert tried == {"lora": {1e-3, 3e-3, 1e-2, 3.16e-2}, "full": {1e-4, 3e-4, 1e-3}}
    assert ran == {"lora": {3.16e-2}, "full": {3e-4}}
    extended = [one for one in outcome.records if one.extended]
    assert {(one.spec.seed, one.spec.training.learning_rate) for one in extended} == {(100, 3.16e-2), (101, 3.16e-2)}
    # Any of its runs can be made by its id alone.
    wanted = [one.run_id for one in outcome.records if one.spec.training.learning_rate == 3.16e-2]
    again = command(path, tmp_path / "elsewhere", only=wanted)
    assert sorted(one.run_id for one in again.records) == sorted(wanted)


def test_a_killed_source_starts_nothing(tmp_path, command):
    path = written(tmp_path, "starts")
    whole = command(path, tmp_path / "whole")

    def disturb(job):
        return "SIGKILL" if job.spec.task.name == "urgency" and not job.trial and job.spec.seed == 1 else None

    first = command(path, tmp_path / "runs", disturb)
    assert first.later and not [one for one in first.records if one.spec.start is not None]
    assert reported(command(path, tmp_path / "runs")) == reported(whole)
    assert content(path, tmp_path / "runs") == content(path, tmp_path / "whole")


def rounds(seed, path, runs, command):
    """Disturb a folder at random until it is done; the commands that it took."""
    draw = random.Random(seed)
    crashed: Counter = Counter()
    depth = 0

    def disturb(job):
        nonlocal depth
        chance = draw.random()
        if chance < 0.10:
            return "SIGKILL"
        if chance < 0.15 and not crashed[job.run_id] and job.folder.attempts() == 0:
            crashed[job.run_id] += 1
            return "SIGSEGV"
        if chance < 0.20:
            return DISK_FULL
        if chance < 0.30 and depth == 0:
            # Another command does what it can meanwhile.
            depth += 1
            command(path, runs, disturb, wait=False, retry=draw.random() < 0.3)
            depth -= 1
        return None

    for number in range(60):
        outcome = command(path, runs, disturb, retry=draw.random() < 0.2, pack=draw.random() < 0.5)
        ended = [record for record in outcome.records if record.status != "ok"]
        if not (ended or outcome.undone or outcome.later or outcome.interrupted):
            return outcome, number + 1
    raise AssertionError("it was never done")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["trials", "starts", "seeds", *(pytest.param(name, marks=pytest.mark.slow) for name in ("extended", "halving"))],
)
def test_whatever_happens_to_a_folder_it_comes_to_hold_what_an_undisturbed_one_holds(tmp_path, command, name):
    path = written(tmp_path, name)
    whole = command(path, tmp_path / "whole")
    assert {record.status for record in whole.records} == {"ok"}
    most = 0
    for seed in range(6):
        runs = tmp_path / f"runs{seed}"
        outcome, commands = rounds(seed, path, runs, command)
        assert reported(outcome) == reported(whole), f"seed {seed}"
        assert content(path, runs) == content(path, tmp_path / "whole"), f"seed {seed}"
        most = max(most, commands)
    assert most > 1, "nothing happened"


@pytest.mark.parametrize(
    ("status", "reason", "attempts", "untried"),
    [
        ("failed", "signal SIGKILL: it ended the worker", 7, True),
        ("failed", f"signal SIGKILL: the kernel ended the worker, because {NO_MEMORY}", 1, True),
        ("failed", f"signal SIGKILL: the kernel ended the worker, because {NO_MEMORY}", 2, False),
        ("failed", "signal SIGSEGV: it ended the worker", 1, True),
        ("failed", "signal SIGSEGV: it ended the worker", 2, False),
        ("failed", "its worker ended with exit code 1", 1, True),
        ("failed", "ValueError: a fault of the method", 1, False),
        ("out_of_memory", "in step 3: no memory", 1, False),
        ("timeout", "no progress for 60 s", 1, False),
        ("diverged", "the loss is not finite", 1, False),
    ],
)
def test_what_says_nothing_of_a_run_is_told_from_what_it_failed_by(status, reason, attempts, untried):
    ended = sample_records.record(status=status).model_copy(update={"reason": reason, "attempts": attempts})
    assert is_untried(ended) is untried


def test_a_disk_that_is_full_between_the_trials_and_what_they_choose_breaks_the_work_off(
    tmp_path, command, monkeypatch
):
    from lora_bench.errors import LoraBenchError, WorkBroken

    path = written(tmp_path, "trials")
    free = [10**12, 0]
    monkeypatch.setattr(running, "free_bytes", lambda folder: free.pop(0))
    with pytest.raises(WorkBroken, match="make room"):
        command(path, tmp_path / "runs")
    # Before any work it is what the user gave.
    monkeypatch.setattr(running, "free_bytes", lambda folder: 0)
    with pytest.raises(LoraBenchError, match="make room") as error:
        command(path, tmp_path / "other")
    assert not isinstance(error.value, WorkBroken)
