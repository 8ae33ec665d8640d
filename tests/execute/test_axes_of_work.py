"""Runs that are stopped by tokens, FLOPs or seconds: real models, the real Trainer, and records that say what was used."""

import functools
import json
import math
import time

import pytest
from torch.utils.flop_counter import FlopCounterMode
from transformers import Trainer, TrainerCallback

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.execute.run_suite import run_suite
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.spec import PlannedSpec
from lora_bench.report import Report, render_markdown
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks import encode, load_data
from lora_bench.training import callbacks as loop
from lora_bench.training import prepare
from lora_bench.training import process_cache as warm
from lora_bench.training.checkpoint import latest_checkpoint
from lora_bench.training.measure.measure_callback import MeasureCallback
from lora_bench.training.run import run_job
from lora_bench.training.trainer import warm_up
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
    from lora_bench.models.loading import load_tokenizer

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
    monkeypatch.setattr("lora_bench.training.prepare.own_callbacks", lambda method: [noted])
    return noted.rates


def test_a_run_sees_its_tokens_and_its_learning_rate_follows_the_share_of_them(tmp_path, rates):
    from lora_bench.util.seeding import epoch_order

    job = job_of(tmp_path, TOKENS + "training: {warmup: 0.2}\n")
    assert (job.spec.training.steps, job.spec.training.train_examples, job.steps) == (None, None, None)
    record = run_job(job)
    of_example = lengths(job)
    order = [index for epoch in range(20) for index in epoch_order(0, epoch, len(of_example))]
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


@pytest.mark.parametrize("work", ["train_tokens: 900", pytest.param("train_flops: 4e8", marks=pytest.mark.slow)])
def test_a_run_that_is_stopped_and_goes_on_equals_one_that_was_not(tmp_path, rates, work):
    suite = ONE.replace("train_examples: 48", work) + "selection_every: 2\nkeep_weights: best\n"
    whole = run_job(job_of(tmp_path, suite, runs="whole"))
    once = [*rates]
    rates.clear()
    job = job_of(tmp_path, suite, runs="stopped")
    stopped = run_job(job, lambda step, steps, loss: loop.request_stop("SIGTERM") if step == 3 else None)
    assert stopped.status == "interrupted" and latest_checkpoint(job.folder.checkpoints).step == 3
    loop.request_stop(None)
    resumed = run_job(job)
    assert resumed.resumed and answer(resumed) == answer(whole)
    assert resumed.speed.train_real_tokens == whole.speed.train_real_tokens
    assert resumed.speed.train_flops == whole.speed.train_flops and len(once) > 4
    assert rates == once


def test_a_cap_ends_a_run_on_the_way_and_leaves_the_steps_before_it_alone(tmp_path, rates):
    long = ONE.replace("train_examples: 48", "train_examples: 160")
    whole = run_job(job_of(tmp_path, long, runs="whole"))
    once = [*rates]
    rates.clear()
    capped = run_job(
        job_of(tmp_path, long.replace("160}", "160, caps: {train_tokens: 300}}") + "selection_every: 100\n")
    )
    done = capped.speed.train_steps
    assert 1 < done < 10 and capped.capped_by == "train_tokens" and whole.capped_by is None
    assert capped.speed.train_real_tokens >= 300
    said = f"its cap of 300 real tokens ended the run after step {done}, with {done / 10:.0%} of 160 examples used"
    assert said in capped.warnings
    losses = [point.loss for point in capped.curve if point.loss is not None]
    assert losses == [point.loss for point in whole.curve][:done] and rates == once[:done]
    # What is scored at the end is scored at the step that is the last.
    assert [point.step for point in capped.curve if point.scores] == [done]


