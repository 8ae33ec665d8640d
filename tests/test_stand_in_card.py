"""Steps of every method on every family on a stand-in for a card: no devices mix, and the host hardly ever waits.

No card is needed: `tests.stand_in_card` says how. Losses must be those of the CPU.
"""

import itertools

import pytest
import torch

from lora_bench.errors import UnsupportedPair
from lora_bench.kinds.exercises import exercise_class
from lora_bench.methods import known_methods
from lora_bench.pack.optimiser import StackedAdamW
from lora_bench.pack.stack import Stack
from lora_bench.testing import FAMILIES, PAD, tiny_model
from lora_bench.training import keyed_dropout
from lora_bench.training.keyed_dropout import StepMasks, key_of, with_keyed_masks
from lora_bench.training.measure.bare_step import TrainingStep
from tests.pack import test_stack
from tests.stand_in_card import CARD, HOST, Mixed, StandInCard

# What transformers asks a card for in every step, by family: whether a mask hides anything, and in DeBERTa's own loss which
# rows have labels. A pack gives whole masks and has a loss of its own.
ASKED_BY_TRANSFORMERS = {
    "roberta": [("_local_scalar_dense", "transformers.masking_utils._ignore_bidirectional_mask_sdpa")],
    "deberta-v2": [("nonzero", "transformers.models.deberta_v2.modeling_deberta_v2.forward")],
    "gpt2": 2 * [("_local_scalar_dense", "transformers.masking_utils._ignore_causal_mask_sdpa")],
}


@pytest.fixture(autouse=True)
def _without_triton(monkeypatch):
    monkeypatch.setattr(keyed_dropout, "has_kernel", lambda: False)


# The stand-in.


def test_devices_that_mix_are_an_error_and_single_numbers_are_not():
    with StandInCard():
        there, here = torch.ones(3).to(CARD), torch.ones(3)
        assert (there.device, (there * 2).device, here.device, there.is_cuda) == (CARD, CARD, HOST, True)
        assert (there * torch.tensor(2.0)).sum() == 6
        with pytest.raises(Mixed, match="mul"):
            there * here
        assert torch.zeros(2, device=CARD).device == torch.zeros_like(there).device == there[1:].device == CARD
    assert torch.ones(3).device == there.device == HOST


@pytest.mark.parametrize(
    ("what", "do"),
    [
        ("_local_scalar_dense", lambda x: x.sum().item()),
        ("_local_scalar_dense", lambda x: bool(x.any())),
        ("nonzero", lambda x: torch.nonzero(x)),
        ("index by a mask", lambda x: x[x > 0]),
        ("copy to the host", lambda x: x.cpu()),
        ("copy to the host", lambda x: x.to("cpu")),
        ("copy to the host", lambda x: x.tolist()),
        ("copy to the host", lambda x: torch.empty(3).copy_(x)),
        ("copy to the card", lambda x: torch.ones(3).to(CARD)),
        ("copy to the card", lambda x: torch.tensor([1.0, 2.0], device=CARD)),
        ("copy to the card", lambda x: x[torch.tensor([0, 1])]),
    ],
)
def test_what_makes_the_host_wait_is_listed_with_its_caller(what, do):
    with StandInCard() as card:
        x = torch.ones(3, device=CARD)
        assert not card.waits
        do(x)
    assert card.waits == [(what, f"{__name__}.<lambda>")]


def test_what_does_not_make_it_wait_is_not():
    with StandInCard() as card:
        x = torch.ones(3, device=CARD)
        torch.ones(3).to(CARD, non_blocking=True)
        (x + 1).sum().reshape(1).to(torch.float64).to(CARD)
        x[torch.tensor([0, 1]).to(CARD, non_blocking=True)]
        x.masked_fill(x > 0, 0.0)
    assert not card.waits


# A run by itself.


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 60, (3, 7), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(7) < torch.tensor([7, 4, 5])[:, None]).long()
    return {"input_ids": ids.where(mask.bool(), PAD), "attention_mask": mask, "labels": torch.tensor([0, 2, 1])}


