"""The section on the budget: conditions that all runs share, the size of each method, and the work that runs used."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import starmap

from lora_bench.records.budget import AXES, PARAMETER_AXES, WORK, Axis, ParameterAxis, amount_of
from lora_bench.records.protocol import Protocol
from lora_bench.records.record import Parameters, Record
from lora_bench.report import text
from lora_bench.report.blocks import Block, TextList, TextTable
from lora_bench.report.model.comparison import Comparison, Setting, rows_of, work_of
from lora_bench.report.model.rows import Row, folds_of, in_order, median_of
from lora_bench.report.sections.method_tables import EXEMPT, each_row, method_name, model_name, setting_name, size
from lora_bench.report.text import MISSING, code, count, inert, plural


def recipe(comparison: Comparison) -> TextTable:
    """Return a table of all that the runs of a setting have in common, a column a setting; its trials are lines of it."""
    settings = comparison.results
    lines = [[name, *(value(setting) for setting in settings)] for name, value in _RECIPE]
    lines += [[name, *(value(_trials_of(setting, comparison)) for setting in settings)] for name, value in _OF_TRIALS]
    header = ["", *(setting_name(setting, comparison) for setting in settings)]
    kept = [line for line in lines if any(value != MISSING for value in line[1:])]
    return TextTable(header, kept, numbers_from=len(header))


def protocols(comparison: Comparison) -> list[Block]:
    """Explain the protocols of the runs, a line each."""
    named = dict.fromkeys((setting.spec.protocol, setting.spec.rules) for setting in comparison.settings)
    said = [f"Protocol {code(name)}: {_rules(rules)}." for name, rules in named if name and rules is not None]
    return [TextList(said)] if said else []


def _rules(rules: Protocol) -> str:
    weights = "the last weights" if rules.checkpoint == "last" else "the best weights of those evaluated on the way"
    reported = ", **which is the one that is reported**" if rules.choose_on == "test" else ""
    from_train = "set aside from the training data where the data has none"
    split = from_train if rules.selection_from_train else "the data's own"
    selection = f" ({split})" if rules.choose_on == "selection" else ""
    return (
        f"{weights} are scored, choices are made on the {rules.choose_on} split{selection}{reported}, and the "
        f"{rules.aggregation} stands for several seeds"
    )


def _trials_of(setting: Setting, comparison: Comparison) -> list[Setting]:
    """Return the trials of a setting's task and target, where the report has results too."""
    return [
        other
        for other in comparison.settings
        if other not in comparison.results
        and other.spec.task.name == setting.spec.task.name
        and other.parameter_target == setting.parameter_target
        and other.distinct_examples == setting.distinct_examples
    ]


def counts(comparison: Comparison) -> TextTable:
    """Return each method on each base model: size, learning rates, numbers of parameters, and share of the target.

    The learning rates are those of results; of trials where there are no others.
    """
    counted: dict[tuple[str, ...], list[Parameters | None]] = {}
    rates: dict[tuple[str, ...], set[tuple[float | None, float | None]]] = {}
    trials = [setting for setting in comparison.settings if setting not in comparison.results]
    for settings in (comparison.results, trials):
        known = {*rates}
        for setting, table, row in rows_of(settings):
            if row.ok or any(failure.status != "unsupported" for failure in row.failures):
                adapter = count(None if row.parameters is None else row.parameters.adapter)
                cells = (model_name(table), method_name(row), size(row), adapter, _held_to(row, setting))
                counted.setdefault(cells, []).append(row.parameters)
                if cells not in known:
                    rates.setdefault(cells, set()).add((row.learning_rate, row.head_learning_rate))
    lines = []
    for named, of in rates.items():
        shown = [
            text.learning_rate(rate) + ("" if of_head is None else f" (head {text.learning_rate(of_head)})")
            for rate, of_head in sorted(of, key=lambda both: (in_order(both[0]), in_order(both[1])))
        ]
        all_of = [one for one in counted[named] if one is not None]
        trained = text.span((one.trained for one in all_of if one.trained is not None), "{:,}".format)
        stored = text.span((one.stored for one in all_of if one.stored is not None), "{:,}".format)
        lines.append([*named[:3], ", ".join(shown), named[3], trained, stored, named[4]])
    header = ["base model", "method", "size", "learning rates", "adapter parameters", "trained", "stored"]
    return TextTable([*header, "of the target"], lines, numbers_from=2)


