"""Check the keys of a suite against each other, and the names in it."""

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from lora_bench.documents import Document, Key
from lora_bench.errors import Fault, LoraBenchError, did_you_mean
from lora_bench.records.analysis import UntilDecided
from lora_bench.records.budget import AXES, WORK, Budget, HeldEqual
from lora_bench.records.protocol import Protocol
from lora_bench.suite.entries import MethodEntry
from lora_bench.suite.schema import OWN_ARGUMENTS, ModelEntry, Recipe, SuiteFile, Training

# Task of the sentences on which encoders are scored for `retention`.
SENTENCES = "stsb"

# Each with the path of its key.
Faults = Iterator[tuple[Key, str]]

SPLIT_NAMES = ("train", "selection", "validation", "test")
_ACCUMULATION = "gradient_accumulation_steps"
_CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing")
_OWN_KEYS = {
    "per_device_train_batch_size": "training.batch_size", "lr_scheduler_type": "training.schedule",
    "learning_rate": "methods[].learning_rate", "warmup_steps": "training.warmup", "bf16": "training.precision",
    "max_steps": "budget.train_examples", "num_train_epochs": "budget.epochs", "seed": "seeds",
    "weight_decay": "training.weight_decay", "max_grad_norm": "training.max_grad_norm",
}  # fmt: skip


def repeated(document: Document, name: str, names: list[str]) -> list[Fault]:
    """Return a fault for each name that a list repeats."""
    twice = sorted({entry for entry in names if names.count(entry) > 1})
    hint = "; give each its own label" if name == "methods" else ""
    return [document.fault((name,), f"{entry!r} is listed twice{hint}") for entry in twice]


def contradictions(
    document: Document,
    content: SuiteFile,
    tasks: list[str],
    models: list[ModelEntry],
    methods: list[MethodEntry],
    rules: Protocol,
) -> list[Fault]:
    """Return the faults of keys of a suite that contradict each other; *tasks* are names, and *rules* its protocol."""
    names = [entry.model for entry in models]
    # A recipe may give one cell other rates; the plan counts those.
    tried = {entry.label: len(entry.rates(model)) for entry in methods for model in names}
    faults = [
        *_faults_of_rates(methods, names),
        *_faults_of_trials(content, tried),
        *_faults_of_search(content, tried),
        *_faults_of_kept_weights(content),
        *_faults_of_retention(content),
        *_faults_of_budget(content, rules),
        *_faults_of_rows(content),
        *_faults_of_recipe(content),
        *_own_arguments(("training_arguments",), content.training_arguments),
        *_faults_of_accumulation(content),
        *_faults_of_seeds(content, methods, rules),
        *_unknown_names(content, tasks, names, methods),
        *_faults_of_recipes(content),
    ]
    return [document.fault(key, message) for key, message in faults]


def _faults_of_rates(methods: list[MethodEntry], models: list[str]) -> Faults:
    for entry in methods:
        for model in entry.learning_rates:
            if model is not None and model not in models:
                hint = did_you_mean(model, models)
                message = f"learning_rate names {model!r}, which is not a model of this suite{hint}"
                yield ("methods",), f"{entry.label}: {message}"
    widths = [(entry.label, span.width) for entry in methods for span in entry.ranges]
    if widths and max(width for _, width in widths) > 1.001 * min(width for _, width in widths):
        spans = ", ".join(f"{label} {width:g}" for label, width in widths)
        message = f"ranges of learning rates must span the same factor, so that all methods are tuned alike: {spans}"
        yield ("methods",), message


def _faults_of_trials(content: SuiteFile, tried: dict[str, int]) -> Faults:
    """Yield the faults of a number of trials that cannot be spent as given, or that a method does not have."""
    tuning, trials = content.tuning, content.budget.trials
    if tuning is not None and tuning.halving is None and "rungs" in tuning.model_fields_set:
        yield ("tuning", "rungs"), "is of a halving: give its factor too, such as `halving: 3`"
    elif tuning is not None and tuning.halving is not None and trials is None:
        yield ("tuning", "halving"), "spends the work of `budget: {trials: N}`: give their number"
    elif (
        tuning is not None and tuning.search == "halve_seeds" and (tuning.halving is not None or len(tuning.seeds) < 2)
    ):
        yield (
            ("tuning", "search"),
            "needs two seeds or more, such as `seeds: [100, 101, 102]`, and no `halving` of the work",
        )
    elif content.budget.tuned_in is not None and (trials is None or tuning is not None):
        yield ("budget", "tuned_in"), "names the suite that tried `trials: N` rates, in place of `tuning`"
    elif trials is not None:
        try:
            wanted = rates_wanted(content)
        except LoraBenchError as error:
            yield ("tuning", "halving"), str(error)
            return
        for label, count in tried.items():
            if count != wanted:
                yield ("budget", "trials"), f"{wanted_trials(content)}, but {label} has {count} learning rates"


