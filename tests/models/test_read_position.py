"""The last layer at the read position alone: answers and gradients of transformers' whole layer, up to rounding."""

import copy
import re

import pytest
import torch
from torch import nn

from lora_bench.families import family_of
from lora_bench.methods import known_methods
from lora_bench.models.deberta_positions import cut_to_reach
from lora_bench.models.read_position import read_alone
from lora_bench.testing import LABELS, PAD, VOCABULARY, tiny_model
from lora_bench.training.keyed_dropout import StepMasks, with_keyed_masks
from lora_bench.tuners.trial import inside_peft

FAMILIES = ("roberta", "bert", "xlm-roberta", "deberta", "deberta-v2", "gpt2")
METHODS = {
    "full": {},
    "bitfit": {},
    "lora": {"rank": 4},
    "lora of keys, with DoRA": {"rank": 4, "targets": ("key", "value"), "use_dora": True},
    "lora of everything": {"rank": 4, "targets": ("all",)},
    "bottleneck_adapter": {"bottleneck_size": 4},
    "bottleneck_adapter, pfeiffer": {"bottleneck_size": 4, "variant": "pfeiffer"},
    "bottleneck_adapter, parallel": {"bottleneck_size": 4, "variant": "parallel"},
    "bottleneck_adapter, lin": {"bottleneck_size": 4, "variant": "lin"},
    "prefix_tuning": {"num_virtual_tokens": 3},
    "prefix_tuning, reparameterised": {
        "num_virtual_tokens": 3, "reparameterised": True, "reparameterisation_width": 6,
    },
    "prefix_layer": {"num_virtual_tokens": 3},
    "prefix_embedding": {"num_virtual_tokens": 3},
}  # fmt: skip


def cases():
    """Every family with every method in two types of numbers.

    Slow are the second classes of RoBERTa's family and the second type, but for a method in six of them.
    """
    for place, (family, method) in enumerate((family, method) for family in FAMILIES for method in METHODS):
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
            fast = (dtype == torch.float64 and family not in ("bert", "xlm-roberta")) or place % 6 == 0
            marks = () if fast else pytest.mark.slow
            yield pytest.param(family, method, dtype, tolerance, marks=marks, id=f"{family}-{method}-{dtype}")


def classifier(family, dtype, **changes):
    """A tiny classifier without dropout; BERT and XLM-R are of RoBERTa's family, and have their own classes."""
    if family not in ("bert", "xlm-roberta"):
        model, head = tiny_model(family)
        return model.to(dtype), head
    import transformers

    classes = {"bert": "Bert", "xlm-roberta": "XLMRoberta"}[family]
    known = family_of(family)
    config = getattr(transformers, f"{classes}Config")(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=VOCABULARY, pad_token_id=PAD,
        num_labels=LABELS, **known.tiny,
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, f"{classes}ForSequenceClassification")(config)
    return model.to(dtype), known.head_modules(name for name, _ in model.named_children())


def adapted(family, method, dtype):
    """The same adapted model twice: whole, and with its last layer narrowed."""
    model, head = classifier(family, dtype)
    torch.manual_seed(1)
    whole = known_methods()[method.split(",")[0].split(" of")[0]](**METHODS[method]).apply(model, head=head).to(dtype)
    for weight in whole.parameters():
        if weight.requires_grad:  # what starts at zero would hide a wrong product
            weight.data += 0.1 * torch.randn(weight.shape, dtype=dtype)
    narrow = copy.deepcopy(whole)
    return whole.train(), narrow.train(), read_alone(narrow, family)


def batch(*lengths):
    ids = torch.randint(3, VOCABULARY, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids.where(mask.bool(), PAD), "attention_mask": mask}


def answers(model, given):
    """Logits, and the gradients of a loss of them, by name."""
    model.zero_grad()
    logits = model(**given).logits
    nn.functional.cross_entropy(logits, torch.arange(len(logits)) % LABELS).backward()
    return logits, {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}


def assert_same(whole, narrow, given, tolerance):
    (logits, gradients), (ours, theirs) = answers(whole, given), answers(narrow, given)
    torch.testing.assert_close(ours, logits, atol=tolerance, rtol=tolerance)
    assert theirs.keys() == gradients.keys()
    for name, gradient in gradients.items():
        if theirs[name] is None:
            assert gradient is None, name
        else:
            torch.testing.assert_close(theirs[name], gradient, atol=tolerance, rtol=tolerance, msg=name)


