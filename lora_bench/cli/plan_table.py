"""A plan for the terminal: the data, a row for each task, base model and method, then the totals."""

from collections.abc import Sequence
from operator import attrgetter

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lora_bench.execute.progress import duration
from lora_bench.plan.cell import Cell
from lora_bench.plan.cost_estimate import CostEstimate, default_workers
from lora_bench.plan.counted_step import counted_step
from lora_bench.plan.describe_data import SAMPLE, DataFacts, SplitFacts
from lora_bench.plan.make_plan import Plan
from lora_bench.records.budget import AXES, amount_of
from lora_bench.records.environment import cuda_devices
from lora_bench.records.spec import PlannedSpec
from lora_bench.report.model.rows import grouped
from lora_bench.report.text import learning_rate, plural
from lora_bench.suite.consent import suite_code
from lora_bench.training.measure.step_costs import card_bytes, needed_bytes

# Columns that narrow terminals go without.
WIDE_ONLY = ("head", "trained", "stored")
SHOWN_CLASSES = 8

# Settings of a recipe without a default, as they mostly are, and those that other columns or words say.
_USUAL = {"schedule": "linear", "weight_decay": 0.0, "max_grad_norm": 1.0, "precision": "float32"}
_ELSEWHERE = {*AXES, "warmup", "caps", "plateau", "distinct_examples"}


def plan_tables(plan: Plan, card: str | None = None, *, narrow: bool = False) -> list[Table | Text]:
    """Tables of a plan: the data of each task, its methods, the warnings, and a line of totals.

    With a *card*, given by name, they say if a training step of each run fits it, in place of a rough estimate. A *narrow*
    terminal has no room for every count of parameters. Raise LoraBenchError if no card has the name.
    """
    if card is not None:
        card_bytes(card)
    parts = [part for facts in plan.data for part in data_parts(facts)]
    for task in dict.fromkeys(cell.job.spec.task.name for cell in plan.cells):
        parts.append(_table(plan, task, card, narrow=narrow))
    refused = [(cell.job.spec, cell.reason) for cell in plan.cells if cell.reason is not None]
    reasons = dict.fromkeys(f"{spec.method.label} on {spec.model.shown}: {reason}" for spec, reason in refused)
    parts += [Text(reason, style="yellow") for reason in reasons]
    if plan.suite.content.recipes:
        parts.append(_recipes(plan))
    for reason in dict.fromkeys(waiting.reason for waiting in plan.waiting):
        runs = sum(waiting.runs for waiting in plan.waiting if waiting.reason == reason)
        parts.append(Text(f"{plural(runs, 'run')} {'waits' if runs == 1 else 'wait'} for {reason}"))
    parts += _code(plan)
    parts += [Text(note) for note in plan.notes]
    parts += [Text(f"warning: {warning}") for warning in (*plan.warnings, *plan.cautions)]
    parts.append(Text(_totals(plan)))
    return parts


def data_parts(facts: DataFacts) -> list[Table | Text]:
    """Two tables of a task's data, one of its examples and one of their lengths, and notes on them."""
    return [_examples(facts), _lengths(facts), *(Text(line, style="dim") for line in _notes(facts))]