def _faults_of_search(content: SuiteFile, tried: dict[str, int]) -> Faults:
    numbers = [*tried.values(), *(len(recipe.learning_rate or ()) for recipe in content.recipes)]
    if any(number > 1 for number in numbers) and content.score_on == "test" and content.tuning is None:
        yield (
            ("score_on",),
            "several learning rates make a search, which scores on 'selection', not on 'test'; to run the best of them, "
            "give `tuning: {seeds: [...]}`",
        )
    if content.tuning is None:
        return
    shared = sorted(set(content.tuning.seeds) & set(content.every_seed))
    if shared:
        yield ("tuning", "seeds"), f"must not be among the reported seeds, as {shared[0]} is"
    if content.score_on == "selection":
        yield ("tuning",), "is for a suite that scores on 'test'"


def _faults_of_kept_weights(content: SuiteFile) -> Faults:
    if content.keep_weights == "best" and content.selection_every is None:
        yield ("keep_weights",), "'best' needs selection_every, the steps between scores on the selection split"


def _faults_of_retention(content: SuiteFile) -> Faults:
    """Yield the faults of recipes under which a trained model cannot be read whole, as `retention` does."""
    if not content.retention:
        return
    recipes: list[tuple[Key, Training | Recipe]] = [(("training",), content.training)]
    recipes += [(("recipes", index), recipe) for index, recipe in enumerate(content.recipes)]
    for key, recipe in recipes:
        if recipe.last_layer == "read_position":
            message = "is for the head alone, and retention reads every position: leave one of the two out"
            yield (*key, "last_layer"), message
        if recipe.parallelism == "fsdp":
            yield (*key, "parallelism"), "shards the model, which retention reads whole: leave one of the two out"


def _faults_of_budget(content: SuiteFile, rules: Protocol) -> Faults:
    for key, work in ((("budget",), content.budget), *((("recipes", n), one) for n, one in enumerate(content.recipes))):
        if work.amounts["plateau"] is not None and (rules.choose_on != "selection" or not rules.selection_from_train):
            yield (
                (*key, work.given[0]),
                "a plateau is one of scores on the selection split: take a protocol that has one and chooses on it, such as "
                "'strict'",
            )
    for name in content.budget.given:
        if content.budget.caps is not None and name in content.budget.caps.given:
            yield ("budget", "caps", name), "is what stops a run already: give another amount, or leave it out"
    axis, targets = content.budget.parameter_targets or ("", ())
    if len(set(targets)) < len(targets):
        yield ("budget", axis), "a target is listed twice"


def _faults_of_rows(content: SuiteFile) -> Faults:
    distinct = content.distinct_examples or ()
    if len(set(distinct)) < len(distinct):
        yield ("distinct_examples",), "a number is listed twice"
    for key in ("distinct_seed", "distinct_draw"):
        if not distinct and key in content.model_fields_set:
            yield (key,), "draws the rows of `distinct_examples`: give their number"


def _faults_of_recipe(content: SuiteFile) -> Faults:
    for key, why in misfits(content.budget.budgets(sized=True)[0], content.training, content.training_arguments):
        yield ("training", key), why