@pytest.mark.parametrize(("family", "method", "dtype", "tolerance"), cases())
def test_logits_and_gradients_are_those_of_the_whole_layer(family, method, dtype, tolerance):
    whole, narrow, changed = adapted(family, method, dtype)
    assert changed == (method != "prefix_embedding")
    # With padding, and without, where transformers leaves the mask out.
    for given in (batch(9, 4, 7, 2), batch(8, 8, 8)):
        assert_same(whole, narrow, given, tolerance)
    with torch.inference_mode():
        torch.testing.assert_close(
            narrow.eval()(**given).logits, whole.eval()(**given).logits, atol=tolerance, rtol=tolerance
        )


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("method", ["lora", "full", "bottleneck_adapter, pfeiffer"])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_gradient_checkpointing_they_are_too(family, method, reentrant):
    whole, narrow, _ = adapted(family, method, torch.float64)
    if reentrant:
        for model in (whole, narrow):  # as transformers does for frozen embeddings
            inside_peft(model).enable_input_require_grads()
    narrow.gradient_checkpointing_enable({"use_reentrant": reentrant})
    for given in (batch(9, 4, 7, 2), batch(8, 8, 8)):
        assert_same(whole, narrow, given, 1e-12)
    known, calls = family_of(family), []
    (last,) = (
        module for path, module in narrow.named_modules() if re.fullmatch(rf"{known.layer}\.{known.self_attention}", path)
        and "1" in path.split(".")
    )  # fmt: skip
    last.register_forward_hook(lambda *_: calls.append(1))
    answers(narrow, given)
    assert len(calls) == 2  # forward, and once more in the backward pass


class Rows(nn.Module):
    """Notes the number of tokens in what a module gets."""

    def __init__(self, module):
        super().__init__()
        self.tokens = []
        module.register_forward_pre_hook(lambda _, args: self.tokens.append(args[0].shape[-2]))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_feed_forward_block_and_the_norms_see_one_token(family):
    _, model, _ = adapted(family, "lora", torch.float32)
    known = family_of(family)
    layers = [
        module for name, module in model.named_modules() if name.endswith((".layer.0", ".layer.1", ".h.0", ".h.1"))
    ]
    paths = [known.attention_output, known.feed_forward_in, known.feed_forward_out]
    if not known.fused:
        paths.append(known.query)
    seen = [[Rows(layer.get_submodule(path)) for path in paths] for layer in layers]
    model(**batch(9, 4))
    # DeBERTa's query projection also sees a table of relative positions.
    assert [{rows.tokens[0] for rows in of_layer} for of_layer in seen] == [{9}, {1}]


@pytest.mark.parametrize("family", ["deberta-v2"])
def test_it_goes_with_deberta_s_positions_cut_to_reach(family):
    whole, narrow, _ = adapted(family, "lora of everything", torch.float64)
    cut = copy.deepcopy(whole)
    cut_to_reach(cut)
    assert read_alone(cut, family)
    for length in (3, 9, 30):  # buckets of positions are shared beyond four
        assert_same(whole, cut, batch(length, 2), 1e-12)
        assert_same(whole, narrow, batch(length, 2), 1e-12)


def test_gpt2_reads_the_last_token_that_is_no_padding_whatever_the_mask_says():
    whole, narrow, _ = adapted("gpt2", "full", torch.float64)
    # A real token with padding's number at the end of a row: the head reads the one before.
    given = batch(6, 6)
    given["input_ids"][0, -1] = PAD
    assert_same(whole, narrow, given, 1e-12)
    # Padding on the left, and a row of padding alone.
    left = {name: tensor.flip(1) for name, tensor in batch(6, 3).items()}
    assert_same(whole, narrow, left, 1e-12)
    whole.config._attn_implementation = narrow.config._attn_implementation = "eager"
    assert_same(whole, narrow, given, 1e-12)
    assert_same(whole, narrow, batch(6, 3), 1e-12)


def test_without_token_ids_the_whole_layer_is_computed():
    """As under PEFT's prompt tuning, where transformers reads the last of the embeddings."""
    whole, narrow, _ = adapted("gpt2", "full", torch.float64)
    embeddings = torch.randn(2, 5, 32, dtype=torch.float64)
    assert_same(whole, narrow, {"inputs_embeds": embeddings[:1]}, 1e-12)


@pytest.mark.parametrize("family", ["roberta", "deberta", "deberta-v2"])
def test_keyed_masks_of_the_first_token_are_those_of_the_whole_layer(family):
    whole, narrow, _ = adapted(family, "bitfit", torch.float64)
    for model in (whole, narrow):
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.2
        masks = StepMasks(0)
        masks.begin(3)
        with_keyed_masks(model, masks)
    assert_same(whole, narrow, batch(9, 4, 7), 1e-12)


@pytest.mark.parametrize("family", ["llama", "modernbert"])
def test_a_family_that_it_is_not_written_for_stays_whole(family):
    model, head = tiny_model(family)
    model = known_methods()["lora"]().apply(model, head=head)
    before = {name: module.forward for name, module in model.named_modules()}
    assert not read_alone(model, family) and not read_alone(model, "fnet")
    assert all(module.forward == before[name] for name, module in model.named_modules())
