"""The schema of a suite file: the type of each key. `lora_bench.suite.load_suite` checks keys against each other."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from lora_bench.documents import Strict
from lora_bench.families import Family
from lora_bench.records import spec
from lora_bench.records.analysis import AnalysisSettings, UntilDecided
from lora_bench.records.budget import PARAMETER_AXES, Budget, HeldEqual, ParameterAxis, Work
from lora_bench.stats.rates import Search
from lora_bench.suite.halving import Rung, rungs_of
from lora_bench.util.filenames import NAME as NAME
from lora_bench.util.filenames import Name
from lora_bench.util.hub import COMMIT

# Arguments that the harness itself sets; a suite that changed these would change the measurement, or lose it.
OWN_ARGUMENTS = {
    "output_dir", "max_steps", "num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size",
    "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "bf16", "fp16", "seed",
    "data_seed", "train_sampling_strategy", "remove_unused_columns", "label_names", "logging_steps",
    "logging_nan_inf_filter", "save_strategy", "eval_strategy", "report_to", "disable_tqdm", "use_cpu",
    "resume_from_checkpoint", "load_best_model_at_end", "full_determinism", "push_to_hub",
    "label_smoothing_factor", "dataloader_drop_last", "auto_find_batch_size", "logging_strategy", "logging_first_step",
    # A run sends nothing to the hub, and a token has no place in a suite or a record.
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


def _listed(value: Any) -> Any:
    values = value if isinstance(value, list) else [value]
    return tuple(values)


def _seed_list(first: int) -> Any:
    """Return a validator that answers a single number with the two lists that it could mean, the longer one from *first*."""

    def check(seeds: Any) -> Any:
        if not isinstance(seeds, int) or isinstance(seeds, bool):
            return tuple(seeds) if isinstance(seeds, list) else seeds
        several = f", and for {seeds} seeds {list(range(first, first + seeds))}" if 2 <= seeds <= 20 else ""
        raise ValueError(f"must be a list: for the seed {seeds} write [{seeds}]{several}")

    return BeforeValidator(check)


Names = Annotated[tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...])]
Rate = Annotated[float, Field(gt=0)]
Rates = Annotated[
    tuple[Rate, ...],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=Rate | tuple[Rate, ...]),
]


class SuiteSettings(spec.Settings):
    """The settings of a suite, with bounds and defaults.

    Args:
        warmup: Share of the work during which the learning rate rises from 0.
        warmup_steps: Warmup in steps, in place of `warmup`, for work in `train_examples` or `epochs`.
    """

    batch_size: Positive = 16
    max_length: Positive = 128
    schedule: Schedule = "linear"
    warmup: Share = 0.1
    warmup_steps: int | None = Field(default=None, ge=0)
    weight_decay: AtLeastZero = 0.0
    max_grad_norm: AtLeastZero = 1.0
    precision: spec.Precision = "float32"
    label_smoothing: Share = 0.0
    base_dropout: Share | None = None
    head_dropout: Share | None = None
    processes: Positive = 1
    parallelism: spec.Parallelism = "ddp"
    head_learning_rate: Rate | None = None


class Training(SuiteSettings):
    """The recipe shared by all methods.

    Args:
        threads: CPU threads per worker. Part of the run id: another number adds floats in another order.
    """

    threads: Positive = 1


def _targets(value: Any) -> Any:
    return None if value is None else _listed(value)


Targets = Annotated[
    tuple[Positive, ...] | None,
    Field(min_length=1),
    BeforeValidator(_targets, json_schema_input_type=Positive | tuple[Positive, ...] | None),
]


class SuiteBudget(HeldEqual):
    """The budget of a suite: one or several parameter targets, and what `HeldEqual` and `Work` hold.

    Args:
        adapter_parameters: Trainable parameters without the head; every method runs at each of several. By default methods
            keep the sizes given.
        stored_parameters: Parameters that must be saved beside the public base model, with the head; in place of
            `adapter_parameters`.
    """

    adapter_parameters: Targets = None
    stored_parameters: Targets = None

    @property
    def parameter_targets(self) -> tuple[ParameterAxis, tuple[int, ...]] | None:
        """The parameter axis that sizes are fitted to, with its targets; None if methods keep the sizes given."""
        amounts = ((axis, getattr(self, axis)) for axis in PARAMETER_AXES)
        return next(((axis, targets) for axis, targets in amounts if targets is not None), None)

    @model_validator(mode="after")
    def _one_axis_of_parameters(self) -> Self:
        if sum(getattr(self, axis) is not None for axis in PARAMETER_AXES) > 1:
            raise ValueError(f"give at most one of {' and '.join(PARAMETER_AXES)}")
        return self

    def budgets(self, *, sized: bool) -> tuple[Budget, ...]:
        """Return the budgets that a method runs under; one without size runs once, under none of several targets."""
        rest: dict[str, Any] = {**{name: getattr(self, name) for name in HeldEqual.model_fields}, **self.amounts}
        axis, targets = self.parameter_targets or (None, ())
        if axis is None or (len(targets) > 1 and not sized):
            return (Budget(**rest),)
        return tuple(Budget(**{**rest, axis: target}) for target in targets)


def without_defaults(schema: dict[str, Any]) -> None:
    """Leave the defaults out of a schema whose keys change something only where they are given."""
    for key in schema["properties"].values():
        key.pop("default", None)


class Recipe(Work, SuiteSettings):
    """Settings for the runs of some tasks, base models and methods, in place of the suite's.

    The other keys are those of `SuiteSettings`, and one amount of `Work` at most. A key that is left out changes nothing,
    whatever its default: only `model_fields_set` counts.

    Args:
        tasks: Names (labels of methods) that the recipe covers; all by default.
        models: Names (labels of methods) that the recipe covers; all by default.
        methods: Names (labels of methods) that the recipe covers; all by default.
        learning_rate: Learning rate, or several to choose from.
        selection_every: Steps between scores on the selection split.
        decoding: Decoding of completions.
        start: Task whose trained weights runs of the same base model and method start from.
        training_arguments: Arguments added to the suite's.
    """

    model_config = ConfigDict(json_schema_extra=without_defaults)

    tasks: Names = ()
    models: Names = ()
    methods: Names = ()
    learning_rate: Rates | None = None
    selection_every: Positive | None = None
    decoding: spec.Decoding | None = None
    start: str | None = None
    training_arguments: dict[str, JsonValue] = Field(default_factory=dict)

    def holds(self, task: str, model: str, label: str) -> bool:
        """Return True if the recipe covers this task, base model and label of a method."""
        pairs = ((self.tasks, task), (self.models, model), (self.methods, label))
        return all(not names or name in names for names, name in pairs)


class Tuning(Strict):
    """The search for a learning rate: each candidate is tried, and the best on the selection split runs.

    Args:
        seeds: Seeds of the trials, none of them among the suite's seeds. The mean over them chooses.
        search: Rates tried with all of these seeds: "all_seeds" tries every rate with them; "halve_seeds" tries every rate with
            the first seed and the better half with the others, leaves out rates of which a trial learned nothing, and prefers a
            smaller rate within a standard error where a larger one learned nothing.
        extend: If the best rate is the smallest or the largest, try once one more beyond it; by default so, but not after a
            halving.
        halving: Factor f of successive halving: more rates start in short runs, and the best of every f continue with f times
            the work, up to all of it. Total: the work of `budget.trials` runs.
        rungs: Number of such steps, with the last.
    """

    seeds: Annotated[Annotated[tuple[Seed, ...], Field(min_length=1)], _seed_list(100)] = (100, 101)
    search: Search = "all_seeds"
    extend: bool | None = None
    halving: int | None = Field(default=None, ge=2, le=10)
    rungs: int = Field(default=2, ge=2, le=5)

    @property
    def extends(self) -> bool:
        """True if a best rate at the edge brings one more."""
        return self.halving is None if self.extend is None else self.extend


Shape = Annotated[tuple[Positive, Positive], Field(description="batch size and length")]


class Probe(Strict):
    """Measurements of a probe beside the training step.

    Args:
        processes: Processes for each cell; by default 3 on a CPU and 5 on a GPU.
        attention: Attention kernel; the model's own choice by default.
        latency: Batch size and length of each timed forward pass.
        wide_tokens: Tokens of a second step, bound by arithmetic rather than Python; none by default.
        twin: Label of the method measured twice unchanged, once on every model; the first by default.
        seconds: Time limit of the timing; by default 10 on a CPU and 20 on a GPU.
    """

    processes: Positive | None = None
    attention: spec.Attention | None = None
    latency: tuple[Shape, ...] = ((1, 128), (16, 256), (32, 512))
    wide_tokens: Positive | None = None
    twin: str | None = None
    seconds: Rate | None = None


class RetentionText(Strict):
    """A text of one's own for `retention`.

    Args:
        text: File in UTF-8, relative to the suite, with a paragraph a line.
    """

    text: str


class ModelEntry(Strict):
    """A base model of a suite.

    Args:
        model: Known model, folder, or name on the hub.
        revision: Commit, tag or branch on the hub.
        shown: Name in reports.
        trust_remote_code: Run code that comes with the model, if transformers lacks it; `revision` must be a commit of 40
            digits.
        family: Names of its parts, for a type that no family names; `lora-bench list family MODEL` prints what is found.
    """

    model: str
    revision: str | None = None
    shown: str | None = None
    trust_remote_code: bool = False
    family: Family | None = None

    @model_validator(mode="after")
    def _code_is_pinned(self) -> Self:
        if self.trust_remote_code and (self.revision is None or not COMMIT.fullmatch(self.revision)):
            revision = "nothing" if self.revision is None else repr(self.revision)
            raise ValueError(f"trust_remote_code needs a revision of all 40 digits of a commit, got {revision}")
        return self


class SuiteFile(Strict):
    """A suite file.

    Args:
        suite: Name of the suite.
        about: Purpose, in a sentence.
        tasks: Tasks, by name or written out; `{task: NAME, like: rte, split: …}` has the other keys of a known one, and
            `by: COLUMN` makes a task for each value of the column.
        models: Base models, by name or with details.
        methods: Methods, by name or with options.
        seeds: One run for each seed; or `{until: decided, at_least: 4, at_most: 20}`, which adds the seeds 0, 1, … until every
            comparison with the reference is decided; with `minutes: 30` too, also until further ones would take longer.
        budget: Quantities held equal for all methods.
        training: Recipe shared by all methods.
        training_arguments: Arguments for `transformers.TrainingArguments`, the same for all methods.
        score_on: Split that is scored; "selection" for a search.
        distinct_examples: Number of different training rows, or several to compare; all rows by default. All methods get the
            same ones, and fewer are a part of more. An epoch has so many.
        distinct_seed: Seed of the draw of these rows; "run" draws others for each seed, by itself.
        distinct_draw: "even" draws as many rows of each class, as long as there are.
        selection_every: Steps between scores on the selection split.
        keep_weights: Trained weights to keep; "best" is by the selection split.
        protocol: Rules by which a run becomes a score.
        recipes: Settings for some tasks, base models and methods; a later recipe overrides an earlier one.
        tuning: Search for a learning rate, if several are given.
        decoding: Decoding of completions, for generation.
        retention: Also score, before and after training, what the base model could do before: causal models by their loss on a
            text (one comes with lora_bench), encoders by the correlation on STS-B without a head (its data is that of the task
            `stsb`: from the hub, `data: {stsb: FOLDER}` or `--data-dir`).
        data: Local folder of each task, in its published layout.
        probe: Measurements of `lora-bench probe` beside the training step.
        analysis: Comparison of scores, kept in every record. Default reference: `full`, else `lora`.
    """

    suite: Name
    about: str = ""
    tasks: tuple[str | dict[str, JsonValue], ...] = Field(min_length=1)
    models: tuple[str | dict[str, JsonValue], ...] = Field(min_length=1)
    methods: tuple[str | dict[str, JsonValue], ...] = Field(min_length=1)
    seeds: Annotated[Annotated[tuple[Seed, ...], Field(min_length=1)] | UntilDecided, _seed_list(0)]
    budget: SuiteBudget
    training: Training = Training()
    training_arguments: dict[str, JsonValue] = Field(default_factory=dict)
    score_on: spec.ScoreSplit = "test"
    distinct_examples: Targets = None
    distinct_seed: Seed | Literal["run"] = 0
    distinct_draw: spec.Draws = "random"
    selection_every: int | None = Field(default=None, gt=0)
    keep_weights: spec.KeepWeights = "none"
    protocol: str | dict[str, JsonValue] = "strict"
    recipes: tuple[Recipe, ...] = ()
    tuning: Tuning | None = None
    decoding: spec.Decoding = spec.Decoding()
    retention: bool | RetentionText = False
    data: dict[str, str] = Field(default_factory=dict)
    probe: Probe | None = None
    analysis: AnalysisSettings | None = None

    @property
    def every_seed(self) -> tuple[int, ...]:
        """Every seed that a method may have."""
        return tuple(range(self.seeds.at_most)) if isinstance(self.seeds, UntilDecided) else self.seeds

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """The rungs of the halving; none if every trial has all of the work. Raise LoraBenchError for an impossible one."""
        if self.tuning is None or self.tuning.halving is None or self.budget.trials is None:
            return ()
        return rungs_of(self.budget.trials, self.tuning.halving, self.tuning.rungs)
