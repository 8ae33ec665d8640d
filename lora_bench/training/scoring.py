"""Score a trained model, and keep its answers beside the record."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lora_bench.errors import Diverged
from lora_bench.kinds.exercises import exercise_class
from lora_bench.kinds.exercises.base_exercise import Replies
from lora_bench.kinds.exercises.labelling import CHOSEN_ON
from lora_bench.metrics import kind_of
from lora_bench.records.layout import COMPLETIONS, PREDICTIONS, PROBABILITIES
from lora_bench.records.record import MOST_SCORE, Predictions, Probabilities
from lora_bench.records.spec import PlannedSpec
from lora_bench.records.store import write_atomic
from lora_bench.tasks import SPLITS, Split, Task, TaskData, split_scores
from lora_bench.tasks.task_scores import item_scores
from lora_bench.training.job import Job
from lora_bench.util.hashing import content_hash
from lora_bench.util.item_groups import groups_as_text

# Probabilities are kept to this many decimals, and only if there are at most so many: about 7 MB of text.
PROBABILITY_DECIMALS, MOST_PROBABILITIES = 4, 1_000_000


def scored_splits(spec: PlannedSpec, data: TaskData) -> list[str]:
    """Return the scored splits: first the one that names the scores, then those reported beside the test split."""
    beside = [name for name in data.splits if name not in SPLITS] if spec.score_on == "test" else []
    return [spec.score_on, *beside]


def answered_splits(task: Task, spec: PlannedSpec, data: TaskData) -> list[str]:
    """Return the splits that a trained model answers: those to score, and the one that chooses a threshold."""
    chosen_on = [CHOSEN_ON] if task.kind_of.takes_threshold and CHOSEN_ON in data.splits else []
    return list(dict.fromkeys([*scored_splits(spec, data), *chosen_on]))


def scores_of(task: Task, data: TaskData, answers: Mapping[str, Replies]) -> dict[str, float]:
    """Return the scores of a model from its answers to each split; the first split names them."""
    scores: dict[str, float] = {}
    for index, (name, given) in enumerate(answers.items()):
        prefix = f"{name}/" if index else ""
        scores.update(
            split_scores(task, data.splits[name], given.answers, prefix, given.likelihoods, _shares(task, given))
        )
    if any(abs(score) > MOST_SCORE for score in scores.values()):
        raise Diverged(f"a score is beyond {MOST_SCORE:g}")
    return scores


def _shares(task: Task, replies: Replies) -> list[list[float]]:
    """Return the probability of each class for each example, if a metric reads them."""
    if replies.logits is None or "probabilities" not in map(kind_of, task.all_metrics):
        return []
    shares: list[list[float]] = exercise_class(task.kind).probabilities(replies.logits.double()).tolist()
    return shares


def keep_answers(job: Job, split: Split, replies: Replies) -> Predictions:
    """Write the answers beside the record: numbers or labels and a hash of the ids without any text of the data, or texts.

    The record names the numbers that its main metric reads; texts may lie beside them.
    """
    ids_sha256 = content_hash(list(split.ids))
    answers, references = replies.answers, list[Any](split.labels)
    numbers = not job.task.writes
    # Of texts that are not kept, the scores are.
    of_items = item_scores(job.task, split, answers) if numbers else {}
    if kind_of(job.task.metric) == "likelihood":
        numbers = True
        answers, references = [one.nats for one in replies.likelihoods], [one.tokens for one in replies.likelihoods]
    found: dict[str, str] = {}
    if job.task.completes:
        content: dict[str, Any] = {"ids_sha256": ids_sha256, "completions": replies.answers}
        found[COMPLETIONS] = _write_beside(job, COMPLETIONS, content)
    if numbers:
        content = {"ids_sha256": ids_sha256, "predictions": answers, "references": references}
        content |= {"item_scores": of_items} if of_items else {}
        found[PREDICTIONS] = _write_beside(job, PREDICTIONS, content)
    file, sha256 = list(found.items())[-1]
    groups = groups_as_text(split.groups)
    return Predictions(file=file, sha256=sha256, count=len(split.ids), ids_sha256=ids_sha256, groups=groups)


def keep_probabilities(job: Job, replies: Replies) -> Probabilities | None:
    """Write the probability of each class for each example beside the record; None without any, or if they are too many.

    They are rounded, and have a file of their own: a pack moves logits by rounding, which may change a last digit here and
    changes no prediction.
    """
    if replies.logits is None or replies.logits.numel() > MOST_PROBABILITIES:
        return None
    rows = exercise_class(job.task.kind).probabilities(replies.logits.double()).tolist()
    rounded = [[round(share, PROBABILITY_DECIMALS) for share in row] for row in rows]
    return Probabilities(file=PROBABILITIES, sha256=_write_beside(job, PROBABILITIES, {"probabilities": rounded}))


def _write_beside(job: Job, file: str, content: Mapping[str, Any]) -> str:
    """Write a file beside the record; return its hash."""
    raw = (json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n").encode("utf-8")
    write_atomic(job.folder.path / file, raw)
    return hashlib.sha256(raw).hexdigest()
