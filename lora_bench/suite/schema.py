"""A suite as people write it, key by key; its JSON Schema ships for editors.

Types are checked here, key by key. Names are looked up, and keys held against each other, by `lora_bench.suite.load`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from lora_bench.documents import Strict
from lora_bench.records.analysis import Analysis
from lora_bench.records.budget import PARAMETER_AXES, Budget, HeldEqual, ParameterAxis, Work
from lora_bench.records.spec import Attention, Decoding, KeepWeights, Masks, Parallelism, Precision, ScoreSplit
from lora_bench.suite.halving import Rung, rungs_of
from lora_bench.util.filenames import NAME as NAME
from lora_bench.util.filenames import Name
from lora_bench.util.hub import COMMIT

# What the harness itself decides; a suite that could change these would change what is measured, or lose it.
OWN_ARGUMENTS = {
    "output_dir", "max_steps", "num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size",
    "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "bf16", "fp16", "seed",
    "data_seed", "train_sampling_strategy", "remove_unused_columns", "label_names", "logging_steps",
    "logging_nan_inf_filter", "save_strategy", "eval_strategy", "report_to", "disable_tqdm", "use_cpu",
    "resume_from_checkpoint", "load_best_model_at_end", "full_determinism", "push_to_hub",
    "label_smoothing_factor", "dataloader_drop_last", "auto_find_batch_size", "logging_strategy", "logging_first_step",
    # Nothing of a run goes to the hub, and a token has no place in a suite or a record.
    "hub_token", "push_to_hub_token", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision",
    "push_to_hub_model_id", "push_to_hub_organization",
}  # fmt: skip


Schedule = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
]  # fmt: skip
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
AtLeastZero = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _listed(given: Any) -> Any:
    """A single value as a tuple of one."""
    values = given if isinstance(given, list) else [given]
    return tuple(values)


Names = Annotated[tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...])]
Rate = Annotated[float, Field(gt=0)]
Rates = Annotated[
    tuple[Rate, ...],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=Rate | tuple[Rate, ...]),
]


class Training(Strict):
    """The recipe that all methods share.

    Args:
        batch_size: Examples in one optimiser step.
        max_length: Tokens after which an input is cut.
        schedule: How the learning rate falls: one of transformers' schedules by name.
        warmup: Share of the work over which the learning rate rises from 0.
        warmup_steps: Steps over which it does, in place of `warmup`, where the work is a number of examples.
        weight_decay: AdamW's, on all but biases and norms.
        max_grad_norm: Gradients are scaled down to this norm; 0 for never.
        precision: "float32", or "bfloat16" by autocast.
        threads: CPU threads of each worker. Another number adds in another order, so it is part of a run's id.
        label_smoothing: Share of the target's probability that is spread over all labels, or over the vocabulary.
        base_dropout: Dropout everywhere in the base model; its checkpoint's own by default.
        head_dropout: Dropout before the classifier; its checkpoint's own by default.
        masks: Where dropout masks come from: "torch", or "keyed" by their places, which lets runs with dropout be packed.
        processes: Processes that share every batch, each with a device of its own; on a CPU with `threads` each.
        parallelism: What each of them holds: "ddp" for all weights, "fsdp" for a part of each, for a model that is too large.
    """

    batch_size: Positive = 16
    max_length: Positive = 128
    schedule: Schedule = "linear"
    warmup: Share = 0.1
    warmup_steps: int | None = Field(default=None, ge=0)
    weight_decay: AtLeastZero = 0.0
    max_grad_norm: AtLeastZero = 1.0
    precision: Precision = "float32"
    threads: Positive = 1
    label_smoothing: Share = 0.0
    base_dropout: Share | None = None
    head_dropout: Share | None = None
    masks: Masks = "torch"
    processes: Positive = 1
    parallelism: Parallelism = "ddp"


def _targets(given: Any) -> Any:
    """A single target as a tuple of one; none stays none."""
    return None if given is None else _listed(given)


Targets = Annotated[
    tuple[Positive, ...] | None,
    Field(min_length=1),
    BeforeValidator(_targets, json_schema_input_type=Positive | tuple[Positive, ...] | None),
]


class SuiteBudget(HeldEqual):
    """What all methods of a suite are held equal to, at one target for the number of parameters or at several in turn.

    Args:
        adapter_parameters: Trainable parameters without the head; of several numbers each is a target, at which every method
            is run. None takes every method as it is given.
        stored_parameters: Parameters that must be saved to restore the result on the public base model, head included, in
            place of `adapter_parameters`.

    The others are those of `HeldEqual` and `Work`.
    """

    adapter_parameters: Targets = None
    stored_parameters: Targets = None

    @property
    def parameter_targets(self) -> tuple[ParameterAxis, tuple[int, ...]] | None:
        """The axis of parameters that sizes are fitted to, and its targets; None where methods are taken as they are given."""
        amounts = ((axis, getattr(self, axis)) for axis in PARAMETER_AXES)
        return next(((axis, targets) for axis, targets in amounts if targets is not None), None)

    @model_validator(mode="after")
    def _one_axis_of_parameters(self) -> SuiteBudget:
        if sum(getattr(self, axis) is not None for axis in PARAMETER_AXES) > 1:
            raise ValueError(f"give at most one of {' and '.join(PARAMETER_AXES)}")
        return self

    def budgets(self, *, sized: bool) -> tuple[Budget, ...]:
        """The budgets that a method is run under, one after another.

        Args:
            sized: Whether it has a size to turn. One that has not does not depend on the target: of several targets it is run
                under none of them, and so once.
        """
        rest: dict[str, Any] = {name: getattr(self, name) for name in HeldEqual.model_fields}
        axis, targets = self.parameter_targets or (None, ())
        if axis is None or (len(targets) > 1 and not sized):
            return (Budget(**rest),)
        return tuple(Budget(**{**rest, axis: target}) for target in targets)


class Recipe(Work):
    """What the runs of some tasks, base models and methods do in another way than the suite says.

    Args:
        tasks: Names of tasks; all by default, as for the next two.
        models: Names of base models.
        methods: Labels of methods.
        learning_rate: One, or several to choose from.
        selection_every: Steps between scores on the way.
        decoding: How completions are written.
        start: Task whose trained weights a run of the same base model and method starts from.
        training_arguments: Added to the suite's own.

    The other keys are the amounts of work of a budget, of which one may be given, and those of `training`.
    """

    tasks: Names = ()
    models: Names = ()
    methods: Names = ()
    learning_rate: Rates | None = None
    selection_every: Positive | None = None
    decoding: Decoding | None = None
    start: str | None = None
    training_arguments: dict[str, JsonValue] = Field(default_factory=dict)
    batch_size: Positive | None = None
    max_length: Positive | None = None
    schedule: Schedule | None = None
    warmup: Share | None = None
    warmup_steps: int | None = Field(default=None, ge=0)
    weight_decay: AtLeastZero | None = None
    max_grad_norm: AtLeastZero | None = None
    precision: Precision | None = None
    label_smoothing: Share | None = None
    base_dropout: Share | None = None
    head_dropout: Share | None = None
    masks: Masks | None = None
    processes: Positive | None = None
    parallelism: Parallelism | None = None

    def holds(self, task: str, model: str, label: str) -> bool:
        """Whether it is for this cell."""
        pairs = ((self.tasks, task), (self.models, model), (self.methods, label))
        return all(not names or name in names for names, name in pairs)


class Tuning(Strict):
    """How learning rates are chosen: each of several is tried, and the best on the selection split is run.

    Args:
        seeds: Those of the trials, disjoint from the seeds that are reported.
        search_seed: Of the draws, where learning rates are given as a range.
        halving: Factor f of a successive halving: more learning rates are tried in short runs, and the best of every f go on to
            runs with f times the work, until the last have all of it. The sum is the work of `budget.trials` runs.
        rungs: How many such steps it has, the last included.
    """

    seeds: tuple[Seed, ...] = Field(min_length=1)
    search_seed: Seed = 0
    halving: int | None = Field(default=None, ge=2, le=10)
    rungs: int = Field(default=2, ge=2, le=5)


Shape = Annotated[tuple[Positive, Positive], Field(description="batch size and length")]


class Probe(Strict):
    """What the probes of a suite measure beside the step of training.

    Args:
        processes: Processes for each cell; three on a CPU and five on a GPU by default.
        attention: Kernel path of attention; the model's own choice by default.
        latency: Shapes of the forward passes that are timed, as pairs of batch size and length.
        wide_tokens: Tokens of a second step that is bound by arithmetic and not by Python; none by default.
        twin: Label of the method that is measured a second time unchanged, once on every model; the first by default.
        seconds: Seconds after which timing ends where its steps are not done before; 10 on a CPU and 20 on a GPU by default.
    """

    processes: Positive | None = None
    attention: Attention | None = None
    latency: tuple[Shape, ...] = ((1, 128), (16, 256), (32, 512))
    wide_tokens: Positive | None = None
    twin: str | None = None
    seconds: Rate | None = None


class ModelEntry(Strict):
    """A base model of a suite: its name, and what a name alone does not say.

    Args:
        model: A known model, a folder, or a name on the hub.
        revision: Commit, tag or branch on the hub.
        shown: What reports call it.
        trust_remote_code: Whether code that comes with it is run, for a model that transformers does not have; `revision` is
            then all 40 digits of a commit.
    """

    model: str
    revision: str | None = None
    shown: str | None = None
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _code_is_pinned(self) -> ModelEntry:
        if self.trust_remote_code and (self.revision is None or not COMMIT.fullmatch(self.revision)):
            given = "nothing" if self.revision is None else repr(self.revision)
            raise ValueError(f"trust_remote_code needs a revision of all 40 digits of a commit, got {given}")
        return self


class SuiteFile(Strict):
    """A suite as people write it.

    Args:
        suite: Its name.
        about: What it is for, in a sentence.
        tasks: Names of tasks, or tasks written out.
        models: Names of base models, or mappings with `model`.
        methods: Names of methods, or mappings with `method`, its options, and optionally `label`, `learning_rate`, and
            `tasks` and `models` where it is not for all.
        seeds: One run each.
        budget: What all methods are held equal to.
        training: The recipe that all methods share.
        training_arguments: Passed through to `transformers.TrainingArguments`, the same for all methods.
        score_on: The split that scores are of: "test", or "selection" for a search.
        selection_every: Steps between scores on the selection split.
        keep_weights: Which trained weights stay: "none", "last", or "best" on the selection split.
        protocol: The rules by which scores are made: "strict", "paper", or a mapping of one of them and what differs.
        recipes: What some tasks, base models and methods do in another way; of two, the later one holds.
        tuning: How a learning rate is chosen where several are given.
        decoding: How completions are written, for generation.
        data: Local folders by task, in the layout in which the data set circulates.
        probe: What `lora-bench probe` measures beside the suite's training step.
        analysis: How the scores are judged; every record carries it. By default against `full`, else `lora`.
    """

    suite: Name
    about: str = ""
    tasks: tuple[str | dict[str, JsonValue], ...] = Field(min_length=1)
    models: tuple[str | dict[str, JsonValue], ...] = Field(min_length=1)
    methods: tuple[str | dict[str, JsonValue], ...] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field(min_length=1)
    budget: SuiteBudget
    training: Training = Training()
    training_arguments: dict[str, JsonValue] = Field(default_factory=dict)
    score_on: ScoreSplit = "test"
    selection_every: int | None = Field(default=None, gt=0)
    keep_weights: KeepWeights = "none"
    protocol: str | dict[str, JsonValue] = "strict"
    recipes: tuple[Recipe, ...] = ()
    tuning: Tuning | None = None
    decoding: Decoding = Decoding()
    data: dict[str, str] = Field(default_factory=dict)
    probe: Probe | None = None
    analysis: Analysis | None = None

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """The rungs of its halving; none where every trial has all of the work.

        Raises:
            LoraBenchError: If the halving gives nothing.
        """
        if self.tuning is None or self.tuning.halving is None or self.budget.trials is None:
            return ()
        return rungs_of(self.budget.trials, self.tuning.halving, self.tuning.rungs)
