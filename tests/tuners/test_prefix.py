"""A key/value prefix inside real models: against dense recomputations, against PEFT's own, and in generation."""

import dataclasses
import math

import pytest
import torch
from peft import PrefixTuningConfig, TaskType, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, RobertaConfig, StaticCache
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.families.encoders import ROBERTA
from lora_bench.tuners import PrefixConfig, PrefixLayer
from tests.tiny import HEADS, HIDDEN, LAYERS, MODELS, tiny_batch, tiny_deberta, tiny_deberta_v2, tiny_gpt2, tiny_roberta

LENGTH = 3
HEAD_WIDTH = HIDDEN // HEADS


def prefixed(model: nn.Module, length: int = LENGTH, std: float = 1.0) -> nn.Module:
    torch.manual_seed(5)
    return get_peft_model(model, PrefixConfig(num_virtual_tokens=length, init_std=std)).eval()


def logits(model: nn.Module, **batch: Tensor) -> Tensor:
    with torch.no_grad():
        return model(**(batch or tiny_batch())).logits


def layers(model: nn.Module) -> list[PrefixLayer]:
    return [module for module in model.modules() if isinstance(module, PrefixLayer)]


def heads(states: Tensor) -> Tensor:
    """(batch, tokens, width) to (batch, heads, tokens, head_width)."""
    return states.unflatten(-1, (HEADS, HEAD_WIDTH)).transpose(1, 2)


def own(layer: PrefixLayer) -> tuple[Tensor, Tensor]:
    """Key and value of the prefix, each of shape (1, heads, LENGTH, head_width)."""
    return heads(layer.prefix_key["default"][None]), heads(layer.prefix_value["default"][None])


def call_of(model: nn.Module, layer: PrefixLayer, **batch: Tensor) -> tuple[dict, Tensor]:
    """Arguments and first result of the attention in one forward pass."""
    found = {}

    def keep(_, args, kwargs, output):
        found.update(
            arguments={"hidden_states": args[0], **dict(zip(("attention_mask",), args[1:], strict=False)), **kwargs}
        )
        found["output"] = output[0]

    handle = layer.register_forward_hook(keep, with_kwargs=True)
    logits(model, **batch)
    handle.remove()
    return found["arguments"], found["output"]


