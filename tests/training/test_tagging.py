"""Labels of words from a suite to its report: four methods, packs, budgets, probes and kept weights."""

import csv
import itertools
import json
import random
import re

import pytest
import torch
import transformers

from lora_bench import cli
from lora_bench.errors import UnsupportedPair
from lora_bench.execute.run_suite import run_suite
from lora_bench.methods import known_methods
from lora_bench.models.loading import load_model
from lora_bench.models.registry import find_model
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.store import answers_in, read_records
from lora_bench.report import Report
from lora_bench.report.model.seed_scores import scored
from lora_bench.suite.load_suite import load_suite
from lora_bench.training.distributed.ranks import BatchShares
from lora_bench.training.measure.counters import count_parameters
from tests.project import BAD, GOOD, SPECIAL, WORDS, write_model
from tests.shared import shared
from tests.tiny import VOCABULARY, tiny_roberta

SUITE = """\
suite: opinions
tasks:
  - task: opinions
    kind: tokens
    data: {train: train.jsonl, selection: selection.jsonl, test: test.jsonl}
    text: words
    label: tags
    metrics: [token_accuracy]
models: [base]
methods:
  - {method: full, learning_rate: 1e-2}
  - {method: lora, targets: [all], learning_rate: 5e-3}
  - {method: bottleneck_adapter, learning_rate: 2e-2}
  - {method: prefix_tuning, learning_rate: 2e-2}
seeds: [0, 1]
budget: {train_examples: 320}
training: {batch_size: 16, max_length: 24, base_dropout: 0.0, head_dropout: 0.0}
"""
FAMILIES = ["roberta", "deberta-v2", "gpt2"]
METHODS = ["full", "lora", "bottleneck_adapter", "prefix_tuning"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def sentence(draw):
    """Words with opinions among them: `very` before one belongs to it."""
    words = draw.choices([word for word in WORDS if word != "very"], k=draw.randint(3, 8))
    tags = ["O"] * len(words)
    for _ in range(draw.randint(0, 2)):
        place = draw.randrange(len(words) + 1)
        if place < len(tags) and tags[place].startswith("I"):
            continue
        kind, word = draw.choice([("GOOD", draw.choice(GOOD)), ("BAD", draw.choice(BAD))])
        words[place:place] = ["very", word] if draw.random() < 0.5 else [word]
        of_word = ["B", "I"] if words[place] == "very" else ["B"]
        tags[place:place] = [f"{prefix}-{kind}" for prefix in of_word]
    return {"words": words, "tags": tags}


def write_project(folder, suite=SUITE, family="roberta"):
    folder.mkdir()
    write_model(folder / "base", family)
    draw = random.Random(0)
    for name, count in (("train", 240), ("selection", 40), ("test", 60)):
        rows = [json.dumps(sentence(draw)) for _ in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    (folder / "opinions.yaml").write_text(suite)
    return folder / "opinions.yaml"


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "name"), itertools.product(FAMILIES, METHODS))
def test_gradients_reach_every_trained_weight_and_the_head_is_trained_whole(tmp_path, family, name):
    """Of a head that reads every token, a method keeps its contract as of one that reads a single one."""
    base = find_model(str(write_model(tmp_path / "base", family)), base=tmp_path)
    model, head = load_model(base, kind="tokens", labels=5)
    assert type(model).__name__.endswith("ForTokenClassification") and head == ["classifier"]
    frozen = {key: weight.detach().clone() for key, weight in model.named_parameters()}
    total = sum(weight.numel() for weight in model.parameters())
    adapted = known_methods()[name]().apply(model, head=list(head))
    counts = count_parameters(adapted, head=head, total=total)
    assert counts.head == 5 * 32 + 5 and counts.adapter > 0
    trained = {key: weight for key, weight in adapted.named_parameters() if weight.requires_grad}
    ids = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(18).reshape(2, 9) % 5
    labels[:, 4:6] = -100
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    optimiser = torch.optim.SGD(trained.values(), lr=0.1)
    before = {key: weight.detach().clone() for key, weight in trained.items()}
    for _ in range(3):  # the first step of a zero matrix moves only the other one
        optimiser.zero_grad()
        found = adapted(**batch)
        assert found.logits.shape == (2, 9, 5)
        found.loss.backward()
        optimiser.step()
    # Keys' biases move all scores of a query alike, and the table of positions has rows that are not read.
    still = [key for key, weight in trained.items() if torch.equal(weight, before[key])]
    assert all("bias" in key or "pooler" in key for key in still), still
    if name != "full":
        kept = dict(adapted.named_parameters())
        for key, weight in frozen.items():
            same = [one for name, one in kept.items() if name.endswith(f".{key}") and not one.requires_grad]
            assert all(torch.equal(one, weight) for one in same), key


