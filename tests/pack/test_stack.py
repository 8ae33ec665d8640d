"""Runs in company against the same runs alone: transformers' own forward pass, torch's cross entropy, clipping and AdamW.

In float64 the two differ by rounding alone, in the sums that another shape of product adds up in another order.
"""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.hooks import RemovableHandle

from lora_bench.kinds.exercises import exercise_class
from lora_bench.methods import Method, known_methods, rate_factors
from lora_bench.models.read_position import read_alone
from lora_bench.models.shared_copy import copy_sharing, own_trained
from lora_bench.pack.optimiser import StackedAdamW
from lora_bench.pack.stack import Stack
from lora_bench.testing import LABELS, PAD, VOCABULARY, tiny_model
from lora_bench.training.keyed_dropout import StepMasks, key_of, with_keyed_masks
from lora_bench.training.trainer import split_by_rate
from tests.pairs import pairs

FAMILIES = {"roberta": False, "deberta-v2": None, "gpt2": True}
STEPS = 6

# Sizes and factors differ from member to member where a pack allows it.
METHODS = {
    "lora": lambda index: {"rank": (2, 5, 8)[index], "scaling": (2.0, 0.5, 1.0)[index], "dropout": 0.1},
    "lora of everything": lambda index: {"rank": (1, 4, 2)[index], "targets": ("all",)},
    "lora, plus": lambda index: {"rank": (2, 5, 8)[index], "ratio": 16.0, "rank_pattern": {1: 3}, "train_norms": True},
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
    method: Method

    def optimizer(self) -> AdamW:
        named = [(name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad]
        bias = [weight for name, weight in named if name.endswith("bias")]
        rest = [weight for name, weight in named if not name.endswith("bias")]
        groups = [{"params": rest, "weight_decay": self.decay}, {"params": bias, "weight_decay": 0.0}]
        optimizer = AdamW([group for group in groups if group["params"]], lr=self.rate)
        factors = rate_factors(self.method, [name for name, _ in named])
        split_by_rate(optimizer, {weight: factors.get(name, 1.0) for name, weight in named})
        return optimizer

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
    """So many members of a method, which differ in all that members may differ in."""
    recipes = [((1e-2, 3e-3, 3e-2)[index], (0.0, 0.1, 0.01)[index], (1.0, 0.2, 0.0)[index]) for index in range(count)]
    return made(family, name, [METHODS[name](index) for index in range(count)], recipes, range(count), dtype)


def made(family, name, options, recipes, seeds, dtype) -> list[Member]:
    base, head = tiny_model(family)
    base = with_dropout(base).to(dtype)
    found = []
    for chosen, (rate, decay, norm), seed in zip(options, recipes, seeds, strict=True):
        torch.manual_seed(seed)
        method = known_methods()[name.split(",")[0].split(" of")[0]](**chosen)
        model = method.apply(copy_sharing(base, head), head=head).to(dtype)
        own_trained(model)
        for weight in model.parameters():
            if weight.requires_grad:  # what starts at zero would hide a wrong product
                weight.data += 0.1 * torch.randn(weight.shape, dtype=dtype)
        found.append(Member(model.train(), seed, rate, decay, norm, method))
    return found


def alone(member: Member, steps: int = STEPS) -> tuple[list[float], Tensor]:
    """Losses of the member's steps and its logits after them, by transformers and torch alone."""
    model, optimizer, masks = member.model, member.optimizer(), StepMasks(member.seed)
    with_keyed_masks(model, masks)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    losses = []
    for step in range(steps):
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
        each, _, _ = stack([member.batch(step) for member in found], keys, exercise_class("classification").loss())
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


@pairs("family, method", FAMILIES, METHODS, 1)
def test_members_whose_last_layer_is_the_read_position_alone_train_as_they_would_alone(family, method):
    packed, isolated = members(family, method), members(family, method)
    for member in (*packed, *isolated):
        assert read_alone(member.model, family)
    losses = together(packed, family)
    for member, same, own in zip(packed, isolated, losses, strict=True):
        expected, answered = alone(same)
        assert own == pytest.approx(expected, abs=1e-12, rel=1e-12)
        torch.testing.assert_close(logits(member.model, member), answered, atol=1e-11, rtol=1e-11)
    evaluated = Stack([member.model for member in packed], causal=FAMILIES[family], pad=PAD)
    batch = {name: tensor for name, tensor in packed[0].batch(STEPS).items() if name != "labels"}
    first = evaluated.logits(batch)[0]
    torch.testing.assert_close(first, logits(packed[0].model, packed[0]), atol=1e-11, rtol=1e-11)


MEMBER = st.tuples(
    st.integers(1, 8),  # rank
    st.sampled_from([0.25, 1.0, 4.0]),  # scaling
    st.floats(1e-5, 3e-2),  # learning rate
    st.sampled_from([0.0, 0.1]),  # weight decay
    st.sampled_from([0.0, 0.1, 1.0]),  # norm of gradients
    st.integers(0, 2**20),  # seed, which draws lengths and masks as well
)


@given(st.lists(MEMBER, min_size=1, max_size=5), st.sampled_from(sorted(FAMILIES)))
@settings(max_examples=12, deadline=None)
def test_any_mix_of_ranks_rates_and_seeds_trains_as_its_members_would_alone(drawn, family):
    options = [{"rank": rank, "scaling": scaling, "dropout": 0.1} for rank, scaling, *_ in drawn]
    recipes = [(rate, decay, norm) for _, _, rate, decay, norm, _ in drawn]
    seeds = [seed for *_, seed in drawn]
    packed, isolated = (made(family, "lora", options, recipes, seeds, torch.float64) for _ in range(2))
    for member, same, own in zip(packed, isolated, together(packed, family), strict=True):
        expected, answered = alone(same)
        assert own == pytest.approx(expected, abs=1e-12, rel=1e-12)
        torch.testing.assert_close(logits(member.model, member), answered, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("method", ["lora", "bottleneck_adapter", "prefix_tuning", "bitfit"])
@pytest.mark.parametrize("family", FAMILIES)
def test_in_float32_a_pack_differs_by_rounding(family, method):
    packed, isolated = (members(family, method, dtype=torch.float32) for _ in range(2))
    for member, same, own in zip(packed, isolated, together(packed, family), strict=True):
        assert own == pytest.approx(alone(same)[0], abs=1e-5, rel=1e-5), member.seed


def types_of(model: nn.Module, seen: dict[str, list[str]]) -> list[RemovableHandle]:
    """Note the type of every output of every module of a model, by the module's name."""

    def note(name):
        def noted(module, inputs, output):
            found = (
                output if isinstance(output, tuple) else [*output.values()] if isinstance(output, dict) else [output]
            )
            seen.setdefault(name, []).extend(str(one.dtype) for one in found if isinstance(one, Tensor))

        return noted

    return [module.register_forward_hook(note(name)) for name, module in model.named_modules()]


def steps_in_bfloat16(family: str, method: str, device: str) -> list[tuple[str, object, object]]:
    """What a pack and its members alone compute of one batch each: types of activations, losses, logits, gradients."""
    packed, isolated = (members(family, method, dtype=torch.float32) for _ in range(2))
    for member in (*packed, *isolated):
        member.model.to(device)
    types, own_types = {}, {}
    hooks = types_of(packed[0].model, types)
    stack = Stack([member.model for member in packed], causal=FAMILIES[family], pad=PAD)
    keys = torch.tensor([key_of(member.seed, 0) for member in packed], dtype=torch.int32, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        losses, logits, _ = stack([member.batch(0) for member in packed], keys, exercise_class("classification").loss())
    losses.sum().backward()
    for hook in hooks:
        hook.remove()
    hooks = types_of(isolated[0].model, own_types)
    found = []
    for index, member in enumerate(isolated):
        masks = StepMasks(member.seed)
        with_keyed_masks(member.model, masks)
        batch = {name: value.to(device) for name, value in member.batch(0).items()}
        with torch.autocast(device, dtype=torch.bfloat16):
            answered = member.model(**{**batch, "labels": None}).logits
            loss = nn.functional.cross_entropy(answered, batch["labels"])
        loss.backward()
        found.append((f"loss of {index}", losses[index], loss))
        found.append((f"logits of {index}", logits[index, : len(answered)], answered))
        for name, weight in member.model.named_parameters():
            if weight.requires_grad and weight.grad is not None:
                gradient = stack.weights[name].grad[index]
                found.append((name, gradient[tuple(map(slice, weight.shape))], weight.grad))
        for hook in hooks:
            hook.remove()
    return [("types", types, own_types), *found]


def holds_in_bfloat16(family: str, method: str, device: str) -> None:
    (_, types, own_types), *values = steps_in_bfloat16(family, method, device)
    assert types == own_types
    assert any("bfloat16" in kind for kinds in types.values() for kind in kinds)
    for name, ours, theirs in values:
        assert ours.dtype == theirs.dtype, name
        # Eight bits: products of another shape round some numbers to the neighbour.
        scale = theirs.abs().max().item()
        apart = (ours - theirs).abs().max().item()
        assert apart <= 2**-5 * scale + 1e-4, f"{name}: {apart} apart, of numbers up to {scale}"


@pairs("family, method", FAMILIES, METHODS, 2)
def test_in_bfloat16_every_activation_has_the_type_that_it_has_alone(family, method):
    holds_in_bfloat16(family, method, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_card_too_in_bfloat16_every_activation_has_the_type_that_it_has_alone(family, method):
    holds_in_bfloat16(family, method, "cuda")


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_end_where_they_would_alone_but_for_those_without_a_gradient(family):
    packed, isolated = members(family, "bitfit"), members(family, "bitfit")
    together(packed, family)
    for member, same in zip(packed, isolated, strict=True):
        alone(same)
        theirs = dict(same.model.named_parameters())
        apart = {
            name
            for name, weight in member.model.named_parameters()
            if weight.requires_grad and (weight - theirs[name]).abs().max() > 1e-9
        }
        # A key's bias moves all scores of a query alike: its gradient is zero but for rounding, of which AdamW makes steps.
        assert apart <= {name for name in theirs if name.endswith(NO_GRADIENT[family])}


NO_GRADIENT = {"roberta": ("key.bias",), "deberta-v2": (), "gpt2": ("c_attn.bias",)}


def test_a_member_leaves_and_another_takes_its_place():
    """What is left, and who comes, go on as if nobody had come or gone."""
    packed, isolated = members("roberta", "lora"), members("roberta", "lora")
    first, second, third = packed
    stack = Stack([first.model, second.model], causal=False, pad=PAD)
    optimizers = {id(member): member.optimizer() for member in packed}
    optimiser = StackedAdamW(stack, [optimizers[id(first)], optimizers[id(second)]])

    steps = {id(member): 0 for member in packed}
    while steps[id(third)] < STEPS:
        if steps[id(second)] == 3 and stack.members[1] is second.model:
            own_trained(second.model)
            stack.members[1] = third.model
            optimiser.optimizers[1] = optimizers[id(third)]
            stack.restack()
            optimiser.restack()
        going = [first, second if stack.members[1] is second.model else third]
        keys = torch.tensor([key_of(member.seed, steps[id(member)]) for member in going], dtype=torch.int32)
        batches = [member.batch(steps[id(member)]) for member in going]
        each, _, _ = stack(batches, keys, exercise_class("classification").loss())
        each.sum().backward()
        optimiser.step([member.max_norm for member in going])
        for member in going:
            steps[id(member)] += 1
    assert [steps[id(member)] for member in packed] == [3 + STEPS, 3, STEPS]
    for member, same in zip(packed, isolated, strict=True):
        alone(same, steps[id(member)])
        ours, theirs = (dict(one.model.named_parameters()) for one in (member, same))
        for name, weight in ours.items():
            torch.testing.assert_close(weight, theirs[name], atol=1e-11, rtol=1e-11)
