"""The run spec: one fully resolved cell of a suite, and the id derived from its content.

Everything that changes the answer is in the spec and in the hash: the data and the base model by content, the method with
its fitted size, the recipe, the seed, and the number of threads (another number adds floats in another order). Display names
are in the spec and not in the hash.

A record may describe a run that no suite planned: a user's own script, or another project's results. Unknown facts of such
a run are null in its `RunSpec`, and null never equals anything. A `PlannedSpec` has no unknown facts; the harness runs no
other.
"""

from typing import Literal

from pydantic import ConfigDict, Field, JsonValue
from pydantic.fields import FieldInfo

from lora_bench.documents import Strict
from lora_bench.metrics.support.lookup import SHARE
from lora_bench.records.budget import AXES, Axis
from lora_bench.records.protocol import STRICT, Protocol
from lora_bench.util.hashing import content_hash

ScoreSplit = Literal["test", "selection"]
Precision = Literal["float32", "bfloat16"]
Attention = Literal["eager", "sdpa", "flash_attention_2"]
Masks = Literal["torch", "keyed"]
Order = Literal["shuffled", "grouped"]
LastLayer = Literal["whole", "read_position"]
Parallelism = Literal["ddp", "fsdp"]
AnyPrecision = Literal["float32", "bfloat16", "float16"]
Draws = Literal["random", "even"]
KeepWeights = Literal["none", "best", "last"]

RUN_ID_LENGTH = 16
# Source of a run of which a table has the score, and nothing else is known.
SCORES_ALONE = "a table of scores"
# Keys of a task's definition that describe it and change no score; `data` enters the id by content.
SHOWN_ONLY = {"task", "about", "licence", "citation", "data", "local"}


class RecordPart(Strict):
    """A part of a record that a plan narrows to known facts: an instance of the narrower class is read as this one."""

    model_config = ConfigDict(revalidate_instances="subclass-instances")


class TaskSpec(RecordPart):
    """The task of a run.

    Args:
        name: Its name.
        definition: The task's YAML as plain data, with every default written out and paths as the user gave them.
        data_sha256: Hash of the data's content (or, for a hub data set, of its name and commit).
        labels: Class names in the order of their indexes; empty for regression.
        metric: Metric of its main score.
        higher_is_better: Whether a greater score is better.
    """

    name: str
    definition: dict[str, JsonValue] | None
    data_sha256: str | None
    labels: tuple[str, ...] | None
    metric: str | None
    higher_is_better: bool | None

    @property
    def shown_metric(self) -> str:
        """Name of the score for readers."""
        return "score" if self.metric is None else self.metric.removeprefix(SHARE)


class PlannedTask(TaskSpec):
    """The task of a run that a suite plans."""

    definition: dict[str, JsonValue]
    data_sha256: str
    labels: tuple[str, ...]
    metric: str
    higher_is_better: bool


class ModelSpec(RecordPart):
    """The base model of a run.

    Args:
        name: Its name in the suite.
        shown: Name for readers, such as "MiniLM-L6 in the RoBERTa class".
        sha256: Hash of its weights, configuration and tokenizer.
        revision: Commit on the hub, if it came from there.
        model_type: Model family in transformers, such as "roberta".
        family: "inferred" if the names of its parts were worked out from its structure; those that the suite gave; or None if
            lora_bench or an installed package names them.
    """

    name: str
    shown: str
    sha256: str | None
    revision: str | None
    model_type: str | None
    family: dict[str, JsonValue] | Literal["inferred"] | None = None


class PlannedModel(ModelSpec):
    """The base model of a run that a suite plans."""

    sha256: str
    model_type: str


class MethodSpec(Strict):
    """The method of a run.

    Args:
        name: Its name.
        label: Its label in the suite.
        size: Name of the option that a budget may fit, or None.
        options: All options, the size among them.
        chosen: Options that enter the id: the size, and those that differ from the method's defaults. So a new option of a
            method leaves the ids of all runs alone; a default never changes.
    """

    name: str
    label: str
    size: str | None
    options: dict[str, JsonValue]
    chosen: dict[str, JsonValue]


