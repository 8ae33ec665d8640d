"""The record: the JSON that a run writes, and the only source of a report.

A quantity that was not measured or is unknown is null, never zero. A status other than `ok` carries its reason, and such a
record is a row of every report like any other. Units are in the names.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from lora_bench.documents import Strict
from lora_bench.metrics import find
from lora_bench.records.analysis import Analysis
from lora_bench.records.budget import Axis, Budget, ParameterAxis
from lora_bench.records.spec import RecordPart, RunSpec
from lora_bench.util.filenames import FileName
from lora_bench.util.item_groups import PATTERN as ITEM_GROUPS
from lora_bench.util.redaction import without_secrets
from lora_bench.util.sealed_json import with_seal

SCHEMA = 1

Status = Literal["ok", "unsupported", "out_of_memory", "diverged", "timeout", "failed", "interrupted"]
# A record of ours never contains a password or a token, whatever text enters it.
Said = Annotated[str, AfterValidator(without_secrets)]
# Sums and squares of greater scores are infinite; a model with one has diverged.
MOST_SCORE = 1e100


class Parameters(RecordPart):
    """Numbers of weights; null if the source of a run does not tell them.

    Args:
        total: The base model with its head, before the method is applied.
        adapter: Weights that the method adds or trains, without the head.
        head: Every weight that the checkpoint does not contain.
        trained: Weights that the optimiser updates.
        stored: Weights that must be saved to restore the result on the public base model.
    """

    total: int | None
    adapter: int | None
    head: int | None
    trained: int | None
    stored: int | None

    def on(self, axis: ParameterAxis) -> int | None:
        """Return the count that a budget may hold equal on an axis."""
        found: int | None = getattr(self, axis.removesuffix("_parameters"))
        return found


class CountedParameters(Parameters):
    """Numbers of weights, counted on the model itself."""

    total: int
    adapter: int
    head: int
    trained: int
    stored: int

    def on(self, axis: ParameterAxis) -> int:
        """Return the count that a budget may hold equal on an axis."""
        found: int = getattr(self, axis.removesuffix("_parameters"))
        return found


class Memory(Strict):
    """Peak memory of each phase in bytes, of the first process if there are several, and the exact static part.

    Args:
        kind: "allocated" is memory handed out by the CUDA allocator, "reserved" memory it took from the device, "resident" the
            resident set of the process.
        exclusive: True if nothing else ran on the device or machine meanwhile; null if unknown.
        start_bytes: Before the base model was loaded. One that an earlier run of the process left in memory is not counted.
        load_bytes: Peak while the base model was loaded and adapted.
        first_step_bytes: Peak of the first step, in which the optimiser allocates its states.
        steady_bytes: Peak of the later steps.
        evaluation_bytes: Peak of evaluation.
        save_bytes: Peak of saving, if measured apart.
        weight_bytes: All weights of the adapted model, exactly.
        gradient_bytes: Gradients of the trained weights, exactly.
        optimizer_bytes: States of the optimiser, exactly.
    """

    kind: Literal["allocated", "reserved", "resident"]
    exclusive: bool | None
    start_bytes: int | None
    load_bytes: int | None
    first_step_bytes: int | None
    steady_bytes: int | None
    evaluation_bytes: int | None
    weight_bytes: int | None
    gradient_bytes: int | None
    optimizer_bytes: int | None
    save_bytes: int | None = None

    @property
    def train_peak_bytes(self) -> int | None:
        """Peak of training above the memory in use before the base model was loaded, or null."""
        peaks = [peak for peak in (self.first_step_bytes, self.steady_bytes) if peak is not None]
        if not peaks or self.start_bytes is None:
            return None
        # A process that gave back pages of earlier runs meanwhile ends below its start, which measures nothing.
        return grown if (grown := max(peaks) - self.start_bytes) > 0 else None


class Speed(Strict):
    """Speed of a run. Steps are timed after the warm-up; tokens are real ones, without padding.

    Args:
        exclusive: True if nothing else ran on the device or machine meanwhile; null if unknown.
        warmup_steps: Untimed steps.
        timed_steps: Timed steps.
        step_seconds_median: Median over the timed steps, None without any.
        step_seconds_p90: Their 90th percentile.
        examples_per_second: All timed examples over all timed seconds.
        real_tokens_per_second: All timed tokens over all timed seconds.
        train_real_tokens: Real tokens of all steps.
        train_seconds: From the first step to the last, all steps.
        evaluation_seconds: Scoring the split of the record's scores.
        load_seconds: Loading the base model and applying the method.
        train_steps: Optimiser steps done; null in records of runs that do all their steps or none.
        train_examples: Examples seen in them.
        train_flops: FLOPs of the matrix products of their forward and backward passes, if counted.
        score_seconds: Seconds of training at each point of the curve that has scores, in their order, those before a
            resumption included; null without such points, and in records from before this field.
    """

    exclusive: bool | None
    warmup_steps: int | None
    timed_steps: int | None
    step_seconds_median: float | None
    step_seconds_p90: float | None
    examples_per_second: float | None
    real_tokens_per_second: float | None
    train_real_tokens: int | None
    train_seconds: float | None
    evaluation_seconds: float | None
    load_seconds: float | None
    train_steps: int | None = None
    train_examples: int | None = None
    train_flops: int | None = None
    score_seconds: tuple[float, ...] | None = None

    @property
    def seconds(self) -> float:
        """Time of the run: loading, training and scoring, as far as they were measured."""
        return sum(part or 0.0 for part in (self.load_seconds, self.train_seconds, self.evaluation_seconds))


class Predictions(Strict):
    """File with the prediction for each scored example, beside the record and without any text of the data.

    Args:
        file: File name beside the record.
        sha256: Hash of that file.
        count: Number of examples.
        ids_sha256: Hash of the example ids in order, so that two runs can be paired.
        groups: Examples that are no independent ones, with equal texts or of one declared group: see
            `lora_bench.util.item_groups`. None where all stand alone, and in records from before this field.
    """

    file: str
    sha256: str
    count: int
    ids_sha256: str
    groups: str | None = Field(default=None, pattern=ITEM_GROUPS)


class Probabilities(Strict):
    """File with the probability of each class for each scored example, beside the predictions.

    Args:
        file: File name beside the record.
        sha256: Hash of that file.
    """

    file: str
    sha256: str


class Retained(Strict):
    """Score of what the base model could do before, with the adapter on: the measure of the spec's `retention`.

    Args:
        before: Of the base model; a loss is in nats a token.
        after: Of the trained model.
        count: Number of predicted tokens, or of pairs of sentences.
    """

    before: float
    after: float
    count: int


class Weights(Strict):
    """Trained weights of a run.

    Args:
        folder: Their folder beside the record, or None if they were not kept.
        stored_bytes: Size of their files.
        step: The step that they are from.
    """

    folder: str | None
    stored_bytes: int
    step: int


class CurvePoint(Strict):
    """One point of a learning curve.

    Args:
        step: Optimiser steps done.
        loss: Training loss since the point before, or None at an evaluation.
        scores: Scores on the selection split, or None without an evaluation.
    """

    step: int
    loss: float | None = None
    scores: dict[str, float] | None = None


class PlateauEnd(Strict):
    """The end of a run that was trained until a plateau.

    Args:
        by: "plateau", or "cap" if it reached none before the decay had to begin.
        decay_after: Last step at the constant rate.
        step: Last step.
    """

    by: Literal["plateau", "cap"]
    decay_after: int
    step: int


class WentOn(Strict):
    """The shorter trial that a trial of the next rung went on from.

    Args:
        run_id: Id of the shorter trial.
        step: Last step that both share.
        train_seconds: Seconds of the shared steps, in the `speed` of both records.
    """

    run_id: FileName
    step: int
    train_seconds: float


class DataSummary(Strict):
    """The data of a run in numbers.

    Args:
        examples: Number of examples of each split.
        truncated_share: Share of inputs that were longer than `max_length`, by split.
        majority_score: Score of always predicting the most frequent class of training, or the mean; None where texts are
            written.
        word_model_score: Score of tf-idf with logistic or ridge regression on the same training rows; None where there is none
            (`lora_bench.tasks.word_model`).
    """

    examples: dict[str, int]
    truncated_share: dict[str, float] | None
    majority_score: float | None
    word_model_score: float | None = None


class Environment(Strict):
    """Machine and packages of a run: enough to repeat it, without names of people, hosts or folders.

    Args:
        device: Name of the device that trained: the GPU, or "cpu".
        device_count: Number of such devices; 0 on a CPU.
        cpu: Model of the processor.
        cores: Processor cores that the process could use.
        memory_bytes: Memory of the machine.
        system: Operating system and architecture.
        python: Version of Python.
        packages: Versions of the packages that a result may depend on.
        driver: Version of the device's driver; null on a CPU, or if not recorded.
    """

    device: str | None
    device_count: int | None
    cpu: str | None
    cores: int | None
    memory_bytes: int | None
    system: str | None
    python: str | None
    packages: dict[str, str]
    driver: str | None = None


def _bounded(score: float) -> float:
    if abs(score) > MOST_SCORE:
        raise ValueError(f"{score:g} is beyond every score")
    return score


Score = Annotated[float, AfterValidator(_bounded)]


class Record(Strict):
    """The record of a run.

    Args:
        schema_version: Version of this layout.
        run_id: Its id: the hash of the spec.
        suite: Its suite, or the heading of its report.
        status: How it ended; only `ok` has scores.
        reason: Why its status is not `ok`.
        spec: Everything that changes the answer.
        budget: The suite's budget, or None for a run that no suite planned.
        analysis: The suite's rules for judging scores, declared before the run; None without any.
        parameters: Numbers of weights.
        memory: Peaks of memory, by phase.
        speed: Times and amounts of work.
        capped_by: Axis of work whose cap ended the run before its target; None if the target was reached, or the run ended
            earlier.
        scores: Scores on the split that the spec names, by metric.
        curve: Learning curve, oldest point first.
        data: The data in numbers.
        predictions: File of the predictions; None if there are none.
        weights: Trained weights; None if their size is unknown.
        warnings: What a reader of the scores must know.
        attempts: Number of times that it was begun, this one included.
        resumed: Whether it went on from a checkpoint, of an earlier attempt or a shorter trial.
        command: Command that makes the record again, or None if only the run's author knows it.
        started_at: Start, in UTC (ISO 8601).
        environment: Machine and packages.
        rung: Rung of a successive halving that a trial is of, from 1 on; None for all other runs.
        extended: Whether it is a trial of a learning rate beyond the range, added because the best was at the edge.
        packed_with: Ids of the runs in the same pack, over one frozen base; empty for a run by itself.
        probabilities: Probabilities behind the predictions, of classification; None if they were not kept.
        threshold: Probability above which a label is answered, of several labels a text; None for other kinds.
        plateau: End of a run that was trained until a plateau; None for other runs.
        retention: Score apart from the task, before and after; None if the suite does not ask for it, or a warning says why.
        went_on: Shorter trial that it went on from; None if it was trained from nothing.
    """

    model_config = ConfigDict(populate_by_name=True, json_schema_extra=with_seal)

    schema_version: int = Field(alias="schema", default=SCHEMA)
    run_id: FileName
    suite: str
    status: Status
    reason: Said | None = None
    spec: RunSpec
    budget: Budget | None
    analysis: Analysis | None = None
    parameters: Parameters | None = None
    memory: Memory | None = None
    speed: Speed | None = None
    capped_by: Axis | None = None
    scores: dict[str, Score] | None = None
    curve: tuple[CurvePoint, ...] = ()
    data: DataSummary | None = None
    predictions: Predictions | None = None
    weights: Weights | None = None
    warnings: tuple[Said, ...] = ()
    attempts: int = 1
    resumed: bool = False
    command: Said | None
    started_at: str | None = None
    environment: Environment | None = None
    rung: int | None = None
    extended: bool = False
    packed_with: tuple[FileName, ...] = ()
    probabilities: Probabilities | None = None
    retention: Retained | None = None
    threshold: float | None = None
    plateau: PlateauEnd | None = None
    went_on: WentOn | None = None

    @property
    def further_train_seconds(self) -> float | None:
        """Seconds of training without those that the record of a shorter trial has too; None if they are unknown."""
        if self.speed is None or self.speed.train_seconds is None:
            return None
        return self.speed.train_seconds - (self.went_on.train_seconds if self.went_on is not None else 0.0)

    @property
    def score(self) -> float | None:
        """Value of the task's metric, or None without a score."""
        metric = self.spec.task.metric
        return self.scores.get(metric) if self.scores is not None and metric is not None else None

    @property
    def judged_score(self) -> float | None:
        """The score that verdicts take: None unless the run ended `ok`.

        A constant answer has no correlation, and counts as none: means over the other seeds would hide that the run collapsed.
        """
        if self.status != "ok":
            return None
        metric = find(self.spec.task.metric)
        return metric.constant if self.score is None and metric is not None else self.score