def work(comparison: Comparison) -> list[Block]:
    """Return the work of each method's runs on every axis; empty if all work is a number of examples, uncapped."""
    if all(_plain(setting) for setting in comparison.settings):
        return []
    parts = any(_takes_parts(setting) for setting in comparison.settings)
    lines = []
    for where, _, table, row in each_row(comparison):
        runs = [run for run in row.records if run.speed is not None]
        if not runs:
            continue
        taken = {str(run.spec.training.arguments.get("gradient_accumulation_steps", 1)) for run in runs}
        named = [where, model_name(table), method_name(row)] + ([", ".join(sorted(taken))] if parts else [])
        examples, *others = (_amount(axis, median_of(used(run, axis) for run in runs)) for axis in AXES)
        steps = median_of(run.speed.train_steps for run in runs if run.speed is not None)
        lines.append([*named, examples, _number(steps, ",.0f"), *others, _share(runs), _ends(runs)])
    header = ["task", "base model", "method", *(["parts of a batch"] if parts else [])]
    examples, *others = (WORK[axis].column for axis in AXES)
    header += [examples, "steps", *others, "of the work", "ended by"]
    return [TextTable(header, lines, numbers_from=3)] if lines else []


def used(record: Record, axis: Axis) -> float | None:
    """Return the amount of work on an axis that a run used, or None if it was not counted."""
    amount: float | None = getattr(record.speed, WORK[axis].used, None)
    return amount


def _plain(setting: Setting) -> bool:
    """Tell if all runs of a setting do the same number of examples, whole batches at a time."""
    training = setting.spec.training
    of_examples = all(getattr(training, axis) is None for axis in AXES if axis != "train_examples")
    return of_examples and not training.caps and training.plateau is None and not _takes_parts(setting)


def _takes_parts(setting: Setting) -> bool:
    return setting.budget is not None and setting.budget.peak_memory_bytes is not None


def _share(runs: Sequence[Record]) -> str:
    targets = [(run, work_of(run.spec.training)) for run in runs]
    shares = [amount / target[1] for run, target in targets if target and (amount := used(run, target[0])) is not None]
    return text.span(shares, text.percent)


def _ends(runs: Sequence[Record]) -> str:
    ends = Counter(_end(run) for run in runs)
    return ", ".join(end if len(ends) == 1 else f"{end} ({number})" for end, number in sorted(ends.items()))


def _end(run: Record) -> str:
    if run.plateau is not None:
        return f"a {run.plateau.by}"
    return "the target" if run.capped_by is None else f"cap of {code(run.capped_by)}"


def _amount(axis: Axis, value: float | None) -> str:
    if WORK[axis].of_batch is None:
        return text.rate(value)
    return _number(value, ",.0f" if WORK[axis].whole else ".4g")


def _held_to(row: Row, setting: Setting) -> str:
    if setting.parameter_target is None:
        return "no target"
    axis, target = setting.parameter_target
    if row.exempt:
        return f"exempt{EXEMPT}"
    counted = row.parameters.on(axis) if row.parameters is not None else None
    if counted is None:
        return MISSING
    share = text.percent(counted / target)
    return share if row.within_budget else f"{share}, outside the tolerance"


def _arguments(setting: Setting) -> str:
    given = dict(setting.spec.training.arguments)
    if _takes_parts(setting):
        given.pop("gradient_accumulation_steps", None)  # a method's own
    return ", ".join(f"{code(name)}: {text.json_value(value)}" for name, value in sorted(given.items())) or MISSING


def _splits(setting: Setting) -> str:
    if setting.examples is None:
        return MISSING
    return ", ".join(f"{inert(name)} {count(size)}" for name, size in sorted(setting.examples.items()))


def _target(setting: Setting, axis: ParameterAxis) -> str:
    budget = setting.budget
    if budget is None or budget.parameter_target is None:
        return "none: sizes as given" if axis == PARAMETER_AXES[0] else MISSING
    held, amount = budget.parameter_target
    return f"{count(amount)} ± {budget.tolerance * 100:g} %" if held == axis else MISSING


def _wanted(setting: Setting, axis: Axis) -> str:
    amount = getattr(setting.spec.training, axis)
    most = "at most " if amount is not None and setting.spec.training.plateau is not None else ""
    return most + (count(amount) if WORK[axis].whole else _number(amount))


