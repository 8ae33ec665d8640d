"""A decoder behind an encoder: its examples, its losses on texts, and what it writes, against plain definitions."""

import copy
import random
from itertools import pairwise

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, Trainer, TrainingArguments

from lora_bench.errors import LoraBenchError
from lora_bench.kinds.exercises.generation.decode import complete
from lora_bench.kinds.exercises.generation.encode import (
    PairCollator,
    encode_sources,
    encode_targets,
    with_decoder_inputs,
)
from lora_bench.kinds.exercises.writing import likelihoods
from lora_bench.methods import known_methods
from lora_bench.models.registry import find_model
from lora_bench.records.budget import TARGETS, tokens_of
from lora_bench.records.spec import Decoding
from lora_bench.tasks import Split
from lora_bench.training.distributed.ranks import BatchShares
from lora_bench.training.measure.bare_step import TrainingStep
from lora_bench.training.measure.step_bytes import predict_step, step_bytes
from lora_bench.training.measure.step_costs import batch_flops, step_flops
from lora_bench.training.token_cache import shared_examples
from tests.project import GOOD, WORDS, write_model, write_tokenizer
from tests.tiny import HEADS, VOCABULARY, WRITERS

BEGIN, PAD, END = 0, 1, 2  # <s>, <pad> and </s>
THE, FILM, WAS, IS, GREAT = 4, 6, 7, 8, 19
NEW_TOKENS = 8


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def split_of(*pairs):
    """A split of inputs, each with its references."""
    return Split(
        ids=[str(number) for number in range(len(pairs))],
        texts=[(text,) for text, *_ in pairs],
        labels=[tuple(references) for _, *references in pairs],
    )


# --- examples --------------------------------------------------------------------------------------------------------


def test_an_example_is_an_input_and_a_text_as_the_tokenizer_writes_each(tokenizer):
    (example,), cut = encode_targets(split_of(("the film", " was great ", "is great")), tokenizer, 16)
    assert example == {
        "input_ids": [BEGIN, THE, FILM, END],
        "attention_mask": [1, 1, 1, 1],
        TARGETS: (BEGIN, WAS, GREAT, END),
    }
    assert (cut, tokens_of(example)) == (0, 8)


def test_either_may_have_all_tokens_and_loses_what_stands_before_its_end(tokenizer):
    split = split_of(("the film was great", "is"), ("film", "the film was great"), ("film", "is"))
    (first, second, _), cut = encode_targets(split, tokenizer, 5)
    assert (first["input_ids"], first[TARGETS]) == ([BEGIN, THE, FILM, WAS, END], (BEGIN, IS, END))
    assert (second["input_ids"], second[TARGETS]) == ([BEGIN, FILM, END], (BEGIN, THE, FILM, WAS, END))
    assert cut == pytest.approx(2 / 3)
    sources, cut = encode_sources(split, tokenizer, 5)
    assert [example["input_ids"] for example in sources[:1]] == [first["input_ids"]] and cut == pytest.approx(1 / 3)


