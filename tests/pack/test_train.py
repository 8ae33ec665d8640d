"""Packed runs by the command's own path: real files, real workers, and records held against those of isolated runs."""

import dataclasses
import itertools
import json
import types

import pytest
import torch
from safetensors.torch import load_file

from lora_bench.execute import run_suite as execute
from lora_bench.execute.options import RunOptions
from lora_bench.execute.run_suite import Silent, run_suite
from lora_bench.pack import evaluate as asking
from lora_bench.pack import train as together
from lora_bench.pack.group_runs import company_of, most_members, packs
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.spec import PlannedSpec, PlannedTraining, Start
from lora_bench.records.store import RunFolder
from lora_bench.suite.load_suite import load_suite
from lora_bench.training import callbacks as loop
from lora_bench.training import process_cache
from lora_bench.training.job import MAY_DIFFER
from lora_bench.training.process_cache import BASE_MAY_DIFFER, WARM, Warm, load_for
from tests.project import write_data, write_project

SUITE = """\
suite: tickets
tasks:
  - task: tickets
    data: tickets.csv
    text: subject
    label: queue
models: [base]
methods:
  - {method: lora, rank: 2, learning_rate: 3e-3}
  - {method: lora, label: wide, rank: 8, scaling: 0.5, learning_rate: 1e-2}
  - bottleneck_adapter
  - prefix_tuning
  - bitfit
  - full
seeds: [0, 1]
budget: {train_examples: 46}
training: {batch_size: 8, max_length: 16, masks: keyed, weight_decay: 0.01}
keep_weights: last
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def jobs_of(path, runs):
    return [cell.job for cell in make_plan(load_suite(path), runs).cells]


def records_of(path, runs, **options):
    return {record.run_id: record for record in run_suite(load_suite(path), runs=runs, **options).records}


@pytest.mark.parametrize(
    ("family", "more"),
    [
        pytest.param("roberta", "", marks=pytest.mark.slow),
        pytest.param("deberta-v2", "", marks=pytest.mark.slow),
        pytest.param("gpt2", "", marks=pytest.mark.slow),
        ("roberta", ", order: grouped, last_layer: read_position"),
        pytest.param("gpt2", ", last_layer: read_position", marks=pytest.mark.slow),
    ],
)
def test_packed_runs_leave_the_records_of_isolated_ones(tmp_path, family, more):
    path = write_project(tmp_path / "project", SUITE.replace("masks: keyed", f"masks: keyed{more}"), family)
    packed = records_of(path, tmp_path / "packed", workers=0)
    alone = records_of(path, tmp_path / "alone", workers=0, pack=False)
    assert packed.keys() == alone.keys() and len(packed) == 12
    for run_id, record in packed.items():
        same = alone[run_id]
        label = record.spec.method.label
        assert (record.status, same.status) == ("ok", "ok"), f"{label}: {record.reason} {same.reason}"
        others = {other.run_id for other in packed.values() if is_like(other, record) and other is not record}
        assert set(record.packed_with) == (set() if label == "full" else others) and same.packed_with == ()
        assert (record.speed.exclusive, same.speed.exclusive) == (label == "full", True)
        assert [point.step for point in record.curve] == [point.step for point in same.curve] == [1, 2, 3, 4, 5, 6]
        assert [point.loss for point in record.curve] == pytest.approx([point.loss for point in same.curve], abs=1e-5)
        assert record.scores == same.scores and record.parameters == same.parameters
        folder = (tmp_path / name / "tickets" / run_id / "weights" for name in ("packed", "alone"))
        ours, theirs = (load_file(next(one.glob("*.safetensors"))) for one in folder)
        assert ours.keys() == theirs.keys()
        for name, weight in ours.items():
            # A key's bias moves all scores of a query alike, so its gradient is rounding, and AdamW makes a step of it.
            if "key.bias" not in name and "c_attn.bias" not in name and "key_proj.bias" not in name:
                assert weight.sub(theirs[name]).abs().max() < 1e-4, f"{label}: {name}"


def is_like(one, other):
    return one.spec.method.name == other.spec.method.name


def test_what_is_packed_with_what(tmp_path):
    """Two ranks of LoRA are one company; other methods are others; full fine-tuning has none."""
    jobs = jobs_of(write_project(tmp_path / "project", SUITE), tmp_path / "runs")
    by_method = {}
    for job in jobs:
        by_method.setdefault(job.spec.method.name, set()).add(company_of(job))
    assert by_method.pop("full") == {None}
    assert all(len(found) == 1 and None not in found for found in by_method.values())
    assert len(set.union(*by_method.values())) == 4

    def sizes(workers, most):
        """Of each unit, how many are at once at work of how many."""
        return sorted((unit[0].at_once, len(unit)) for unit in packs(jobs, workers, lambda job: most))

    assert sizes(1, 8) == [(1, 1), (1, 1), (2, 2), (2, 2), (2, 2), (4, 4)]
    assert sizes(1, 3) == [(1, 1), (1, 1), (2, 2), (2, 2), (2, 2), (3, 4)]
    # Two workers have something to do each.
    assert sizes(2, 8) == [*[(1, 1)] * 8, (2, 2), (2, 2)]
    assert sizes(1, 1) == [(1, 1)] * 12


def test_a_company_is_dealt_out_to_the_workers_the_longest_first(tmp_path):
    """Of eight runs of 8, 7, ... 1 steps two workers that do two at once get 8 7 4 3 and 6 5 2 1."""
    path = write_project(tmp_path / "project", SUITE.replace("seeds: [0, 1]", "seeds: [0, 1, 2, 3]"))
    jobs = [job for job in jobs_of(path, tmp_path / "runs") if job.spec.method.name == "lora"]
    jobs = [with_training(job, steps=steps) for steps, job in enumerate(jobs, 1)]
    units = packs(jobs, 2, lambda job: 2)
    assert sorted([job.steps for job in unit] for unit in units) == [[6, 5, 2, 1], [8, 7, 4, 3]]
    assert {job.at_once for unit in units for job in unit} == {2}


def test_a_pack_is_as_large_as_its_device_can_use_and_its_memory_holds():
    # RoBERTa-base multiplies some 85 million weights: 4 x 85e6 x 16 rows x 64 tokens is a third of a TFLOP.
    step = 4 * 85e6 * 16 * 64
    assert most_members(step, 10**9, free_bytes=None, on_gpu=True) == 17
    assert most_members(step, 10**9, free_bytes=10**11) == 1
    assert most_members(1e8, 10**9, free_bytes=10**11) == 10
    assert most_members(1e8, 10**9, free_bytes=4 * 10**9) == 4
    assert most_members(1.0, 1, free_bytes=10**11) == 64
    # On a card of 16 GB: a base of 5 GB once, and 1 GB of each member's own. A cluster does not tell its cards' memory.
    assert most_members(1.0, 6 * 10**9, free_bytes=16 * 10**9, on_gpu=True, shared_bytes=5 * 10**9) == 11
    assert most_members(1.0, 6 * 10**9, free_bytes=None, on_gpu=True) == 64


@pytest.mark.parametrize(("gigabytes", "members"), [(80, 4), (1, 2)])
def test_the_plan_asks_for_the_memory_of_the_card(tmp_path, monkeypatch, gigabytes, members):
    """Four members of a kind need 100 MB each. Of 1 GB the context of a process and gaps leave 216 MB."""
    path = write_project(tmp_path / "project", SUITE)
    cells = {cell.job.run_id: cell for cell in make_plan(load_suite(path), tmp_path / "runs").cells}
    cells = {
        run_id: dataclasses.replace(cell, estimate=dataclasses.replace(cell.estimate, memory_bytes=10**8))
        for run_id, cell in cells.items()
    }
    monkeypatch.setattr(execute, "card_memory", lambda: gigabytes * 10**9)
    executor = types.SimpleNamespace(workers=1, on_gpu=True)
    units = execute._units(cells, executor, RunOptions(), [cell.job for cell in cells.values()])
    of_lora = [job for unit in units for job in unit if job.spec.method.name == "lora"]
    assert {job.at_once for job in of_lora} == {members}


@pytest.mark.parametrize(
    ("change", "packs_still"),
    [
        ({"masks": "torch"}, False),
        ({"masks": "torch", "base_dropout": 0.0, "head_dropout": 0.0}, True),
        ({"train_examples": None, "steps": None, "train_seconds": 60.0, "warmup": 0.1}, False),
        ({"arguments": {"gradient_accumulation_steps": 2}}, False),
        ({"arguments": {"optim": "adafactor"}}, False),
        ({"arguments": {"neftune_noise_alpha": 5.0}}, False),
        ({"arguments": {"optim": "adamw_torch", "adam_beta2": 0.98}}, True),
        ({"learning_rate": 0.5}, True),
    ],
)
def test_runs_that_a_pack_would_change_are_done_alone(tmp_path, change, packs_still):
    job = next(
        job
        for job in jobs_of(write_project(tmp_path / "project", SUITE), tmp_path / "runs")
        if job.spec.method.name == "lora"
    )
    assert (company_of(with_training(job, **change)) is not None) == packs_still


def test_whatever_the_trainer_is_told_a_run_in_a_suite_that_packs_is_as_alone(tmp_path):
    few = SUITE.replace("  - bottleneck_adapter\n  - prefix_tuning\n  - bitfit\n  - full\n", "")
    for number, told in enumerate(("optim: adafactor", "adam_beta2: 0.9, adam_epsilon: 1e-4")):
        path = write_project(tmp_path / f"project-{number}", few + f"training_arguments: {{{told}}}\n")
        packed = records_of(path, tmp_path / f"packed-{number}", workers=0)
        alone = records_of(path, tmp_path / f"alone-{number}", workers=0, pack=False)
        assert {bool(record.packed_with) for record in packed.values()} == {number == 1}
        for run_id, record in packed.items():
            assert record.status == "ok", record.reason
            losses = [[point.loss for point in found[run_id].curve] for found in (packed, alone)]
            assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_run_that_starts_from_another_keeps_company_with_those_that_do_too(tmp_path):
    job = next(job for job in jobs_of(write_project(tmp_path / "project", SUITE), tmp_path / "runs"))
    start = Start(task="tickets", run_id="0123456789abcdef")
    started = dataclasses.replace(job, spec=job.spec.model_copy(update={"start": start}))
    assert None is not company_of(started) != company_of(job)
    assert company_of(started) == company_of(dataclasses.replace(started))


@pytest.mark.parametrize("where", ["train", pytest.param("test", marks=pytest.mark.slow)])
def test_a_gpt2_that_is_shown_a_text_without_tokens_is_as_alone(tmp_path, where):
    """By itself such a row looks at nothing, which a row of a pack cannot."""
    suite = SUITE.replace("label: queue", "label: queue\n    empty_texts: keep").replace("  - full\n", "")
    suite = suite.replace("data: tickets.csv", "data: {train: train.csv, test: test.csv}")
    path = write_project(tmp_path / "project", suite, "gpt2")
    tokenizer = json.loads((path.parent / "base" / "tokenizer.json").read_text())
    (path.parent / "base" / "tokenizer.json").write_text(json.dumps({**tokenizer, "post_processor": None}))
    first, *lines = (path.parent / "tickets.csv").read_text().splitlines()
    for name, rows in (("train", lines[:46]), ("test", lines[46:90])):
        kept = [",praise" if name == where and number % 5 == 0 else line for number, line in enumerate(rows)]
        (path.parent / f"{name}.csv").write_text("\n".join([first, *kept]) + "\n")
    packed = records_of(path, tmp_path / "packed", workers=0)
    alone = records_of(path, tmp_path / "alone", workers=0, pack=False)
    assert len(packed) == 10
    for run_id, record in packed.items():
        assert record.status == alone[run_id].status == "ok", record.reason
        assert (record.packed_with, record.predictions) == ((), alone[run_id].predictions)
        assert record.curve == alone[run_id].curve
        assert not record.speed.exclusive


def with_training(job, **change):
    training = job.spec.training.model_copy(update=change)
    return dataclasses.replace(job, spec=job.spec.model_copy(update={"training": training}))


def test_a_member_that_diverges_leaves_and_the_others_do_not_notice(tmp_path):
    wild = SUITE.replace("learning_rate: 1e-2", "learning_rate: 1e30").replace("seeds: [0, 1]", "seeds: [0]")
    path = write_project(tmp_path / "project", wild)
    packed = records_of(path, tmp_path / "packed", workers=0)
    alone = records_of(path, tmp_path / "alone", workers=0, pack=False)
    assert sorted(record.status for record in packed.values()) == ["diverged", *["ok"] * 5]
    (broken,) = (record for record in packed.values() if record.status == "diverged")
    assert broken.spec.method.label == "wide" and broken.reason == alone[broken.run_id].reason
    (other,) = (record for record in packed.values() if record.spec.method.label == "lora")
    assert other.packed_with == (broken.run_id,)
    losses = [[point.loss for point in found[other.run_id].curve] for found in (packed, alone)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_pack_that_fails_as_a_whole_is_done_one_by_one(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no such product")

    monkeypatch.setattr(together.StackedAdamW, "step", fail)
    path = write_project(tmp_path / "project", SUITE)
    heard = Heard()
    records = records_of(path, tmp_path / "runs", workers=0, display=heard)
    assert {record.status for record in records.values()} == {"ok"}
    assert {record.packed_with for record in records.values()} == {()}
    # Four packs; full fine-tuning is in none.
    failed = "a pack failed, so its runs are done one by one: RuntimeError: no such product"
    assert [said for said in heard.said if "pack" in said] == [f"note: {failed}"] * 4
    for record in records.values():
        assert (failed in record.warnings) == (record.spec.method.name != "full")


def test_members_that_are_evaluated_one_by_one_say_so_once(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no rule for this\nand more")

    monkeypatch.setattr(asking, "Pack", fail)
    suite = SUITE.replace("  - bottleneck_adapter\n  - prefix_tuning\n  - bitfit\n  - full\n", "")
    heard = Heard()
    records = records_of(write_project(tmp_path / "project", suite), tmp_path / "runs", workers=0, display=heard)
    text = "members of a pack were evaluated one by one, because together it failed: RuntimeError: no rule for this"
    assert [said for said in heard.said if "pack" in said] == [f"note: {text}"]
    assert [record.warnings.count(text) for record in records.values()] == [1] * 4
    assert {record.status for record in records.values()} == {"ok"}


@pytest.mark.parametrize(
    "family", ["roberta", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt2", "deberta-v2"))]
)
def test_packs_in_bfloat16_are_done_together(tmp_path, family):
    suite = SUITE.replace("masks: keyed", "masks: keyed, precision: bfloat16").replace("  - full\n", "")
    path, heard = write_project(tmp_path / "project", suite, family), Heard()
    packed = records_of(path, tmp_path / "packed", workers=0, display=heard)
    alone = records_of(path, tmp_path / "alone", workers=0, pack=False)
    assert not [said for said in heard.said if "pack" in said]
    for run_id, record in packed.items():
        assert record.packed_with and record.status == "ok" and not any("pack" in said for said in record.warnings)
        first, same = record.curve[0].loss, alone[run_id].curve[0].loss
        assert first == pytest.approx(same, rel=2**-7)


@pytest.mark.parametrize("part", ["prepare", "score"])
def test_a_member_that_lacks_memory_in_company_is_done_by_itself(tmp_path, monkeypatch, part):
    """Its company had some of the memory, so it says nothing of the run."""
    real, calls = getattr(together, part), []

    def short(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise MemoryError("too many of them")
        return real(*arguments, **options)

    monkeypatch.setattr(together, part, short)
    path = write_project(tmp_path / "project", SUITE)
    records = records_of(path, tmp_path / "runs", workers=0)
    assert len(calls) >= 2
    assert {record.status for record in records.values()} == {"ok"}


def test_a_run_that_goes_on_by_itself_still_says_in_whose_company_it_began(tmp_path):
    path = write_project(tmp_path / "project", SUITE.replace("  - full\n", ""))

    class Stop(Silent):
        def event(self, event):
            if event.step == 3:
                loop.request_stop("SIGTERM")

    run_suite(load_suite(path), runs=tmp_path / "runs", workers=0, display=Stop())
    loop.request_stop(None)
    records = records_of(path, tmp_path / "runs", workers=0, pack=False)
    begun = {run_id for run_id, record in records.items() if record.resumed}
    assert len(begun) > 1
    assert {run_id for run_id, record in records.items() if record.packed_with} == begun
    assert all({*record.packed_with, run_id} == begun for run_id, record in records.items() if run_id in begun)


def test_a_pack_that_is_stopped_goes_on_from_every_member_s_checkpoint(tmp_path):
    path = write_project(tmp_path / "project", SUITE.replace("  - full\n", ""))
    whole = records_of(path, tmp_path / "whole", workers=0)
    steps = []

    class Stop(Silent):
        def event(self, event):
            steps.append(event.step)
            if event.step == 3:
                loop.request_stop("SIGTERM")

    stopped = run_suite(load_suite(path), runs=tmp_path / "runs", workers=0, display=Stop())
    assert stopped.interrupted is None and stopped.undone and max(steps) == 3
    left = {run_id for run_id in whole if RunFolder(tmp_path / "runs" / "tickets" / run_id).checkpoints.exists()}
    company = next(iter(left))
    assert left == {company, *whole[company].packed_with} and len(left) > 1
    loop.request_stop(None)
    again = records_of(path, tmp_path / "runs", workers=0)
    assert {record.status for record in again.values()} == {"ok"}
    assert {run_id for run_id, record in again.items() if record.resumed} == left
    for run_id, record in again.items():
        assert [point.loss for point in record.curve] == pytest.approx(
            [point.loss for point in whole[run_id].curve], abs=1e-5
        )
        assert record.scores == whole[run_id].scores


SHORT = """\
  - {method: lora, label: short, rank: 4, learning_rate: 3e-3}
