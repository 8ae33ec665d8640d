"""Tokens that workers share are those that each would make, are made once, and are made again where a file is damaged."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lora_bench.kinds.exercises import labelling
from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.load_suite import load_suite
from lora_bench.training import callbacks as loop
from lora_bench.training import lessons, prepare
from lora_bench.training import process_cache as warm
from lora_bench.training import token_cache as kept_tokens
from lora_bench.training.run import run_job
from lora_bench.training.step_plan import plan_course
from lora_bench.training.token_cache import MappedExamples, shared_examples
from tests.project import SUITE, write_project
from tests.training.test_step_plan import recipe

CLASSES = [
    {"input_ids": [0, 50_264, 2], "attention_mask": [1, 1, 1], "labels": 1},
    {"input_ids": [2], "attention_mask": [1], "labels": 0},
    {"input_ids": [], "attention_mask": [], "labels": 1},
    {"input_ids": [5, 6], "attention_mask": [1, 1], "labels": 0},
]
NUMBERS = [{"input_ids": [4, 4], "labels": 0.1}, {"input_ids": [1], "labels": -1 / 3}]
SETS = [{"input_ids": [4, 4], "labels": (0.0, 1.0, 1.0)}, {"input_ids": [1], "labels": (0.0, 0.0, 0.0)}]
TEXTS = [{"input_ids": [3, 9], "attention_mask": [1, 1], "labels": [-100, 9]}]


@pytest.mark.parametrize("examples", [CLASSES, NUMBERS, SETS, TEXTS])
def test_shared_examples_are_those_that_were_made(tmp_path, examples):
    found, cut = shared_examples(tmp_path, "key", lambda: (examples, 1 / 3))
    assert isinstance(found, MappedExamples)
    assert (list(found), len(found), found[-1], found[0:2], cut) == (
        examples, len(examples), examples[-1], examples[0:2], 1 / 3,
    )  # fmt: skip
    assert [list(example) for example in found] == [list(example) for example in examples]
    with pytest.raises(IndexError):
        found[len(examples)]
    again, cut = shared_examples(tmp_path, "key", lambda: pytest.fail("they are there"))
    assert (list(again), cut) == (examples, 1 / 3)


def test_of_workers_that_begin_at_once_one_makes_them(tmp_path):
    made = []

    def make():
        made.append(1)
        time.sleep(0.2)
        return CLASSES, 0.0

    with ThreadPoolExecutor(4) as workers:
        found = list(workers.map(lambda _: list(shared_examples(tmp_path, "key", make)[0]), range(4)))
    assert found == 4 * [CLASSES] and len(made) == 1


@pytest.mark.parametrize(
    ("name", "damage", "is_aside"),
    [
        ("key.arrow", lambda raw: raw[:-1], True),
        ("key.arrow", lambda raw: raw[:-4] + bytes([raw[-4] ^ 1]) + raw[-3:], True),
        ("key.json", lambda raw: raw[: len(raw) // 2], True),
        ("key.arrow", None, False),
        ("key.json", None, False),
    ],
)
def test_damaged_files_are_put_aside_and_made_again(tmp_path, name, damage, is_aside):
    shared_examples(tmp_path, "key", lambda: (CLASSES, 0.0))
    if damage is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    made = []
    found, _ = shared_examples(tmp_path, "key", lambda: made.append(1) or (CLASSES, 0.0))
    assert list(found) == CLASSES and made == [1]
    assert (tmp_path / "quarantine" / "1" / name).is_file() == is_aside


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_tokens, "write_atomic", full)
    assert shared_examples(tmp_path, "key", lambda: (CLASSES, 0.0)) == (CLASSES, 0.0)


def test_a_course_over_a_file_makes_no_example_before_it_is_seen(tmp_path):
    found, _ = shared_examples(tmp_path, "key", lambda: (CLASSES, 0.0))
    course = plan_course(recipe(train_examples=6), 0, found)
    plain = plan_course(recipe(train_examples=6), 0, CLASSES)
    assert len(course.rest(1)) == 4 and list(course.rest(1)) == list(plain.rest(1))
    assert not isinstance(course.rest(1), list)


def test_a_run_over_shared_tokens_has_the_record_of_one_without(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    loop.request_stop(None)
    suite = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]")
    path = write_project(tmp_path / "project", suite)
    encoded = []
    encode = labelling.encode
    monkeypatch.setattr(labelling, "encode", lambda split, *how: encoded.append(len(split.ids)) or encode(split, *how))

    def record_of(runs):
        begun = warm.Warm()  # of a worker that has just begun
        for module in (prepare, lessons):
            monkeypatch.setattr(module, "WARM", begun)
        (cell,) = make_plan(load_suite(path), tmp_path / runs).cells
        return run_job(cell.job)

    alone = record_of("alone")
    assert alone.status == "ok" and not (tmp_path / "cache" / "tokens").exists()
    train, test = alone.data.examples["train"], alone.data.examples["test"]
    monkeypatch.setattr(warm, "LEAST_EXAMPLES", train)
    records = [record_of("first"), record_of("second")]
    assert encoded == [train, test, train, test, test]
    # Splits that are scored are shared alike, once they are large.
    monkeypatch.setattr(warm, "LEAST_EXAMPLES", test)
    records += [record_of("third"), record_of("fourth")]
    assert encoded == [train, test, train, test, test, test]
    for record in records:
        assert (record.run_id, record.scores, record.curve, record.data, record.predictions.sha256) == (
            alone.run_id, alone.scores, alone.curve, alone.data, alone.predictions.sha256,
        )  # fmt: skip
        assert record.speed.train_real_tokens == alone.speed.train_real_tokens
