"""Evaluate members of a pack together if they have the same questions, on the selection split and at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lora_bench.errors import typed_line
from lora_bench.families import family_of
from lora_bench.kinds.exercises.base_exercise import Pack, Replies
from lora_bench.kinds.exercises.predicting import EVALUATION_BATCH
from lora_bench.pack.generate import most_rows, writer
from lora_bench.pack.stack import Stack
from lora_bench.training.callbacks import Interrupted
from lora_bench.training.pipeline import Answered, Ready

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
    seeds = [ready.setup.seed for ready in group]
    pack = Pack(first.model, stack.logits, rows, lambda: writer(stack), lambda: most_rows(stack), seeds)
    return first.lessons.exercise.answers_of_each(pack, first.lessons.questions[split])