"""
RECIPES = """\
recipes:
  - {methods: [short], train_examples: 16}
"""
LORA_ALONE = (
    "  - bottleneck_adapter\n  - prefix_tuning\n  - bitfit\n  - full\n",
    SHORT,
)


def test_when_a_member_leaves_another_takes_its_place(tmp_path, monkeypatch):
    """Three at once: two runs of ten steps, and beside them two that diverge and two of two steps, one after the other."""
    monkeypatch.setattr(execute, "most_members", lambda *given, **known: 3)
    suite = SUITE.replace(*LORA_ALONE).replace("learning_rate: 1e-2", "learning_rate: 1e30") + RECIPES
    suite = suite.replace("train_examples: 46", "train_examples: 78")
    path = write_project(tmp_path / "project", suite)
    order = []

    class Note(Silent):
        def event(self, event):
            if event.step == 0:
                order.append(event.run_id)

    packed = records_of(path, tmp_path / "packed", workers=0, display=Note())
    alone = records_of(path, tmp_path / "alone", workers=0, pack=False)
    label = {run_id: f"{record.spec.method.label}{record.spec.seed}" for run_id, record in packed.items()}
    met = {label[run_id]: {label[other] for other in record.packed_with} for run_id, record in packed.items()}
    # Those of ten steps begin; the first that diverges gives way to the other, and this to one short run after the other.
    assert {label[one] for one in order[:3]} > {"lora0", "lora1"} and len(order) == 6
    for name, others in met.items():
        assert others == (set(met) - {name} if name in ("lora0", "lora1") else {"lora0", "lora1"})
    for run_id, record in packed.items():
        assert record.status == ("diverged" if label[run_id].startswith("wide") else "ok")
        assert (record.status, record.reason) == (alone[run_id].status, alone[run_id].reason)
        assert record.scores == alone[run_id].scores
        assert [point.step for point in record.curve] == [point.step for point in alone[run_id].curve]
        losses = ([point.loss for point in one.curve] for one in (record, alone[run_id]))
        assert next(losses) == pytest.approx(next(losses), abs=1e-5)


def test_a_stop_leaves_those_that_wait_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "most_members", lambda *given, **known: 2)
    path = write_project(tmp_path / "project", SUITE.replace(*LORA_ALONE))
    begun = set()

    class Stop(Silent):
        def event(self, event):
            begun.add(event.run_id)
            if event.step == 2:
                loop.request_stop("SIGTERM")

    run_suite(load_suite(path), runs=tmp_path / "runs", workers=0, display=Stop())
    loop.request_stop(None)
    assert len(begun) == 2
    assert {folder.name for folder in (tmp_path / "runs" / "tickets").iterdir() if folder.is_dir()} == begun
    again = records_of(path, tmp_path / "runs", workers=0)
    assert {record.status for record in again.values()} == {"ok"} and len(again) == 6
    assert {run_id for run_id, record in again.items() if record.resumed} == begun


def test_of_a_pack_that_fails_as_a_whole_those_that_wait_go_on_together(tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "most_members", lambda *given, **known: 2)
    real, calls = together._step, []

    def short_at_first(members, stack, optimiser):
        calls.append([member.ready.job.run_id for member in members])
        if len(calls) == 1:
            raise MemoryError("too many of them")
        return real(members, stack, optimiser)

    monkeypatch.setattr(together, "_step", short_at_first)
    path = write_project(tmp_path / "project", SUITE.replace(*LORA_ALONE))
    records = records_of(path, tmp_path / "runs", workers=0)
    assert {record.status for record in records.values()} == {"ok"} and len(records) == 6
    assert {run_id for run_id, record in records.items() if not record.packed_with} == set(calls[0])


def test_a_pack_that_lacks_memory_is_tried_at_half(tmp_path, monkeypatch):
    """A device holds two of the eight members: 8, 4, then 2 at once, and every run has the losses that it has alone."""
    monkeypatch.setattr(execute, "most_members", lambda *given, **known: 64)
    real, tried = together.StackedAdamW.step, []

    def step(optimiser, max_norms):
        tried.append(len(max_norms))
        if len(max_norms) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        real(optimiser, max_norms)

    monkeypatch.setattr(together.StackedAdamW, "step", step)
    suite = SUITE.replace(LORA_ALONE[0], "").replace("seeds: [0, 1]", "seeds: [0, 1, 2, 3]").replace("46", "16")
    path = write_project(tmp_path / "project", suite)
    heard = Heard()
    packed = records_of(path, tmp_path / "packed", workers=0, display=heard)
    assert [most for most, _ in itertools.groupby(tried)] == [8, 4, 2] and len(packed) == 8
    assert {len(record.packed_with) for record in packed.values()} == {1}
    alone = records_of(path, tmp_path / "alone", workers=0, pack=False)
    for run_id, record in packed.items():
        losses = [[point.loss for point in one.curve] for one in (record, alone[run_id])]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert any("a pack of 4 runs lacks memory; 2 go on at once" in said for said in heard.said)


@pytest.mark.slow
def test_workers_do_packs_too(tmp_path):
    path = write_project(tmp_path / "project", SUITE.replace("seeds: [0, 1]", "seeds: [0, 1, 2, 3]"))
    records = records_of(path, tmp_path / "runs", workers=2)
    assert {record.status for record in records.values()} == {"ok"} and len(records) == 24
    # Four members of LoRA in each of two workers, and two of each other method.
    assert sorted({len(record.packed_with) + 1 for record in records.values()}) == [1, 2, 4]


def test_members_that_are_done_at_once_are_asked_together(tmp_path, monkeypatch):
    path = write_project(tmp_path / "project", SUITE)
    asked = []
    real = together.answers_together

    def counted(trained, *how):
        found = real(trained, *how)
        asked.append((len(trained), len(found)))
        return found

    monkeypatch.setattr(together, "answers_together", counted)
    records = records_of(path, tmp_path / "runs", workers=0)
    assert sorted(asked) == [(2, 2), (2, 2), (2, 2), (4, 4)]
    # Where that fails each is asked by itself, with the same answers.
    monkeypatch.setattr(asking, "Pack", lambda *given: 1 / 0)
    again = records_of(path, tmp_path / "again", workers=0)
    assert {run_id: record.predictions for run_id, record in again.items()} == {
        run_id: record.predictions for run_id, record in records.items()
    }


@pytest.mark.parametrize("family", ["roberta", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_members_are_asked_together_on_the_selection_split_too(tmp_path, monkeypatch, family):
    """Two tasks, each with two runs of six steps and one of two, and scores every two steps."""
    suite = SUITE.replace(*LORA_ALONE).replace("keep_weights: last", "keep_weights: best\nselection_every: 2") + RECIPES
    suite = suite.replace("seeds: [0, 1]", "seeds: [0]").replace(
        "models:", "  - {task: again, data: again.csv, text: subject, label: queue}\nmodels:"
    )
    path = write_project(tmp_path / "project", suite, family)
    write_data(path.with_name("again.csv"), rows=300)
    asked, real = [], asking._answers_of

    def counted(group, splits, stack):
        asked.append((len({ready.job.spec.task.name for ready in group}), len(group), *splits))
        return real(group, splits, stack)

    monkeypatch.setattr(asking, "_answers_of", counted)
    packed = records_of(path, tmp_path / "packed", workers=0)
    # After steps 2, 4 and 6, and at the end of the four that end together; the short ones are of two tasks.
    selections = [(1, 3, "selection")] * 2 + [(1, 2, "selection")] * 4
    assert asked == selections + [(1, 2, "test")] * 2
    alone = records_of(path, tmp_path / "alone", workers=0, pack=False)
    assert len(packed) == 6 and {record.status for record in packed.values()} == {"ok"}
    for run_id, record in packed.items():
        same = alone[run_id]
        steps = [2] if record.spec.method.label == "short" else [2, 4, 6]
        assert [point.step for point in record.curve if point.scores] == steps
        assert [(point.step, point.scores) for point in record.curve] == [
            (point.step, point.scores) for point in same.curve
        ]
        assert record.scores == same.scores and record.weights.step == same.weights.step
    # Where that fails each is asked by itself.
    monkeypatch.setattr(asking, "Pack", lambda *given: 1 / 0)
    apart = records_of(path, tmp_path / "apart", workers=0)
    assert {run_id: (record.scores, record.curve) for run_id, record in apart.items()} == {
        run_id: (record.scores, record.curve) for run_id, record in packed.items()
    }


def test_the_members_of_a_pack_have_one_base(tmp_path, monkeypatch):
    path = write_project(tmp_path / "project", SUITE)
    # Of workers' own sharing there is none: each run has its base in memory of its own, as on a device.
    monkeypatch.setattr(WARM, "base", load_for)
    places = []
    real = together.Member.begin

    def begin(member):
        frozen = {
            name.rpartition("base_model.model.")[2]: weight.data_ptr()
            for name, weight in member.ready.model.named_parameters()
            if not weight.requires_grad
        }
        places.append((member.ready.job.spec.method.name, tuple(sorted(frozen.items()))))
        real(member)

    monkeypatch.setattr(together.Member, "begin", begin)
    records_of(path, tmp_path / "runs", workers=0)
    assert len({method for method, _ in places}) == 4
    assert len(set(places)) == 4, "one place for every weight in all members and steps of a method"


class RecipeOfTomorrow(PlannedTraining):
    """The recipe with a field that no line of the package mentions."""

    curriculum: str = "none"


class SpecOfTomorrow(PlannedSpec):
    training: RecipeOfTomorrow


def test_runs_that_differ_in_a_field_nobody_has_heard_of_share_neither_a_pack_nor_a_base(tmp_path, monkeypatch):
    path = write_project(tmp_path / "project", SUITE)
    first, second = (job for job in jobs_of(path, tmp_path / "runs") if job.spec.method.label == "lora")

    def with_curriculum(job, curriculum):
        training = RecipeOfTomorrow(**dict(job.spec.training), curriculum=curriculum)
        return dataclasses.replace(job, spec=SpecOfTomorrow(**{**dict(job.spec), "training": training}))

    alike = [with_curriculum(job, "none") for job in (first, second)]
    other = with_curriculum(second, "short texts first")
    assert None is not company_of(alike[0]) == company_of(alike[1]) != company_of(other)
    assert [len(unit) for unit in packs([*alike, other], 1, lambda job: 8)] == [2, 1]

    loads = []
    monkeypatch.setattr(process_cache, "load_for", lambda job: loads.append(job) or load_for(job))
    warm = Warm()
    for job in (*alike, other):
        warm.base(job)
    assert loads == [alike[0], other]


@pytest.mark.parametrize("part", ["task", "model", "method", "training"])
def test_a_field_that_may_differ_exists(tmp_path, part):
    """A name on a list that no spec has would be a word without effect."""
    fields = PlannedSpec.model_fields
    for listed in (MAY_DIFFER, BASE_MAY_DIFFER):
        assert listed.keys() <= fields.keys()
        inside = listed.get(part, True)
        assert inside is True or inside.keys() <= fields[part].annotation.model_fields.keys()
