"""A check of a method's contract, to run on a method of your own.

    from lora_bench.testing import check_method

    def test_my_method():
        check_method(MyMethod(rank=4))

It builds a tiny RoBERTa, DeBERTa-v2 and GPT-2 from their configs, without network and in a second or two. The method must keep
these rules: logits keep their shape; steps move every trainable weight and no frozen one; the head is trained whole; the count
grows with the size; padding changes no logit; saving and loading gives the same logits; a family that it cannot adapt is
refused with a reason. The models are classifiers, or write text with `kind="generation"`.
"""

import tempfile
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lora_bench.errors import UnsupportedPair, typed_line
from lora_bench.families import FAMILIES as ALL_FAMILIES
from lora_bench.families import family_of
from lora_bench.kinds import find_kind
from lora_bench.kinds.exercises.generation.encode import NO_LOSS
from lora_bench.methods import Method, with_size
from lora_bench.training.measure.counters import count_parameters
from lora_bench.util.seeding import adapters_drawn_from

LABELS, VOCABULARY, PAD, END = 3, 64, 0, 1

Kind = Literal["classification", "generation"]
"""Output of the tiny models: one of `LABELS`, or text."""


FAMILIES = tuple(family.name for family in ALL_FAMILIES if family.in_every_check)
"""Families to check a method on by default."""


def tiny_model(family: str, kind: Kind = "classification") -> tuple[Any, list[str]]:
    """Return a tiny model of a family of `lora_bench.families`, by its name, and the names of its head's modules.

    Args:
        family: Name of the family.
        kind: A classifier, or a model that writes, which has no head.
    """
    import transformers

    known = family_of(family)
    sizes = {known.hidden_size_key: 32, known.num_layers_key: 2, known.num_heads_key: 4, "vocab_size": VOCABULARY}
    config = getattr(transformers, f"{known.classes}Config")(**sizes, pad_token_id=PAD, num_labels=LABELS, **known.tiny)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "generation":
            auto = find_kind(kind).names_of(apart=known.cross_attention is not None).auto
            return getattr(transformers, f"AutoModelFor{auto}").from_config(config), []
        model = getattr(transformers, f"{known.classes}ForSequenceClassification")(config)
    return model, known.head_modules(name for name, _ in model.named_children())


def tiny_models() -> dict[str, tuple[nn.Module, list[str]]]:
    """Return the `tiny_model` of each of `FAMILIES`."""
    return {family: tiny_model(family) for family in FAMILIES}


def check_method(method: Method, *, families: Sequence[str] | None = None, kind: Kind = "classification") -> None:
    """Check a method's contract on tiny models.

    Args:
        method: The method with its options.
        families: Families that it must work on; see `tiny_model`. By default it must work on one of `FAMILIES`, and may refuse
            others with `UnsupportedPair`.
        kind: Output of the models; for "generation", give families that write.

    Raises:
        AssertionError: With the broken rule and the family.
    """
    refused: dict[str, UnsupportedPair] = {}
    for family in families if families is not None else FAMILIES:
        try:
            _check_on(method, family, kind)
        except UnsupportedPair as reason:
            assert families is None, f"{family}: {method.name} is unsupported: {reason}"
            assert str(reason), f"{family}: {method.name} is unsupported without a reason"
            refused[family] = reason
    assert len(refused) < len(FAMILIES), f"{method.name} works on no family: {refused}"


def _check_on(method: Method, family: str, kind: Kind) -> None:
    base, head = tiny_model(family, kind)
    total = sum(weight.numel() for weight in base.parameters())
    try:
        with adapters_drawn_from(0):
            model = method.apply(base, head=list(head))
    except (TypeError, NotImplementedError) as error:  # as tuners raise on a kind of module that they do not know
        raise UnsupportedPair(typed_line(error)) from error
    ids = torch.tensor([[5, 6, 7, END], [9, END, PAD, PAD]])  # T5 reads a row's answer at its end
    batch = {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": torch.tensor([0, 2])}
    if kind == "generation":
        batch["labels"] = ids.masked_fill(ids == PAD, NO_LOSS)

    counts = count_parameters(model, head=head, total=total)
    fresh, _ = tiny_model(family, kind)
    in_head = sum(weight.numel() for name in head for weight in fresh.get_submodule(name).parameters())
    assert counts.head == in_head, f"{family}: {counts.head} weights of the head are trained, of {in_head}"
    assert counts.adapter > 0, f"{family}: nothing but the head is trained"
    if method.size is not None:
        other, _ = tiny_model(family, kind)
        larger = with_size(method, 2 * getattr(method, method.size)).apply(other, head=head)
        grown = count_parameters(larger, head=head, total=total).adapter
        assert grown > counts.adapter, (
            f"{family}: twice the {method.size} gives {grown} weights, and once {counts.adapter}"
        )

    _check_steps(model, batch, family, (2, LABELS) if kind == "classification" else (*ids.shape, VOCABULARY))
    _check_padding(model, batch, family)
    _check_saving(model, batch, method, family, kind)


def _check_steps(model: nn.Module, batch: dict[str, Tensor], family: str, shape: tuple[int, ...]) -> None:
    """Check the logits' shape, and that two steps (one factor may start at zero) move trainable weights and no others."""
    known = family_of(family)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    model.train()
    for _ in range(2):
        output = model(**batch)
        assert output.logits.shape == shape, f"{family}: the logits have shape {tuple(output.logits.shape)}"
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, weight in model.named_parameters():
        moved = not torch.equal(weight, before[name])
        # The bias of a key adds the same to every score of a query, which softmax does not see.
        unseen = not known.fused and name.endswith(tuple(f"{path}.bias" for path in known.paths("key")))
        assert moved or not weight.requires_grad or unseen, f"{family}: {name} is trainable and does not move"
        assert not moved or weight.requires_grad, f"{family}: {name} is frozen and moves"


@torch.no_grad()
def _check_padding(model: nn.Module, batch: dict[str, Tensor], family: str) -> None:
    """Check that a row gets the same answer alone and padded in a batch."""
    model.eval()
    padded = model(**batch).logits[1]
    alone = model(**{name: rows[1:, :2] if rows.dim() == 2 else rows[1:] for name, rows in batch.items()}).logits[0]
    padded = padded[: len(alone)]  # of a text the real tokens
    difference = float((padded - alone).abs().max())
    # A few roundings of float32 numbers near 1.
    assert difference <= 1e-5, f"{family}: padding changes the logits of a row by {difference:.1e}"


@torch.no_grad()
def _check_saving(model: nn.Module, batch: dict[str, Tensor], method: Method, family: str, kind: Kind) -> None:
    """Check that saving, and loading on a fresh base, gives the same logits bit for bit."""
    model.eval()
    expected = model(**batch).logits
    base, _ = tiny_model(family, kind)
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