def test_a_type_without_a_model_for_words_is_refused_with_the_reason(tmp_path):
    config = transformers.OPTConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, ffn_dim=32, num_attention_heads=2, word_embed_proj_dim=32
    )
    transformers.OPTModel(config).save_pretrained(tmp_path / "opt")
    with pytest.raises(
        UnsupportedPair, match="transformers has no opt of the kind TokenClassification, as tokens need"
    ):
        load_model(find_model(str(tmp_path / "opt"), base=tmp_path), kind="tokens", labels=3)


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_four_methods_learn_to_tag_and_the_report_pairs_the_sentences(tmp_path, family):
    suite = SUITE.replace("train_examples: 320", "train_examples: 1_600")
    path = write_project(tmp_path / "project", suite, family)
    assert cli.main(["run", str(path), "--runs", str(tmp_path / "runs"), "--workers", "0", "--quiet"]) == 0
    folder = tmp_path / "runs" / "opinions"
    records = read_records(folder)
    assert [record.status for record in records] == ["ok"] * 8, [record.reason for record in records]
    for record in records:
        assert set(record.scores) == {"seqeval_f1", "token_accuracy"}
        assert record.data.majority_score == 0.0  # `O` everywhere finds no entity
        assert record.spec.task.labels == ("B-BAD", "B-GOOD", "I-BAD", "I-GOOD", "O")
    full = [record.score for record in records if record.spec.method.name == "full"]
    assert min(full) > (0.25 if family == "gpt2" else 0.5)  # a GPT-2 does not see what `very` belongs to
    model = Report(records, answers=answers_in(folder, records))
    assert model.judged is not None and len(model.judged.held) == 3
    for held in model.judged.held:
        items = scored(held.row, held.setting, answers_in(folder, records)).items
        assert held.with_items and items.items == 60
        by_seed = {record.spec.seed: record.score for record in records if record.spec.method.label == held.row.label}
        assert items.scores() == pytest.approx([by_seed[seed] for seed in items.seeds])
    answers = answers_in(folder, records)(records[0].run_id)
    written = [json.loads(line) for line in (path.parent / "test.jsonl").read_text().splitlines()]
    assert answers.references == [row["tags"] for row in written]
    assert [len(tags) for tags in answers.predictions] == [len(row["words"]) for row in written]
    assert "| method | seqeval\\_f1 | difference to `full` |" in (folder / "report.md").read_text()


@pytest.mark.parametrize("family", [*(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES[:2]), "gpt2"])
def test_packed_runs_leave_the_records_of_isolated_ones(tmp_path, family):
    suite = SUITE.replace("head_dropout: 0.0", "masks: keyed").replace("base_dropout: 0.0, ", "")
    suite = suite.replace("train_examples: 320", "train_examples: 60") + "selection_every: 2\n"
    path = write_project(tmp_path / "project", suite, family)
    packed, alone = (
        {one.run_id: one for one in run_suite(path, runs=tmp_path / name, workers=0, pack=pack).records}
        for name, pack in (("packed", True), ("alone", False))
    )
    assert packed.keys() == alone.keys() and len(packed) == 8
    for run_id, record in packed.items():
        same = alone[run_id]
        assert (record.status, same.status) == ("ok", "ok"), (record.reason, same.reason)
        assert bool(record.packed_with) == (record.spec.method.name != "full") and not same.packed_with
        losses = [[point.loss for point in one.curve if point.loss is not None] for one in (record, same)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5) and len(losses[0]) == 4
        assert [point.scores for point in record.curve] == [point.scores for point in same.curve]
        assert record.scores == same.scores and record.predictions.sha256 == same.predictions.sha256
        assert record.warnings == same.warnings