OPTIONS = {"combined": {"parts": [{"method": "lora"}, {"method": "bottleneck_adapter"}]}}


def adapted(family: str, name: str) -> torch.nn.Module:
    base, head = tiny_model(family)
    torch.manual_seed(1)
    model = known_methods()[name](**OPTIONS.get(name, {})).apply(base, head=head)
    with_keyed_masks(model, StepMasks(0))
    return model


def put(card: StandInCard, *models: torch.nn.Module) -> None:
    for model in models:
        for one in itertools.chain(model.parameters(), model.buffers()):
            card.put(one)


def losses_of(step: TrainingStep, between=lambda: None) -> list[torch.Tensor]:
    """The losses of two steps."""
    found = []
    for _ in range(2):
        between()
        loss = step.forward()
        loss.backward()
        step.update()
        found.append(loss.detach())
    return found


def in_both_precisions(names, both):
    """All names in float32, and some in bfloat16 too."""
    return [(name, "float32") for name in names] + [(name, "bfloat16") for name in both]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("name", "precision"),
    # `peft` needs to be told what of PEFT, and `linear_probe` finds features by the content of a row, which the host reads.
    in_both_precisions(
        sorted(set(known_methods()) - {"linear_probe", "peft"}), ["full", "lora", "bottleneck_adapter", "prefix_tuning"]
    ),
)
def test_a_step_mixes_no_devices_and_waits_for_what_transformers_asks_alone(name, family, precision):
    try:
        model = adapted(family, name)
    except UnsupportedPair:
        return  # tests/methods says which
    types = {name: weight.dtype for name, weight in model.named_parameters()}
    expected = losses_of(TrainingStep(adapted(family, name), batch(), precision))
    with StandInCard() as card:
        put(card, model)
        step = TrainingStep(model, {key: one.to(CARD) for key, one in batch().items()}, precision)
        losses = losses_of(step, card.waits.clear)
        waits = list(card.waits)
        assert all(loss.device == CARD for loss in losses)
        assert all(weight.device == CARD for weight in model.parameters())
    assert waits == ASKED_BY_TRANSFORMERS[family]
    assert torch.equal(torch.stack(losses), torch.stack(expected))
    assert {name: weight.dtype for name, weight in model.named_parameters()} == types


# A pack.


def pack_losses(found, family: str, device: torch.device, precision: str, between=lambda: None) -> list[torch.Tensor]:
    """The losses of two steps of all members of a pack."""
    stack = Stack([member.model for member in found], causal=test_stack.FAMILIES[family], pad=PAD)
    optimiser = StackedAdamW(stack, [member.optimizer() for member in found])
    losses = []
    for step in range(2):
        between()
        own = [key_of(member.seed, step) for member in found]
        keys = torch.tensor(own, dtype=torch.int32).to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            each, _, _ = stack([member.batch(step) for member in found], keys, exercise_class("classification").loss())
        each.sum().backward()
        optimiser.step([member.max_norm for member in found])
        losses.append(each.detach())
    return losses


@pytest.mark.parametrize("family", test_stack.FAMILIES)
@pytest.mark.parametrize(("name", "precision"), in_both_precisions(test_stack.METHODS, ["lora"]))
def test_a_step_of_a_pack_mixes_no_devices_and_waits_for_nothing(name, family, precision):
    found = test_stack.members(family, name, 2, torch.float32)
    expected = pack_losses(test_stack.members(family, name, 2, torch.float32), family, HOST, precision)
    with StandInCard() as card:
        put(card, *(member.model for member in found))
        losses = pack_losses(found, family, CARD, precision, card.waits.clear)
        assert card.waits == []
        assert all(loss.device == CARD for loss in losses)
    # In bfloat16 a card computes norms in float32, which a CPU does not.
    apart = (torch.stack(losses) - torch.stack(expected)).abs().max()
    assert apart == 0 if precision == "float32" else apart < 0.02
