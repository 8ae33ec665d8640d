"""Check the keys of a suite against each other, and the names in it."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from lora_bench.documents import Document, Key
from lora_bench.errors import Fault, LoraBenchError, did_you_mean
from lora_bench.records.analysis import UntilDecided
from lora_bench.records.budget import AXES, WORK, HeldEqual
from lora_bench.records.protocol import Protocol
from lora_bench.suite.entries import MethodEntry, draws_of
from lora_bench.suite.schema import OWN_ARGUMENTS, ModelEntry, Recipe, SuiteFile, Training

# Task of the sentences on which encoders are scored for `retention`.
SENTENCES = "stsb"

SPLIT_NAMES = ("train", "selection", "validation", "test")
_ACCUMULATION = "gradient_accumulation_steps"
_CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing")


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
    """Return the faults of keys that contradict each other.

    Args:
        document: The file, for the lines of its keys.
        content: Its content.
        tasks: Names of its tasks.
        models: Its base models.
        methods: Its methods.
        rules: Its protocol.
    """
    return [
        *_across(document, content, models, methods),
        *_seeds(document, content, methods, rules),
        *_unknown_names(document, content, tasks, models, methods),
    ]


def _across(
    document: Document, content: SuiteFile, models: list[ModelEntry], methods: list[MethodEntry]
) -> list[Fault]:
    faults = []
    names = [entry.model for entry in models]
    for entry in methods:
        for model in entry.learning_rates:
            if model is not None and model not in names:
                message = (
                    f"learning_rate names {model!r}, which is not a model of this suite{did_you_mean(model, names)}"
                )
                faults.append(document.fault(("methods",), f"{entry.label}: {message}"))
    widths = [(entry.label, one.width) for entry in methods for one in entry.ranges]
    if widths and max(width for _, width in widths) > 1.001 * min(width for _, width in widths):
        spans = ", ".join(f"{label} {width:g}" for label, width in widths)
        message = f"ranges of learning rates must span the same factor, so that all methods are tuned alike: {spans}"
        faults.append(document.fault(("methods",), message))
    # A recipe may give one cell other rates; the plan counts those.
    tried = {entry.label: len(entry.rates(model)) for entry in methods for model in names}
    faults += _numbers_of_trials(document, content, tried)
    several = any(count > 1 for count in tried.values()) or any(
        len(one.learning_rate or ()) > 1 for one in content.recipes
    )
    if several and content.score_on == "test" and content.tuning is None:
        message = (
            "several learning rates make a search, which scores on 'selection', not on 'test'; to run the best of them, "
            "give `tuning: {seeds: [...]}`"
        )
        faults.append(document.fault(("score_on",), message))
    if content.tuning is not None:
        shared = sorted(set(content.tuning.seeds) & set(content.every_seed))
        if shared:
            faults.append(
                document.fault(("tuning", "seeds"), f"must not be among the reported seeds, as {shared[0]} is")
            )
        if content.score_on == "selection":
            faults.append(document.fault(("tuning",), "is for a suite that scores on 'test'"))
    if content.keep_weights == "best" and content.selection_every is None:
        faults.append(
            document.fault(
                ("keep_weights",), "'best' needs selection_every, the steps between scores on the selection split"
            )
        )
    faults += _retention(document, content)
    faults += [
        document.fault(("budget", "caps", name), "is what stops a run already: give another amount, or leave it out")
        for name in content.budget.given
        if content.budget.caps is not None and name in content.budget.caps.given
    ]
    axis, targets = content.budget.parameter_targets or ("", ())
    if len(set(targets)) < len(targets):
        faults.append(document.fault(("budget", axis), "a target is listed twice"))
    distinct = content.distinct_examples or ()
    if len(set(distinct)) < len(distinct):
        faults.append(document.fault(("distinct_examples",), "a number is listed twice"))
    if not distinct and "distinct_seed" in content.model_fields_set:
        faults.append(document.fault(("distinct_seed",), "draws the rows of `distinct_examples`: give their number"))
    if _needs_random_draws(content):
        faults.append(document.fault(("tuning", "search_seed"), "is for random draws: give `draws: random` too"))
    misfit = schedule_misfit(content.budget, content.training)
    if misfit is not None:
        faults.append(document.fault(("training", misfit[0]), misfit[1]))
    misfit = ranks_misfit(content.budget, content.training, content.training_arguments)
    if misfit is not None:
        faults.append(document.fault(("training", misfit[0]), misfit[1]))
    faults += _own_arguments(document, ("training_arguments",), content.training_arguments)
    if content.budget.peak_memory_bytes is not None:
        given = [
            ("training_arguments",),
            *(("recipes", index, "training_arguments") for index in range(len(content.recipes))),
        ]
        of = [content.training_arguments, *(recipe.training_arguments for recipe in content.recipes)]
        faults += [
            document.fault((*key, _ACCUMULATION), "is decided by budget.peak_memory_bytes: leave one of the two out")
            for key, arguments in zip(given, of, strict=True)
            if _ACCUMULATION in arguments
        ]
    misfit = masks_misfit(content.training, content.training_arguments)
    if misfit is not None:
        faults.append(document.fault(("training", misfit[0]), misfit[1]))
    accumulation = content.training_arguments.get("gradient_accumulation_steps", 1)
    if not isinstance(accumulation, int) or accumulation < 1 or content.training.batch_size % accumulation:
        message = f"must divide training.batch_size ({content.training.batch_size}), got {accumulation!r}"
        faults.append(document.fault(("training_arguments", "gradient_accumulation_steps"), message))
    return faults


def _seeds(document: Document, content: SuiteFile, methods: list[MethodEntry], rules: Protocol) -> list[Fault]:
    """Return the faults of the seeds, and of what cannot go with seeds that are added until decided."""
    if not isinstance(content.seeds, UntilDecided):
        twice = len(set(content.seeds)) < len(content.seeds)
        return [document.fault(("seeds",), "a seed is listed twice")] if twice else []
    reasons = []
    if len(methods) < 2:
        reasons.append("need two methods or more")
    if content.score_on != "test":
        reasons.append("need `score_on: test`, because a search is not judged")
    if rules.choose_on != "selection":
        reasons.append("need a protocol that chooses on the selection split, such as 'strict'")
    if any(recipe.start is not None for recipe in content.recipes):
        reasons.append("cannot go with `start`, because the runs that others start from have fixed seeds")
    return [document.fault(("seeds",), f"added until decided {reason}; or list them") for reason in reasons]


def _numbers_of_trials(document: Document, content: SuiteFile, tried: dict[str, int]) -> list[Fault]:
    """Return the faults of a number of trials that cannot be spent as given, or that a method does not have."""
    tuning, trials = content.tuning, content.budget.trials
    if tuning is not None and tuning.halving is None and "rungs" in tuning.model_fields_set:
        return [document.fault(("tuning", "rungs"), "is of a halving: give its factor too, such as `halving: 3`")]
    if tuning is not None and tuning.halving is not None and trials is None:
        return [document.fault(("tuning", "halving"), "spends the work of `budget: {trials: N}`: give their number")]
    if content.budget.tuned_in is not None and (trials is None or tuning is not None):
        return [
            document.fault(("budget", "tuned_in"), "names the suite that tried `trials: N` rates, in place of `tuning`")
        ]
    if trials is None:
        return []
    try:
        wanted = rates_wanted(content)
    except LoraBenchError as error:
        return [document.fault(("tuning", "halving"), str(error))]
    return [
        document.fault(("budget", "trials"), f"{wanted_trials(content)}, but {label} has {count} learning rates")
        for label, count in tried.items()
        if count != wanted
    ]


def rates_wanted(content: SuiteFile) -> int | None:
    """Return the number of learning rates that a suite with `budget.trials` gives each method."""
    if content.budget.tuned_in is not None:
        return 1
    rungs = content.rungs
    return rungs[0].trials if rungs else content.budget.trials


def _needs_random_draws(content: SuiteFile) -> bool:
    """Tell if a suite gives the seed of random draws, and takes its learning rates evenly."""
    tuning, trials = content.tuning, content.budget.trials
    if tuning is None or tuning.halving is not None or trials is None or "search_seed" not in tuning.model_fields_set:
        return False
    return draws_of(tuning.draws, trials) == "even"


def wanted_trials(content: SuiteFile) -> str:
    """Return the suite's number of learning rates in words, to follow the name of the key."""
    if content.budget.tuned_in is not None:
        return f"are in {content.budget.tuned_in}, so that one rate is given here"
    rungs = content.rungs
    halved = f", and their halving begins with {rungs[0].trials}" if rungs else ""
    return f"is {content.budget.trials}{halved}"


