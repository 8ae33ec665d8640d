"""Texts that members of a pack write together, against those that each writes by itself with transformers' own forward pass."""

import inspect
import random

import pytest
import torch
from transformers import AutoTokenizer, DynamicCache, GPT2LMHeadModel

from lora_bench.execute.run_suite import run_suite
from lora_bench.kinds.exercises.generation.decode import complete, complete_each
from lora_bench.methods import known_methods
from lora_bench.models.shared_copy import copy_sharing, own_trained
from lora_bench.pack import evaluate as asking
from lora_bench.pack.evaluate import writer
from lora_bench.pack.stack import Stack
from lora_bench.records.spec import Decoding
from lora_bench.tuners.attention import CACHE_ARGUMENTS
from tests.project import WORDS, write_tokenizer
from tests.tiny import tiny_gpt2
from tests.training.test_writing import write_project

PAD, NEW_TOKENS = 1, 8
DECODINGS = {
    "greedy": Decoding(max_new_tokens=NEW_TOKENS),
    "beams": Decoding(max_new_tokens=NEW_TOKENS, beams=3, length_penalty=0.8, no_repeat_ngram=2),
    "beams that end early": Decoding(max_new_tokens=NEW_TOKENS, beams=3, length_penalty=2.0, end=("fine", "the")),
    "samples": Decoding(max_new_tokens=NEW_TOKENS, sample=True, temperature=1.3, top_p=0.9),
}
METHODS = {
    "lora": lambda index: {"rank": (2, 5, 8)[index], "scaling": (2.0, 0.5, 1.0)[index], "dropout": 0.1},
    "bottleneck_adapter": lambda index: {"bottleneck_size": (4, 7, 1)[index]},
    "prefix_tuning": lambda index: {"num_virtual_tokens": 4},
    "bitfit": lambda index: {},
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def members(method, dtype, vocabulary):
    """Three of a method, of which each writes texts of its own."""
    base = tiny_gpt2(vocab_size=vocabulary).to(dtype)
    found = []
    for index in range(3):
        torch.manual_seed(30 + index)
        model = known_methods()[method](**METHODS[method](index)).apply(copy_sharing(base), head=[]).to(dtype)
        own_trained(model)
        for weight in model.parameters():
            if weight.requires_grad:
                # More of a bias would have it write the same token for ever, whatever it is asked.
                weight.data += (0.5 if weight.dim() > 1 else 0.3) * torch.randn(weight.shape, dtype=dtype)
        found.append(model)
    return found


def prompts_of(tokenizer, count=7):
    draw = random.Random(0)
    return [
        {"input_ids": tokenizer(" ".join(draw.choices(WORDS, k=draw.randint(1, 6))))["input_ids"]} for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("method", "decoding"),
    [*(("lora", name) for name in DECODINGS), *((name, "beams") for name in METHODS if name != "lora")],
)
def test_members_write_together_what_each_writes_alone(method, decoding, tokenizer):
    prompts, seeds = prompts_of(tokenizer), [3, 4, 5]
    models = members(method, torch.float64, len(tokenizer))
    alone = [
        complete(model, prompts, tokenizer, DECODINGS[decoding], seed)
        for model, seed in zip(models, seeds, strict=True)
    ]
    stack = Stack(models, causal=True, pad=PAD)
    found = complete_each(writer(stack), prompts, tokenizer, DECODINGS[decoding], seeds, batch_rows=10**6)
    assert found == alone
    assert len({tuple(texts) for texts in alone}) == 3, "no two of them write the same"
    # Nor does it matter how many rows there are at once, or who is asked.
    part = stack.part([2, 0])
    few = complete_each(writer(part), prompts, tokenizer, DECODINGS[decoding], [seeds[2], seeds[0]], batch_rows=6)
    assert few == [alone[2], alone[0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_logits_of_a_row_are_those_of_its_member_with_a_cache_and_without(dtype, tokenizer):
    """Two prompts of unlike lengths, padded on the left, and a second forward pass over one more token."""
    models = members("lora", dtype, len(tokenizer))
    stack = Stack(models, causal=True, pad=PAD)
    ids = torch.tensor([[PAD, PAD, 5, 6], [7, 8, 9, 10]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    more, longer = torch.tensor([[11], [12]]), torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], dim=1)
    of = torch.tensor([0, 0, 1, 1, 2, 2])
    model = writer(stack).eval()
    positions = (longer.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        taken = inspect.signature(GPT2LMHeadModel.forward).parameters
        name = next(name for name in CACHE_ARGUMENTS if name in taken)
        whole = {name: DynamicCache(config=model.config)}
        first = model(ids.repeat(3, 1), positions[:, :-1].repeat(3, 1), of, mask.repeat(3, 1), **whole).logits
        second = model(more.repeat(3, 1), positions[:, -1:].repeat(3, 1), of, longer.repeat(3, 1), **whole).logits
        for index, member in enumerate(models):
            theirs = member.eval()(torch.cat([ids, more], dim=1), attention_mask=longer, position_ids=positions).logits
            ours = torch.cat([first, second], dim=1)[2 * index : 2 * index + 2]
            close = 1e-12 if dtype == torch.float64 else 1e-5
            torch.testing.assert_close(ours[longer.bool()], theirs[longer.bool()], atol=close, rtol=close)


SUITE = """\
suite: echo
tasks:
  - task: echo
    kind: generation
    data: {train: train.csv, selection: selection.csv, test: test.csv}
    text: source
    label: target
    metric: bleu
models: [base]
methods: [{method: lora, rank: 2, learning_rate: 3e-2}, {method: lora, label: wide, rank: 8, learning_rate: 1e-2}]
seeds: [0, 1]
budget: {train_examples: 64}
training: {batch_size: 16, max_length: 24, masks: keyed}
selection_every: 2
decoding: {beams: 2, max_new_tokens: 6, no_repeat_ngram: 4}
"""


def test_runs_that_write_together_leave_the_texts_and_scores_of_isolated_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    path = write_project(tmp_path / "project", SUITE)
    asked, real = [], asking._answers_of
    monkeypatch.setattr(asking, "_answers_of", lambda *given: asked.append(len(given[0])) or real(*given))

    def records(name, **options):
        made = run_suite(path, runs=tmp_path / name, workers=0, **options).records
        assert {record.status for record in made} == {"ok"} and len(made) == 4
        return {record.run_id: record for record in made}

    packed, alone = records("packed"), records("alone", pack=False)
    # After steps 2 and 4, and when they are done.
    assert asked == [4, 4, 4]
    for run_id, record in packed.items():
        assert len(record.packed_with) == 3
        assert record.predictions == alone[run_id].predictions and record.scores == alone[run_id].scores
        for ours, theirs in zip(record.curve, alone[run_id].curve, strict=True):
            assert (ours.step, ours.scores) == (theirs.step, theirs.scores)
            assert ours.loss == pytest.approx(theirs.loss, abs=1e-5)
    assert len({record.predictions.sha256 for record in packed.values()}) > 1
