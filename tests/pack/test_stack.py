"""Runs in company against the same runs alone: transformers' own forward pass, torch's cross entropy, clipping and AdamW.

In float64 the two differ by rounding alone, in the sums that another shape of product adds up in another order.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from lora_bench.copies import copy_sharing, own_trained
from lora_bench.dropout import StepMasks, key_of, with_keyed_masks
from lora_bench.methods import known_methods
from lora_bench.pack.losses import loss_for
from lora_bench.pack.optimiser import StackedAdamW
from lora_bench.pack.stack import Stack
from lora_bench.testing import LABELS, PAD, VOCABULARY, tiny_model

FAMILIES = {"roberta": False, "deberta-v2": None, "gpt2": True}
STEPS = 6

# Sizes and factors differ from member to member where a pack allows it.
METHODS = {
    "lora": lambda index: {"rank": (2, 5, 8)[index], "scaling": (2.0, 0.5, 1.0)[index], "dropout": 0.1},
    "lora of everything": lambda index: {"rank": (1, 4, 2)[index], "targets": ("all",)},
    "lora, rank-stabilised": lambda index: {"rank": (2, 3, 8)[index], "use_rslora": True},
    "bottleneck_adapter": lambda index: {"bottleneck_size": (4, 7, 1)[index]},
    "bottleneck_adapter, parallel": lambda index: {"bottleneck_size": (4, 7, 1)[index], "variant": "parallel"},
    "prefix_tuning": lambda index: {"num_virtual_tokens": 4},
    "prefix_tuning, reparameterised": lambda index: {
        "num_virtual_tokens": 4, "reparameterised": True, "reparameterisation_width": 6,
    },
    "bitfit": lambda index: {},
}  # fmt: skip


@dataclass
class Member:
    model: nn.Module
    seed: int
    rate: float
    decay: float
    max_norm: float

    def optimizer(self) -> AdamW:
        named = [(name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad]
        bias = [weight for name, weight in named if name.endswith("bias")]
        rest = [weight for name, weight in named if not name.endswith("bias")]
        groups = [{"params": rest, "weight_decay": self.decay}, {"params": bias, "weight_decay": 0.0}]
        return AdamW([group for group in groups if group["params"]], lr=self.rate)

    def batch(self, step: int, rows: int = 4) -> dict[str, Tensor]:
        """Rows of up to nine tokens, fewer and shorter in some members and steps than in others."""
        drawn = torch.Generator().manual_seed(1000 * self.seed + step)
        rows, tokens = rows - (self.seed + step) % 2, 6 + (self.seed + 2 * step) % 4
        ids = torch.randint(3, VOCABULARY, (rows, tokens), generator=drawn)
        lengths = torch.randint(2, tokens + 1, (rows,), generator=drawn)
        mask = (torch.arange(tokens) < lengths[:, None]).long()
        labels = torch.randint(0, LABELS, (rows,), generator=drawn)
        return {"input_ids": ids.where(mask.bool(), PAD), "attention_mask": mask, "labels": labels}


def with_dropout(model: nn.Module) -> nn.Module:
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if hasattr(model.config, name):
            setattr(model.config, name, 0.1)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1
        # RoBERTa's and GPT-2's attention keep their probability as a number.
        for name in ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.1)
    return model


def members(family: str, name: str, count: int = 3, dtype=torch.float64) -> list[Member]:
    base, head = tiny_model(family)
    with_dropout(base)
    base = base.to(dtype)
    found = []
    for index in range(count):
        torch.manual_seed(index)
        method = known_methods()[name.split(",")[0].split(" of")[0]](**METHODS[name](index))
        model = method.apply(copy_sharing(base, head), head=head).to(dtype)
        own_trained(model)
        for weight in model.parameters():
            if weight.requires_grad:  # what starts at zero would hide a wrong product
                weight.data += 0.1 * torch.randn(weight.shape, dtype=dtype)
        rate, decay, norm = (1e-2, 3e-3, 3e-2)[index], (0.0, 0.1, 0.01)[index], (1.0, 0.2, 0.0)[index]
        found.append(Member(model.train(), index, rate, decay, norm))
    return found


def alone(member: Member) -> tuple[list[float], Tensor]:
    """Losses of the member's steps and its logits after them, by transformers and torch alone."""
    model, optimizer, masks = member.model, member.optimizer(), StepMasks(member.seed)
    with_keyed_masks(model, masks)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    losses = []
    for step in range(STEPS):
        masks.begin(step)
        batch = member.batch(step)
        # DeBERTa's own loss, alone among them, is in float32 whatever the weights are.
        loss = nn.functional.cross_entropy(model(**{**batch, "labels": None}).logits, batch["labels"])
        loss.backward()
        if member.max_norm:
            nn.utils.clip_grad_norm_(weights, member.max_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, logits(model, member)


def logits(model: nn.Module, member: Member) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model(**member.batch(STEPS)).logits


def together(found: list[Member], family: str) -> list[list[float]]:
    stack = Stack([member.model for member in found], causal=FAMILIES[family], pad=PAD)
    optimiser = StackedAdamW(stack, [member.optimizer() for member in found])
    losses: list[list[float]] = [[] for _ in found]
    for step in range(STEPS):
        keys = torch.tensor([key_of(member.seed, step) for member in found], dtype=torch.int32)
        each, _, _ = stack([member.batch(step) for member in found], keys, loss_for("classification"))
        each.sum().backward()
        optimiser.step([member.max_norm for member in found])
        for own, loss in zip(losses, each.tolist(), strict=True):
            own.append(loss)
    return losses


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pack_trains_each_member_as_it_would_be_trained_alone(family, method):
    packed, isolated = members(family, method), members(family, method)
    losses = together(packed, family)
    for member, same, own in zip(packed, isolated, losses, strict=True):
        expected, answered = alone(same)
        assert own == pytest.approx(expected, abs=1e-12, rel=1e-12)
        assert len(set(own)) == STEPS
        torch.testing.assert_close(logits(member.model, member), answered, atol=1e-11, rtol=1e-11)
