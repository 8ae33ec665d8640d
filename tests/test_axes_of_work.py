"""Runs that are stopped by real tokens: real models, the real Trainer, and records that say what was used."""

import json

import pytest
from transformers import TrainerCallback

from lora_bench import loop
from lora_bench.checkpoint import latest_checkpoint
from lora_bench.plan import make_plan
from lora_bench.run import run
from lora_bench.spec import PlannedSpec
from lora_bench.suite import load_suite
from lora_bench.tasks import encode, load_data
from tests.project import SUITE, write_project

ONE = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]")
TOKENS = ONE.replace("train_examples: 48", "train_tokens: 900")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    loop.request_stop(None)


def job_of(tmp_path, suite, runs="runs"):
    path = write_project(tmp_path / "project", suite)
    (cell,) = make_plan(load_suite(path), tmp_path / runs).cells
    return cell.job


SAME = {"speed", "memory", "started_at", "attempts", "resumed", "environment"}


def answer(record):
    """What a record says that must not depend on when and where it ran."""
    return record.model_dump(exclude=SAME)


def lengths(job):
    """Real tokens of each training example, straight from the tokenizer."""
    from lora_bench.models import load_tokenizer

    data = load_data(job.task, job.task_base)
    examples, _ = encode(data.splits["train"], load_tokenizer(job.base_model), job.spec.training.max_length)
    return [len(example["input_ids"]) for example in examples]


class Rates(TrainerCallback):
    """Notes the learning rate with which each step is done."""

    def __init__(self):
        self.rates = []

    def on_step_begin(self, args, state, control, optimizer=None, **inside):
        assert len({group["lr"] for group in optimizer.param_groups}) == 1
        self.rates.append(optimizer.param_groups[0]["lr"])


@pytest.fixture
def rates(monkeypatch):
    noted = Rates()
    monkeypatch.setattr("lora_bench.run.own_callbacks", lambda method: [noted])
    return noted.rates


def test_a_run_sees_its_tokens_and_its_learning_rate_follows_the_share_of_them(tmp_path, rates):
    from lora_bench.randomness import example_order

    job = job_of(tmp_path, TOKENS + "training: {warmup: 0.2}\n")
    assert (job.spec.training.steps, job.spec.training.train_examples, job.steps) == (None, None, None)
    record = run(job)
    of_example = lengths(job)
    order = example_order(0, len(of_example), 2_000)
    seen, expected = 0, []
    while seen < 900:
        share = seen / 900
        factor = share / 0.2 if share < 0.2 else (1 - share) / 0.8
        expected.append(job.spec.training.learning_rate * factor)
        batch, order = order[:16], order[16:]
        seen += sum(of_example[index] for index in batch)
    assert record.status == "ok", record.reason
    assert record.speed.train_real_tokens == seen >= 900
    assert (record.speed.train_steps, record.speed.train_examples) == (len(expected), 16 * len(expected))
    assert rates == pytest.approx(expected, rel=1e-5)
    assert record.capped_by is None and [point.step for point in record.curve] == list(range(1, len(expected) + 1))


def test_a_run_that_is_stopped_and_goes_on_equals_one_that_was_not(tmp_path, rates):
    suite = TOKENS + "selection_every: 2\nkeep_weights: best\n"
    whole = run(job_of(tmp_path, suite, runs="whole"))
    once = [*rates]
    rates.clear()
    job = job_of(tmp_path, suite, runs="stopped")
    stopped = run(job, lambda step, steps, loss: loop.request_stop("SIGTERM") if step == 3 else None)
    assert stopped.status == "interrupted" and latest_checkpoint(job.folder.checkpoints).step == 3
    loop.request_stop(None)
    resumed = run(job)
    assert resumed.resumed and answer(resumed) == answer(whole)
    assert resumed.speed.train_real_tokens == whole.speed.train_real_tokens
    assert rates == once


def test_a_cap_ends_a_run_on_the_way_and_leaves_the_steps_before_it_alone(tmp_path, rates):
    long = ONE.replace("train_examples: 48", "train_examples: 160")
    whole = run(job_of(tmp_path, long, runs="whole"))
    once = [*rates]
    rates.clear()
    capped = run(job_of(tmp_path, long.replace("160}", "160, caps: {train_tokens: 300}}") + "selection_every: 100\n"))
    done = capped.speed.train_steps
    assert 1 < done < 10 and capped.capped_by == "train_tokens" and whole.capped_by is None
    assert capped.speed.train_real_tokens >= 300
    assert any(f"ends the run at step {done}, before train_examples" in warning for warning in capped.warnings)
    losses = [point.loss for point in capped.curve if point.loss is not None]
    assert losses == [point.loss for point in whole.curve][:done] and rates == once[:done]
    # What is scored at the end is scored at the step that is the last.
    assert [point.step for point in capped.curve if point.scores] == [done]


def test_the_ids_of_runs_of_examples_know_nothing_of_the_other_amounts(tmp_path):
    plain = job_of(tmp_path, ONE).spec
    for change in ({"train_tokens": 900}, {"caps": {"train_tokens": 300.0}}, {"warmup": 0.1}):
        changed = plain.model_copy(update={"training": plain.training.model_copy(update=change)})
        assert changed.run_id != plain.run_id
    content = plain.model_dump(mode="json")
    for name in ("train_tokens", "caps", "warmup"):
        del content["training"][name]
    assert PlannedSpec.model_validate_json(json.dumps(content)).run_id == plain.run_id
