"""A generation task from its rows to its record: what is trained on, what is written, and what is kept of it."""

import csv
import json
import math
import random

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from lora_bench.cli import main
from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.execute.run_suite import run_suite, runs_folder
from lora_bench.models.loading import load_model
from lora_bench.models.registry import find_model
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.baseline_folder import accept
from lora_bench.suite.load_suite import load_suite
from lora_bench.training.winner import find_winner, merge_winner
from tests.project import WORDS, write_model
from tests.tiny import WRITERS

SUITE = """\
suite: echo
tasks:
  - task: echo
    kind: generation
    data: {train: train.csv, selection: selection.csv, test: test.csv}
    text: source
    label: target
    metric: bleu
    metrics: [nist, chrf]
models: [base]
methods: [{method: full, learning_rate: 1e-2}]
seeds: [0]
budget: {train_examples: 960}
training: {batch_size: 16, max_length: 24, base_dropout: 0.0}
decoding: {beams: 2, max_new_tokens: 8, no_repeat_ngram: 4}
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))


def write_project(folder, suite=SUITE, family="gpt2"):
    """A task in which the completion is the input's last word, then `end`; every test input stands twice."""
    folder.mkdir()
    write_model(folder / "base", family)
    draw = random.Random(0)
    rows = []
    for _ in range(240):
        words = draw.choices(WORDS, k=3)
        rows.append((" ".join(words), f"{words[-1]} end"))
    parts = {"train": rows[:200], "selection": rows[200:220], "test": rows[220:] * 2}
    for name, part in parts.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("source", "target"), *part])
    (folder / "echo.yaml").write_text(suite)
    return folder / "echo.yaml"


def test_a_causal_model_learns_to_write_and_its_texts_are_kept_beside_the_record(tmp_path):
    path = write_project(tmp_path / "project")
    (made,) = run_suite(path, runs=tmp_path / "runs", workers=0).records
    assert made.status == "ok", made.reason
    assert set(made.scores) == {"bleu", "nist", "chrf"} and made.data.majority_score is None
    assert (made.parameters.head, made.spec.decoding.beams) == (0, 2)
    folder = runs_folder(load_suite(path), tmp_path / "runs") / made.run_id
    written = json.loads((folder / made.predictions.file).read_text())["completions"]
    assert len(written) == made.predictions.count == made.data.examples["test"] == 20  # each distinct input once
    # The task can be learned: most inputs are answered in the form of the targets.
    assert sum(text.endswith("end") for text in written) > 10


def test_written_texts_are_not_committed_with_a_baseline(tmp_path, monkeypatch):
    path = write_project(tmp_path / "project")
    run_suite(path, runs=tmp_path / "runs", workers=0)
    accept(runs_folder(load_suite(path), tmp_path / "runs"), tmp_path / "baseline")
    assert [file.name for file in (tmp_path / "baseline").iterdir()] == ["runs.json"]


@pytest.mark.parametrize("family", ["roberta", "deberta-v2"])
def test_an_encoder_is_an_unsupported_row(tmp_path, family):
    (made,) = run_suite(write_project(tmp_path / "project", family=family), runs=tmp_path / "runs", workers=0).records
    assert made.status == "unsupported" and "is an encoder and writes no text" in made.reason


def test_all_four_methods_train_and_score(tmp_path):
    suite = SUITE.replace(
        "[{method: full, learning_rate: 1e-2}]", "[full, lora, bottleneck_adapter, prefix_tuning]"
    ).replace("train_examples: 960", "train_examples: 32")
    records = run_suite(write_project(tmp_path / "project", suite), runs=tmp_path / "runs", workers=0).records
    assert [(made.spec.method.label, made.status) for made in records] == [
        ("full", "ok"), ("lora", "ok"), ("bottleneck_adapter", "ok"), ("prefix_tuning", "ok"),
    ]  # fmt: skip


def test_the_loss_on_the_right_texts_is_a_score_too_and_needs_no_texts_of_the_model(tmp_path):
    suite = SUITE.replace("metric: bleu\n    metrics: [nist, chrf]", "metric: loss")
    (made,) = run_suite(write_project(tmp_path / "project", suite), runs=tmp_path / "runs", workers=0).records
    # A target is one of 15 words, and `end` and the end of the text, which are certain.
    assert 0 < made.scores["loss"] < math.log(15) and made.spec.decoding is None


