"""The measuring core: numbers that can be counted by hand, on a real Trainer."""

import time

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from lora_bench.training.measure import measure_callback
from lora_bench.training.measure.counters import DeviceClock, PeakMemory, allocated_beside, bytes_of
from lora_bench.training.measure.measure_callback import MeasureCallback, StepClock, WorkDone
from tests.tiny import tiny_batch, tiny_roberta

LENGTHS = (9, 6, 7, 9, 4, 8, 5, 3, 9, 9, 8, 7)
MIB = 2**20


def rows(lengths=LENGTHS):
    """Examples of these lengths, padded to the longest."""
    batch = tiny_batch(lengths, labels=True)
    return [{key: values[row] for key, values in batch.items()} for row in range(len(lengths))]


def trained(folder, measure, *callbacks, **arguments):
    """A Trainer that has trained a tiny RoBERTa on twelve rows, four a step."""
    given = {"max_steps": 6, "per_device_train_batch_size": 4, "report_to": "none", "save_strategy": "no"}
    settings = TrainingArguments(folder, use_cpu=True, disable_tqdm=True, **{**given, **arguments})
    trainer = Trainer(
        tiny_roberta(), args=settings, train_dataset=rows(), eval_dataset=rows(), callbacks=[measure, *callbacks]
    )
    trainer.train()
    return trainer


class Waste(TrainerCallback):
    """Touches this much memory, and gives it back, whenever it is called at one of these events."""

    def __init__(self, mib, *events):
        for event in events:
            setattr(self, event, lambda *_, **__: self._touch(mib))

    def _touch(self, mib):
        bytearray(mib * MIB)[::4096] = bytes(len(range(0, mib * MIB, 4096)))


def test_every_step_has_a_time_and_the_first_are_left_out_of_the_speed(tmp_path):
    measure = MeasureCallback(warmup_steps=2)
    trained(tmp_path, measure)
    seconds = list(measure.clock.seconds())
    assert len(seconds) == 6 and all(one > 0 for one in seconds)
    speed = measure.speed(
        done=WorkDone(24, 168), timed=WorkDone(16, 112), steps=6, load_seconds=None, evaluation_seconds=None
    )
    assert (speed.warmup_steps, speed.timed_steps) == (2, 4)
    assert speed.examples_per_second == pytest.approx(16 / sum(seconds[2:]))
    assert speed.real_tokens_per_second == pytest.approx(112 / sum(seconds[2:]))
    assert speed.step_seconds_median == pytest.approx(sum(sorted(seconds[2:])[1:3]) / 2)


def test_a_run_shorter_than_its_warm_up_has_no_speed_and_all_its_work(tmp_path):
    measure = MeasureCallback(warmup_steps=3)
    trained(tmp_path, measure, max_steps=2)
    speed = measure.speed_of_batches(
        step_examples=[4, 4], step_tokens=[31, 20], load_seconds=0.0, evaluation_seconds=None
    )
    assert (speed.warmup_steps, speed.timed_steps, speed.examples_per_second) == (2, 0, None)
    assert (speed.train_steps, speed.train_examples, speed.train_real_tokens) == (2, 8, 51)


def test_known_batches_are_counted_from_the_step_at_which_timing_begins(tmp_path):
    measure = MeasureCallback(warmup_steps=2)
    trained(tmp_path, measure)
    measure.first_step = 11  # as after a checkpoint of ten steps
    seconds = sum(measure.clock.seconds()[2:])
    speed = measure.speed_of_batches(
        step_examples=[1] * 12 + [8] * 4, step_tokens=[0] * 16, load_seconds=0.0, evaluation_seconds=None
    )
    assert speed.examples_per_second == pytest.approx(4 * 8 / seconds)


def test_neither_an_evaluation_nor_a_checkpoint_is_in_the_time_of_training(tmp_path):
    class Slow(TrainerCallback):
        def on_prediction_step(self, *_, **__):
            time.sleep(0.2)

        def on_save(self, *_, **__):
            time.sleep(0.2)

    measure = MeasureCallback()
    # Before the callback that measures, so that it is done with when that one hears of it.
    settings = TrainingArguments(
        tmp_path, use_cpu=True, disable_tqdm=True, max_steps=4, per_device_train_batch_size=4, report_to="none",
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=2, per_device_eval_batch_size=12,
    )  # fmt: skip
    trainer = Trainer(
        tiny_roberta(), args=settings, train_dataset=rows(), eval_dataset=rows(), callbacks=[Slow(), measure]
    )
    began = time.perf_counter()
    trainer.train()
    whole = time.perf_counter() - began
    slept = 4 * 0.2 + 2 * 0.2
    assert whole > slept > 1.1
    assert measure.train_seconds < whole - slept
    assert measure.clock.seconds()[0] < whole