def _titled(title: str) -> Table:
    return Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _examples(facts: DataFacts) -> Table:
    table = _titled(f"{facts.task}: data")
    table.add_column("split", no_wrap=True)
    table.add_column("examples", justify="right", no_wrap=True)
    table.add_column("labels", overflow="fold")
    for header in ("repeats", "in train"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, split in facts.splits.items():
        in_train = f"{split.shared['train']:,}" if "train" in split.shared else "–"
        table.add_row(Text(name), f"{split.examples:,}", Text(_labels(split)), f"{split.repeated:,}", in_train)
    return table


def _lengths(facts: DataFacts) -> Table:
    table = _titled(f"{facts.task}: lengths in tokens")
    table.add_column("base model", overflow="fold")
    table.add_column("split", no_wrap=True)
    for header in ("median", "longest", "cut"):
        table.add_column(header, justify="right", no_wrap=True)
    for lengths in facts.lengths:
        who = ", ".join(lengths.models)
        for name, split in lengths.splits.items():
            cut = f"{_share(split.cut_share)} at {lengths.max_length}"
            table.add_row(Text(who), Text(name), f"{split.median:,}", f"{split.longest:,}", cut)
            who = ""
    return table


def _share(share: float) -> str:
    return "none" if share == 0 else "<0.1%" if share < 0.001 else f"{share:.1%}"


def _labels(split: SplitFacts) -> str:
    if split.values is not None:
        low, mean, high = split.values
        return f"{low:g} to {high:g}, mean {mean:.3g}"
    if split.majority_share is None:
        return "texts"
    largest = max(split.classes, key=lambda name: split.classes[name])
    there = sum(number > 0 for number in split.classes.values())
    return f"{there} classes, {split.majority_share:.0%} {largest}"


def _notes(facts: DataFacts) -> list[str]:
    train = facts.splits["train"]
    notes = []
    if facts.tested is not None:
        notes.append(
            f"splits of the first fold; all seeds together test {facts.tested:,} examples, each a fold of its own"
        )
    if train.classes:
        ordered = sorted(train.classes.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{name} {number:,}" for name, number in ordered[:SHOWN_CLASSES])
        more = f", and {len(ordered) - SHOWN_CLASSES} more" if len(ordered) > SHOWN_CLASSES else ""
        notes.append(f"classes of train: {shown}{more}")
    several = [f"{split.contradicting:,} of {name}" for name, split in facts.splits.items() if split.contradicting]
    if several:
        notes.append(f"texts that have several labels, which no model can tell apart: {', '.join(several)}")
    sampled = dict.fromkeys(
        name
        for lengths in facts.lengths
        for name, split in lengths.splits.items()
        if split.encoded < facts.splits[name].examples
    )
    if sampled:
        notes.append(f"median and cut are of {SAMPLE:,} examples drawn from {', '.join(sampled)}")
    return notes


def _table(plan: Plan, task: str, card: str | None, *, narrow: bool) -> Table:
    table = _titled(f"{plan.suite.name}: {task}")
    table.add_column("method", no_wrap=not narrow, overflow="fold")
    memory = "memory" if card is None else f"on {card}"
    for header in ("size", "adapter", *(() if narrow else WIDE_ONLY), "rate", "done", "time", memory):
        # Several rates take several lines, but none loses its end.
        table.add_column(header, justify="right", no_wrap=header != "rate", min_width=4 if header == "rate" else None)
    shown = ""
    of_task = (cell for cell in plan.cells if cell.job.spec.task.name == task)
    for group in grouped(of_task, lambda cell: (cell.place, cell.job.rung)).values():
        first = group[0]
        spec, counts = first.job.spec, first.fit.parameters
        if spec.model.shown != shown:
            shown = spec.model.shown
            table.add_row(Text(shown, style="bold"))
        if counts is None:
            table.add_row(Text(f"  {spec.method.label}"), "unsupported", end_section=False)
            continue
        done = sum(cell.record is not None for cell in group)
        rung = f", rung {first.job.rung} of {first.job.budget.rungs}" if first.job.rung is not None else ""
        rows = spec.training.distinct_examples
        distinct = f", {rows:,} rows" if rows is not None else ""
        table.add_row(
            Text(f"  {spec.method.label}{distinct}{rung}"),
            f"{spec.method.options[spec.method.size]}" if spec.method.size else "–",
            *(f"{getattr(counts, name):,}" for name in ("adapter", *(() if narrow else WIDE_ONLY))),
            _rates(group),
            f"{done}/{len(group)}",
            _time(first.estimate),
            _memory(first) if card is None else _fit_on(card, first),
        )
    return table


def _time(estimate: CostEstimate) -> str:
    if not estimate.timed:
        return "–"
    return ("" if estimate.measured else "~") + duration(estimate.seconds)


def _rates(group: Sequence[Cell]) -> str:
    return " ".join(dict.fromkeys(learning_rate(cell.job.spec.training.learning_rate) for cell in group))


def _memory(cell: Cell) -> str:
    """The peak of a training step on this machine at its longest inputs, or an estimate, marked ~, if it cannot be counted."""
    step = counted_step(cell, cuda=bool(cuda_devices())) if cell.reason is None else None
    peak = None if step is None else step.peak_bytes
    return f"{peak / 2**20:,.0f} MiB" if peak is not None else f"~{cell.estimate.memory_bytes / 2**20:,.0f} MiB"


def _fit_on(card: str, cell: Cell) -> str:
    """The memory that a training step needs on a card at its longest inputs, and if the card has it."""
    step = counted_step(cell, cuda=True)
    needed = None if step is None else needed_bytes(step)
    if needed is None:
        return "not known"
    return f"{needed / 2**30:,.1f} GiB: {'fits' if needed <= card_bytes(card) else 'too much'}"


def _recipes(plan: Plan) -> Table:
    """The exact recipe of each task, base model and method, where the suite has more than one."""
    table = _titled("recipes")
    for header in ("task", "base model", "method", "rate", "work", "batch", "steps", "warm-up", "tokens", "and"):
        words = header in ("task", "base model", "method", "and")
        table.add_column(header, justify="left" if words else "right", overflow="fold" if words else "ellipsis")
    starts = {id(cell): waiting.start for waiting in plan.waiting for cell in waiting.cells}
    names = attrgetter("task.name", "model.name", "method.label")
    for (task, model, label), group in grouped(_whole(plan), lambda cell: names(cell.job.spec)).items():
        recipe, start = group[0].job.spec.training, starts.get(id(group[0]))
        found = group[0].job.spec.start
        warmup = f"{recipe.warmup_steps:,}" if recipe.warmup_steps is not None else f"{recipe.warmup:.0%}"
        table.add_row(
            Text(task), Text(model), Text(label), _rates(group), amount_of(*recipe.target), f"{recipe.batch_size}",
            f"{recipe.steps:,}" if recipe.steps is not None else "–", warmup, f"{recipe.max_length}",
            Text(_more(group[0].job.spec, start if found is None else found.task if found.run_id else "an adapter")),
        )  # fmt: skip
    return table


def _whole(plan: Plan) -> list[Cell]:
    """The cells with all of the work, those that wait among them."""
    waiting = (cell for waiting in plan.waiting for cell in waiting.cells)
    return [cell for cell in (*plan.cells, *waiting) if not cell.short]


def _more(spec: PlannedSpec, start: str | None) -> str:
    """The parts of a recipe beyond the usual columns; "" without any."""
    recipe, usual = spec.training, {**spec.training.later(), **_USUAL}
    others = {name: getattr(recipe, name) for name in usual.keys() - _ELSEWHERE}
    said = {
        "start": start,
        **{name: value for name, value in sorted(others.items()) if value != usual[name]},
        "scored every": spec.selection_every,
        "until a plateau": f"of {recipe.plateau.patience} scores" if recipe.plateau is not None else None,
        "ends at": " or ".join(amount_of(axis, amount) for axis, amount in recipe.caps.items()) or None,
        **recipe.arguments,
        **({} if spec.decoding is None else spec.decoding.model_dump(exclude_defaults=True)),
    }
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in said.items() if value is not None)


def _code(plan: Plan) -> list[Text]:
    """The code that the suite would run, and the option that allows it."""
    said = {True: "allowed, as you gave", False: "refused until you have read it and give"}
    return [
        Text(f"runs code on this machine: {code.kind} {code.name}; {said[allowed]} {code.option}")
        for code in suite_code(plan.suite)
        for allowed in [code.permission in plan.suite.code]
    ]


def _totals(plan: Plan) -> str:
    missing = [cell for cell in plan.missing if cell.reason is None]
    budget = plan.suite.content.budget
    axis, targets = budget.parameter_targets or ("", ())
    amounts = " and ".join(f"{target:,}" for target in targets)
    target = f"{amounts} {axis.replace('_', ' ')} ± {budget.tolerance:.0%}, " if targets else ""
    threads = plan.suite.content.training.threads
    timed = any(cell.job.spec.training.uses("train_seconds") for cell in missing)
    processes = max((cell.job.spec.training.processes for cell in missing), default=1)
    workers = default_workers([cell.estimate for cell in missing], threads, timed=timed, processes=processes)
    later = sum(waiting.runs for waiting in plan.waiting)
    seconds = (
        sum(cell.estimate.seconds for cell in missing) + sum(waiting.seconds for waiting in plan.waiting)
    ) / workers
    all_missing = [*missing, *(cell for waiting in plan.waiting for cell in waiting.cells)]
    disk = sum(cell.estimate.disk_bytes for cell in all_missing if cell.job.whole_steps is None) / 2**20
    about = f": about {duration(seconds)}" if all(cell.estimate.timed for cell in missing) else ""
    return (
        f"budget: {target}{_work(plan)}\n{_halving(plan)}"
        f"{len(missing) + later} of {len(plan.cells) + later} runs to do, {workers} at once{about}, "
        f"{disk:,.1f} MiB kept on disk (times and memory marked ~ are estimates)"
    )


def _work(plan: Plan) -> str:
    """The work of the runs, where all but the short trials of a halving do the same."""
    recipes = [cell.job.spec.training for cell in _whole(plan)]
    if len({(recipe.target, recipe.batch_size) for recipe in recipes}) > 1:
        amounts = sorted({recipe.target for recipe in recipes})
        return f"{amount_of(*amounts[0])} to {amount_of(*amounts[-1])}, as each recipe says"
    recipe = recipes[0]
    steps = f"{recipe.steps:,} steps" if recipe.steps is not None else "batches"
    ends = [f"at most {amount_of(axis, amount)}" for axis, amount in recipe.caps.items()]
    ends += ["less for a run that reaches a plateau"] if recipe.plateau is not None else []
    return ", ".join([f"{amount_of(*recipe.target)} in {steps} of {recipe.batch_size}", *ends])


def _halving(plan: Plan) -> str:
    """The work of the trials by rung; "" if every trial has all of it."""
    content = plan.suite.content
    if not content.rungs:
        return ""
    steps = [
        f"{rung.trials} learning rates with {'all' if rung.part == 1 else f'1/{rung.part}'} of the work"
        for rung in content.rungs
    ]
    states = sum(cell.estimate.disk_bytes for cell in plan.missing if cell.job.whole_steps is not None)
    on = f"; longer trials go on from shorter ones, which takes {states / 2**20:,.0f} MiB until then" if states else ""
    return f"tuning of each method, for the work of {content.budget.trials} trials: {', then '.join(steps)}{on}\n"
