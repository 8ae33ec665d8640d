"""Trained embeddings are tokens of a model like any other, inserted around the text and gone after it."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import DynamicCache

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.testing import tiny_model
from lora_bench.tuners import PrefixEmbeddingConfig, PrefixEmbeddingLayer
from lora_bench.tuners.embeddings import insert_in_mask
from tests.tiny import (
    CLASSIFIERS,
    HIDDEN,
    VOCABULARY,
    tiny_batch,
    tiny_deberta_v2,
    tiny_gpt2,
    tiny_gpt2_classifier,
    tiny_roberta,
)

LENGTH = 3


def adapted(model, length=LENGTH, infix=0):
    torch.manual_seed(5)
    config = PrefixEmbeddingConfig(num_virtual_tokens=length, init_std=1.0, num_infix_tokens=infix)
    return get_peft_model(model, config).eval()


def tokens(model, name="default"):
    return next(m for m in model.modules() if isinstance(m, PrefixEmbeddingLayer)).virtual_embedding[name]


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("length", [1, 5])
def test_there_is_one_embedding_for_each_virtual_token(name, length):
    model = adapted(CLASSIFIERS[name](), length)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == length * HIDDEN


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_on_roberta_it_is_a_longer_text_with_given_embeddings(attn):
    model, base = adapted(tiny_roberta(attn=attn)), tiny_roberta(attn=attn)
    batch = tiny_batch((9, 6))
    real = torch.cat([torch.ones(2, LENGTH), batch["attention_mask"]], dim=1).bool()
    with torch.no_grad():
        states = base.roberta.embeddings(batch["input_ids"])
        states = torch.cat([tokens(model).expand(2, -1, -1), states], dim=1)
        mask = real[:, None, None, :].expand(-1, 1, real.shape[1], -1)
        if attn == "eager":
            mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        want = base.classifier(base.roberta.encoder(states, attention_mask=mask).last_hidden_state[:, LENGTH:])
        got = model(**batch).logits
    assert (got - want).abs().max() <= 1e-6


@pytest.mark.parametrize("shared", [True, False])
def test_on_deberta_v2_it_is_a_longer_text_with_given_embeddings(shared):
    model, base = adapted(tiny_deberta_v2(share_att_key=shared)), tiny_deberta_v2(share_att_key=shared)
    batch = tiny_batch((9, 6))
    real = torch.cat([torch.ones(2, LENGTH, dtype=torch.long), batch["attention_mask"]], dim=1)
    with torch.no_grad():
        states = base.deberta.embeddings(batch["input_ids"], mask=batch["attention_mask"])
        states = torch.cat([tokens(model).expand(2, -1, -1), states], dim=1)
        states = base.deberta.encoder(states, real).last_hidden_state[:, LENGTH:]
        want = base.classifier(base.pooler(states))
        got = model(**batch).logits
    assert (got - want).abs().max() <= 1e-6


def test_on_roberta_the_order_of_the_tokens_says_nothing_and_on_deberta_it_does():
    for make, matters in ((tiny_roberta, False), (tiny_deberta_v2, True)):
        model = adapted(make())
        with torch.no_grad():
            before = model(**tiny_batch()).logits
            tokens(model).copy_(tokens(model).flip(0).clone())
            moved = (model(**tiny_batch()).logits - before).abs().max()
        assert moved > 1e-4 if matters else moved <= 1e-6


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["bert", "deberta-v3"])
def test_each_row_of_a_mixed_batch_has_its_own_tokens(name, attn, padded):
    model = adapted(CLASSIFIERS[name](**({} if name == "deberta-v3" else {"attn": attn})))
    model.add_adapter("second", PrefixEmbeddingConfig(num_virtual_tokens=5, init_std=1.0))
    batch = tiny_batch((9, 6, 9) if padded else (9, 9, 9))
    if not padded:
        del batch["attention_mask"]
    with torch.no_grad():
        mixed = model(**batch, adapter_names=["second", "default", "__base__"]).logits
        want = []
        for row, adapter in enumerate(["second", "default"]):
            model.set_adapter(adapter)
            want.append(model(**batch).logits[row])
        with model.disable_adapter():
            want.append(model(**batch).logits[2])
    assert (mixed - torch.stack(want)).abs().max() <= 1e-6


def test_hidden_states_are_those_of_the_text():
    model = adapted(tiny_deberta_v2())
    with torch.no_grad():
        output = model(**tiny_batch((9, 9)), output_hidden_states=True)
    assert {states.shape for states in output.hidden_states} == {(2, 9, HIDDEN)}


def test_a_mask_on_numbers_a_reader_can_follow():
    visible = torch.tensor([[True, True], [False, True]])
    assert insert_in_mask(None, visible) is None
    flat = insert_in_mask(torch.tensor([[1, 1], [1, 0]]), visible)
    assert flat.tolist() == [[1, 1, 1, 1], [0, 1, 1, 0]]
    square = insert_in_mask(torch.tensor([[True, True], [True, False]])[:, None, None, :], visible)
    assert square.shape == (2, 1, 4, 4)
    assert square[1, 0].tolist() == [[False, True, True, False]] * 4
    added = insert_in_mask(torch.zeros(2, 1, 2, 2), visible)
    assert torch.equal(
        added == 0, torch.cat([visible, torch.ones(2, 2, dtype=bool)], 1)[:, None, None].expand(-1, 1, 4, -1)
    )


def test_virtual_tokens_see_what_every_query_sees():
    # Two texts of two tokens each in one row, and one virtual token.
    packed = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).bool()[None, None]
    inserted = insert_in_mask(packed, torch.ones(1, 1, dtype=torch.bool))
    want = [[1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 1], [1, 0, 0, 1, 1]]
    assert inserted[0, 0].int().tolist() == want
    added = torch.zeros(1, 1, 4, 4).masked_fill(~packed, torch.finfo(torch.float32).min)
    assert torch.equal(insert_in_mask(added, torch.ones(1, 1, dtype=torch.bool)) == 0, inserted)


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_packed_texts_do_not_meet_in_the_virtual_tokens(attn):
    model = adapted(tiny_roberta(attn=attn))
    packed = torch.block_diag(torch.ones(4, 4), torch.ones(5, 5)).bool()[None, None]
    if attn == "eager":
        packed = torch.zeros(packed.shape).masked_fill(~packed, torch.finfo(torch.float32).min)
    ids, other = tiny_batch((9,))["input_ids"], tiny_batch((9,), seed=1)["input_ids"]
    other[:, :4] = ids[:, :4]
    with torch.no_grad():
        one, two = (
            model(input_ids=text, attention_mask=packed, output_hidden_states=True).hidden_states[-1]
            for text in (ids, other)
        )
        with model.disable_adapter():
            without = model(input_ids=ids, attention_mask=packed, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(one[:, :4], two[:, :4])
    assert (one[:, 4:] - two[:, 4:]).abs().max() > 1e-2
    assert (one - without).abs().amax(dim=-1).min() > 1e-2  # every token sees the virtual ones


# --- classifiers of GPT-2 ----------------------------------------------------------------------------------------------


def infix_of(model, name="default"):
    return next(m for m in model.modules() if isinstance(m, PrefixEmbeddingLayer)).virtual_infix[name]


def with_words(model, infix):
    """A GPT-2 without adapters whose vocabulary has the virtual tokens of *model* as its last words."""
    words = torch.cat([tokens(model), infix_of(model)]) if infix else tokens(model)
    larger = tiny_gpt2_classifier(vocab_size=VOCABULARY + len(words))
    known = tiny_gpt2_classifier().state_dict()
    # The model adds its first position to each of them.
    known["transformer.wte.weight"] = torch.cat(
        [known["transformer.wte.weight"], words - known["transformer.wpe.weight"][0]]
    )
    larger.load_state_dict(known)
    return larger.eval()


@pytest.mark.parametrize("infix", [0, 1, 2])
@pytest.mark.parametrize("length", [9, 6])
def test_on_gpt2_it_is_a_longer_text_of_more_words(length, infix):
    model = adapted(tiny_gpt2_classifier(), infix=infix)
    batch = tiny_batch((length,))
    prefix = torch.arange(VOCABULARY, VOCABULARY + LENGTH)[None]
    behind = torch.arange(VOCABULARY + LENGTH, VOCABULARY + LENGTH + infix)[None]
    ids = torch.cat([prefix, batch["input_ids"], behind], dim=1)
    places = torch.cat([torch.zeros_like(prefix), torch.arange(length)[None], torch.zeros_like(behind)], dim=1)
    with torch.no_grad():
        want = with_words(model, infix)(ids, attention_mask=torch.ones_like(ids), position_ids=places).logits
        assert (model(**batch).logits - want).abs().max() <= 1e-6


@pytest.mark.parametrize("infix", [0, 2])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_on_gpt2_padding_changes_no_answer(attn, side, infix):
    model = adapted(tiny_gpt2_classifier(attn=attn), infix=infix)
    batch = tiny_batch((9, 6), padding_side=side)
    real = slice(0, 6) if side == "right" else slice(3, 9)
    alone = {key: rows[1:, real] for key, rows in batch.items()}
    if side == "left":
        batch["position_ids"] = torch.stack([torch.arange(9), (torch.arange(9) - 3).clamp(min=0)])
    with torch.no_grad():
        assert (model(**batch).logits[1] - model(**alone).logits[0]).abs().max() <= 1e-6


def test_without_infix_tokens_the_head_of_gpt2_reads_the_last_token_of_the_text():
    model = adapted(tiny_gpt2_classifier())
    batch = tiny_batch((9, 6))
    with torch.no_grad():
        states = model.base_model.model.transformer(**batch).last_hidden_state
        assert states.shape == (2, 9, HIDDEN)
        want = model.base_model.model.score(states[torch.arange(2), torch.tensor([8, 5])])
        assert (model(**batch).logits - want).abs().max() <= 1e-6


def test_infix_tokens_change_what_is_read_and_nothing_else():
    """The states of the other tokens are those of a model without infix tokens: a causal text cannot see behind itself."""
    one, other = adapted(tiny_gpt2_classifier()), adapted(tiny_gpt2_classifier(), infix=2)
    batch = tiny_batch((9, 6))
    with torch.no_grad():
        tokens(other).copy_(tokens(one))
        plain, read = (model.base_model.model.transformer(**batch).last_hidden_state for model in (one, other))
    changed = (plain - read).abs().amax(dim=-1)
    assert changed[0, 8] > 1e-2 and changed[1, 5] > 1e-2
    changed[0, 8] = changed[1, 5] = 0
    assert changed.max() <= 1e-6


def test_every_infix_token_gets_a_gradient():
    model = adapted(tiny_gpt2_classifier(), infix=4).train()
    model(**tiny_batch(labels=True)).loss.backward()
    assert (infix_of(model).grad.abs().amax(dim=-1) > 0).all()
    assert (tokens(model).grad.abs().amax(dim=-1) > 0).all()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == (LENGTH + 4) * HIDDEN


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_on_gpt2_each_row_of_a_mixed_batch_has_its_own_tokens_on_both_sides(attn, padded):
    model = adapted(tiny_gpt2_classifier(attn=attn), infix=1)
    model.add_adapter("second", PrefixEmbeddingConfig(num_virtual_tokens=5, init_std=1.0, num_infix_tokens=2))
    model.add_adapter("third", PrefixEmbeddingConfig(num_virtual_tokens=2, init_std=1.0))
    batch = tiny_batch((9, 6, 9, 7) if padded else (9, 9, 9, 9))
    if not padded:
        del batch["attention_mask"]
    names = ["second", "default", "third", "__base__"]
    with torch.no_grad():
        mixed = model(**batch, adapter_names=names).logits
        want = []
        for row, adapter in enumerate(names[:3]):
            model.set_adapter(adapter)
            want.append(model(**batch).logits[row])
        with model.disable_adapter():
            want.append(model(**batch).logits[3])
    assert (mixed - torch.stack(want)).abs().max() <= 1e-6


def test_embeddings_given_in_place_of_ids_are_the_text():
    model = adapted(tiny_gpt2_classifier(), infix=2)
    ids = tiny_batch((9,))["input_ids"]
    with torch.no_grad():
        embedded = model.get_input_embeddings()(ids)
        assert (model(inputs_embeds=embedded).logits - model(input_ids=ids).logits).abs().max() <= 1e-6


def test_a_saved_adapter_with_infix_tokens_loads_and_unloads(tmp_path):
    model = adapted(tiny_gpt2_classifier(), infix=2)
    model.save_pretrained(tmp_path)
    batch = tiny_batch()
    with torch.no_grad():
        loaded = PeftModel.from_pretrained(tiny_gpt2_classifier(), tmp_path).eval()
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
        assert torch.equal(loaded.unload()(**batch).logits, tiny_gpt2_classifier()(**batch).logits)


def test_parts_of_a_text_are_refused():
    model = adapted(tiny_gpt2_classifier())
    batch = tiny_batch((4,))
    kept = DynamicCache()
    kept.update(torch.zeros(1, 4, 2, HIDDEN // 4), torch.zeros(1, 4, 2, HIDDEN // 4), 0)
    with pytest.raises(LoraBenchError, match="need the whole text, and a part of it is in the cache"):
        model.base_model.model.transformer(batch["input_ids"], cache=kept)
    with pytest.raises(LoraBenchError, match="have no type, and token_type_ids are given"):
        model(**batch, token_type_ids=torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(LoraBenchError, match=r"need a mask of shape \(batch, tokens\)"):
        model(input_ids=batch["input_ids"], attention_mask=torch.ones(1, 1, 4, 4, dtype=torch.bool))


def test_a_model_that_cannot_have_the_tokens_is_refused_with_what_works_there():
    with pytest.raises(
        UnsupportedPair, match="this gpt2 writes text: prefix_layer works there, or PEFT's PROMPT_TUNING"
    ):
        adapted(tiny_gpt2())
    with pytest.raises(UnsupportedPair, match="needs a model with a head, and this is a gpt2 without one"):
        adapted(tiny_gpt2_classifier().transformer)
    with pytest.raises(UnsupportedPair, match="llama is neither: prefix_layer works there, or PEFT's PROMPT_TUNING"):
        adapted(tiny_model("llama")[0])
    with pytest.raises(UnsupportedPair, match=r"this model is a decoder \(is_decoder\)"):
        adapted(tiny_roberta(is_decoder=True))
    with pytest.raises(UnsupportedPair, match="roberta is an encoder, where they would be prefix tokens"):
        adapted(tiny_roberta(), infix=1)
    with pytest.raises(LoraBenchError, match="num_virtual_tokens must be at least 1, got 0"):
        PrefixEmbeddingConfig(num_virtual_tokens=0)
    with pytest.raises(LoraBenchError, match="num_infix_tokens must be at least 0, got -1"):
        PrefixEmbeddingConfig(num_virtual_tokens=1, num_infix_tokens=-1)