# --- dense recomputation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_roberta_attention_is_the_formula(attn):
    model = prefixed(tiny_roberta(attn=attn))
    for layer in layers(model):
        arguments, output = call_of(model, layer)
        x, base = arguments["hidden_states"], layer.base_layer
        prefix_key, prefix_value = own(layer)
        rows = len(x)
        key = torch.cat([prefix_key.expand(rows, -1, -1, -1), heads(base.key(x))], dim=2)
        value = torch.cat([prefix_value.expand(rows, -1, -1, -1), heads(base.value(x))], dim=2)
        scores = heads(base.query(x)) @ key.transpose(-1, -2) / math.sqrt(HEAD_WIDTH)
        real = torch.cat([torch.ones(rows, LENGTH), tiny_batch()["attention_mask"]], dim=1).bool()
        scores = scores.masked_fill(~real[:, None, None, :], -math.inf)
        want = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        assert (output - want).abs().max() <= 1e-6


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_gpt2_attention_is_the_formula_and_causal_in_real_tokens_only(attn, padding_side):
    model = prefixed(tiny_gpt2(attn=attn))
    batch = tiny_batch(padding_side=padding_side)
    real = batch["attention_mask"].bool()
    for layer in layers(model):
        arguments, output = call_of(model, layer, **batch)
        x, base = arguments["hidden_states"], layer.base_layer
        rows, tokens = x.shape[:2]
        query, key, value = (heads(part) for part in base.c_attn(x).split(HIDDEN, dim=-1))
        prefix_key, prefix_value = own(layer)
        key = torch.cat([prefix_key.expand(rows, -1, -1, -1), key], dim=2)
        value = torch.cat([prefix_value.expand(rows, -1, -1, -1), value], dim=2)
        visible = torch.ones(tokens, tokens, dtype=torch.bool).tril() & real[:, None, :]
        visible = torch.cat([torch.ones(rows, tokens, LENGTH, dtype=torch.bool), visible], dim=-1)
        scores = (query @ key.transpose(-1, -2) / math.sqrt(HEAD_WIDTH)).masked_fill(~visible[:, None], -math.inf)
        want = base.c_proj((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        assert (output - want)[real].abs().max() <= 2e-6


def deberta_parts(base: nn.Module, x: Tensor, table: Tensor) -> tuple[Tensor, ...]:
    """Query, key and value of tokens and key and query of distances, each (..., heads, head_width)."""
    if hasattr(base, "in_proj"):
        query, key, value = base.in_proj(x).unflatten(-1, (HEADS, 3, HEAD_WIDTH)).unbind(-2)
        query = query + base.q_bias.unflatten(0, (HEADS, HEAD_WIDTH))
        value = value + base.v_bias.unflatten(0, (HEADS, HEAD_WIDTH))
        of_distances = (base.pos_proj(table), base.pos_q_proj(table))
    else:
        query, key, value = (
            part(x).unflatten(-1, (HEADS, HEAD_WIDTH)) for part in (base.query_proj, base.key_proj, base.value_proj)
        )
        shared = base.share_att_key
        of_distances = (
            (base.key_proj if shared else base.pos_key_proj)(table),
            (base.query_proj if shared else base.pos_query_proj)(table),
        )
    return query, key, value, *(part.unflatten(-1, (HEADS, HEAD_WIDTH)) for part in of_distances)


@pytest.mark.parametrize(
    ("make", "buckets"),
    [
        (lambda: tiny_deberta(), 0),
        (lambda: tiny_deberta_v2(share_att_key=True, position_buckets=3), 3),
        (lambda: tiny_deberta_v2(share_att_key=False, position_buckets=3), 3),
        (lambda: tiny_deberta_v2(share_att_key=True, position_buckets=-1), 0),
    ],
    ids=["v1", "v3", "v2-own-position-projections", "v3-without-buckets"],
)
def test_deberta_attention_scores_tokens_by_content_and_distance_and_the_prefix_by_content_alone(make, buckets):
    """Every score one by one (He et al. 2021, https://arxiv.org/abs/2006.03654, equation 4)."""
    model, lengths = prefixed(make()), (6, 4)
    for layer in layers(model):
        arguments, output = call_of(model, layer, **tiny_batch(lengths))
        base, table = layer.base_layer, arguments["rel_embeddings"]
        query, key, value, distance_key, distance_query = deberta_parts(base, arguments["hidden_states"], table)
        prefix_key, prefix_value = (
            part["default"].unflatten(-1, (HEADS, HEAD_WIDTH)) for part in (layer.prefix_key, layer.prefix_value)
        )

        def distance(i: int, j: int, middle: int = len(table) // 2) -> int:
            apart = torch.tensor(i - j)
            if buckets:
                apart = make_log_bucket_position(apart, buckets, 64).long()
            return min(max(int(apart) + middle, 0), 2 * middle - 1)

        for row, length in enumerate(lengths):
            for head in range(HEADS):
                for i in range(length):
                    q = query[row, i, head]
                    scores = [q @ prefix_key[p, head] for p in range(LENGTH)]
                    for j in range(length):
                        k, far = key[row, j, head], distance(i, j)
                        scores.append(q @ k + q @ distance_key[far, head] + k @ distance_query[far, head])
                    weights = (torch.stack(scores) / math.sqrt(3 * HEAD_WIDTH)).softmax(-1)
                    want = weights @ torch.cat([prefix_value[:, head], value[row, :length, head]])
                    got = output[row, i].unflatten(-1, (HEADS, HEAD_WIDTH))[head]
                    assert (got - want).abs().max() <= 2e-6


# --- agreement and difference with others ----------------------------------------------------------------------------


@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_on_gpt2_it_is_peft_s_prefix_tuning_once_positions_start_at_the_prefix_s_length(padding_side):
    theirs = get_peft_model(
        tiny_gpt2(), PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=LENGTH)
    ).eval()
    ours = prefixed(tiny_gpt2())
    with torch.no_grad():
        theirs.prompt_encoder["default"].embedding.weight.normal_(generator=torch.Generator().manual_seed(2))
        table = theirs.prompt_encoder["default"].embedding.weight.unflatten(-1, (2 * LAYERS, HIDDEN))
        for number, layer in enumerate(layers(ours)):
            layer.prefix_key["default"].copy_(table[:, 2 * number])
            layer.prefix_value["default"].copy_(table[:, 2 * number + 1])
    batch = tiny_batch(padding_side=padding_side)
    real = batch["attention_mask"].bool()
    positions = torch.arange(9).expand(2, -1) + LENGTH
    want = logits(theirs, **batch)  # it gives its own position ids, and ignores given ones
    got = logits(ours, **batch, position_ids=positions)
    assert (got - want)[real].abs().max() <= 2e-6
    assert (logits(ours, **batch) - want)[real].abs().max() > 1e-2  # without the shift the two are different methods


def shifted(model: nn.Module, first_position: int = LENGTH) -> nn.Module:
    torch.manual_seed(5)
    config = PrefixConfig(num_virtual_tokens=LENGTH, init_std=1.0, first_position=first_position)
    return get_peft_model(model, config).eval()


@pytest.mark.parametrize("name", ["gpt2-lm", "roberta", "bert"])
def test_with_first_position_the_text_begins_there(name):
    model, batch = shifted(MODELS[name]()), tiny_batch((9, 9))
    begin = 2 if name == "roberta" else 0  # RoBERTa counts from behind its padding token
    positions = torch.arange(9).expand(2, -1) + begin
    want = logits(prefixed(MODELS[name]()), **batch, position_ids=positions + LENGTH)
    assert torch.equal(logits(model, **batch), want)
    assert torch.equal(logits(model, **batch, position_ids=positions), want)
    with model.disable_adapter():
        assert torch.equal(logits(model, **batch), logits(MODELS[name](), **batch))
    assert torch.equal(logits(model.unload(), **batch), logits(MODELS[name](), **batch))


def test_prefixes_that_act_together_agree_on_the_first_position():
    model = shifted(tiny_gpt2())
    model.add_adapter("at 0", PrefixConfig(num_virtual_tokens=2))
    model.base_model.set_adapter(["default", "at 0"])
    with pytest.raises(LoraBenchError, match=r"must agree on first_position, got \[0, 3\]"):
        logits(model)
    model.base_model.set_adapter("at 0")
    alone = logits(model)
    model.delete_adapter("default")
    assert torch.equal(logits(model), alone)
    with pytest.raises(LoraBenchError, match="a prefix with first_position is alone"):
        shifted(tiny_gpt2())(**tiny_batch(), adapter_names=["default", "__base__"])


def test_positions_that_are_no_table_cannot_be_shifted():
    with pytest.raises(
        UnsupportedPair, match=r"shifts a table of learned positions.*DebertaV2ForSequenceClassification has"
    ):
        shifted(tiny_deberta_v2())
    with pytest.raises(LoraBenchError, match="first_position must be at least 0, got -1"):
        shifted(tiny_gpt2(), first_position=-1)


@pytest.mark.parametrize("name", MODELS)
def test_a_prefix_has_no_position_so_the_order_of_its_tokens_says_nothing(name):
    model = prefixed(MODELS[name]())
    want = logits(model)
    with torch.no_grad():
        for layer in layers(model):
            layer.prefix_key["default"].copy_(layer.prefix_key["default"].flip(0).clone())
            layer.prefix_value["default"].copy_(layer.prefix_value["default"].flip(0).clone())
    assert (logits(model) - want).abs().max() <= 2e-6
    with torch.no_grad():  # keys without their values are another matter
        for layer in layers(model):
            layer.prefix_key["default"].copy_(layer.prefix_key["default"].flip(0).clone())
    assert (logits(model) - want).abs().max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_two_active_prefixes_are_one_long_prefix(name):
    model = prefixed(MODELS[name]())
    model.add_adapter("second", PrefixConfig(num_virtual_tokens=2, init_std=1.0))
    model.base_model.set_adapter(["default", "second"])
    longer = prefixed(MODELS[name](), length=LENGTH + 2)
    with torch.no_grad():
        for layer, long_layer in zip(layers(model), layers(longer), strict=True):
            for part in ("prefix_key", "prefix_value"):
                both = getattr(layer, part)
                getattr(long_layer, part)["default"].copy_(torch.cat([both["default"], both["second"]]))
    assert torch.equal(logits(model), logits(longer))


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("deberta", "deberta-v2", "deberta-v3")])
def test_both_attention_kernels_agree(name):
    models = [prefixed(MODELS[name](attn=attn)) for attn in ("eager", "sdpa")]
    real = tiny_batch()["attention_mask"].bool() if name == "gpt2-lm" else slice(None)
    eager, sdpa = (logits(model)[real] for model in models)
    assert (eager - sdpa).abs().max() <= 2e-6