def _until(setting: Setting) -> str:
    rule = setting.spec.training.plateau
    if rule is None:
        return MISSING
    first = f" ({rule.first_patience} before the first)" if rule.first_patience is not None else ""
    return (
        f"a score every {plural(setting.spec.selection_every or 0, 'step')}; after {rule.patience} without a rise above "
        f"{rule.rise:g}{first} a decay of {rule.decay:.0%} of the run"
    ).replace("%", " %")


def _processes(setting: Setting) -> str:
    number, means = setting.spec.training.processes, setting.spec.training.parallelism or "means unknown"
    return MISSING if number in (1, None) else f"{number}, by {means}"


def _peak(setting: Setting) -> str:
    peak = setting.budget.peak_memory_bytes if setting.budget is not None else None
    return _number(None if peak is None else peak / text.MIB, ",.1f")


def _scored_on(setting: Setting) -> str:
    folds = folds_of(setting.spec.task)
    of = f", one of {folds} folds for each seed" if folds is not None else ""
    return f"the {setting.spec.score_on} split{of}" if setting.spec.score_on is not None else MISSING


def _tried(setting: Setting) -> str:
    budget = setting.budget
    if budget is None or budget.halving is None:
        there = f", in {code(budget.tuned_in)}" if budget is not None and budget.tuned_in is not None else ""
        halves = ", the better half with all seeds" if budget is not None and budget.search == "halve_seeds" else ""
        return count(budget.trials if budget is not None else None) + there + halves
    return f"for the work of {count(budget.trials)}, halved by {budget.halving} in {budget.rungs} rungs"


def _seeds(setting: Setting) -> str:
    return ", ".join(map(text.seed, sorted({seed for row in setting.rows for seed in row.seeds}, key=in_order)))


def _code(value: str | None) -> str:
    return code(value) if value else MISSING


def _base_precision(setting: Setting) -> str | None:
    precision = setting.spec.training.base_precision
    return None if precision == "float32" else precision


def _number(value: float | None, form: str = "g") -> str:
    return MISSING if value is None else format(value, form)


_RECIPE: tuple[tuple[str, Callable[[Setting], str]], ...] = (
    *((f"target for {axis.replace('_', ' ')}", partial(_target, axis=axis)) for axis in PARAMETER_AXES),
    *((WORK[axis].wanted, partial(_wanted, axis=axis)) for axis in AXES),
    ("until a plateau", _until),
    (
        "caps, which end a run before",
        lambda one: ", ".join(starmap(amount_of, one.spec.training.caps.items())) or MISSING,
    ),
    ("largest peak of a step, MiB", _peak),
    ("batch size", lambda setting: count(setting.spec.training.batch_size)),
    ("optimiser steps", lambda setting: count(setting.spec.training.steps)),
    ("longest input, tokens", lambda setting: count(setting.spec.training.max_length)),
    ("learning rates planned for every method", _tried),
    ("schedule", lambda setting: _code(setting.spec.training.schedule)),
    ("warm-up steps", lambda setting: count(setting.spec.training.warmup_steps)),
    ("warm-up, as a share of the work", lambda setting: _number(setting.spec.training.warmup)),
    ("weight decay", lambda setting: _number(setting.spec.training.weight_decay)),
    ("largest gradient norm", lambda setting: _number(setting.spec.training.max_grad_norm)),
    ("precision", lambda setting: _code(setting.spec.training.precision)),
    ("base precision", lambda setting: _code(_base_precision(setting))),
    ("class weights", lambda setting: _code(setting.spec.training.class_weights)),
    ("threads", lambda setting: count(setting.spec.training.threads)),
    ("processes that share a batch", _processes),
    ("protocol", lambda setting: _code(setting.spec.protocol)),
    ("passed on to TrainingArguments", _arguments),
    ("data, sha256", lambda setting: _code((setting.spec.task.data_sha256 or "")[:16])),
    ("scored on", _scored_on),
    ("examples in the splits", _splits),
    ("different training rows", lambda setting: count(setting.distinct_examples)),
    ("seeds", _seeds),
)


_OF_TRIALS: tuple[tuple[str, Callable[[Sequence[Setting]], str]], ...] = (
    ("trials scored on", lambda trials: ", ".join(dict.fromkeys(_scored_on(setting) for setting in trials)) or MISSING),
    ("seeds of the trials", lambda trials: ", ".join(dict.fromkeys(_seeds(setting) for setting in trials)) or MISSING),
)