@pytest.mark.parametrize("axis", ["train_tokens: 3_000", pytest.param("train_flops: 2e8", marks=pytest.mark.slow)])
def test_budgets_count_words_as_any_other_text(tmp_path, axis):
    suite = SUITE.replace("train_examples: 320", axis).replace("seeds: [0, 1]", "seeds: [0]")
    suite = suite.replace("budget: {", "budget: {adapter_parameters: 1_000, tolerance: 0.5, ")
    records = run_suite(write_project(tmp_path / "project", suite), runs=tmp_path / "runs", workers=0).records
    assert {record.status for record in records} == {"ok"}, [record.reason for record in records]


def test_a_padding_on_the_left_changes_no_answer(tmp_path):
    """A batch of words is filled up on the right, whatever the side that the tokenizer names."""
    suite = SUITE.replace("[0, 1]", "[0]").replace("train_examples: 320", "train_examples: 48")
    path = write_project(tmp_path / "project", suite)
    right = run_suite(path, runs=tmp_path / "right", workers=0).records
    config = path.parent / "base" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "padding_side": "left"}))
    left = run_suite(path, runs=tmp_path / "left", workers=0).records
    scores = [{record.spec.method.label: record.scores for record in records} for records in (left, right)]
    assert scores[0] == scores[1]


def test_shares_of_a_batch_weigh_every_labelled_token():
    rows = [{"input_ids": [1] * 4, "labels": labels} for labels in ([0, 1, -100, 2], [0, -100, -100, -100])]
    shares = BatchShares(rows, 2, 2, predicts_next=False)
    assert [share.weight for share in shares] == pytest.approx([2 * 3 / 4, 2 * 1 / 4])
    # Of a text to write the first token is predicted by none.
    shares = BatchShares(
        [{"input_ids": [1] * 3, "labels": [-100, 5, 6]}, {"input_ids": [1] * 2, "labels": [3, 4]}], 2, 2
    )
    assert [share.weight for share in shares] == pytest.approx([2 * 2 / 3, 2 * 1 / 3])


def test_the_card_of_kept_weights_loads_a_tagger(tmp_path, monkeypatch):
    suite = SUITE.replace("[0, 1]", "[0]") + "keep_weights: last\n"
    path = write_project(tmp_path / "project", suite)
    records = run_suite(path, runs=tmp_path / "runs", workers=0).records
    monkeypatch.chdir(path.parent)
    test = [json.loads(line) for line in (path.parent / "test.jsonl").read_text().splitlines()]
    for record in records:
        folder = tmp_path / "runs" / "opinions" / record.run_id
        card = (folder / "weights" / "README.md").read_text()
        assert "pipeline_tag: token-classification" in card
        assert re.search(r"seqeval_f1 on 60 test examples, 1 seed, 95 % interval over examples", card)
        names: dict = {}
        exec(card.split("```python")[1].split("```")[0].replace("THIS FOLDER", str(folder / "weights")), names)
        model, tokenizer = names["model"].eval(), names["tokenizer"]
        kept = json.loads((folder / "predictions.json").read_text())["predictions"]
        for row, tags in zip(test[:5], kept, strict=False):
            batch = tokenizer(" ".join(row["words"]), return_tensors="pt", return_token_type_ids=False)
            found = model(**batch).logits.argmax(-1)[0, 1:-1].tolist()  # one token a word, between two special ones
            assert [model.config.id2label[index] for index in found] == tags


def test_a_plan_says_what_the_words_are(tmp_path):
    path = write_project(tmp_path / "project")
    (facts,) = make_plan(load_suite(path), tmp_path / "runs", with_data=True).data
    written = [json.loads(line) for line in (path.parent / "train.jsonl").read_text().splitlines()]
    train = facts.splits["train"]
    counts = train.classes
    assert counts["O"] == sum(row["tags"].count("O") for row in written)
    assert train.majority_share == pytest.approx(counts["O"] / sum(counts.values()))
    # One token a word and two special ones.
    assert facts.lengths[0].splits["train"].longest == max(len(row["words"]) for row in written) + 2