def test_a_tokenizer_that_ends_no_text_gets_an_end(tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.backend_tokenizer.post_processor = None
    (example,), _ = encode_targets(split_of(("the film", "")), bare, 16)
    assert (example["input_ids"], example[TARGETS]) == ([THE, FILM, END], (END,))
    with pytest.raises(LoraBenchError, match="max_length must be at least 2 for an encoder and a decoder, got 1"):
        encode_sources(split_of(("the", "film")), bare, 1)


def test_a_batch_has_two_lengths_and_the_decoder_reads_the_labels_one_token_later(tokenizer):
    examples, _ = encode_targets(split_of(("the film was", "is"), ("the", "is great")), tokenizer, 16)
    model = WRITERS["bart"]()
    batch = with_decoder_inputs(PairCollator(tokenizer), model)(examples)
    assert batch["input_ids"].tolist() == [[BEGIN, THE, FILM, WAS, END], [BEGIN, THE, END, PAD, PAD]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[BEGIN, IS, END, -100], [BEGIN, IS, GREAT, END]]
    assert batch["decoder_input_ids"].tolist() == [[END, BEGIN, IS, END], [END, BEGIN, IS, GREAT]]
    given = {name: rows for name, rows in batch.items() if name != "decoder_input_ids"}
    assert torch.equal(model(**batch).logits, model(**given).logits)


def test_worker_ranks_weigh_their_rows_by_the_tokens_to_write(tokenizer):
    examples, _ = encode_targets(split_of(("the film was", "is"), ("the", "is great film")), tokenizer, 16)
    shares = BatchShares(examples, 2, 2)
    # Of three and of five tokens.
    assert [shares[rank].weight for rank in range(2)] == [2 * 3 / 8, 2 * 5 / 8]


def test_workers_share_examples_of_two_lengths(tokenizer, tmp_path):
    examples, _ = encode_targets(split_of(("the film was", "is"), ("the", "is great film")), tokenizer, 16)
    found, cut = shared_examples(tmp_path, "key", lambda: ([*examples, {**examples[0], TARGETS: ()}], 0.5))
    assert (list(found), cut) == ([*examples, {**examples[0], TARGETS: ()}], 0.5)
    assert not isinstance(found, list)


# --- loss ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def examples(tokenizer):
    split = split_of(("the film", "was great"), ("the", "film is fine"), ("story and plot", "poor"))
    return encode_targets(split, tokenizer, 16)[0]


def log_probabilities_of(model, example):
    """Log probabilities of the vocabulary at each token of a text, from its row alone, step by step."""
    ids, written, found = torch.tensor([example["input_ids"]]), [model.config.decoder_start_token_id], []
    for token in example[TARGETS]:
        logits = model(input_ids=ids, decoder_input_ids=torch.tensor([written])).logits
        found.append(logits[0, -1].log_softmax(-1))
        written.append(token)
    return torch.stack(found)


@pytest.mark.parametrize("family", WRITERS)
def test_the_loss_of_a_text_is_the_sum_over_its_tokens(family, examples, tokenizer):
    model = WRITERS[family]()
    found = likelihoods(model, examples, PairCollator(tokenizer), batch_rows=2)
    with torch.no_grad():
        for example, one in zip(examples, found, strict=True):
            texts = log_probabilities_of(model, example)
            nats = -texts[range(len(texts)), list(example[TARGETS])].sum()
            assert one.tokens == len(example[TARGETS]) and one.nats == pytest.approx(nats.item(), abs=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("family", WRITERS)
def test_the_trainers_loss_is_the_mean_over_the_texts_with_and_without_smoothing(
    family, smoothing, examples, tokenizer, tmp_path
):
    model = known_methods()["lora"]().apply(WRITERS[family](), head=[])
    with torch.no_grad():
        rows = [log_probabilities_of(model, example) for example in examples]
    right = [row[range(len(row)), list(one[TARGETS])] for row, one in zip(rows, examples, strict=True)]
    expected = (smoothing - 1) * torch.cat(right).mean() - smoothing * torch.cat(rows).mean()
    arguments = TrainingArguments(
        str(tmp_path), label_smoothing_factor=smoothing, max_steps=1, per_device_train_batch_size=3, logging_steps=1,
        report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True, remove_unused_columns=False,
        label_names=["labels"], learning_rate=0.0,
    )  # fmt: skip
    collate = with_decoder_inputs(PairCollator(tokenizer), model)
    trainer = Trainer(model, args=arguments, train_dataset=examples, data_collator=collate)
    trainer.model_accepts_loss_kwargs = False  # as in a run
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), abs=1e-4)


# --- texts -----------------------------------------------------------------------------------------------------------

GREEDY = Decoding(max_new_tokens=NEW_TOKENS)
BEAM = Decoding(max_new_tokens=NEW_TOKENS, beams=4, length_penalty=0.8, no_repeat_ngram=2)
SAMPLE = Decoding(max_new_tokens=NEW_TOKENS, sample=True, temperature=1.3, top_p=0.9)
DECODINGS = {"greedy": GREEDY, "beam": BEAM, "sample": SAMPLE}
METHODS = {
    "full": {},
    "lora": {"rank": 4},
    "bottleneck_adapter": {"bottleneck_size": 8},
    "prefix_tuning": {"num_virtual_tokens": 4, "init_std": 1.0},
}