@pytest.mark.parametrize("name", MODELS)
def test_attention_probabilities_are_reported_with_the_prefix_in_front(name):
    kernel = {} if "deberta" in name else {"attn": "eager"}
    model = prefixed(MODELS[name](**kernel))
    with torch.no_grad():
        attentions = model(**tiny_batch((9, 9)), output_attentions=True).attentions
    assert [layer.shape for layer in attentions] == [(2, HEADS, 9, LENGTH + 9)] * LAYERS
    assert all((layer.sum(-1) - 1).abs().max() <= 1e-6 for layer in attentions)
    assert all(layer[..., :LENGTH].min() > 0 for layer in attentions)


# --- generation ------------------------------------------------------------------------------------------------------

HOW = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_with_a_cache_writes_what_generation_without_one_writes(attn, beams):
    model = prefixed(tiny_gpt2(attn=attn))
    prompt = tiny_batch((7, 4), padding_side="left")
    with_cache = model.generate(**prompt, **HOW, num_beams=beams)
    assert torch.equal(with_cache, model.generate(**prompt, **HOW, num_beams=beams, use_cache=False))
    with model.disable_adapter():
        assert not torch.equal(with_cache, model.generate(**prompt, **HOW, num_beams=beams))


@pytest.mark.parametrize("lengths", [(7, 4), (7, 7)])
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_generation_with_a_cache_of_fixed_size_writes_the_same(attn, lengths):
    model = prefixed(tiny_gpt2(attn=attn))
    prompt = tiny_batch(lengths, padding_side="left")
    fixed = model.generate(**prompt, **HOW, cache_implementation="static", disable_compile=True)
    assert torch.equal(fixed, model.generate(**prompt, **HOW))


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_a_cache_of_fixed_size_may_be_filled_in_steps_with_and_without_a_mask(attn, masked):
    model = prefixed(tiny_gpt2(attn=attn))
    ids = tiny_batch((9, 9))["input_ids"]
    cache = StaticCache(config=model.config, max_cache_len=16)
    logits = []
    with torch.no_grad():
        for start, end in ((0, 6), (6, 7), (7, 8), (8, 9)):
            mask = {"attention_mask": torch.ones(2, end, dtype=torch.long)} if masked else {}
            logits.append(model(input_ids=ids[:, start:end], past_key_values=cache, **mask).logits)
        want = model(input_ids=ids).logits
    assert (torch.cat(logits, dim=1) - want).abs().max() <= 2e-6


