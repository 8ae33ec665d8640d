"""What a plan says that a run is likely to cost."""

import csv
import itertools

import pytest
import torch

from lora_bench.plan.cost_estimate import bfloat16_gain, flops_per_thread
from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.load_suite import load_suite
from tests.project import write_model
from tests.tiny import tiny_gpt2

SUITE = """\
suite: told
tasks:
  - task: told
    kind: {kind}
    data: told.csv
    text: asked
    label: answer
models: [base]
methods: [full]
seeds: [0]
budget: {{train_examples: 48}}
{decoding}
"""


def planned(folder, kind, decoding="", suite=SUITE):
    """The only cell of a suite on a tiny GPT-2, whose answers have two words."""
    [cell] = plan_of(folder, kind, decoding, suite).cells
    return cell


def plan_of(folder, kind, decoding, suite):
    folder.mkdir()
    write_model(folder / "base", "gpt2")
    with (folder / "told.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["asked", "answer"])
        rows.writerows([f"the film {number}", f"great {'end' if number % 2 else 'plot'}"] for number in range(100))
    file = folder / "told.yaml"
    file.write_text(suite.format(kind=kind, decoding=decoding))
    return make_plan(load_suite(file), folder / "runs", with_data=True)


def test_a_frozen_model_reads_each_row_once_however_often_it_comes_round(tmp_path):
    seconds = {}
    for method, examples in itertools.product(["full", "linear_probe"], [800, 8_000]):
        folder = tmp_path / f"{method}{examples}"
        changed = SUITE.replace("[full]", f"[{method}]").replace(": 48", f": {examples}")
        seconds[method, examples] = planned(folder, "classification", suite=changed).estimate.seconds
    # The split to train has about 80 rows.
    assert seconds["linear_probe", 8_000] == seconds["linear_probe", 800] < seconds["full", 800] / 5
    assert seconds["full", 8_000] > 8 * seconds["full", 800]


def test_a_curve_costs_answers_of_the_selection_split_and_none_of_the_test_split(tmp_path):
    seconds = {}
    for method, every in itertools.product(["full", "linear_probe"], ["", "selection_every: 3"]):
        folder = tmp_path / f"{method}{every[-1:]}"
        changed = SUITE.replace("[full]", f"[{method}]").replace(": 48", ": 160")
        changed = changed.replace(
            "label: answer", "label: answer\n    split: {{train: 0.4, selection: 0.1, test: 0.5}}"
        )
        plan = plan_of(folder, "classification", every, changed)
        seconds[method, bool(every)] = plan.cells[0].estimate.seconds
        answers = {name: split.examples for name, split in plan.data[0].splits.items()}
    # 160 examples are ten steps of 16, so that a curve has three points. A pass back costs as much as two forward, of which a
    # frozen base model takes none, and it reads each row once.
    assert answers["test"] > 3 * answers["selection"] > 0
    # A text of three words has two tokens more; a step of 16 rows takes as long as 270 more, a row alone as long as 90.
    tokens = 3 * 1.3 + 2
    curve = 3 * answers["selection"]
    whole = 3 * 160 * (1 + 270 / 16 / tokens) + answers["test"]
    assert seconds["full", True] / seconds["full", False] == pytest.approx((whole + curve) / whole, rel=0.01)
    whole = answers["train"] * (1 + 90 / tokens) + answers["test"]
    with_curve = whole + answers["selection"]
    assert seconds["linear_probe", True] / seconds["linear_probe", False] == pytest.approx(with_curve / whole, rel=0.01)


def test_a_run_in_bfloat16_takes_as_much_less_time_as_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("lora_bench.plan.cost_estimate.flops_per_thread", lambda: 1e8)
    monkeypatch.setattr("lora_bench.plan.cost_estimate.bfloat16_gain", lambda: 1.25)
    monkeypatch.setattr("lora_bench.plan.cost_estimate.cuda_devices", list)
    faster = planned(tmp_path / "bfloat16", "classification", "training: {precision: bfloat16}").estimate.seconds
    assert planned(tmp_path / "float32", "classification").estimate.seconds == pytest.approx(1.25 * faster)


def test_measuring_the_machine_leaves_no_trace_in_a_run():
    for measured in (flops_per_thread, bfloat16_gain):
        measured.cache_clear()
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    assert flops_per_thread() > 0 and bfloat16_gain() > 0
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


def test_a_vocabulary_counts_as_multiplied_where_it_writes_and_as_looked_up_where_it_only_reads(tmp_path):
    model = tiny_gpt2()
    positions, vocabulary = model.transformer.wpe.weight.numel(), model.transformer.wte.weight.numel()
    total = sum(weight.numel() for weight in model.parameters())
    assert planned(tmp_path / "generation", "generation").fit.shape.multiplied == total - positions
    labels = 2 * model.config.n_embd
    classifier = planned(tmp_path / "classification", "classification").fit.shape.multiplied
    assert classifier == total - positions - vocabulary + labels


def test_decoding_costs_what_its_beams_write(tmp_path):
    # Inputs of three words and answers of two, at 1.3 tokens a word; an answer's end is a token more, and each decoded
    # token costs as much as three.
    greedy = planned(tmp_path / "greedy", "generation", "decoding: {beams: 1}").estimate.seconds
    five = planned(tmp_path / "five", "generation", "decoding: {beams: 5}").estimate.seconds
    scored, asked, new = 10, 3 * 1.3, 2 * 1.3 + 1
    trained = 3 * 48 * (asked + 2 * 1.3 + 2 + 270 / 16)
    answered = [scored * (asked + beams * new * 3) for beams in (1, 5)]
    assert five / greedy == pytest.approx((trained + answered[1]) / (trained + answered[0]), rel=0.05)