METHODS = "[full, lora, bottleneck_adapter, prefix_tuning]"
FEW = SUITE.replace("[{method: full, learning_rate: 1e-2}]", METHODS).replace(
    "train_examples: 960", "train_examples: 32"
)


@pytest.mark.parametrize("family", WRITERS)
def test_a_decoder_behind_an_encoder_learns_to_write(tmp_path, family):
    path = write_project(tmp_path / "project", family=family)
    (made,) = run_suite(path, runs=tmp_path / "runs", workers=0).records
    assert made.status == "ok", made.reason
    assert set(made.scores) == {"bleu", "nist", "chrf"} and made.parameters.head == 0
    # Three words an input and two a text, each with a token for its begin and its end.
    assert made.speed.train_real_tokens == 960 * (5 + 4)
    folder = runs_folder(load_suite(path), tmp_path / "runs") / made.run_id
    written = json.loads((folder / made.predictions.file).read_text())["completions"]
    assert sum(text.endswith("end") for text in written) > 10


@pytest.mark.parametrize("family", WRITERS)
def test_four_methods_train_a_decoder_behind_an_encoder_and_keep_what_loads(tmp_path, family, monkeypatch, capsys):
    suite = FEW.replace("metrics: [nist, chrf]", "metrics: [loss]") + "keep_weights: last\n"
    path = write_project(tmp_path / "project", suite, family=family)
    records = run_suite(path, runs=tmp_path / "runs", workers=0).records
    assert [(made.spec.method.label, made.status, made.reason) for made in records] == [
        (name, "ok", None) for name in ("full", "lora", "bottleneck_adapter", "prefix_tuning")
    ]
    assert all(0 < made.scores["loss"] < 20 for made in records)
    # Two layers of width 32 in each stack: self-attention in all, and attention to the encoder in the decoder's.
    counts = {made.spec.method.label: made.parameters.adapter for made in records}
    assert counts["lora"] == (4 + 2) * 2 * 8 * (32 + 32)
    assert counts["bottleneck_adapter"] == 4 * 2 * (2 * 32 * 16 + 16 + 32)
    assert counts["prefix_tuning"] == (4 + 2) * 2 * 16 * 32

    runs = runs_folder(load_suite(path), tmp_path / "runs")
    monkeypatch.chdir(path.parent)  # where the base model lies
    ids = torch.tensor([[0, 4, 6, 2]])
    for method in ("full", "lora", "prefix_tuning"):
        assert main(["use", str(runs), method]) == 0
        said = capsys.readouterr().out.splitlines()
        names: dict = {}
        exec("\n".join(said[said.index("") :]), names)
        with torch.no_grad():
            logits = names["model"].eval()(input_ids=ids, labels=ids).logits
        assert logits.shape[:2] == (1, 4) and type(names["model"]).__name__.endswith(
            ("ForConditionalGeneration", "Seq2SeqLM")
        )
        if method == "lora":
            beside = logits
    assert main(["analyse", str(runs)]) == 2
    assert "base has an encoder and a decoder" in capsys.readouterr().err
    merge_winner(find_winner(runs, "lora"), tmp_path / "merged")
    merged = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        assert torch.allclose(merged(input_ids=ids, labels=ids).logits, beside, atol=1e-4)
    with pytest.raises(LoraBenchError, match="cannot be merged"):
        merge_winner(find_winner(runs, "prefix_tuning"), tmp_path / "prefix")