@pytest.mark.parametrize("accumulation", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_flops_are_those_of_the_steps_that_were_done(tmp_path, monkeypatch, rates, accumulation):
    """The counter of torch, around the real training, sees what was counted from shapes before the first step."""
    counter = FlopCounterMode(display=False)
    train = Trainer.train
    warm_up()  # it trains too, once a process

    def watched(trainer):
        with counter:
            train(trainer)

    monkeypatch.setattr(Trainer, "train", watched)
    # A fused kernel hides its matrix products from the counter.
    monkeypatch.setattr(warm, "load_model", functools.partial(warm.load_model, attention="eager"))
    suite = ONE.replace("train_examples: 48", "train_flops: 2.5e8") + "training: {schedule: cosine, warmup: 0.0}\n"
    record = run_job(job_of(tmp_path, suite + f"training_arguments: {{gradient_accumulation_steps: {accumulation}}}\n"))
    assert record.status == "ok", record.reason
    assert record.speed.train_flops == counter.get_total_flops() >= 2.5e8
    assert record.speed.train_steps == len(rates) > 3
    # All but the last step are below the target, and the rate is that of a cosine at the share before each step.
    assert rates[0] == 1e-3 and all(0 < rate < 1e-3 for rate in rates[1:])
    share = math.acos(2 * rates[-1] / 1e-3 - 1) / math.pi
    last = record.speed.train_flops - share * 2.5e8
    assert 0 < last < 2.5e8 / (len(rates) - 2)


def test_a_method_whose_flops_nobody_can_count_is_a_row_before_any_training(tmp_path, monkeypatch):
    def no_count(*_, **__):
        raise UnsupportedPair("the FLOPs of a step cannot be counted from shapes: it depends")

    monkeypatch.setattr("lora_bench.plan.planner.step_flops", no_count)
    path = write_project(tmp_path / "project", ONE.replace("train_examples: 48", "train_flops: 1e8"))
    (record,) = run_suite(path, runs=tmp_path / "runs", workers=0).records
    assert record.status == "unsupported" and "cannot be counted" in record.reason


class FakeClock:
    """A clock by which every step takes half a second, from when the step is told to have ended."""

    def __get__(self, measure, kind=None):
        return lambda: measure.earlier_seconds + 0.5 * len(measure.clock)


SECONDS = ONE.replace("train_examples: 48", "train_seconds: 2.0") + "training: {warmup: 0.25}\n"


def test_a_clock_ends_a_run_and_drives_its_learning_rate(tmp_path, rates, monkeypatch):
    monkeypatch.setattr(MeasureCallback, "seconds_so_far", FakeClock())
    told = []
    record = run_job(job_of(tmp_path, SECONDS + "selection_every: 100\n"), lambda *event: told.append(event[:2]))
    # While the fifth step ends, four are told to have ended: 2 s. A rate is set when the one before is in the same state.
    assert (record.speed.train_steps, record.speed.train_examples, record.capped_by) == (5, 80, None)
    assert rates == pytest.approx([1e-3 * factor for factor in (0.0, 0.0, 1.0, 2 / 3, 1 / 3)])
    assert record.speed.train_seconds == 2.5  # asked when the fifth has ended
    assert [point.step for point in record.curve if point.loss is not None] == [1, 2, 3, 4, 5]
    assert [point.step for point in record.curve if point.scores] == [5]
    assert told[-1] == (5, 5)


def test_a_clock_goes_on_from_the_time_already_used(tmp_path, rates, monkeypatch):
    monkeypatch.setattr(MeasureCallback, "seconds_so_far", FakeClock())
    whole = run_job(job_of(tmp_path, SECONDS, runs="whole"))
    once = [*rates]
    rates.clear()
    job = job_of(tmp_path, SECONDS, runs="stopped")
    run_job(job, lambda step, steps, loss: loop.request_stop("SIGTERM") if step == 3 else None)
    assert latest_checkpoint(job.folder.checkpoints).progress["train_seconds"] == 1.5
    loop.request_stop(None)
    resumed = run_job(job)
    assert resumed.resumed and answer(resumed) == answer(whole)
    assert rates == once and resumed.speed.train_seconds == 2.5


def test_a_run_that_is_stopped_twice_in_its_evaluation_took_as_long_as_its_training(tmp_path):
    job = job_of(tmp_path, ONE)
    kept = []
    for _ in range(2):
        stopped = run_job(job, lambda step, steps, loss: loop.request_stop("SIGTERM") if step == 3 else None)
        assert stopped.status == "interrupted" and "in the evaluation" in stopped.reason
        kept.append(latest_checkpoint(job.folder.checkpoints).progress["train_seconds"])
    loop.request_stop(None)
    began = time.perf_counter()
    record = run_job(job)
    assert record.status == "ok" and record.resumed
    assert kept == [record.speed.train_seconds] * 2 and 0 < record.speed.train_seconds < began


@pytest.mark.parametrize("stops", [0, 1, 2])
def test_what_ended_a_run_is_still_known_after_stops_in_its_evaluation(tmp_path, monkeypatch, stops):
    # While the fourth step ends, three are told to have ended: 1.5 s. After it, it is 2 s, which is the target.
    monkeypatch.setattr(MeasureCallback, "seconds_so_far", FakeClock())
    job = job_of(tmp_path, ONE.replace("train_examples: 48", "train_seconds: 2.0, caps: {train_examples: 64}"))
    for _ in range(stops):
        stopped = run_job(job, lambda step, steps, loss: loop.request_stop("SIGTERM") if step == 4 else None)
        assert stopped.status == "interrupted" and "in the evaluation" in stopped.reason
    loop.request_stop(None)
    record = run_job(job)
    assert (record.capped_by, record.speed.train_steps, record.speed.train_seconds) == ("train_examples", 4, 2.0)
    assert "its cap of 64 examples ended the run after step 4, with 100% of 2 s of training used" in record.warnings


def test_a_real_clock_leaves_evaluations_out(tmp_path, monkeypatch):
    plain, clock, evaluations = prepare.scores_of, time.perf_counter, []
    monkeypatch.setattr(prepare, "scores_of", lambda *of: evaluations.append(1) or plain(*of))
    # Each evaluation takes ten hours by the clock, which no step does.
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + 36_000.0 * len(evaluations))
    record = run_job(job_of(tmp_path, ONE.replace("train_examples: 48", "train_seconds: 1.0") + "selection_every: 1\n"))
    assert record.status == "ok" and len(evaluations) >= record.speed.train_steps
    # It ends with the step in which the second is over.
    assert 1.0 <= record.speed.train_seconds < 36_000


