"""The course of a run: its steps, their costs and its end follow from (seed, epoch) and the lengths of the examples."""

import math
import random
from hashlib import sha256

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainingArguments

from lora_bench.errors import LoraBenchError
from lora_bench.records.spec import PlannedTraining
from lora_bench.training.step_plan import plan_course
from lora_bench.training.trainer import rate_factor
from lora_bench.util import seeding
from lora_bench.util.seeding import epoch_order

# Lengths 3, 5, 2, 4, 6, 1: 21 real tokens an epoch.
LENGTHS = (3, 5, 2, 4, 6, 1)
EXAMPLES = [{"input_ids": [7] * length, "number": number} for number, length in enumerate(LENGTHS)]
# Drawn from seed 0 (tests/util/test_seeding.py has the first epoch from the hash): epochs 0 and 1.
FIRST, SECOND = [0, 3, 4, 2, 1, 5], epoch_order(0, 1, 6)


def recipe(**work):
    examples = work.get("train_examples")
    batch_size = work.pop("batch_size", 2)
    counted = {"steps": math.ceil((examples or 0) / batch_size), "warmup_steps": 0}
    shared = {"train_examples": None, "steps": None, "warmup_steps": None, "warmup": 0.25}
    return PlannedTraining(
        **{
            "batch_size": batch_size, "max_length": 16, "learning_rate": 1e-2, "schedule": "linear", "weight_decay": 0.0,
            "max_grad_norm": 1.0, "precision": "float32", "threads": 1, "arguments": {},
            **(counted if examples is not None else shared), **work,
        }
    )  # fmt: skip


def numbers(course):
    return [[example["number"] for example in batch] for batch in batches(course)]


def batches(course):
    return [course.batch(step) for step in range(course.last_step)]


def recipe_of_tokens(amount, **more):
    return recipe(train_tokens=amount, **more)


def test_a_number_of_examples_is_cut_in_its_last_batch():
    course = plan_course(recipe(train_examples=5), 0, EXAMPLES)
    assert numbers(course) == [[0, 3], [4, 2], [1]]
    assert (course.steps, course.last_step, course.shares) == (3, 3, None)
    assert [example["number"] for example in course.rest(1)] == [4, 2, 1]
    assert [course.ended_by(step, 0.0) for step in (1, 2, 3)] == [None, None, "train_examples"]


def test_a_batch_goes_on_from_one_epoch_into_the_next():
    course = plan_course(recipe(train_examples=8, batch_size=4), 0, EXAMPLES)
    assert numbers(course) == [FIRST[:4], [*FIRST[4:], *SECOND[:2]]]


def test_a_run_ends_with_the_step_that_reaches_its_tokens():
    # In the order 0 3 | 4 2 | 1 5 the batches have 3 + 4 = 7, 6 + 2 = 8 and 5 + 1 = 6 real tokens.
    for amount, steps in ((1, 1), (7, 1), (8, 2), (15, 2), (16, 3), (21, 3), (22, 4)):
        assert plan_course(recipe_of_tokens(amount), 0, EXAMPLES).last_step == steps
    assert plan_course(recipe_of_tokens(20), 0, EXAMPLES).shares == (0.0, 7 / 20, 15 / 20, 21 / 20)


def test_tokens_that_take_many_epochs_take_so_many_steps():
    # 100 epochs of 21 tokens are 2,100 tokens in 300 steps; one token more is one step more.
    assert plan_course(recipe_of_tokens(2_100), 0, EXAMPLES).last_step == 300
    assert plan_course(recipe_of_tokens(2_101), 0, EXAMPLES).last_step == 301