class Settings(RecordPart):
    """The settings that a suite gives and a spec keeps under one name; a field added here is in both.

    It needs a default that leaves runs and their ids as they were before the field existed.

    Args:
        batch_size: Examples per optimiser step, over all devices and accumulation steps.
        max_length: Tokens after which an input is truncated.
        schedule: Learning-rate schedule, by transformers' name.
        weight_decay: Weight decay of AdamW on all weights but biases and norms.
        max_grad_norm: Norm to which gradients are clipped; 0 turns clipping off.
        precision: "bfloat16" trains with autocast.
        label_smoothing: Share of the target's probability spread over all labels, or the vocabulary.
        base_dropout: Dropout inside the base model; the checkpoint's own by default.
        head_dropout: Dropout before the classifier; the checkpoint's own by default.
        masks: Source of dropout masks; "keyed" ones depend on position, so runs with dropout can share a pack.
        order: Order of the examples of an epoch. "grouped" makes batches of like lengths, with little padding: it shuffles the
            examples, sorts them by length inside windows of 50 batches, and shuffles all batches.
        last_layer: Positions that a classifier's last layer computes. "read_position" is the one that its head reads: the same
            answers up to rounding, in less time. Families and methods that it is not written for compute the whole layer.
        processes: Processes that share every batch, each with its own device, or with `threads` CPU threads.
        parallelism: "ddp" keeps all weights in every process; "fsdp" shards them, for models too large for one device.
        deterministic: Use only algorithms that repeat a result to the bit on a GPU, slower ones among them; a run that needs
            another fails. Results on a CPU repeat without it.
        head_learning_rate: Peak of the head's learning rate, on the same schedule; the method's own rate by default.
        class_weights: "balanced" weighs the loss of a row by the rarity of its class among the training rows, as scikit-learn
            does, for classification; all rows count alike by default.
        gradient_checkpointing: Keep the inputs of layers alone, and compute each layer anew in the backward pass: the same
            numbers to the bit, in less memory and more time. No part of the run id.
        base_precision: Type in which the base model is stored and multiplied. Weights that a method trains beside it, and the
            head, stay in float32; `full` trains the base itself in bfloat16, where an update below 1/512 of its weight is lost.
        sample_packing: Let the texts of a batch share rows, none longer than the longest text, with no attention between texts:
            the same loss up to rounding, with less padding. For generation and chat.
    """

    batch_size: int | None
    max_length: int | None
    schedule: str | None
    weight_decay: float | None
    max_grad_norm: float | None
    precision: AnyPrecision | None
    label_smoothing: float = 0.0
    base_dropout: float | None = None
    head_dropout: float | None = None
    masks: Masks = "torch"
    order: Order = "shuffled"
    last_layer: LastLayer = "whole"
    processes: int | None = 1
    parallelism: Parallelism | None = "ddp"
    deterministic: bool = False
    head_learning_rate: float | None = None
    class_weights: Literal["balanced"] | None = None
    gradient_checkpointing: bool = False
    base_precision: AnyPrecision = "float32"
    sample_packing: bool = False


class PlateauRule(Strict):
    """The rule that begins the decay of a run: warm-up, constant rate, decay.

    Args:
        rise: Least rise of the best score on the selection split that counts.
        patience: Scores without such a rise after which the decay begins.
        decay: Share of the run over which the rate falls to 0.
        first_patience: The patience with a run whose score has not yet risen above its first; null for the same.
    """

    rise: float
    patience: int
    decay: float
    first_patience: int | None = None

    def latest(self, steps: int) -> int:
        """Return the last step at which the decay of a run of at most so many steps may begin."""
        return int((1 - self.decay) * steps)


