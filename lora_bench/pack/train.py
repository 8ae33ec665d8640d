"""Train runs as a pack: each has the callbacks, checkpoints and record of a single run, and ends like one."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from transformers import Trainer

from lora_bench.errors import typed_line
from lora_bench.kinds.exercises import exercise_class
from lora_bench.kinds.exercises.predicting import autocast, quiet
from lora_bench.models.shared_copy import own_trained, share_frozen
from lora_bench.pack.evaluate import Say, answers_together, chosen_together, stack_of
from lora_bench.pack.optimiser import StackedAdamW
from lora_bench.pack.stack import Stack
from lora_bench.records.outcomes import is_out_of_memory
from lora_bench.records.record import Record
from lora_bench.records.run_lock import Elsewhere, RunLock
from lora_bench.training.attempt import Apart, Facts, ended
from lora_bench.training.callbacks import Interrupted, stop_requested
from lora_bench.training.checkpoint import load_trained
from lora_bench.training.job import Event, Job, Note, Word, telling_of
from lora_bench.training.keyed_dropout import key_of
from lora_bench.training.measure.counters import return_freed_memory
from lora_bench.training.prepare import Ready, device_of_runs, prepare
from lora_bench.training.run import Answered, lock_run, publish, run_job, score
from lora_bench.training.trainer import products_of
from lora_bench.util.heartbeat import heard


class Member:
    """One run of a pack: its Trainer's schedule, callbacks and state are used, its loop is not."""

    def __init__(self, ready: Ready, trainer: Trainer, lock: RunLock) -> None:
        self.ready = ready
        self.trainer = trainer
        self.lock = lock
        # Resources to release when the run is done.
        self.held = ExitStack()
        self._logged = 0
        steps = trainer.args.max_steps
        ready.model.to(device_of_runs()).train()
        trainer.create_optimizer_and_scheduler(steps)
        assert isinstance(trainer.optimizer, AdamW)
        self.optimizer: AdamW = trainer.optimizer
        trainer.state.max_steps, trainer.state.logging_steps = steps, 1
        handler = trainer.callback_handler
        handler.optimizer, handler.lr_scheduler = trainer.optimizer, trainer.lr_scheduler
        self._tell("on_train_begin")

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.trainer.state.global_step)

    def begin(self) -> None:
        """Begin a step."""
        self._tell("on_step_begin")

    def batch(self) -> dict[str, Any]:
        """Return the batch of the step."""
        self.ready.model.train()
        lessons = self.ready.lessons
        return dict(lessons.exercise.collate([dict(one) for one in lessons.course.batch(self.step)]))

    def end(self) -> None:
        """End a step."""
        trainer = self.trainer
        assert trainer.lr_scheduler is not None
        trainer.lr_scheduler.step()
        trainer.state.global_step += 1
        self._tell("on_step_end")

    @property
    def is_chosen(self) -> bool:
        """Return True if its weights are scored on the selection split after the step."""
        selection = self.ready.hooks.selection
        return selection is not None and selection.is_due(self.step, last=self.is_done)

    def note(self, loss: float, answered: Answered | None) -> None:
        """Record the loss of the step, and the answers to the selection split, if known."""
        selection = self.ready.hooks.selection
        if selection is not None and self.is_chosen:
            split = self.ready.job.spec.rules.choose_on
            answers = answered.answers[split] if answered is not None else None
            selection.take(self.step, self.ready.model, answers)
        # The Trainer divides logged losses by the steps since its last log, and a resumed run has no last log.
        self._tell("on_log", {"loss": loss / (self.step - self._logged)})
        self._logged = self.step
        if self.is_done:
            self._tell("on_train_end")

    @property
    def is_done(self) -> bool:
        """Return True if that was the last step."""
        return bool(self.trainer.control.should_training_stop)

    def leave(self) -> None:
        """Copy this member's weights out of the stacked tensors."""
        own_trained(self.ready.model)

    def _tell(self, what: str, *more: Any) -> None:
        trainer = self.trainer
        trainer.control = getattr(trainer.callback_handler, what)(trainer.args, trainer.state, trainer.control, *more)