def misfits(budget: Budget, training: Training, arguments: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
    """Return the keys of a training that contradict its budget, its processes or its arguments, each with the reason."""
    found = (
        _schedule_misfit(budget, training),
        _ranks_misfit(budget, training, arguments),
        _masks_misfit(training, arguments),
        _base_misfit(training, arguments),
        _packing_misfit(budget, training),
    )
    return [misfit for misfit in found if misfit is not None]


def _faults_of_accumulation(content: SuiteFile) -> Faults:
    recipes: list[tuple[Key, dict[str, JsonValue]]] = [((), content.training_arguments)]
    recipes += [(("recipes", index), recipe.training_arguments) for index, recipe in enumerate(content.recipes)]
    for key, arguments in recipes:
        if content.budget.peak_memory_bytes is not None and _ACCUMULATION in arguments:
            message = "is decided by budget.peak_memory_bytes: leave one of the two out"
            yield (*key, "training_arguments", _ACCUMULATION), message
    parts = content.training_arguments.get(_ACCUMULATION, 1)
    if not isinstance(parts, int) or parts < 1 or content.training.batch_size % parts:
        message = f"must divide training.batch_size ({content.training.batch_size}), got {parts!r}"
        yield ("training_arguments", _ACCUMULATION), message


def _faults_of_seeds(content: SuiteFile, methods: list[MethodEntry], rules: Protocol) -> Faults:
    """Yield the faults of the seeds, and of what cannot go with seeds that are added until decided."""
    if not isinstance(content.seeds, UntilDecided):
        if len(set(content.seeds)) < len(content.seeds):
            yield ("seeds",), "a seed is listed twice"
        return
    reasons = []
    if len(methods) < 2:
        reasons.append("need two methods or more")
    if content.score_on != "test":
        reasons.append("need `score_on: test`, because a search is not judged")
    if rules.choose_on != "selection":
        reasons.append("need a protocol that chooses on the selection split, such as 'strict'")
    if any(recipe.start is not None for recipe in content.recipes):
        reasons.append("cannot go with `start`, because the runs that others start from have fixed seeds")
    for reason in reasons:
        yield ("seeds",), f"added until decided {reason}; or list them"


def rates_wanted(content: SuiteFile) -> int | None:
    """Return the number of learning rates that a suite with `budget.trials` gives each method."""
    if content.budget.tuned_in is not None:
        return 1
    rungs = content.rungs
    return rungs[0].trials if rungs else content.budget.trials


def wanted_trials(content: SuiteFile) -> str:
    """Return the suite's number of learning rates in words, to follow the name of the key."""
    if content.budget.tuned_in is not None:
        return f"are in {content.budget.tuned_in}, so that one rate is given here"
    rungs = content.rungs
    halved = f", and their halving begins with {rungs[0].trials}" if rungs else ""
    return f"is {content.budget.trials}{halved}"


def _schedule_misfit(budget: Budget, training: Training) -> tuple[str, str] | None:
    """Return the key of a training that cannot follow the share of a budget, and why; None if both fit."""
    (target,) = budget.given
    if budget.plateau is not None:
        ends = "a run until a plateau"
        if training.schedule != "linear":
            return "schedule", f"of {ends} is a constant rate and a linear decay: leave '{training.schedule}' out"
        if training.processes > 1:
            return "processes", f"must be 1 for {ends}: one process scores it, and the others would not see its end"
        if budget.caps is not None:
            return "schedule", f"of {ends} decays before its `at_most`, which is its only cap: leave `caps` out"
        return None
    if target in ("train_examples", "epochs"):
        return None
    if training.warmup_steps is not None:
        return "warmup_steps", f"counts steps, and a budget of {target} is used up by shares: give warmup, such as 0.1"
    if training.schedule == "inverse_sqrt":
        return "schedule", (
            f"'inverse_sqrt' falls with the number of steps, and a budget of {target} is used up by shares: "
            "take another, such as 'linear' or 'cosine'"
        )
    return None


def _ranks_misfit(budget: HeldEqual, training: Training, arguments: Mapping[str, JsonValue]) -> tuple[str, str] | None:
    """Return the key of a training that contradicts its number of processes, and why; None if all fit."""
    if training.processes == 1:
        if training.parallelism == "fsdp":
            return "parallelism", "'fsdp' divides a model among processes: give their number, such as `processes: 2`"
        return None
    caps = () if budget.caps is None else budget.caps.given
    clocked = [axis for axis in AXES if WORK[axis].of_batch is None and axis in (*budget.given, *caps)]
    if clocked:
        return (
            "processes",
            f"is for work that every process counts alike, and each has a clock of its own: {clocked[0]} cannot end it",
        )
    if budget.peak_memory_bytes is not None:
        return (
            "processes",
            "divides a step among devices, and budget.peak_memory_bytes is of one: leave one of the two out",
        )
    parts = arguments.get(_ACCUMULATION, 1)
    rows, rest = divmod(training.batch_size, parts if isinstance(parts, int) and parts > 0 else 1)
    if not rest and rows % training.processes:
        part = f"{rows} examples of a part" if parts != 1 else f"batch of {rows}"
        return "processes", f"must divide the {part}, which they share, got {training.processes}"
    return None


def _masks_misfit(training: Training, arguments: Mapping[str, JsonValue]) -> tuple[str, str] | None:
    """Return the key of a training that contradicts checkpointing of activations, and why; None if they fit."""
    again = _checkpointing(training, arguments)
    if training.masks != "keyed" or again is None:
        return None
    return (
        "masks",
        f"'keyed' are of one pass through the model, and {again} has it make its parts a second time; take 'torch'",
    )


def _base_misfit(training: Training, arguments: Mapping[str, JsonValue]) -> tuple[str, str] | None:
    """Return the key of a training that contradicts a base in sixteen bits, and why; None if they fit."""
    if training.base_precision == "float32":
        return None
    if training.base_precision == "float16" and training.precision == "bfloat16":
        return (
            "base_precision",
            "'float16' is not what `precision: bfloat16` multiplies in: take the same type for both",
        )
    if training.parallelism == "fsdp":
        return "base_precision", "is for one type of weights a shard, and fsdp would mix two: take `parallelism: ddp`"
    again = _checkpointing(training, arguments)
    if again is not None and not training.gradient_checkpointing:
        return (
            "base_precision",
            f"needs `training: {{gradient_checkpointing: true}}` in place of {again} in training_arguments",
        )
    return None


def _packing_misfit(budget: HeldEqual, training: Training) -> tuple[str, str] | None:
    """Return the key of a training that contradicts its budget where texts share rows, and why; None if they fit."""
    if training.sample_packing and budget.uses("train_flops"):
        return (
            "sample_packing",
            "changes the rows of a batch, whose FLOPs are counted with a row a text: take train_tokens",
        )
    return None


def _checkpointing(training: Training, arguments: Mapping[str, JsonValue]) -> str | None:
    """Return the key by which activations are computed a second time, or None."""
    names = (name for name in _CHECKPOINTING if arguments.get(name))
    return "gradient_checkpointing" if training.gradient_checkpointing else next(names, None)


def _unknown_names(content: SuiteFile, tasks: list[str], models: list[str], methods: list[MethodEntry]) -> Faults:
    known = {"tasks": tasks, "models": models, "methods": [entry.label for entry in methods]}
    splits = [name for name in content.data if name in SPLIT_NAMES and name not in tasks]
    beside = [SENTENCES] if content.retention else []
    named: list[tuple[Key, str, str]] = [
        (("data", name), "tasks", name) for name in content.data if name not in (*splits, *beside)
    ]
    if content.probe is not None and content.probe.twin is not None:
        named.append((("probe", "twin"), "methods", content.probe.twin))
    if content.analysis is not None:
        named.append((("analysis", "reference"), "methods", content.analysis.reference))
        if isinstance(content.analysis.margin, dict):
            named += [(("analysis", "margin", name), "tasks", name) for name in content.analysis.margin]
    for index, recipe in enumerate(content.recipes):
        key: Key = ("recipes", index)
        named += [((*key, part), part, name) for part in known for name in getattr(recipe, part)]
        named += [((*key, "start"), "tasks", recipe.start)] if recipe.start is not None else []
    for index, entry in enumerate(methods):
        key = ("methods", index)
        named += [((*key, part), part, name) for part in ("tasks", "models") for name in getattr(entry, part)]
    for key, part, name in named:
        if name not in known[part]:
            yield key, f"{name!r} is not one of this suite's {part}{did_you_mean(name, known[part])}"
    if splits:
        files = ", ".join(f"{name}: {content.data[name]}" for name in splits)
        way = f"tasks: [{{task: NAME, data: {{{files}}}, text: COLUMN, label: COLUMN}}]"
        yield ("data",), f"names the files of splits, which stand in their task: write {way}"


def _faults_of_recipes(content: SuiteFile) -> Faults:
    for index, recipe in enumerate(content.recipes):
        key: Key = ("recipes", index)
        if len(recipe.given) > 1:
            yield key, f"give at most one of {' and '.join(recipe.given)}"
        if recipe.start is not None and (not recipe.tasks or recipe.start in recipe.tasks):
            yield (*key, "start"), "needs `tasks` that do not contain the task to start from"
        yield from _own_arguments((*key, "training_arguments"), recipe.training_arguments)


def _own_arguments(key: Key, arguments: dict[str, JsonValue]) -> Faults:
    for name in sorted(OWN_ARGUMENTS.intersection(arguments)):
        use = f": use {_OWN_KEYS[name]}" if name in _OWN_KEYS else ""
        yield (*key, name), f"is decided by the suite's own keys{use}"