@pytest.mark.parametrize("beams", [1, 3])
def test_a_left_padded_prompt_is_continued_as_it_is_alone(beams):
    model = prefixed(tiny_gpt2())
    batch = tiny_batch((7, 4), padding_side="left")
    together = model.generate(**batch, **HOW, num_beams=beams)[1, 7:]
    alone = model.generate(**{key: rows[1:, 3:] for key, rows in batch.items()}, **HOW, num_beams=beams)[0, 4:]
    assert torch.equal(together, alone)


def test_generated_tokens_are_the_most_likely_of_a_plain_forward_pass():
    model = prefixed(tiny_gpt2())
    prompt = tiny_batch((7, 7))["input_ids"]
    written = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **HOW)
    with torch.no_grad():
        assert torch.equal(model(input_ids=written).logits[:, 6:-1].argmax(-1), written[:, 7:])


def test_the_model_s_cache_has_the_length_of_the_real_tokens():
    model = prefixed(tiny_gpt2())
    with torch.no_grad():
        output = model(**tiny_batch((9, 9)), use_cache=True)
    cache = output.get("cache", output.get("past_key_values"))
    assert cache.get_seq_length() == 9


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_a_text_may_be_read_in_pieces_through_the_cache(attn):
    model = prefixed(tiny_gpt2(attn=attn))
    input_ids = tiny_batch((9, 9))["input_ids"]
    with torch.no_grad():
        whole = model(input_ids=input_ids).logits
        first = model(input_ids=input_ids[:, :5], use_cache=True)
        argument = "cache" if "cache" in first else "past_key_values"
        rest = model(input_ids=input_ids[:, 5:], **{argument: first[argument]})
    assert (torch.cat([first.logits, rest.logits], dim=1) - whole).abs().max() <= 2e-6