def test_a_mistake_in_a_row_is_said_by_the_plan(tmp_path, capsys):
    path = write_project(tmp_path / "project")
    with (path.parent / "test.jsonl").open("a") as file:
        file.write('\n{"words": ["the", "film"], "tags": ["O"]}\n')
    assert cli.main(["plan", str(path), "--runs", str(tmp_path / "runs")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "such as 1 in column 'tags' for 2 in column 'words', in 1 row (line 61)" in said


def test_positions_beyond_the_model_are_found_among_the_words(tmp_path, capsys):
    path = write_project(tmp_path / "project", SUITE.replace("max_length: 24", "max_length: 200"))
    with (path.parent / "test.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"words": ["film"] * 100, "tags": ["O"] * 100}) + "\n")
    assert cli.main(["plan", str(path), "--runs", str(tmp_path / "runs")]) == 2
    assert "an input of opinions has 102: take max_length: 62" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_a_probe_measures_a_tagger(tmp_path):
    suite = SUITE.replace("seeds: [0, 1]", "seeds: [0]") + "probe: {latency: [[1, 8]], seconds: 0.1, processes: 1}\n"
    suite = re.sub(r"  - \{method: (bottleneck|prefix).*\n", "", suite)
    path = write_project(tmp_path / "project", suite)
    command = ["probe", str(path), "--runs", str(tmp_path / "runs"), "--quiet", "--share"]
    assert cli.main(command) == 0
    (file, *_) = sorted((tmp_path / "runs" / "opinions").glob("probes/**/*.json"))
    found = json.loads(file.read_text())
    assert (found["spec"]["kind"], found["spec"]["labels"], found["status"]) == ("tokens", 5, "ok")
    assert found["predicted"]["peak_bytes"] > 0 and found["flops"]["step"] > 0


def test_real_sentences_are_tagged(tmp_path):
    """Names of the E2E restaurants in people's sentences: slots that stand there word by word."""
    source = shared("data", "e2e", "devset.csv")
    with source.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file)][:1_600]
    random.Random(0).shuffle(rows)
    sentences = [found for row in rows if (found := slots(row["mr"], row["ref"])) is not None]
    assert len(sentences) > 800
    folder = tmp_path / "project"
    folder.mkdir()
    write_reader(folder / "base", [word for words, _ in sentences for word in words])
    for name, part in (("train", sentences[:600]), ("selection", sentences[600:700]), ("test", sentences[700:800])):
        (folder / f"{name}.conll").write_text(
            "\n\n".join("\n".join(f"{word} {tag}" for word, tag in zip(*one, strict=True)) for one in part)
        )
    suite = SUITE.replace(".jsonl", ".conll").replace("seeds: [0, 1]", "seeds: [0]")
    suite = re.sub(r"  - \{method: (lora|bottleneck|prefix).*\n", "", suite)
    names = [f"{prefix}-{slot}" for slot in SLOTS for prefix in "BI"]
    suite = suite.replace("    metrics:", f"    labels: [O, {', '.join(names)}]\n    metrics:")
    suite = suite.replace("train_examples: 320", "train_examples: 2_400").replace("max_length: 24", "max_length: 48")
    (folder / "opinions.yaml").write_text(suite)
    (record,) = run_suite(folder / "opinions.yaml", runs=tmp_path / "runs", workers=0).records
    assert record.status == "ok", record.reason
    assert record.scores["seqeval_f1"] > 0.5 and record.data.majority_score == 0.0


SLOTS = ("name", "near", "food", "area")


def write_reader(folder, words):
    """A tiny RoBERTa with a tokenizer that knows these words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*SPECIAL, *words]))}
    tiny_roberta(vocab_size=len(vocabulary)).roberta.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def slots(meaning, text):
    """The words of a sentence and their tags, if the name of its restaurant stands in it."""
    words = re.findall(r"\w+|[^\w\s]", text)
    tags = ["O"] * len(words)
    for slot, value in re.findall(r"(\w+)\[([^]]*)\]", meaning):
        parts = re.findall(r"\w+|[^\w\s]", value)
        starts = [place for place in range(len(words)) if words[place : place + len(parts)] == parts]
        if slot in SLOTS and starts:
            place = starts[0]
            tags[place : place + len(parts)] = [f"B-{slot}", *[f"I-{slot}"] * (len(parts) - 1)]
        elif slot == "name":
            return None
    return words, tags