def schedule_misfit(budget: HeldEqual, training: Training) -> tuple[str, str] | None:
    """Return the key of a training that cannot follow the share of a budget, and why; None if both fit."""
    (target,) = budget.given
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


def ranks_misfit(budget: HeldEqual, training: Training, arguments: Mapping[str, JsonValue]) -> tuple[str, str] | None:
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


def masks_misfit(training: Training, arguments: Mapping[str, JsonValue]) -> tuple[str, str] | None:
    """Return the key of a training whose dropout contradicts the Trainer's arguments, and why; None if they fit."""
    again = next((name for name in _CHECKPOINTING if arguments.get(name)), None)
    if training.masks != "keyed" or again is None:
        return None
    return (
        "masks",
        f"'keyed' are of one pass through the model, and {again} has it make its parts a second time; take 'torch'",
    )


def _unknown_names(
    document: Document,
    content: SuiteFile,
    tasks: list[str],
    models: list[ModelEntry],
    methods: list[MethodEntry],
) -> list[Fault]:
    """Return the faults of keys that name an unknown task, base model or method."""
    known = {
        "tasks": tasks,
        "models": [entry.model for entry in models],
        "methods": [entry.label for entry in methods],
    }
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
    faults = [
        document.fault(key, f"{name!r} is not one of this suite's {part}{did_you_mean(name, known[part])}")
        for key, part, name in named
        if name not in known[part]
    ]
    if splits:
        files = ", ".join(f"{name}: {content.data[name]}" for name in splits)
        way = f"tasks: [{{task: NAME, data: {{{files}}}, text: COLUMN, label: COLUMN}}]"
        faults.append(document.fault(("data",), f"names the files of splits, which stand in their task: write {way}"))
    for index, recipe in enumerate(content.recipes):
        key = ("recipes", index)
        if len(recipe.given) > 1:
            faults.append(document.fault(key, f"give at most one of {' and '.join(recipe.given)}"))
        if recipe.start is not None and (not recipe.tasks or recipe.start in recipe.tasks):
            faults.append(document.fault((*key, "start"), "needs `tasks` that do not contain the task to start from"))
        faults += _own_arguments(document, (*key, "training_arguments"), recipe.training_arguments)
    return faults


