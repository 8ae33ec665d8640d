"""What a method must do to be compared: a check that anybody can run on a method of their own.

    from lora_bench.testing import check_method

    def test_my_method():
        check_method(MyMethod(rank=4))

It builds a tiny RoBERTa, DeBERTa-v2 and GPT-2 from their configurations (no network, a second or two) and holds the
method to the contract: the logits keep their shape; steps move every trainable weight and no frozen one; the head is
trained whole; the count grows with the size; padding changes no logit; what is saved and loaded gives the same logits; a
family that it cannot adapt is refused with a reason.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lora_bench.errors import UnsupportedPair
from lora_bench.families import family_of
from lora_bench.methods import Method, with_size
from lora_bench.training.measure.counters import count_parameters
from lora_bench.util.seeding import adapters_drawn_from

LABELS, VOCABULARY, PAD, END = 3, 64, 0, 1


FAMILIES = ("roberta", "deberta-v2", "gpt2")
"""What a method is held to where no families are named."""


def tiny_model(family: str) -> tuple[nn.Module, list[str]]:
    """A tiny classifier of one of `FAMILIES`, llama, modernbert or t5, with the names of its head's modules."""
    import transformers

    common: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": 40, "pad_token_id": PAD, "num_labels": LABELS,
    }  # fmt: skip
    # Dropout would hide what a step moves and what loading restores.
    encoder = {**common, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    ends = {"bos_token_id": END, "eos_token_id": END}
    options: dict[str, dict[str, Any]] = {
        "roberta": encoder,
        "deberta-v2": {
            **encoder, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True,
            "position_buckets": 8,
        },
        "gpt2": {
            "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "pad_token_id": PAD,
            "num_labels": LABELS, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, **ends,
        },
        "llama": {**common, "num_key_value_heads": 2, **ends},
        "modernbert": {**common, "local_attention": 8, "cls_token_id": 1, "sep_token_id": 2, **ends},
        "t5": {
            "vocab_size": VOCABULARY, "d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 48,
            "feed_forward_proj": "gated-gelu", "pad_token_id": PAD, "eos_token_id": END, "decoder_start_token_id": PAD,
            "num_labels": LABELS, "dropout_rate": 0.0,
        },
    }  # fmt: skip
    names = {
        "roberta": "Roberta",
        "deberta-v2": "DebertaV2",
        "gpt2": "GPT2",
        "llama": "Llama",
        "modernbert": "ModernBert",
        "t5": "T5",
    }
    config = getattr(transformers, f"{names[family]}Config")(**options[family])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = getattr(transformers, f"{names[family]}ForSequenceClassification")(config)
    head = [name for name, _ in model.named_children() if name in family_of(config.model_type).heads]
    return model, head


def tiny_models() -> dict[str, tuple[nn.Module, list[str]]]:
    """The `tiny_model` of each of `FAMILIES`."""
    return {family: tiny_model(family) for family in FAMILIES}


def check_method(method: Method, *, families: Sequence[str] | None = None) -> None:
    """Hold a method to the contract on tiny models.

    Args:
        method: The method with its options.
        families: Those it has to work on; see `tiny_model`. Where none is named it has to work on one of `FAMILIES`, and
            may refuse others by `UnsupportedPair`.

    Raises:
        AssertionError: With what it does not keep, and on which family.
    """
    refused: dict[str, UnsupportedPair] = {}
    for family in families if families is not None else FAMILIES:
        try:
            _check_on(method, family)
        except UnsupportedPair as reason:
            assert families is None, f"{family}: {method.name} is unsupported: {reason}"
            assert str(reason), f"{family}: {method.name} is unsupported without a reason"
            refused[family] = reason
    assert len(refused) < len(FAMILIES), f"{method.name} works on no family: {refused}"


def _check_on(method: Method, family: str) -> None:
    base, head = tiny_model(family)
    total = sum(weight.numel() for weight in base.parameters())
    with adapters_drawn_from(0):
        model = method.apply(base, head=list(head))
    ids = torch.tensor([[5, 6, 7, END], [9, END, PAD, PAD]])  # T5 reads a row's answer at its end
    batch = {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": torch.tensor([0, 2])}

    counts = count_parameters(model, head=head, total=total)
    in_head = sum(weight.numel() for name in head for weight in tiny_model(family)[0].get_submodule(name).parameters())
    assert counts.head == in_head, f"{family}: {counts.head} weights of the head are trained, of {in_head}"
    assert counts.adapter > 0, f"{family}: nothing but the head is trained"
    if method.size is not None:
        other, _ = tiny_model(family)
        larger = with_size(method, 2 * getattr(method, method.size)).apply(other, head=head)
        grown = count_parameters(larger, head=head, total=total).adapter
        assert grown > counts.adapter, (
            f"{family}: twice the {method.size} gives {grown} weights, and once {counts.adapter}"
        )

    _check_steps(model, batch, family)
    _check_padding(model, batch, family)
    _check_saving(model, batch, method, family)


def _check_steps(model: nn.Module, batch: dict[str, Tensor], family: str) -> None:
    """Steps move every trainable weight and no frozen one. Where one factor starts at zero the other needs a second."""
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    model.train()
    for _ in range(2):
        output = model(**batch)
        assert output.logits.shape == (2, LABELS), f"{family}: the logits have shape {tuple(output.logits.shape)}"
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, weight in model.named_parameters():
        moved = not torch.equal(weight, before[name])
        # The bias of a key adds the same to every score of a query, which softmax does not see.
        unseen = name.endswith("key.bias") or name.endswith("key_proj.bias")
        assert moved or not weight.requires_grad or unseen, f"{family}: {name} is trainable and does not move"
        assert not moved or weight.requires_grad, f"{family}: {name} is frozen and moves"


@torch.no_grad()
def _check_padding(model: nn.Module, batch: dict[str, Tensor], family: str) -> None:
    """A row is answered alike alone and padded in a batch."""
    model.eval()
    padded = model(**batch).logits[1]
    alone = model(**{name: rows[1:, :2] if rows.dim() == 2 else rows[1:] for name, rows in batch.items()}).logits[0]
    difference = float((padded - alone).abs().max())
    # A few roundings of float32 numbers near 1.
    assert difference <= 1e-5, f"{family}: padding changes the logits of a row by {difference:.1e}"


@torch.no_grad()
def _check_saving(model: nn.Module, batch: dict[str, Tensor], method: Method, family: str) -> None:
    """What is saved and loaded on a fresh base gives the same logits, bit for bit."""
    model.eval()
    expected = model(**batch).logits
    base, _ = tiny_model(family)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        if hasattr(model, "peft_config"):
            from peft import PeftModel

            again = PeftModel.from_pretrained(base, folder).eval()
        else:
            again = type(base).from_pretrained(folder).eval()
        found = again(**batch).logits
    difference = float((found - expected).abs().max())
    assert torch.equal(found, expected), f"{family}: {method.name} loaded again differs by {difference:.1e}"
