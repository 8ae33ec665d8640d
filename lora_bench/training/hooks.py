"""The callbacks of a run, which end it, measure it, save it, and score it on the selection split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import TrainerCallback

from lora_bench.errors import UnsupportedPair
from lora_bench.kinds.exercises.base_exercise import Replies
from lora_bench.methods import Method, own_callbacks
from lora_bench.training.adapted_model import AdaptedModel
from lora_bench.training.attempt import NoteSteps
from lora_bench.training.best_weights import SelectionScores
from lora_bench.training.callbacks import FollowBudget, KeepCheckpoints, KeyedDropout, SeededDropout, WatchLoss
from lora_bench.training.checkpoint import Checkpoint
from lora_bench.training.job import Job
from lora_bench.training.lessons import Lessons
from lora_bench.training.measure.measure_callback import MeasureCallback
from lora_bench.training.plateau import UntilNoRise
from lora_bench.training.scoring import scores_of
from lora_bench.training.setup import Setup
from lora_bench.training.step_plan import Course


@dataclass(frozen=True)
class Hooks:
    """The callbacks of a run, *all* in the order of the Trainer's calls."""

    all: list[TrainerCallback]
    measure: MeasureCallback
    follow: FollowBudget
    keep: KeepCheckpoints
    selection: SelectionScores | None


def keeps_best(job: Job) -> bool:
    """Return True if the best weights of a run are scored, and not the last ones."""
    return job.spec.keep_weights == "best" or job.spec.rules.checkpoint == "best"


def hooks_of(
    setup: Setup, adapted: AdaptedModel, lessons: Lessons, measure: MeasureCallback, checkpoint: Checkpoint | None
) -> Hooks:
    """Make the callbacks of a run; *measure* has run since before the model was loaded.

    Raises:
        UnsupportedPair: If its method cannot work under its budget.
    """
    job, facts, rank = setup.job, setup.facts, setup.rank
    course, masks = lessons.course, adapted.masks
    rule = UntilNoRise(job.spec, facts.curve) if job.spec.training.plateau is not None else None
    follow = FollowBudget(course, measure.seconds_so_far, rule)
    watch = WatchLoss(follow, facts.curve, setup.notify)
    selection = None
    if job.spec.selection_every is not None and (rank is None or rank.first or rank.shards):
        selection = _selection(setup, lessons, measure)
    keep = KeepCheckpoints(
        job.folder.checkpoints, watch, measure, selection, checkpoint, rank, lambda: facts.packed_with
    )
    dropout = (
        KeyedDropout(masks) if masks is not None else SeededDropout(setup.seed, rank.number if rank is not None else 0)
    )
    callbacks: list[TrainerCallback] = [NoteSteps(facts), dropout, follow, keep, measure, watch]
    callbacks += _own_callbacks(setup.method, course if rule is None else None)
    callbacks += [selection] if selection is not None and not setup.packed else []
    return Hooks(callbacks, measure, follow, keep, selection)


def _selection(setup: Setup, lessons: Lessons, measure: MeasureCallback) -> SelectionScores:
    job, facts, rank = setup.job, setup.facts, setup.rank
    spec = job.spec
    assert spec.selection_every is not None, "asked for before"

    def score(adapted: nn.Module, answers: Replies | None) -> dict[str, float]:
        chosen_on = spec.rules.choose_on
        with facts.within("the evaluation on the selection split"):
            if answers is None:
                answers = lessons.exercise.answers(adapted, lessons.questions[chosen_on])
            at_threshold, _ = lessons.exercise.decided(job.task, lessons.data, {chosen_on: answers})
            return scores_of(job.task, lessons.data, at_threshold)

    return SelectionScores(
        every=spec.selection_every,
        score=score,
        metric=spec.task.metric,
        higher_is_better=spec.task.higher_is_better,
        curve=facts.curve,
        keep_best=keeps_best(job),
        measure=measure,
        rank=rank if rank is not None and rank.shards else None,
    )


def _own_callbacks(method: Method, course: Course | None) -> list[Any]:
    """Return the callbacks of a method; refuse one that needs the number of steps if a clock ends the run.

    Without a course a plateau does.
    """
    found = own_callbacks(method)
    if (course is None or course.steps is None) and any(getattr(one, "needs_steps", False) for one in found):
        under = "until a plateau" if course is None else "under a budget of train_seconds"
        raise UnsupportedPair(f"its schedule needs the number of steps, which is unknown {under}")
    return found