def test_a_cap_ends_a_run_with_the_step_that_reaches_it_and_says_so():
    course = plan_course(recipe(train_examples=6, caps={"train_tokens": 8}), 0, EXAMPLES)
    assert (course.steps, course.last_step) == (3, 2)
    assert [course.ended_by(step, 0.0) for step in (1, 2)] == [None, "train_tokens"]
    said = course.said(2, "train_tokens", 0.0)
    assert said == "its cap of 8 real tokens ended the run after step 2, with 67% of 6 examples used"
    # One that is reached together with the target, or not before it, changes nothing.
    for cap in (21, 22):
        course = plan_course(recipe(train_examples=6, caps={"train_tokens": cap}), 0, EXAMPLES)
        assert (course.last_step, course.ended_by(3, 0.0)) == (3, "train_examples")
    course = plan_course(recipe_of_tokens(21, caps={"train_examples": 3}), 0, EXAMPLES)
    assert (course.steps, course.last_step, course.ended_by(2, 0.0)) == (3, 2, "train_examples")
    assert course.said(2, "train_examples", 0.0).endswith("with 71% of 21 real tokens used")  # 15 of 21


def test_flops_are_used_up_as_tokens_are():
    # As many as tokens with padding: 2 * 4, 2 * 6 and 2 * 5.
    course = plan_course(
        recipe(train_flops=20.0), 0, EXAMPLES, lambda batch: 2 * max(len(one["input_ids"]) for one in batch)
    )
    assert (course.last_step, course.shares) == (2, (0.0, 8 / 20, 20 / 20))


def test_a_clock_ends_a_run_of_any_number_of_steps():
    course = plan_course(recipe(train_seconds=10.0), 0, EXAMPLES)
    assert (course.steps, course.last_step, course.seconds) == (None, None, 10.0)
    assert [course.ended_by(step, seconds) for step, seconds in ((5, 9.9), (6, 10.0))] == [None, "train_seconds"]
    assert [course.progress(5, seconds) for seconds in (0.0, 2.5, 10.0, 11.0)] == [0.0, 0.25, 1.0, 1.0]
    # What comes after four steps of two is the second example of the second epoch.
    rest = course.rest(4)
    assert [rest[index]["number"] for index in range(4)] == SECOND[2:6] and len(rest) > 10**9
    assert [example["number"] for example in course.batch(3)] == SECOND[:2]


def test_a_clock_and_a_number_of_steps_end_a_run_by_what_comes_first():
    course = plan_course(recipe(train_seconds=10.0, caps={"train_examples": 7}), 0, EXAMPLES)
    assert (course.steps, course.last_step) == (None, 4)
    assert [course.ended_by(4, 9.0), course.ended_by(3, 10.0), course.ended_by(4, 10.0)] == [
        "train_examples", "train_seconds", "train_seconds",
    ]  # fmt: skip
    assert course.progress(2, 9.0) == 0.9 and course.progress(3, 1.0) == 0.75
    assert course.said(4, "train_examples", 9.0).endswith("after step 4, with 90% of 10 s of training used")


def test_grouped_batches_hold_examples_of_like_lengths_in_a_shuffled_order():
    # Epoch 0 is shuffled to 0 3 4 2 1 5, of lengths 3 4 6 2 5 1. By length: 5 2 | 0 3 | 1 4.
    course = plan_course(recipe(train_examples=6, order="grouped"), 0, EXAMPLES)
    assert sorted(numbers(course)) == [[0, 3], [1, 4], [5, 2]]
    # The batches go by the sha256 of "batch", 0, 0 and their numbers.
    drawn = [sha256(f"batch\x1f0\x1f0\x1f{number}".encode()).digest() for number in range(3)]
    assert numbers(course) == [batch for _, batch in sorted(zip(drawn, [[5, 2], [0, 3], [1, 4]], strict=True))]
    assert [example["number"] for example in course.rest(1)] == [one for batch in numbers(course)[1:] for one in batch]