# --- the weights -----------------------------------------------------------------------------------------------------


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("name", MODELS)
def test_a_layer_has_a_key_and_a_value_for_each_virtual_token(name):
    assert count(prefixed(MODELS[name]())) == 2 * LAYERS * LENGTH * HIDDEN


def test_the_count_on_roberta_base_with_16_tokens():
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(RobertaConfig())
    assert count(prefixed(model, length=16)) == 2 * 12 * 16 * 768 == 294_912


def test_keys_and_values_start_at_random_with_init_std():
    model = prefixed(tiny_roberta(), length=64, std=0.5)
    key, value = layers(model)[0].prefix_key["default"], layers(model)[0].prefix_value["default"]
    # 2,048 draws: the standard deviation of their standard deviation is 0.5 / sqrt(2 * 2048) = 0.008
    assert abs(key.std().item() - 0.5) < 0.04
    assert abs(value.std().item() - 0.5) < 0.04
    assert not torch.equal(key, value)


def test_the_first_prefix_is_drawn_in_an_order_that_never_changes():
    # Runs are repeated from their seed: the key is drawn, then the value.
    torch.manual_seed(7)
    want = [nn.init.normal_(torch.empty(LENGTH, HIDDEN), std=0.02) for _ in range(2)]
    torch.manual_seed(7)
    layer = PrefixLayer(nn.Identity(), "cache", HIDDEN, [])
    layer.update_layer("default", PrefixConfig(num_virtual_tokens=LENGTH), torch.device("cpu"))
    assert torch.equal(layer.prefix_key["default"], want[0])
    assert torch.equal(layer.prefix_value["default"], want[1])


# --- what is refused -------------------------------------------------------------------------------------------------


def test_deberta_with_talking_heads_is_refused_before_anything_is_wrapped():
    model = tiny_deberta(talking_head=True)
    with pytest.raises(UnsupportedPair, match="talking heads"):
        prefixed(model)
    assert layers(model) == []


def test_a_family_whose_attention_nobody_has_written_is_refused(monkeypatch):
    monkeypatch.setattr("lora_bench.families.FAMILIES", (dataclasses.replace(ROBERTA, prefix_kind=None),))
    with pytest.raises(UnsupportedPair, match="no key/value prefix is written for the attention of roberta"):
        prefixed(tiny_roberta())


def test_an_attention_kernel_without_a_mask_to_extend_is_refused_by_name():
    model = tiny_roberta()
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(
        UnsupportedPair, match="needs attn_implementation eager or sdpa, the model has 'flex_attention'"
    ):
        prefixed(model)


def test_switching_to_such_a_kernel_later_is_refused_too():
    model = prefixed(tiny_roberta())
    model.get_base_model().config._attn_implementation = "flex_attention"
    with pytest.raises(UnsupportedPair, match="needs attn_implementation eager or sdpa"):
        layers(model)[0](torch.zeros(1, 2, HIDDEN))


def test_a_prefix_of_no_tokens_is_refused():
    with pytest.raises(LoraBenchError, match="num_virtual_tokens must be at least 1, got 0"):
        PrefixConfig(num_virtual_tokens=0)


def test_the_length_has_no_default():
    with pytest.raises(TypeError, match="num_virtual_tokens"):
        PrefixConfig()
