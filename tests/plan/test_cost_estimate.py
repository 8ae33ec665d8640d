"""What a plan says that a run is likely to cost."""

import csv

import pytest

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


def planned(folder, kind, decoding=""):
    """The only cell of a suite on a tiny GPT-2, whose answers have two words."""
    folder.mkdir()
    write_model(folder / "base", "gpt2")
    with (folder / "told.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["asked", "answer"])
        rows.writerows([f"the film {number}", f"great {'end' if number % 2 else 'plot'}"] for number in range(100))
    suite = folder / "told.yaml"
    suite.write_text(SUITE.format(kind=kind, decoding=decoding))
    [cell] = make_plan(load_suite(suite), folder / "runs").cells
    return cell


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
    trained = 3 * 48 * (asked + 2 * 1.3 + 2)
    answered = [scored * (asked + beams * new * 3) for beams in (1, 5)]
    assert five / greedy == pytest.approx((trained + answered[1]) / (trained + answered[0]), rel=0.05)