def take_together(jobs: Sequence[Job], tell: Callable[[Word], None]) -> Iterator[Record | Elsewhere]:
    """Do the runs of a unit as a pack, and yield the result of each as soon as it is known.

    After a stop request, runs that have not begun yield nothing. If the memory runs out, half as many are tried at once, from
    their checkpoints. When a run ends, the next takes its slot. *tell* gets each step of each run, step 0 each time that it
    begins, and sentences on the pack. Raise Apart if a failure belongs to no single member, and no smaller pack is left to try.
    """

    def say(text: str) -> None:
        tell(Note(jobs[0].run_id, text))

    waiting, most = deque(jobs), jobs[0].at_once or len(jobs)
    while True:
        at_work: dict[str, Job] = {}
        try:
            yield from _taken(waiting, most, at_work, tell, say)
            return
        except Apart as error:
            cause, most = error.__cause__, len(at_work) // 2
            if most < 2 or cause is None or not is_out_of_memory(cause):
                raise
            say(f"a pack of {len(at_work)} runs lacks memory; {most} go on at once: {error}")
            del error, cause  # their frames hold the tensors of the pack
        waiting.extendleft(reversed(at_work.values()))
        return_freed_memory()


def _taken(
    waiting: deque[Job], most: int, at_work: dict[str, Job], tell: Callable[[Word], None], say: Say
) -> Iterator[Record | Elsewhere]:
    """Do waiting runs, at most so many at once, and yield the result of each; *at_work* has those without a result yet."""
    members: list[Member] = []
    # Members come and go in any order, and each Trainer restores the log levels of libraries from when it came.
    with quiet(), products_of(waiting[0].spec.training), ExitStack() as stack:

        def admitted() -> Iterator[Record | Elsewhere]:
            while waiting and len(members) < most and not stop_requested():
                job = waiting.popleft()
                at_work[job.run_id] = job
                with ExitStack() as own:
                    begins = _begin(job, own, members[0].ready.model if members else None, tell)
                    if isinstance(begins, Member):
                        members.append(begins)
                        begins.held = stack.enter_context(own.pop_all())
                if not isinstance(begins, Member):
                    del at_work[job.run_id]
                    yield begins

        yield from admitted()
        for left in steps_together(members, say):
            answered = _scored_together([member.ready for member, reason in left if reason is None], say)
            for member, reason in left:
                with member.held:
                    end = _end(member, reason, answered.get(member.ready.job.run_id))
                del at_work[member.ready.job.run_id]
                yield end
            yield from admitted()


def _begin(
    job: Job, held: ExitStack, beside: nn.Module | None, tell: Callable[[Word], None]
) -> Member | Record | Elsewhere:
    """Prepare a run beside a model that already runs, or return its result if it takes no step; *held* gets its resources."""
    lock = lock_run(job)
    if not isinstance(lock, RunLock):
        return lock
    held.enter_context(lock)
    tell(Event(job.run_id, 0, job.steps))
    facts, notify = Facts(in_company=True), telling_of(job.run_id, tell)
    try:
        ready = prepare(job, facts, notify, packed=True)
        trained = ready.is_trained()
        by_itself = not trained and ready.has_rows_of_nothing
        if not trained and not by_itself:
            if beside is not None:
                share_frozen(ready.model, beside)  # before the Trainer exists, which moves a whole model to the device
            return Member(ready, held.enter_context(ready.trainer()), lock)
        record = score(ready) if trained else None
    except Exception as error:
        record = ended(job, facts, error)
    if record is not None:
        return publish(job, lock, facts, record)
    # In a pack a row without tokens attends to itself, in a single run to nothing. So this run is done alone.
    held.close()
    return run_job(replace(job, exclusive=False), notify, in_company=True)