class TrainingSpec(Settings):
    """The recipe of a run: the source of `transformers.TrainingArguments`.

    Args:
        train_examples: Examples seen, counted again at each repeat; null if another amount of work stops the run.
        steps: Optimiser steps: `train_examples / batch_size`, rounded up.
        learning_rate: Peak of the learning rate.
        warmup_steps: Steps over which the learning rate rises from 0; null if `warmup` is given.
        threads: CPU threads of the process that trains.
        arguments: Arguments that the suite passes through to `TrainingArguments`, equal for all methods.
        train_tokens: Real tokens that stop the run: it ends with the step that reaches them.
        train_flops: FLOPs that stop the run.
        train_seconds: Seconds of training that stop the run.
        warmup: Share of the stopping amount over which the learning rate rises from 0.
        caps: Amounts of work that may end the run earlier, by axis.
        distinct_examples: Number of different training rows: the first of one permutation of the training split, the same for
            all methods. None for all rows.
        distinct_seed: Seed of that permutation, the same for all runs; null if each run draws its rows by its own seed.
        distinct_draw: "random", or "even" for as many rows of each class as there are.
        plateau: Rule that ends the run before `train_examples`, with `selection_every` as the spacing of its scores; None for
            a run that does all of them.

    The others are those of `Settings`.
    """

    train_examples: int | None
    steps: int | None
    learning_rate: float | None
    warmup_steps: int | None
    threads: int | None
    arguments: dict[str, JsonValue]
    train_tokens: int | None = None
    train_flops: float | None = None
    train_seconds: float | None = None
    warmup: float | None = None
    caps: dict[Axis, float] = Field(default_factory=dict)
    distinct_examples: int | None = None
    distinct_seed: int | None = 0
    distinct_draw: Draws = "random"
    plateau: PlateauRule | None = None

    @classmethod
    def later(cls) -> dict[str, JsonValue]:
        """Return the fields added after the first records, with their defaults; at a default a field leaves the id alone."""
        fields: dict[str, FieldInfo] = cls.model_fields
        return {
            name: field.get_default(call_default_factory=True)
            for name, field in fields.items()
            if not field.is_required()
        }


class PlannedTraining(TrainingSpec):
    """The recipe of a run that a suite plans.

    Its work is either `train_examples`, with `steps` and `warmup_steps`, or another amount, with `warmup`.
    """

    batch_size: int
    max_length: int
    learning_rate: float
    schedule: str
    weight_decay: float
    max_grad_norm: float
    precision: Precision
    threads: int
    processes: int = 1
    parallelism: Parallelism = "ddp"

    @property
    def target(self) -> tuple[Axis, float]:
        """The axis of work that stops the run, and its amount."""
        return next((axis, amount) for axis in AXES if (amount := getattr(self, axis)) is not None)

    @property
    def accumulation(self) -> int:
        """Number of parts into which a batch is split."""
        return int(self.arguments.get("gradient_accumulation_steps", 1))  # type: ignore[arg-type]  # a suite checks it

    def uses(self, axis: Axis) -> bool:
        """Return True if an axis of work stops the run or may end it earlier."""
        return axis == self.target[0] or axis in self.caps


class Decoding(Strict):
    """Decoding of completions by a causal model.

    Args:
        beams: Hypotheses kept side by side; 1 is greedy.
        length_penalty: Exponent p in (sum of log probabilities) / length**p, which ranks finished hypotheses.
        no_repeat_ngram: Length of n-grams that a completion never repeats, prompt not counted; 0 for no rule.
        max_new_tokens: Tokens after which a completion is truncated.
        sample: Draw tokens by (seed, example) in place of taking the likeliest.
        temperature: Divisor of the logits in sampling.
        top_p: Sampling keeps the likeliest tokens that together reach this probability.
        end: Texts that end a completion, besides the tokenizer's end-of-text token.
    """

    beams: int = Field(default=1, ge=1)
    length_penalty: float = 1.0
    no_repeat_ngram: int = Field(default=0, ge=0)
    max_new_tokens: int = Field(default=64, ge=1)
    sample: bool = False
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    end: tuple[str, ...] = ()


class Start(Strict):
    """The trained weights, without their head, that a run starts from: those of another run, or an adapter in a folder.

    Args:
        task: The task of that run, or of the run that the adapter stands in for.
        run_id: Its id, or None for an adapter.
        adapter_sha256: Hash of the adapter's files, or None for a run.
    """

    task: str
    run_id: str | None
    adapter_sha256: str | None = None

    @property
    def shown(self) -> str:
        """Return what it is, without the run, which is another one for each method and seed."""
        return self.task if self.adapter_sha256 is None else f"an adapter for {self.task}, sha256 {self.adapter_sha256}"