def made_pairs(last_words, count, seed):
    """Two to six words; the text is the first two of them from the end, and one of the last words."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        words = draw.sample(WORDS, draw.randint(2, 6))
        found.append((" ".join(words), " ".join([*words[1::-1], draw.choice(last_words)])))
    return split_of(*found)


def train(model, tokenizer, split, steps, learning_rate):
    examples, _ = encode_targets(split, tokenizer, 32)
    collate, draw = PairCollator(tokenizer), random.Random(0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    model.train()
    for _ in range(steps):
        model(**collate(draw.sample(examples, 24))).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module", params=WRITERS)
def base(request, tokenizer):
    """A model that has learned to some degree what `made_pairs` makes."""
    torch.manual_seed(0)
    return train(WRITERS[request.param](vocab_size=len(tokenizer)), tokenizer, made_pairs(GOOD, 400, 0), 120, 3e-3)


@pytest.fixture(scope="module", params=METHODS)
def adapted(request, base, tokenizer):
    """The same, taught by a method to close with one word."""
    torch.manual_seed(0)
    model = known_methods()[request.param](**METHODS[request.param]).apply(copy.deepcopy(base), head=[])
    return train(model, tokenizer, made_pairs(["great"], 400, 1), 20, 1e-2)


@pytest.fixture(scope="module")
def sources(tokenizer):
    return encode_sources(made_pairs(GOOD, 12, 2), tokenizer, 24)[0]


def next_logits(model, source, tokens):
    """The logits after some tokens, without padding and without a cache."""
    start = model.config.decoder_start_token_id
    with torch.no_grad():
        found = model(
            input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[start, *tokens]]), use_cache=False
        )
    return found.logits[0, -1]


def plain_greedy(model, source):
    tokens = []
    while len(tokens) < NEW_TOKENS:
        token = int(next_logits(model, source, tokens).argmax())
        if token == END:
            break
        tokens.append(token)
    return tokens


def plain_search(model, source, decoding):
    """The search as it is defined, for one input: no batch, no padding, no cache, and nothing given up early."""
    running, best = [(0.0, [])], (-float("inf"), [])
    for length in range(1, decoding.max_new_tokens + 1):
        candidates = []
        for total, tokens in running:
            logits = next_logits(model, source, tokens)
            logits[[second for first, second in pairwise(tokens) if first == tokens[-1]]] = -float("inf")
            candidates += [(total + p, [*tokens, token]) for token, p in enumerate(logits.log_softmax(-1).tolist())]
        candidates.sort(key=lambda candidate: -candidate[0])
        running = []
        for total, tokens in candidates[: decoding.beams]:
            if tokens[-1] != END and length < decoding.max_new_tokens:
                running.append((total, tokens))
            elif total / length**decoding.length_penalty > best[0]:
                best = (total / length**decoding.length_penalty, tokens)
    return [token for token in best[1] if token != END]


def text_of(tokenizer, tokens):
    return tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("name", DECODINGS)
def test_a_batch_writes_what_is_written_for_each_input_alone(name, adapted, sources, tokenizer):
    together = complete(adapted, sources, tokenizer, DECODINGS[name], seed=3)
    assert together == [complete(adapted, [one], tokenizer, DECODINGS[name], seed=3)[0] for one in sources]
    assert len(set(together)) > 3


def test_the_plain_searches_say_what_each_adapted_model_writes(adapted, sources, tokenizer):
    ids = [one["input_ids"] for one in sources[:3]]
    greedy = complete(adapted, sources[:3], tokenizer, GREEDY, seed=0)
    assert greedy == [text_of(tokenizer, plain_greedy(adapted, one)) for one in ids]
    beams = complete(adapted, sources[:3], tokenizer, BEAM, seed=0)
    assert beams == [text_of(tokenizer, plain_search(adapted, one, BEAM)) for one in ids]


def test_a_method_changes_the_texts(adapted, base, sources, tokenizer):
    assert complete(adapted, sources, tokenizer, BEAM, seed=0) != complete(base, sources, tokenizer, BEAM, seed=0)


@pytest.mark.parametrize("decoding", [GREEDY, BEAM])
def test_settings_of_the_checkpoint_are_left_out_of_account(decoding, base, sources, tokenizer):
    model = copy.deepcopy(base)
    model.generation_config.update(forced_bos_token_id=GREAT, decoder_start_token_id=THE, min_length=30, num_beams=2)
    expected = complete(base, sources, tokenizer, decoding, seed=0)
    assert complete(model, sources, tokenizer, decoding, seed=0) == expected


@pytest.mark.parametrize("family", WRITERS)
def test_a_prefix_from_words_is_what_both_stacks_compute_for_them(family, tmp_path):
    base = AutoModelForSeq2SeqLM.from_pretrained(write_model(tmp_path / "base", family)).eval()
    model = known_methods()["prefix_tuning"](num_virtual_tokens=3, words="the film was").apply(base, head=[]).eval()
    words = torch.tensor([[THE, FILM, WAS]])
    path, key = {
        "t5": ("decoder.block.0.layer.1.EncDecAttention", "k"), "bart": ("model.decoder.layers.0.encoder_attn", "k_proj"),
    }[family]  # fmt: skip
    attention = model.get_base_model().get_submodule(path)
    with torch.no_grad(), model.disable_adapter():
        encoded = model.get_base_model().get_encoder()(input_ids=words).last_hidden_state[0]
        assert torch.allclose(attention.prefix_key["default"], getattr(attention.base_layer, key)(encoded), atol=1e-6)


# --- costs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", WRITERS)
def test_a_step_predicted_from_shapes_is_the_one_that_is_measured(family, method):
    rows, length = 2, 8

    def made(device):
        with torch.device(device):
            return known_methods()[method](**METHODS[method]).apply(WRITERS[family](), head=[])

    ids = torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    real, real_flops = step_bytes(TrainingStep(made("cpu"), batch, "float32"))
    shapes = {name: tuple(value.shape) for name, value in batch.items()}
    shaped, flops = predict_step(made("meta"), shapes, "float32", fused_attention=False)
    assert flops == real_flops
    for name in ("weight_bytes", "gradient_bytes", "optimizer_bytes"):
        assert getattr(shaped, name) == getattr(real, name)
    # The mask of each attention, which a model leaves away where it sees that it hides nothing.
    masks = (2 + 2 * 2) * rows * HEADS * length * length * 4
    assert 0 < shaped.activation_bytes - real.activation_bytes <= masks < 0.12 * real.activation_bytes
    assert 0 <= shaped.peak_bytes - real.peak_bytes <= masks


@pytest.mark.slow
@pytest.mark.parametrize(("family", "method"), [("t5", "lora"), ("bart", "prefix_tuning")])
def test_flops_of_any_two_lengths_are_those_that_torch_counts_in_a_step(family, method, tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    base = find_model(str(write_model(tmp_path / "base", family)), base=tmp_path)
    chosen = known_methods()[method](**METHODS[method])

    def count(rows, length, text):
        return step_flops(base, chosen, kind="generation", labels=1, rows=rows, length=length, text=text)

    def example(source, target):
        return {"input_ids": [4] * source, "attention_mask": [1] * source, TARGETS: (4,) * target}

    examples = [example(source, target) for source, target in zip(range(3, 13), range(12, 2, -1), strict=True)]
    of_batch = batch_flops(count, examples, batch_size=2, accumulation=1, apart=True)
    model = chosen.apply(WRITERS[family](attn="eager"), head=[])
    collate = PairCollator(AutoTokenizer.from_pretrained(base.folder))
    for batch in ([examples[0], examples[9]], [examples[4], examples[7]], [examples[2], examples[5]]):
        counter = FlopCounterMode(display=False)
        with counter:
            model(**collate(batch)).loss.backward()
        assert of_batch(batch) == counter.get_total_flops()