def _end(member: Member, reason: Exception | None, answered: Answered | None) -> Record | Elsewhere:
    """Score and publish a member that has left the pack, by its budget or with an error, its *reason*."""
    ready = member.ready
    try:
        if reason is not None:
            raise reason
        record = score(ready, answered)
    except Exception as error:
        record = ended(ready.job, ready.facts, error)
    return publish(ready.job, member.lock, ready.facts, record)


def steps_together(
    members: list[Member], say: Say = lambda text: None
) -> Iterator[list[tuple[Member, Exception | None]]]:
    """Take the steps of all members; yield those that leave, with the error that ended each, or None for its budget.

    Those that leave are removed from *members*; those added meanwhile take part from the next step on. Raise Apart if a joint
    step fails.
    """
    stack: Stack | None = None
    while members:
        left: list[tuple[Member, Exception | None]] = []
        going = [member for member in members if _own(member, member.begin, left)]
        if going:
            try:
                if stack is None or stack.members != [member.ready.model for member in going]:
                    stack = stack_of([member.ready for member in going])
                    optimiser = StackedAdamW(stack, [member.optimizer for member in going])
                    _introduce(going)
                losses = _step(going, stack, optimiser)
            except Exception as error:
                raise Apart(typed_line(error)) from error
            ended = [
                (index, member, loss)
                for index, (member, loss) in enumerate(zip(going, losses, strict=True))
                if _own(member, member.end, left)
            ]
            due = {index: member.ready for index, member, _ in ended if member.is_chosen}
            answered = chosen_together(due, stack, say)
            for _, member, loss in ended:
                note = partial(member.note, loss, answered.get(member.ready.job.run_id))
                if _own(member, note, left) and member.is_done:
                    left.append((member, None))
        for member, _ in left:
            members.remove(member)
            try:
                member.leave()
            except Exception as error:
                raise Apart(typed_line(error)) from error
        if left:
            yield left


def _own(member: Member, do: Callable[[], None], left: list[tuple[Member, Exception | None]]) -> bool:
    """Call *do* for one member; if it fails, the member leaves without disturbing the others."""
    try:
        do()
    except Exception as error:
        left.append((member, error))
        return False
    return True


def _introduce(members: Sequence[Member]) -> None:
    ids = {member.ready.job.run_id for member in members}
    for member in members:
        facts = member.ready.facts
        facts.packed_with = tuple(sorted({*facts.packed_with, *ids} - {member.ready.job.run_id}))


def _step(members: Sequence[Member], stack: Stack, optimiser: StackedAdamW) -> list[float]:
    first = members[0].ready.job
    recipe = first.spec.training
    keys = None
    if recipe.masks == "keyed":
        own = [key_of(member.ready.seed, member.step) for member in members]
        keys = torch.tensor(own, dtype=torch.int32).to(device_of_runs(), non_blocking=True)
    with autocast(members[0].ready.model, first.spec):
        losses, _, _ = stack(
            [member.batch() for member in members],
            keys,
            exercise_class(first.task.kind).loss(recipe.label_smoothing),
        )
    losses.sum().backward()
    optimiser.step([member.ready.job.spec.training.max_grad_norm for member in members])
    return list(losses.detach().tolist())


def _scored_together(trained: Sequence[Ready], say: Say) -> dict[str, Answered]:
    """Return the answers of trained members to the scored splits, by run id; empty after a stop request."""
    try:
        for ready in trained:
            if ready.best is not None:
                load_trained(ready.model, ready.best.weights)
        # Each is then evaluated alone, and writes a checkpoint before it answers anything.
        with heard(_end_on_stop):
            found = answers_together(trained, lambda ready: ready.answered, stack_of, say)
        for ready in trained:
            own_trained(ready.model)
    except Exception as error:
        raise Apart(typed_line(error)) from error
    return found


def _end_on_stop() -> None:
    if stop_requested():
        raise Interrupted(f"stopped by {stop_requested()}")
