"""Chats from their rows to the report: four methods on tiny decoders with a chat template, alone and in packs."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_bench.cli import main
from lora_bench.errors import BadInput
from lora_bench.execute.run_suite import run_suite, runs_folder
from lora_bench.gate import night_of
from lora_bench.plan.make_plan import make_plan
from lora_bench.plan.probe_plan import plan_probes
from lora_bench.records.answers_file import read_answers
from lora_bench.records.baseline_folder import accept
from lora_bench.records.store import answers_in
from lora_bench.suite.load_suite import load_suite
from tests.chats import CHATML, STOP, echoes, write_chat_model, write_chats
from tests.shared import shared
from tests.tiny import VOCABULARY

SUITE = """\
suite: echo
tasks:
  - task: echo
    kind: chat
    data: {train: train.jsonl, validation: dev.jsonl, test: test.jsonl}
    text: messages
    metrics: [perplexity, exact_match]
models: [base]
methods: [full, lora, bottleneck_adapter, prefix_tuning]
seeds: [0]
budget: {train_examples: 64}
training: {batch_size: 16, max_length: 48}
decoding: {max_new_tokens: 6}
"""
ONE = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[{method: full, learning_rate: 1e-2}]")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))


def write_project(folder, suite=SUITE, family="llama", template=CHATML):
    folder.mkdir()
    write_chat_model(folder / "base", family, template)
    chats = echoes(260)
    for name, part in {"train": chats[:200], "dev": chats[200:230], "test": chats[230:]}.items():
        write_chats(folder / f"{name}.jsonl", part)
    (folder / "echo.yaml").write_text(suite, encoding="utf-8")
    return folder / "echo.yaml"


@pytest.mark.parametrize("family", ["llama", pytest.param("qwen3", marks=pytest.mark.slow)])
def test_four_methods_run_and_their_report_has_the_losses(tmp_path, family):
    path = write_project(tmp_path / "project", family=family)
    runs = tmp_path / "runs"
    records = run_suite(path, runs=runs, workers=0).records
    labels = ["full", "lora", "bottleneck_adapter", "prefix_tuning"]
    assert [(one.spec.method.label, one.status) for one in records] == [(label, "ok") for label in labels]
    for one in records:
        assert set(one.scores) == {"loss", "perplexity", "exact_match"}
        assert one.scores["perplexity"] == pytest.approx(math.exp(one.scores["loss"]))
        assert one.parameters.head == 0 and not one.spec.task.higher_is_better
        # What the record names are numbers: the loss of each conversation's answers, over six tokens of two answers.
        answers = answers_in(runs / "echo", [one])(one.run_id)
        assert answers.references == [6] * 30
        assert sum(answers.predictions) / 180 == pytest.approx(one.scores["loss"])
        written = json.loads((runs_folder(load_suite(path), runs) / one.run_id / "completions.json").read_text())
        assert len(written["completions"]) == 30 and not any(STOP in text for text in written["completions"])
    assert main(["report", str(runs / "echo")]) == 0
    report = (runs / "echo" / "report.md").read_text(encoding="utf-8")
    assert "loss, mean ± SD" in report and "MAE" not in report
    accept(runs / "echo", tmp_path / "baseline")
    kept = read_answers(tmp_path / "baseline" / "answers.jsonl.xz").values()
    assert [answers.file for answers in kept] == ["predictions.json"] * 4
    assert len(night_of(records, "first").cells) == 4
    assert {cell.spec.kind for cell in plan_probes(load_suite(path), runs).cells} == {"generation"}


def test_a_chat_is_learned(tmp_path):
    suite = ONE.replace("train_examples: 64", "train_examples: 1_200")
    (made,) = run_suite(write_project(tmp_path / "project", suite), runs=tmp_path / "runs", workers=0).records
    # The first word of an answer is one of 15, its `end` and its mark are certain.
    assert made.scores["loss"] < math.log(15) / 3 + 0.2 < math.log(VOCABULARY)
    assert made.curve[0].loss > 2 * made.curve[-1].loss


def test_without_a_metric_of_texts_nothing_is_written_and_decoding_is_no_part_of_a_run(tmp_path):
    suite = ONE.replace("[perplexity, exact_match]", "[perplexity]")
    path = write_project(tmp_path / "project", suite)
    (made,) = run_suite(path, runs=tmp_path / "runs", workers=0).records
    folder = runs_folder(load_suite(path), tmp_path / "runs") / made.run_id
    assert made.status == "ok" and made.spec.decoding is None and not (folder / "completions.json").exists()
    path.write_text(suite.replace("max_new_tokens: 6", "max_new_tokens: 7"), encoding="utf-8")
    (cell,) = make_plan(load_suite(path), tmp_path / "runs").cells
    assert cell.job.run_id == made.run_id


def test_the_best_weights_are_those_of_the_lowest_loss(tmp_path):
    suite = ONE.replace("train_examples: 64", "train_examples: 320") + "keep_weights: best\nselection_every: 5\n"
    (made,) = run_suite(write_project(tmp_path / "project", suite), runs=tmp_path / "runs", workers=0).records
    losses = {point.step: point.scores["loss"] for point in made.curve if point.scores}
    assert len(losses) == 4 and made.weights.step == min(losses, key=losses.get)


PACKED = SUITE.replace("full, lora", "lora, {method: lora, rank: 2, label: small}").replace("[0]", "[0, 1]")


def test_packed_runs_have_the_scores_of_runs_alone(tmp_path):
    suite = PACKED.replace("text: messages", f"text: messages\n    chat_template: {json.dumps(CHATML)}")
    suite = suite.replace("max_length: 48", "max_length: 40, masks: keyed")
    path = write_project(tmp_path / "project", suite, "gpt2", template=None)
    packed, alone = (
        {one.run_id: one for one in run_suite(path, runs=tmp_path / name, workers=0, pack=pack).records}
        for name, pack in (("packed", True), ("alone", False))
    )
    assert packed.keys() == alone.keys() and len(packed) == 8
    assert {len(one.packed_with) for one in packed.values()} == {1, 3}
    for run_id, one in packed.items():
        assert one.status == alone[run_id].status == "ok", one.reason
        assert one.scores == pytest.approx(alone[run_id].scores, abs=1e-4)
        assert not any("one by one" in warning for warning in one.warnings)


@pytest.mark.slow
def test_flops_end_a_run(tmp_path):
    suite = SUITE.replace("train_examples: 64", "train_flops: 1e9")
    records = run_suite(write_project(tmp_path / "project", suite), runs=tmp_path / "runs", workers=0).records
    assert all(one.status == "ok" and one.speed.train_flops >= 1e9 for one in records)
    assert records[0].speed.train_steps < records[1].speed.train_steps  # LoRA's steps cost less than `full`'s


def test_the_plan_shows_lengths_and_refuses_what_cannot_be_trained(tmp_path, capsys, monkeypatch):
    path = write_project(tmp_path / "project", template=None)
    monkeypatch.chdir(path.parent)
    with pytest.raises(BadInput) as error:
        make_plan(load_suite(path), tmp_path / "runs")
    assert "echo.yaml:8: models[0]: 'base' cannot be trained on echo: its tokenizer has no chat template" in str(
        error.value
    )
    (path.parent / "chat.jinja").write_text(CHATML, encoding="utf-8")
    path.write_text(SUITE.replace("text: messages", "text: messages\n    chat_template: chat.jinja"), encoding="utf-8")
    assert main(["plan", str(path), "--runs", str(tmp_path / "runs")]) == 0
    # Two turns of 1 + 1 + 3 + 1 tokens of a question and 1 + 1 + 2 + 1 of an answer.
    assert "22" in capsys.readouterr().out


LOAD = """
import sys
folder = sys.argv[1]
names = {}
lines = open(folder + "/README.md").read().split("```python")[1].split("```")[0]
exec(lines.replace("THIS FOLDER", folder), names)
tokenizer, model = names["tokenizer"], names["model"].eval()
asked = [{"role": "user", "content": "the film"}]
prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(model.generate(**prompt, max_new_tokens=4, do_sample=False).shape[1] - prompt["input_ids"].shape[1])
"""


@pytest.mark.slow
def test_the_lines_of_the_card_load_a_model_that_chats(tmp_path):
    suite = SUITE.replace("full, lora, bottleneck_adapter, prefix_tuning", "lora") + "keep_weights: last\n"
    suite = suite.replace("text: messages", f"text: messages\n    chat_template: {json.dumps(CHATML)}")
    path = write_project(tmp_path / "project", suite, template=None)
    (made,) = run_suite(path, runs=tmp_path / "runs", workers=0).records
    folder = runs_folder(load_suite(path), tmp_path / "runs") / made.run_id / made.weights.folder
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder)], cwd=path.parent, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert 1 <= int(ran.stdout) <= 4
    assert "pipeline_tag: text-generation" in (folder / "README.md").read_text(encoding="utf-8")


E2E = """\
suite: meals
tasks:
  - task: meals
    kind: chat
    data: {train: train.csv, test: test.csv}
    text: mr
    label: ref
    chat_template: "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\\n{% endfor %}"
    metric: perplexity
    metrics: [loss, exact_match]
models: [gpt2-mini]
methods: [{method: lora, learning_rate: 3e-3}]
seeds: [0]
budget: {train_examples: 160}
training: {batch_size: 8, max_length: 128}
decoding: {max_new_tokens: 40}
"""


@pytest.mark.slow
def test_sentences_about_restaurants_are_a_chat(tmp_path):
    """E2E's first rows: what a restaurant offers is the prompt, a sentence about it the completion."""
    with shared("data", "e2e", "devset.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name, part in {"train": rows[:160], "test": rows[1_000:1_040]}.items():
        with (tmp_path / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("mr", "ref"), *((row["mr"], row["ref"]) for row in part)])
    path = tmp_path / "meals.yaml"
    path.write_text(E2E, encoding="utf-8")
    (made,) = run_suite(path, runs=tmp_path / "runs", workers=0).records
    assert made.status == "ok", made.reason
    # The model comes pretrained, and learns the sentences from the first step on.
    assert made.curve[0].loss < math.log(8_192)
    assert made.scores["loss"] < made.curve[0].loss - 0.5
    assert made.data.truncated_share["train"] == 0