@pytest.mark.skipif(PeakMemory(torch.device("cpu")).take() is None, reason="this system tells no peak")
@pytest.mark.parametrize(
    ("event", "phase"), [("on_prediction_step", "evaluation"), ("on_evaluate", "evaluation"), ("on_save", "save")]
)
def test_what_an_evaluation_or_a_checkpoint_needs_is_its_own_peak_and_not_that_of_training(tmp_path, event, phase):
    measure = MeasureCallback()
    settings = TrainingArguments(
        tmp_path, use_cpu=True, disable_tqdm=True, max_steps=6, per_device_train_batch_size=4, report_to="none",
        eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
    )  # fmt: skip
    callbacks = [Waste(200, event), measure]
    Trainer(tiny_roberta(), args=settings, train_dataset=rows(), eval_dataset=rows(), callbacks=callbacks).train()
    memory = measure.memory(None)
    highest = {"evaluation": memory.evaluation_bytes, "save": memory.save_bytes}[phase]
    assert highest - memory.steady_bytes > 150 * MIB
    assert memory.steady_bytes - memory.first_step_bytes < 50 * MIB


@pytest.mark.skipif(PeakMemory(torch.device("cpu")).take() is None, reason="this system tells no peak")
def test_an_evaluation_that_another_callback_asks_for_late_does_not_raise_the_peak_of_training(tmp_path):
    class Late(TrainerCallback):
        def on_step_end(self, args, state, control, **inside):
            control.should_evaluate = state.global_step == 3
            return control

    measure = MeasureCallback()
    trained(tmp_path, measure, Late(), Waste(200, "on_prediction_step"))
    memory = measure.memory(None)
    assert memory.evaluation_bytes - memory.steady_bytes > 150 * MIB


@pytest.mark.skipif(PeakMemory(torch.device("cpu")).take() is None, reason="this system tells no peak")
def test_a_steady_step_that_needs_more_is_the_peak_of_training(tmp_path):
    measure = MeasureCallback()
    measure.begin(torch.device("cpu"))
    trained(tmp_path, measure, Waste(200, "on_pre_optimizer_step"))
    memory = measure.memory(tiny_roberta())
    assert memory.train_peak_bytes > 150 * MIB
    # 23,619 weights of 4 bytes, all of them trained
    assert memory.weight_bytes == memory.gradient_bytes == 4 * 23_619
    assert memory.evaluation_bytes is None and memory.save_bytes is None


def test_a_clock_of_a_cpu_takes_the_time_between_both_ends():
    clock = StepClock(DeviceClock(torch.device("cpu")))
    around = []
    for pause in (0.02, 0.05):
        began = time.perf_counter()
        clock.begin()
        time.sleep(pause)
        clock.end()
        around.append(time.perf_counter() - began)
    assert len(clock) == 2
    assert 0.02 <= clock.seconds()[0] <= around[0] and 0.05 <= clock.seconds()[1] <= around[1]


class SlowCard:
    """A clock of a card that is behind its host: each point passes when it is allowed to, or waited for."""

    def __init__(self) -> None:
        self.marks, self.passed, self.waits = 0, 0, 0

    def mark(self) -> int:
        self.marks += 1
        return self.marks

    def has_passed(self, mark: int) -> bool:
        return mark <= self.passed

    def wait(self) -> None:
        self.passed, self.waits = self.marks, self.waits + 1

    def seconds(self, earlier: int, later: int) -> float:
        assert earlier < later <= self.passed, "a point is read that the card has not reached"
        return (later**2 - earlier**2) / 1000


def test_a_clock_of_a_card_reads_what_has_passed_and_waits_at_the_end_alone():
    card = SlowCard()
    clock = StepClock(card)
    for step in range(1000):
        clock.begin()
        clock.end()
        card.passed = max(card.passed, card.marks - 2 * 300)  # 300 steps behind
        assert (len(clock), card.waits) == (step + 1, 0)
    # The step n, from 1 on, lies between the points 2 n - 1 and 2 n.
    assert list(clock.seconds()) == [((2 * n) ** 2 - (2 * n - 1) ** 2) / 1000 for n in range(1, 1001)]
    assert card.waits == 1


@pytest.mark.gpu
def test_a_clock_of_a_cuda_device_takes_the_devices_time_and_not_that_of_launching():
    device = torch.device("cuda")
    matrix = torch.randn(4096, 4096, device=device)
    clock = StepClock(DeviceClock(device))
    launched = []
    for _ in range(600):  # more than the events that are kept
        clock.begin()
        began = time.perf_counter()
        matrix @ matrix
        launched.append(time.perf_counter() - began)
        clock.end()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(100):
        matrix @ matrix
    torch.cuda.synchronize()
    alone = (time.perf_counter() - began) / 100
    seconds = list(clock.seconds())
    assert len(clock) == len(seconds) == 600
    assert sorted(seconds)[300] == pytest.approx(alone, rel=0.3)


