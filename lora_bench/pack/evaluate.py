"""Evaluate members of a pack together if they have the same questions, on the selection split and at the end.

Texts are written as by one causal model whose rows have the weights of one member or another. The code that chooses tokens
(greedy search, beams, samples, forbidden repetition, ends of a completion) is that of a single run, and sees more rows. A step
of decoding is one forward pass for all rows of all members: `vmap` over rows.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions

from lora_bench.errors import typed_line
from lora_bench.families import family_of
from lora_bench.kinds.exercises.base_exercise import Pack, Replies
from lora_bench.kinds.exercises.predicting import EVALUATION_BATCH
from lora_bench.pack.stack import AutocastWithin, Stack, scaled_by, whole_mask
from lora_bench.training.callbacks import Interrupted
from lora_bench.training.prepare import Ready
from lora_bench.training.run import Answered
from lora_bench.tuners.attention import CACHE_ARGUMENTS

Say = Callable[[str], None]


def stack_of(members: Sequence[Ready]) -> Stack:
    """Stack the weights of members."""
    family = family_of(members[0].job.base_model.model_type)
    causal = None if family.own_masks else family.causal
    return Stack([member.model for member in members], causal=causal, pad=members[0].adapted.tokenizer.pad_token_id)


def chosen_together(due: Mapping[int, Ready], stack: Stack, say: Say) -> dict[str, Answered]:
    """Return the answers of members, by their number in the stack, to the selection split after a step, by run id."""
    numbers = {ready.job.run_id: number for number, ready in due.items()}

    def part(group: Sequence[Ready]) -> Stack:
        return stack.part([numbers[ready.job.run_id] for ready in group])

    return answers_together([*due.values()], lambda ready: [ready.job.spec.rules.choose_on], part, say)


def answers_together(
    asked: Sequence[Ready],
    splits: Callable[[Ready], Sequence[str]],
    stacked: Callable[[Sequence[Ready]], Stack],
    say: Say,
) -> dict[str, Answered]:
    """Return the answers of members, by run id, without those that are better evaluated alone, or do not fit together.

    Losses on texts are taken alone: the logits of all members over a vocabulary need too much memory. *splits* gives those of a
    member, and *stacked* the weights of some members.
    """
    alike: dict[Any, list[Ready]] = {}
    for ready in asked:
        spec = ready.job.spec
        data = spec.task.data_sha256, spec.task.name, ready.job.fold
        of = (*data, spec.training.max_length, str(spec.decoding), *splits(ready))
        alike.setdefault(of, []).append(ready)
    found: dict[str, Answered] = {}
    for group in alike.values():
        if len(group) > 1 and not group[0].job.task.weighs:
            try:
                found |= _answers_of(group, splits(group[0]), stacked(group))
            except Interrupted:
                continue  # each writes a checkpoint first
            except Exception as error:
                # Each member is evaluated alone, and reports its own failure.
                _say_alone(group, error, say)
    return found


def _say_alone(group: Sequence[Ready], error: Exception, say: Say) -> None:
    """Say once, to the user and in each record, that members are evaluated alone."""
    text = f"members of a pack were evaluated one by one, because together it failed: {typed_line(error)}"
    if any(text not in ready.facts.warnings for ready in group):
        say(text)
    for ready in group:
        if text not in ready.facts.warnings:
            ready.facts.warnings.append(text)


def _answers_of(group: Sequence[Ready], splits: Sequence[str], stack: Stack) -> dict[str, Answered]:
    """Return the answers of members with the same questions, by run id, without those whose outputs are not finite."""
    began = time.perf_counter()
    answers: list[dict[str, Replies]] = [{} for _ in group]
    for name in splits:
        for given, own in zip(answers, _asked(group, name, stack), strict=True):
            if own is not None:
                given[name] = own
    seconds = time.perf_counter() - began
    return {
        ready.job.run_id: Answered(given, seconds)
        for ready, given in zip(group, answers, strict=True)
        if len(given) == len(splits)
    }


def _asked(group: Sequence[Ready], split: str, stack: Stack) -> Sequence[Replies | None]:
    """Return each member's answers to a split, or None if its outputs are not finite."""
    first = group[0]
    # As many rows in all as a single run has, or as few as a step of it has.
    rows = max(first.job.spec.training.batch_size, EVALUATION_BATCH // len(group))
    seeds = [ready.seed for ready in group]
    pack = Pack(first.model, stack.logits, rows, lambda: writer(stack), lambda: most_rows(stack), seeds)
    return first.lessons.exercise.answers_of_each(pack, first.lessons.questions[split])


BATCH_BYTES = 2 * 2**30
"""Greatest memory of the weights of a batch, of which each row has a copy."""


def writer(stack: Stack) -> Any:
    """Return the causal model of a stack for `generate`; it takes one more argument, see `_Rows`."""
    model = copy.copy(stack.members[0].get_base_model())
    model.forward = _Rows(stack)
    return model


def most_rows(stack: Stack) -> int:
    """Return the greatest number of rows in a batch."""
    each: int = sum(weight[0].numel() * weight.element_size() for weight in stack.weights.values())
    return max(1, BATCH_BYTES // max(1, each))


class _Rows:
    """The forward pass of a causal model whose rows have weights of their own, those of members of a stack."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._of = torch.empty(0, dtype=torch.long)
        self._weights: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}

    def __call__(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        of: Tensor,
        attention_mask: Tensor | None = None,
        logits_to_keep: int = 0,
        **others: Any,
    ) -> CausalLMOutputWithCrossAttentions:
        """Return the logits of the last tokens, and the cache with all of them.

        Args:
            input_ids: Shape (rows, tokens).
            position_ids: Shape (rows, tokens).
            of: Number of the member whose weights each row has, shape (rows,).
            attention_mask: 1 for real tokens, those in the cache first, shape (rows, tokens in all); None if all are real.
            logits_to_keep: Number of last tokens whose logits are returned; 0 for all.
            others: The cache, by its name in this release of transformers, and arguments equal for all rows.
        """
        chassis = self.stack.members[0]
        name = next(name for name in CACHE_ARGUMENTS if others.get(name) is not None)
        cache = others[name]
        if attention_mask is None:
            attention_mask = input_ids.new_ones(len(of), cache.get_seq_length() + input_ids.shape[1])
        mask = whole_mask(attention_mask, causal=True)[:, None, :, -input_ids.shape[1] :]

        def one(
            weights: dict[str, Tensor], factors: dict[str, Tensor], inputs: dict[str, Tensor], past: list[Tensor]
        ) -> tuple[Tensor, list[Tensor]]:
            own = _holding(cache, past)
            with scaled_by(chassis, factors), AutocastWithin(input_ids.device.type):
                found = functional_call(
                    chassis,
                    weights,
                    kwargs={**inputs, name: own, "use_cache": True, "logits_to_keep": logits_to_keep},
                ).logits
            return found, [states for layer in own.layers for states in (layer.keys, layer.values)]

        inputs = {"input_ids": input_ids[:, None], "attention_mask": mask, "position_ids": position_ids[:, None]}
        # `vmap` has no rule for the fused kernel of a CPU, and would call it for one row after another.
        with sdpa_kernel(SDPBackend.MATH) if input_ids.device.type == "cpu" else nullcontext():
            logits, states = vmap(one)(*self._weights_of(of), inputs, self._past(cache, len(of)))
        for layer, keys, values in zip(cache.layers, states[::2], states[1::2], strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(keys[:, 0], values[:, 0])
            layer.keys, layer.values = keys[:, 0], values[:, 0]
        return CausalLMOutputWithCrossAttentions(logits=logits[:, 0], **{name: cache})

    def _weights_of(self, of: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if not torch.equal(of, self._of.to(of.device)):
            factors = self.stack.factors_on(of.device)
            self._of = of
            self._weights = (
                {name: weight.detach()[of] for name, weight in self.stack.weights.items()},
                {name: factor[of] for name, factor in factors.items()},
            )
        return self._weights

    def _past(self, cache: Any, rows: int) -> list[Tensor]:
        """Return the keys and values of each layer so far, each of shape (rows, 1, heads, tokens, width of a head)."""
        if all(layer.is_initialized for layer in cache.layers):
            return [states[:, None] for layer in cache.layers for states in (layer.keys, layer.values)]
        config = self.stack.members[0].config
        heads = config.num_attention_heads
        weight = next(self.stack.members[0].parameters())
        dtype = (
            torch.get_autocast_dtype(weight.device.type)
            if torch.is_autocast_enabled(weight.device.type)
            else weight.dtype
        )
        none = torch.empty(rows, 1, heads, 0, config.hidden_size // heads, dtype=dtype, device=weight.device)
        return [none] * (2 * len(cache.layers))


def _holding(cache: Any, past: list[Tensor]) -> Any:
    own = copy.copy(cache)
    own.layers = [copy.copy(layer) for layer in cache.layers]
    for layer, keys, values in zip(own.layers, past[::2], past[1::2], strict=True):
        layer.keys, layer.values, layer.is_initialized = keys, values, True
    return own
