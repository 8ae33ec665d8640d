"""Prefix tuning keeps the contract, plain and reparameterised, and may start from words."""

import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.methods import known_methods
from lora_bench.testing import check_method, tiny_models
from lora_bench.training.measure.counters import count_parameters
from lora_bench.tuners import prefix_from_words
from tests.tiny import tiny_gpt2_classifier

PrefixTuning = known_methods()["prefix_tuning"]
LAYERS, WIDTH = 2, 32


def test_contract():
    check_method(
        PrefixTuning(num_virtual_tokens=3, reparameterised=True, reparameterisation_width=6),
        families=list(tiny_models()),
    )


@pytest.mark.parametrize("family", tiny_models())
@pytest.mark.parametrize(("length", "units"), [(1, 1), (5, 8)])
def test_the_counts_are_the_cards_formulas(family, length, units):
    model, head = tiny_models()[family]
    method = PrefixTuning(num_virtual_tokens=length, reparameterised=True, reparameterisation_width=units)
    model = method.apply(model, head=head)
    counts = count_parameters(model, head=head, total=0)
    assert counts.adapter == length * WIDTH + units * WIDTH + units + LAYERS * (2 * WIDTH * units + 2 * WIDTH)
    assert counts.stored - counts.head == 2 * LAYERS * length * WIDTH


# --- from words ------------------------------------------------------------------------------------------------------

VOCABULARY = {"[PAD]": 0, "[UNK]": 1, "</s>": 2, "rate": 3, "this": 4, "text": 5}


@pytest.fixture
def folder(tmp_path):
    """A tiny GPT-2 classifier with a tokenizer of whole words beside it."""
    tiny_gpt2_classifier().save_pretrained(tmp_path)
    plain = Tokenizer(WordLevel(VOCABULARY, unk_token="[UNK]"))
    plain.pre_tokenizer = Whitespace()
    # The special token that most tokenizers add to a text must not become a part of the prefix.
    plain.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", eos_token="</s>").save_pretrained(tmp_path)
    return tmp_path


def load(folder, **more):
    return AutoModelForSequenceClassification.from_pretrained(folder, **more)


def prefixes(model):
    return [weight for path, weight in model.named_parameters() if ".prefix_" in path]


@pytest.mark.parametrize(("length", "tokens"), [(2, [3, 4]), (3, [3, 4, 5]), (5, [3, 4, 5, 3, 4])])
def test_a_prefix_starts_from_the_keys_and_values_of_words(folder, length, tokens):
    model = PrefixTuning(num_virtual_tokens=length, words="rate this text").apply(load(folder), head=["score"])
    other = PrefixTuning(num_virtual_tokens=length).apply(load(folder), head=["score"])
    assert not torch.equal(prefixes(model)[0], prefixes(other)[0])
    prefix_from_words(other, torch.tensor(tokens))
    assert all(torch.equal(*pair) for pair in zip(prefixes(model), prefixes(other), strict=True))
    assert all(weight.requires_grad for weight in prefixes(model))


def test_it_is_counted_without_weights(folder):
    method = PrefixTuning(num_virtual_tokens=3, words="rate this text")
    model = method.apply(load(folder, device_map="meta", use_kernels=False), head=["score"])
    assert count_parameters(model, head=["score"], total=0).adapter == 2 * LAYERS * 3 * WIDTH


def test_words_that_nothing_can_be_made_of_are_refused(folder):
    with pytest.raises(ValidationError, match="a reparameterised prefix is computed and cannot start from words"):
        PrefixTuning(words="rate", reparameterised=True)
    with pytest.raises(LoraBenchError, match="words must hold at least one token, got '  '"):
        PrefixTuning(words="  ").apply(load(folder), head=["score"])
    with pytest.raises(
        UnsupportedPair, match="where the base model was loaded from, and this one was made from a config"
    ):
        PrefixTuning(words="rate").apply(tiny_gpt2_classifier(), head=["score"])
    (folder / "tokenizer.json").unlink()
    with pytest.raises(
        UnsupportedPair, match="where the base model was loaded from, and there is none that can be loaded"
    ):
        PrefixTuning(words="rate").apply(load(folder), head=["score"])