@pytest.mark.gpu
def test_what_a_device_holds_beside_a_model_is_all_but_the_model():
    device = torch.device("cuda")
    before = torch.cuda.memory_allocated(device)
    other = torch.zeros(1000, 1000, device=device)
    beside = torch.cuda.memory_allocated(device)
    model = tiny_roberta().to(device)
    assert beside >= before + 4_000_000
    assert torch.cuda.memory_allocated(device) > beside
    assert allocated_beside(model) == beside
    del other, model


@pytest.fixture
def two_cards(monkeypatch):
    """An allocator of two cards, which hold 100 and 50 bytes and have held 120 and 90."""
    now, peak = [100, 50], [120, 90]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda card: now[torch.device("cuda", card).index])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda card: peak[torch.device("cuda", card).index])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda card: peak.__setitem__(card, now[card]))
    return torch.device("cuda", 0)


def test_the_memory_of_a_model_over_several_cards_is_that_of_all(two_cards):
    memory = PeakMemory(two_cards)
    assert memory.now() == 100 + 50
    assert memory.take() == 120 + 90
    assert memory.take() == 100 + 50  # since the last reading


def test_what_other_cards_hold_beside_a_model_counts_too(monkeypatch):
    model = tiny_roberta()
    blocks = [{"state": "active_allocated", "address": 1, "size": 7}, {"state": "inactive", "address": 2, "size": 9}]
    segments = [{"device": card, "blocks": blocks} for card in (0, 1)]
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments)
    assert allocated_beside(model) == 14


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two devices")
def test_real_cards_add_up():
    memory = PeakMemory(torch.device("cuda", 0))
    memory.take()
    before = memory.now()
    held = [torch.zeros(2**20, device=torch.device("cuda", card)) for card in (0, 1)]
    assert memory.now() - before == memory.take() - before == 2 * 4 * 2**20
    del held


class Halved(torch.Tensor):
    """Numbers that two tensors hold, and that have no storage of their own: as in torchao."""

    @staticmethod
    def __new__(cls, low, high):
        return torch.Tensor._make_wrapper_subclass(cls, (low.numel() + high.numel(),), dtype=torch.bfloat16)

    def __init__(self, low, high):
        self.low, self.high = low, high

    def __tensor_flatten__(self):
        return ["low", "high"], None

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return func(args[0].low) if func is torch.ops.aten.detach.default else NotImplemented


@pytest.fixture
def one_process():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_weights_without_a_storage_of_their_own_are_told_from_the_rest(one_process, monkeypatch):
    """The allocator is a stand-in that has handed out each tensor's memory."""
    from torch.distributed.fsdp import fully_shard

    sharded = torch.nn.Linear(8, 4)
    fully_shard(sharded)
    halves = torch.zeros(6, dtype=torch.int8), torch.zeros(10, dtype=torch.int8)
    model = torch.nn.ModuleDict({"sharded": sharded, "quantised": torch.nn.Module()})
    model["quantised"].register_buffer("weight", Halved(*halves))
    for one in model.parameters():
        with pytest.raises(RuntimeError):
            one.untyped_storage().data_ptr()
    other = torch.zeros(1000)
    held = [*halves, *(one.to_local() for one in sharded.parameters()), other]
    blocks = [{"address": one.untyped_storage().data_ptr(), "size": 512, "state": "active_allocated"} for one in held]
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: [{"device": 0, "blocks": blocks}])
    assert allocated_beside(model) == 512
    assert [bytes_of(one) for one in model.parameters()] == [4 * 32, 4 * 4]
    assert [bytes_of(one) for one in model.buffers()] == [16]


def test_an_allocator_without_statistics_ends_no_training_and_is_said(tmp_path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("CUDAPluggableAllocator does not yet support getDeviceStats")

    monkeypatch.setattr(PeakMemory, "take", refuse)
    monkeypatch.setattr(PeakMemory, "now", refuse)
    monkeypatch.setattr(measure_callback, "state_bytes", refuse)
    measure = MeasureCallback()
    trained(tmp_path, measure)
    memory = measure.memory(tiny_roberta())
    assert len(measure.clock) > 3
    assert memory.start_bytes is memory.steady_bytes is memory.load_bytes is memory.optimizer_bytes is None
    assert memory.weight_bytes == 4 * 23_619
    assert [said.partition(": RuntimeError: CUDAPluggable")[0] for said in measure.unmeasured] == [
        "the memory in use cannot be measured", "the optimiser's memory cannot be measured",
    ]  # fmt: skip


@pytest.mark.gpu
def test_what_a_device_holds_beside_a_sharded_model_is_all_but_the_model():
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("nccl", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        device = torch.device("cuda")
        model = tiny_roberta().to(device)
        fully_shard(model)
        other = torch.zeros(1000, 1000, device=device)
        beside = allocated_beside(model)
        assert 4_000_000 <= beside < torch.cuda.memory_allocated(device)
        del other
        assert beside - allocated_beside(model) >= 4_000_000
    finally:
        torch.distributed.destroy_process_group()