def test_a_batch_over_the_end_of_an_epoch_is_of_two_epochs_and_every_epoch_sees_all():
    course = plan_course(recipe(train_examples=18, batch_size=4, order="grouped"), 0, EXAMPLES)
    seen = [one for batch in numbers(course) for one in batch]
    # Six examples in batches of four: the last two of epoch 0 and the first two of epoch 1 are as they were shuffled.
    assert seen[4:8] == [*FIRST[4:], *SECOND[:2]]
    assert set(seen[:4]) == set(FIRST[:4]) and set(seen[8:12]) == set(SECOND[2:])
    assert all(
        [LENGTHS[one] for one in batch] == sorted(LENGTHS[one] for one in batch) for batch in (seen[:4], seen[8:12])
    )
    # An epoch that is shorter than the rest of a batch is shuffled.
    short = plan_course(recipe(train_examples=18, batch_size=16, order="grouped"), 0, EXAMPLES)
    third = epoch_order(0, 2, 6)
    assert numbers(short) == [[*FIRST, *SECOND, *third[:4]], third[4:]]


def test_examples_stay_within_their_window_of_batches(monkeypatch):
    monkeypatch.setattr(seeding, "WINDOW", 1)
    course = plan_course(recipe(train_examples=6, order="grouped"), 0, EXAMPLES)
    # Windows of one batch: 0 3 | 4 2 | 1 5, each by length.
    assert sorted(numbers(course)) == [[0, 3], [2, 4], [5, 1]]


def test_grouping_leaves_little_padding():
    """Lengths like those of film reviews: a mean of 27 tokens, and few reviews with twice as many."""
    draw = random.Random(0)
    reviews = [{"input_ids": [7] * max(4, min(64, round(draw.lognormvariate(3.1, 0.6))))} for _ in range(8_000)]

    def share(order):
        course = plan_course(recipe(train_examples=8_000, batch_size=16, order=order), 0, reviews)
        lengths = [[len(example["input_ids"]) for example in batch] for batch in batches(course)]
        return sum(len(batch) * max(batch) for batch in lengths) / sum(map(sum, lengths))

    assert share("shuffled") > 1.7
    assert share("grouped") < 1.06


def test_examples_without_tokens_never_reach_an_amount_of_them():
    with pytest.raises(LoraBenchError, match="no tokens"):
        plan_course(recipe_of_tokens(5), 0, [{"input_ids": []}])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # A quarter of the work is warm-up; then the line falls from 1 at 0.25 to 0 at 1, and a cosine of half a turn.
        ("linear", {0.0: 0.0, 0.125: 0.5, 0.25: 1.0, 0.625: 0.5, 1.0: 0.0, 1.05: 0.0}),
        ("cosine", {0.125: 0.5, 0.25: 1.0, 0.5: 0.5 * (1 + math.cos(math.pi / 3)), 0.625: 0.5, 1.0: 0.0}),
        ("constant_with_warmup", {0.125: 0.5, 0.25: 1.0, 1.0: 1.0}),
        ("constant", {0.0: 1.0, 1.0: 1.0}),
        # From the learning rate of 1e-2 to 1e-7, with the power 1 of its default.
        ("polynomial", {0.25: 1.0, 0.625: (1e-2 + 1e-7) / 2 / 1e-2, 1.0: 1e-5}),
    ],
)
def test_the_rate_at_a_share_is_that_of_the_schedule(tmp_path, schedule, expected):
    factor = rate_factor(recipe_of_tokens(20, schedule=schedule), TrainingArguments(str(tmp_path)))
    for share, value in expected.items():
        assert factor(share) == pytest.approx(value, abs=1e-9), share


def test_options_of_a_schedule_are_passed_on(tmp_path):
    arguments = TrainingArguments(str(tmp_path), lr_scheduler_kwargs={"num_cycles": 2})
    factor = rate_factor(recipe_of_tokens(20, schedule="cosine_with_restarts", warmup=0.0), arguments)
    # Two falls: at a quarter half of the first is done, just after a half the second begins.
    assert [factor(share) for share in (0.0, 0.25, 0.5, 0.75)] == pytest.approx([1.0, 0.5, 1.0, 0.5])


def test_the_schedules_are_all_of_the_kind_whose_steps_can_be_shares(tmp_path):
    from typing import get_args

    from transformers import get_scheduler

    from lora_bench.suite.schema import Schedule

    for name in get_args(Schedule):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
        assert isinstance(get_scheduler(name, optimizer, num_warmup_steps=1, num_training_steps=2), LambdaLR)
