"""Retention: a text's loss and sentence correlations by hand, against transformers, merged and not, and through a suite."""

import copy
import csv
import math
import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lora_bench.errors import BadInput
from lora_bench.execute.run_suite import run_suite
from lora_bench.methods import known_methods
from lora_bench.models.loading import load_model, load_tokenizer
from lora_bench.models.registry import find_model
from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.load_suite import load_suite
from lora_bench.training.retention import sentence_vectors, text_loss
from tests.project import SUITE, WORDS, write_project
from tests.tiny import tiny_gpt2, tiny_roberta

ROWS = [[3, 4, 5, 6, 7], [8, 9], [10, 11, 1, 1, 12, 13, 14, 15, 16], [17]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))


class Bigram(nn.Module):
    """After token 0 comes 1 with probability 1/2 and 2 with 1/4; after 1 comes 2 with 1/8; after 2 always 0."""

    def __init__(self) -> None:
        super().__init__()
        table = torch.tensor([[0.25, 0.5, 0.25], [0.5, 0.375, 0.125], [1.0, 1e-30, 1e-30]])
        self.table = nn.Parameter(table.log())

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(logits=self.table[input_ids])


def test_the_loss_is_that_of_each_next_token_and_of_no_padding():
    # 0→1 and 1→2 in the first row, 0→2 in the second, which a batch fills with the token 2.
    by_hand = (math.log(2) + math.log(8) + math.log(4)) / 3
    assert text_loss(Bigram(), [[0, 1, 2], [0, 2]], pad=2) == pytest.approx(by_hand, rel=1e-6)
    # A real token that is the padding token counts.
    assert text_loss(Bigram(), [[0, 2, 0]], pad=2) == pytest.approx(math.log(4) / 2, rel=1e-6)


def test_it_is_transformers_loss_on_texts_without_padding():
    model, total, count = tiny_gpt2(), 0.0, 0
    for row in ROWS[:3]:
        ids = torch.tensor([row])
        total += model(input_ids=ids, labels=ids).loss.item() * (len(row) - 1)
        count += len(row) - 1
    assert text_loss(model, ROWS, pad=1) == pytest.approx(total / count, rel=1e-5)


def moved(model, head):
    """The model with a LoRA adapter whose weights are moved."""
    adapted = known_methods()["lora"](rank=2, dropout=0.5).apply(model, head=head)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.2)
    return adapted.train()


def test_merged_or_not_a_loss_is_the_same():
    adapted = moved(tiny_gpt2(), [])
    unmerged = text_loss(adapted.get_base_model(), ROWS, pad=1)
    assert adapted.training and abs(unmerged - text_loss(tiny_gpt2(), ROWS, pad=1)) > 1e-3
    assert text_loss(copy.deepcopy(adapted).merge_and_unload(), ROWS, pad=1) == pytest.approx(unmerged, abs=1e-5)


@pytest.fixture
def tokenizer(tmp_path):
    write_project(tmp_path / "words")
    return load_tokenizer(find_model("base", base=tmp_path / "words"))


def test_a_sentence_is_the_mean_of_its_own_tokens_whatever_stands_beside_it(tokenizer):
    model = tiny_roberta()
    rows = [tokenizer(text) for text in ("the film was great and quite lovely", "dull", "a plot")]
    found = sentence_vectors(model, rows, tokenizer)
    for row, vector in zip(rows, found, strict=True):
        states = model.roberta(input_ids=torch.tensor([row["input_ids"]])).last_hidden_state[0]
        assert torch.allclose(vector, states.mean(0), atol=1e-5)


def test_merged_or_not_sentences_are_the_same(tokenizer):
    rows = [tokenizer(text) for text in ("the film was great", "dull")]
    adapted = moved(tiny_roberta(), ["classifier"])
    unmerged = sentence_vectors(adapted.get_base_model(), rows, tokenizer)
    merged = sentence_vectors(copy.deepcopy(adapted).merge_and_unload(), rows, tokenizer)
    assert torch.allclose(unmerged, merged, atol=1e-5)
    assert not torch.allclose(unmerged, sentence_vectors(tiny_roberta(), rows, tokenizer), atol=1e-2)