@pytest.mark.parametrize("family", WRITERS)
def test_dropout_and_work_are_those_of_both_stacks(tmp_path, family):
    model = {"t5": {"dropout_rate": 0.1}, "bart": {"dropout": 0.1}}[family]
    suite = SUITE.replace("train_examples: 960", "train_flops: 3.0e+8").replace("base_dropout: 0.0", "masks: keyed")
    path = write_project(tmp_path / "project", suite, family=family)
    WRITERS[family](**model).save_pretrained(path.parent / "base")
    (made,) = run_suite(path, runs=tmp_path / "runs", workers=0).records
    assert made.status == "ok", made.reason
    assert made.speed.train_flops >= 3e8 and made.speed.train_examples == 16 * made.speed.train_steps < 960
    found = find_model(str(path.parent / "base"), base=tmp_path)
    for rate in (None, 0.0):
        loaded, _ = load_model(found, kind="generation", labels=0, base_dropout=rate)
        stacks = (loaded.get_encoder(), loaded.get_decoder())
        expected = 0.1 if rate is None else rate
        assert [stack.config.to_dict()[next(iter(model))] for stack in stacks] == [expected] * 2


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_behind_an_encoder_too(tmp_path):
    found = []
    for processes in (1, 2):
        suite = SUITE.replace("train_examples: 960", "train_examples: 32").replace(
            "base_dropout: 0.0", f"base_dropout: 0.0, label_smoothing: 0.1, processes: {processes}"
        )
        path = write_project(tmp_path / str(processes), suite, family="t5")
        (made,) = run_suite(path, runs=tmp_path / f"runs{processes}", workers=0).records
        found.append([point.loss for point in made.curve])
    assert len(found[0]) == 2 and found[1] == pytest.approx(found[0], abs=1e-4)


@pytest.mark.parametrize("family", WRITERS)
def test_what_a_decoder_behind_an_encoder_cannot_do_is_said_in_the_plan(tmp_path, family):
    chat = SUITE.replace("kind: generation", "kind: chat")
    (cell,) = make_plan(load_suite(write_project(tmp_path / "chat", chat, family=family)), tmp_path / "runs").cells
    assert cell.reason == f"a chat is one text, which {family} does not continue: use a causal model"
    # All weights of both stacks but the tables multiply each token: of positions, and of T5's biases.
    (cell,) = make_plan(load_suite(write_project(tmp_path / "plain", family=family)), tmp_path / "runs").cells
    tables = {"t5": 2 * 32 * 4, "bart": 2 * 66 * 32}[family]
    assert cell.fit.shape.multiplied == cell.fit.parameters.total - tables
    assert cell.fit.shape.layers == 4


def test_positions_of_an_encoder_and_of_a_decoder_are_counted_apart(tmp_path):
    suite = SUITE.replace("max_length: 24", "max_length: 80")
    assert make_plan(load_suite(write_project(tmp_path / "short", suite, family="bart")), tmp_path / "runs").cells
    path = write_project(tmp_path / "long", suite, family="bart")
    with (tmp_path / "long" / "train.csv").open("a", newline="") as file:
        csv.writer(file).writerow(("the film", " ".join(WORDS * 5)))
    with pytest.raises(BadInput, match="reads 64 tokens at most, and an input of echo has 77"):
        make_plan(load_suite(path), tmp_path / "runs")
    path = write_project(tmp_path / "written", SUITE.replace("max_new_tokens: 8", "max_new_tokens: 65"), family="bart")
    with pytest.raises(BadInput, match="is 65, but 'base' writes 64 tokens at most"):
        make_plan(load_suite(path), tmp_path / "runs")


def test_decoding_is_part_of_what_a_run_is(tmp_path):
    path = write_project(tmp_path / "project")
    ids = set()
    for decoding in ("{beams: 2}", "{beams: 3}", "{beams: 2, length_penalty: 0.8}"):
        path.write_text(
            SUITE.replace("{beams: 2, max_new_tokens: 8, no_repeat_ngram: 4}", decoding).replace(
                "max_length: 24", "max_length: 80"
            )
        )
        (cell,) = make_plan(load_suite(path), tmp_path / "runs").cells
        ids.add(cell.job.spec.run_id)
    assert len(ids) == 3


def test_label_smoothing_changes_the_loss(tmp_path):
    losses = []
    for smoothing in (0.0, 0.2):
        suite = SUITE.replace("base_dropout: 0.0", f"base_dropout: 0.0, label_smoothing: {smoothing}")
        suite = suite.replace("train_examples: 960", "train_examples: 16")
        path = write_project(tmp_path / f"project{smoothing}", suite)
        (made,) = run_suite(path, runs=tmp_path / f"runs{smoothing}", workers=0).records
        losses.append(made.curve[0].loss)
    assert losses[0] != pytest.approx(losses[1], abs=1e-4)
