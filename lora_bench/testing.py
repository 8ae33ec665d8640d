"""What a method must do to be compared: a check that anybody can run on a method of their own.

    from lora_bench.testing import check_method

    def test_my_method():
        check_method(MyMethod(rank=4))

It builds a tiny RoBERTa, DeBERTa-v2 and GPT-2 from their configurations (no network, a second or two) and holds the method
to the contract: the logits keep their shape; one step moves every trainable weight and no frozen one; the head is trained
whole; the count grows with the size; what is saved and loaded gives the same logits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lora_bench.measure import count_parameters
from lora_bench.methods import Method, with_size
from lora_bench.randomness import adapters_drawn_from

LABELS, VOCABULARY, PAD = 3, 64, 0


def tiny_models() -> dict[str, tuple[nn.Module, list[str]]]:
    """A tiny RoBERTa, DeBERTa-v2 and GPT-2 for classification, each with the names of its head's modules."""
    from transformers import (
        DebertaV2Config,
        DebertaV2ForSequenceClassification,
        GPT2Config,
        GPT2ForSequenceClassification,
        RobertaConfig,
        RobertaForSequenceClassification,
    )

    encoder: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 40,
        "pad_token_id": PAD,
        "num_labels": LABELS,
        # Dropout would hide what a step moves and what loading restores.
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    deberta = DebertaV2Config(
        **encoder, relative_attention=True, pos_att_type=["c2p", "p2c"], share_att_key=True, position_buckets=8
    )
    gpt2 = GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=40, pad_token_id=PAD, num_labels=LABELS,
        bos_token_id=1, eos_token_id=1, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {
            "roberta": (RobertaForSequenceClassification(RobertaConfig(**encoder)), ["classifier"]),
            "deberta-v2": (DebertaV2ForSequenceClassification(deberta), ["pooler", "classifier"]),
            "gpt2": (GPT2ForSequenceClassification(gpt2), ["score"]),
        }


def check_method(method: Method, *, families: Sequence[str] = ("roberta", "deberta-v2", "gpt2")) -> None:
    """Hold a method to the contract on tiny models of the *families*.

    Raises:
        AssertionError: With what it does not keep, and on which family.
    """
    for family in families:
        _check_on(method, family)


def _check_on(method: Method, family: str) -> None:
    base, head = tiny_models()[family]
    total = sum(weight.numel() for weight in base.parameters())
    with adapters_drawn_from(0):
        model = method.apply(base, head=head)
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, PAD, PAD]])
    batch = {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": torch.tensor([0, 2])}

    counts = count_parameters(model, head=head, total=total)
    in_head = sum(
        weight.numel() for name in head for weight in tiny_models()[family][0].get_submodule(name).parameters()
    )
    assert counts.head == in_head, f"{family}: {counts.head} weights of the head are trained, of {in_head}"
    assert counts.adapter > 0, f"{family}: nothing but the head is trained"
    if method.size is not None:
        other, _ = tiny_models()[family]
        larger = with_size(method, 2 * getattr(method, method.size)).apply(other, head=head)
        grown = count_parameters(larger, head=head, total=total).adapter
        assert grown > counts.adapter, (
            f"{family}: twice the {method.size} gives {grown} weights, and once {counts.adapter}"
        )

    _check_steps(model, batch, family)
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
def _check_saving(model: nn.Module, batch: dict[str, Tensor], method: Method, family: str) -> None:
    """What is saved and loaded on a fresh base gives the same logits, bit for bit."""
    model.eval()
    expected = model(**batch).logits
    base, _ = tiny_models()[family]
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