# A rate of nothing leaves the base model as it is, and 0.05 does not.
METHODS = "methods: [{method: full, learning_rate: 1e-30}, {method: lora, learning_rate: 0.05}]"
ASKS = (
    SUITE.replace("methods: [full, lora, bottleneck_adapter, prefix_tuning]", METHODS) + "retention: {text: kept.txt}\n"
)


def test_a_causal_classifier_is_scored_as_the_language_model_it_was(tmp_path):
    path = write_project(tmp_path / "project", ASKS, "gpt2")
    lines = ["the film was great", "a quite dull story and a poor end", "music"]
    (path.parent / "kept.txt").write_text("\n\n".join(lines))
    records = {
        record.spec.method.label: record for record in run_suite(path, runs=tmp_path / "runs", workers=0).records
    }
    assert {record.status for record in records.values()} == {"ok"}
    base = find_model("base", base=path.parent)
    tokenizer = load_tokenizer(base)
    model, _ = load_model(base, kind="generation", labels=1)
    with torch.no_grad():
        expected = text_loss(model.eval(), [tokenizer(line)["input_ids"] for line in lines], tokenizer.pad_token_id)
    full, lora = records["full"].retention, records["lora"].retention
    assert full.before == pytest.approx(expected, abs=1e-5) == full.after
    assert lora.before == full.before and abs(lora.after - lora.before) > 1e-3
    assert full.count == sum(len(tokenizer(line)["input_ids"]) - 1 for line in lines)
    assert {record.spec.retention.measure for record in records.values()} == {"loss"}


def write_sentences(folder):
    """Pairs of sentences as STS-B circulates: two with all words in common are rated 5."""
    folder.mkdir()
    draw = random.Random(1)
    for name, rows in (("train.tsv", 20), ("dev.tsv", 40)):
        with (folder / name).open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t")
            writer.writerow(["index", "sentence1", "sentence2", "score"])
            for index in range(rows):
                first = draw.sample(WORDS, 5)
                same = draw.randint(0, 5)
                writer.writerow([index, " ".join(first), " ".join(first[:same] + draw.sample(WORDS, 5 - same)), same])


def test_an_encoder_is_scored_on_pairs_of_sentences(tmp_path):
    suite = ASKS.replace("{text: kept.txt}", "true") + "data: {stsb: STS-B}\n"
    path = write_project(tmp_path / "project", suite)
    write_sentences(path.parent / "STS-B")
    records = {
        record.spec.method.label: record for record in run_suite(path, runs=tmp_path / "runs", workers=0).records
    }
    full, lora = records["full"].retention, records["lora"].retention
    assert full.count == 40 and full.after == pytest.approx(full.before, abs=1e-6)
    # Untrained layers keep words apart, so common words already tell.
    assert full.before > 0.3 and lora.after != lora.before == full.before
    assert records["full"].spec.retention.measure == "spearman"


def test_a_suite_that_does_not_ask_has_the_ids_it_had(tmp_path):
    asks = write_project(tmp_path / "asks", ASKS, "gpt2")
    (asks.parent / "kept.txt").write_text("the film")
    plain = asks.with_name("plain.yaml")
    plain.write_text(ASKS.replace("retention: {text: kept.txt}\n", ""))
    with_it, without = (make_plan(load_suite(path), tmp_path / "runs").cells for path in (asks, plain))
    for one, other in zip(with_it, without, strict=True):
        assert other.job.spec.retention is None and other.job.retention is None
        assert one.job.run_id != other.job.run_id
        assert one.job.spec.model_copy(update={"retention": None}).run_id == other.job.run_id


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("training: {last_layer: read_position}\n", "retention reads every position"),
        ("training: {parallelism: fsdp, processes: 2}\n", "retention reads whole"),
    ],
)
def test_a_recipe_that_hides_the_model_is_refused(tmp_path, more, said):
    path = write_project(tmp_path / "project", ASKS + more)
    with pytest.raises(BadInput, match=said):
        load_suite(path)


def test_a_missing_text_is_a_fault_of_the_suite(tmp_path):
    path = write_project(tmp_path / "project", ASKS, "gpt2")
    with pytest.raises(BadInput, match=r"tickets.yaml.*retention.*kept.txt"):
        make_plan(load_suite(path), tmp_path / "runs")