def _retention(document: Document, content: SuiteFile) -> list[Fault]:
    """Return the faults of recipes under which a trained model cannot be read whole, as `retention` does."""
    if not content.retention:
        return []
    faults = []
    recipes: list[tuple[Key, Training | Recipe]] = [(("training",), content.training)]
    recipes += [(("recipes", index), recipe) for index, recipe in enumerate(content.recipes)]
    for key, recipe in recipes:
        if recipe.last_layer == "read_position":
            message = "is for the head alone, and retention reads every position: leave one of the two out"
            faults.append(document.fault((*key, "last_layer"), message))
        if recipe.parallelism == "fsdp":
            message = "shards the model, which retention reads whole: leave one of the two out"
            faults.append(document.fault((*key, "parallelism"), message))
    return faults


def _own_arguments(document: Document, key: Key, given: dict[str, JsonValue]) -> list[Fault]:
    return [
        document.fault((*key, name), f"is decided by the suite's own keys{_own_key(name)}")
        for name in sorted(OWN_ARGUMENTS.intersection(given))
    ]


def _own_key(argument: str) -> str:
    keys = {
        "per_device_train_batch_size": "training.batch_size", "lr_scheduler_type": "training.schedule",
        "learning_rate": "methods[].learning_rate", "warmup_steps": "training.warmup", "bf16": "training.precision",
        "max_steps": "budget.train_examples", "num_train_epochs": "budget.epochs", "seed": "seeds",
        "weight_decay": "training.weight_decay", "max_grad_norm": "training.max_grad_norm",
    }  # fmt: skip
    return f": use {keys[argument]}" if argument in keys else ""