def test_seconds_may_be_a_cap(tmp_path, rates, monkeypatch):
    monkeypatch.setattr(MeasureCallback, "seconds_so_far", FakeClock())
    long = ONE.replace("train_examples: 48", "train_examples: 160, caps: {train_seconds: 1}")
    record = run_job(job_of(tmp_path, long))
    assert (record.capped_by, record.speed.train_steps) == ("train_seconds", 3)
    said = "its cap of 1 s of training ended the run after step 3, with 30% of 160 examples used"
    assert said in record.warnings
    # The schedule is that of the ten steps which it did not do: one of warm-up, then a line over nine.
    assert rates == pytest.approx([0.0, 1e-3, 1e-3 * 8 / 9])


def test_a_report_says_what_was_used_of_every_axis(tmp_path):
    suite = TOKENS.replace("[lora]", "[full, lora]").replace("900", "900, caps: {train_flops: 1e8}")
    records = run_suite(write_project(tmp_path / "project", suite), runs=tmp_path / "runs", workers=0).records
    page = render_markdown(Report(records))
    assert (
        "| real tokens seen by every run | 900 |" in page and "| caps, which end a run before | 1e+08 FLOPs |" in page
    )
    table = page.split("What the runs used, medians over them:")[1].split("## Scores")[0]
    for record in records:
        speed = record.speed
        line = next(line for line in table.splitlines() if f"`{record.spec.method.label}`" in line)
        assert [cell.strip() for cell in line.split("|")[4:8]] == [
            f"{speed.train_examples}", f"{speed.train_steps}", f"{speed.train_real_tokens}", f"{speed.train_flops:.4g}",
        ]  # fmt: skip
        ended = "the target" if record.capped_by is None else "cap of `train_flops`"
        assert [cell.strip() for cell in line.split("|")[9:11]] == [
            f"{speed.train_real_tokens / 900:.1%}".replace("%", " %"),
            ended,
        ]
    # The same tokens take lora fewer FLOPs, so that it gets there.
    assert {record.spec.method.label: record.capped_by for record in records} == {"full": "train_flops", "lora": None}


def test_runs_that_a_clock_ends_are_not_done_beside_others(tmp_path):
    path = write_project(tmp_path / "project", SECONDS)
    with pytest.raises(
        LoraBenchError, match="use --workers 1 in place of 2: 1 runs are ended by train_seconds, such as lora"
    ):
        run_suite(path, runs=tmp_path / "runs", workers=2)
    assert not (tmp_path / "runs").exists()


def test_a_method_that_must_know_the_number_of_steps_cannot_follow_a_clock(tmp_path):
    suite = SECONDS.replace("[lora]", "[{method: peft, type: ADALORA, label: adalora}]")
    record = run_job(job_of(tmp_path, suite))
    assert record.status == "unsupported" and "unknown under a budget of train_seconds" in record.reason


def test_the_ids_of_runs_of_examples_know_nothing_of_the_other_amounts(tmp_path):
    plain = job_of(tmp_path, ONE).spec
    for change in (
        {"train_tokens": 900},
        {"train_flops": 1e8},
        {"train_seconds": 2.0},
        {"caps": {"train_tokens": 300.0}},
        {"warmup": 0.1},
    ):
        changed = plain.model_copy(update={"training": plain.training.model_copy(update=change)})
        assert changed.run_id != plain.run_id
    content = plain.model_dump(mode="json")
    for name in ("train_tokens", "train_flops", "train_seconds", "caps", "warmup"):
        del content["training"][name]
    assert PlannedSpec.model_validate_json(json.dumps(content)).run_id == plain.run_id