class Retention(Strict):
    """Data outside of the task on which a run is scored before and after training.

    Args:
        measure: "loss" of a causal model on a text, in nats a token; "spearman" of the cosines of an encoder's mean-pooled
            sentences with people's ratings, without a head.
        data_sha256: Hash of the data.
    """

    measure: Literal["loss", "spearman"]
    data_sha256: str


class RunSpec(RecordPart):
    """One fully resolved cell of a suite, or the known facts of a run that no suite planned.

    Args:
        task: The task.
        model: The base model.
        method: The method.
        training: The recipe.
        seed: Seed of data order, initial weights and dropout.
        protocol: Name of the rules that choose a checkpoint and count scores.
        score_on: Split of the scores.
        selection_every: Steps between evaluations on the selection split, or None for no such evaluation.
        keep_weights: Which trained weights stay after the run.
        series: The label of a repeat, which enters the id, the seeds and the folder.
        spec_version: Raised whenever the same spec would give another answer.
        rules: The protocol in full, or None if the rules of the scores are unknown.
        decoding: How completions are written, for generation only.
        start: The run it starts from, or None for the pretrained checkpoint.
        retention: Data for a score of what the base model could do before, or None.
        source: Program of a run that no suite planned, such as "own script". Its author vouches for everything beyond this
            spec.
        source_sha256: Hash of that program, or of the results it wrote; it tells runs of different programs apart.
    """

    task: TaskSpec
    model: ModelSpec
    method: MethodSpec
    training: TrainingSpec
    seed: int | None
    protocol: str | None = "strict"
    score_on: ScoreSplit | None = "test"
    selection_every: int | None = None
    keep_weights: KeepWeights | None = "none"
    series: str | None = None
    spec_version: int = 1
    rules: Protocol | None = STRICT
    decoding: Decoding | None = None
    start: Start | None = None
    retention: Retention | None = None
    source: str | None = None
    source_sha256: str | None = None

    @property
    def scores_alone(self) -> bool:
        """Whether nothing but the score of the run is known, so that a report says nothing of what else it might know."""
        return self.source == SCORES_ALONE

    @property
    def run_id(self) -> str:
        """First 16 hexadecimal digits of the hash of everything that changes the answer."""
        content = self.model_dump(mode="json")
        for part, fields in ((content, LATER), (content["training"], self.training.later())):
            for name, unset in fields.items():
                if part[name] == unset:
                    del part[name]
        content["training"].pop("gradient_checkpointing", None)
        if self.training.plateau is not None and self.training.plateau.first_patience is None:
            del content["training"]["plateau"]["first_patience"]
        if self.start is not None and self.start.adapter_sha256 is None:
            del content["start"]["adapter_sha256"]
        del content["method"]["options"], content["model"]["shown"]
        if self.model.family is None:
            del content["model"]["family"]
        if self.source is None:
            del content["method"]["label"], content["task"]["name"], content["model"]["name"]
        else:
            # Names are often all that distinguishes a run that no suite planned. Its main score, which may be chosen only
            # after the run, does not enter the id.
            del content["task"]["metric"], content["task"]["higher_is_better"], content["task"]["labels"]
        content["task"]["definition"] = without_shown(self.task.definition)
        return content_hash(content)[:RUN_ID_LENGTH]


class PlannedSpec(RunSpec):
    """One fully resolved cell of a suite."""

    task: PlannedTask
    model: PlannedModel
    training: PlannedTraining
    seed: int
    protocol: str = "strict"
    score_on: ScoreSplit = "test"
    keep_weights: KeepWeights = "none"
    rules: Protocol = STRICT


# Fields added after the first records, with the value that keeps the old behaviour: at it they leave the id alone.
LATER: dict[str, JsonValue] = {
    "rules": STRICT.model_dump(mode="json"),
    **dict.fromkeys(("decoding", "start", "retention", "source", "source_sha256")),
}


def without_shown(definition: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
    """Return a task's definition without the keys that change no score."""
    return definition and {key: value for key, value in definition.items() if key not in SHOWN_ONLY}
