"""The page of a report as blocks: the answer with its picture and a small table first, then the details, the protocol last.

The page has no date, host or folder, so the same records give the same bytes. What only some readers need is folded away.
"""

from collections.abc import Iterable, Sequence

from lora_bench.errors import LoraBenchError
from lora_bench.records.spec import ModelSpec
from lora_bench.report.blocks import (
    Block,
    Commands,
    Figure,
    Fold,
    Heading,
    SectionAnswer,
    TextList,
    anchor,
    answers,
    to_markdown,
)
from lora_bench.report.figures.draw import left_out, plan_figures
from lora_bench.report.figures.plan import FigurePlan
from lora_bench.report.html import PageFacts
from lora_bench.report.model.comparison import Comparison
from lora_bench.report.model.report import Report
from lora_bench.report.probes.probe_headline import headline_of_probes
from lora_bench.report.probes.probe_section import probe_section, probes_page
from lora_bench.report.sections import budgets
from lora_bench.report.sections import method_tables as tables
from lora_bench.report.sections.along import along_section
from lora_bench.report.sections.answer import answer, methods_paragraph
from lora_bench.report.sections.at_defaults import defaults_section
from lora_bench.report.sections.environments import environment_section
from lora_bench.report.sections.first_screen import by_task_picture, first_screen
from lora_bench.report.sections.forgetting import forgetting_section, kept_of_base
from lora_bench.report.sections.headline import headline_of
from lora_bench.report.sections.improving import improving_blocks, over_time_section, plateau_blocks
from lora_bench.report.sections.other_reports import other_reports
from lora_bench.report.sections.pool_page import pooled_section
from lora_bench.report.sections.scores import exempt_note, scores_section, task_section, tuning_section
from lora_bench.report.sections.verdicts import verdict_section
from lora_bench.report.sections.weight_changes import weight_section
from lora_bench.report.text import MISSING, code, count, inert, listed, plural, prose, unmarked

# A longer table of costs is folded away.
MOST_COSTS = 28

DATA_FOLDER = (
    "The folder after `--data-dir` holds the files of the data sets as published: [names of its folders]"
    "(/docs/tasks.md#the-tasks). Without it, data come from the Hugging Face hub."
)


def render_markdown(report: Report) -> str:
    """Return a report as GitHub Markdown; LoraBenchError if it has no records, or two different ones with the same run id."""
    return to_markdown(page_of(report))


def page_of(report: Report) -> list[Block]:
    """Return the blocks of a report's page; without records it raises as `render_markdown`."""
    folder = report.name
    if report.probes and not report.records:
        return probes_page(report.probes)
    if not report.records:
        raise LoraBenchError("there are no records to report")
    comparison, judged, pooled = report.comparison, report.judged, report.pooled is not None
    sections: list[Sequence[Block]] = [
        [
            *verdict_section(judged, answer(judged, pooled), by_task_picture(judged, folder)),
            Fold("Methods, as a paragraph for a paper", [methods_paragraph(judged, pooled)]),
        ]
        if judged is not None
        else [],
        pooled_section(report.pooled),
        scores_section(report),
        _figures(plan_figures(comparison), folder, comparison),
        along_section(report.along),
        task_section(report),
        tuning_section(report),
        forgetting_section(comparison, folder, judged.analysis if judged is not None else None),
        _costs(comparison),
        over_time_section(comparison),
        defaults_section(report),
        *report.sections,
        probe_section(report.probes),
        _weights(report),
        tables.failures(comparison),
        _warnings(comparison),
        [] if comparison.scores_alone else _protocol(comparison, len(report.undone)),
        environment_section(comparison),
        _commands(comparison),
        [] if comparison.scores_alone else _provenance(comparison),
    ]
    before = answers_before(report)
    # An answer that stands before the headline is not said again below.
    blocks = [
        block
        for section in sections
        for block in section
        if not (isinstance(block, SectionAnswer) and block.text in before)
    ]
    return [
        Heading(1, listed([inert(suite) for suite in comparison.suites])),
        *([f"*{prose(report.about)}*"] if report.about else []),
        *first_screen(report.overview, headline_of(report), folder, before),
        *other_reports(report),
        *contents(blocks),
        *blocks,
    ]


def answers_before(report: Report) -> list[str]:
    """Return the answers of sections that stand before the headline, such as that of a published table."""
    found = [answer for section in report.sections for answer in answers(section)]
    # What happened to weights is the answer of a suite whose scores decide nothing.
    return [*found, *(answers(_weights(report)) if report.decision.level in (None, "undecided") else [])]


def facts_of(report: Report) -> PageFacts:
    """Return what the head of a report's page says of it."""
    if not report.records:
        probed = headline_of_probes(report.probes)
        return PageFacts(description=unmarked(probed.lead), strength=unmarked(probed.strength))
    headline = headline_of(report)
    before = answers_before(report)[:1]
    said = before or [*kept_of_base(report.comparison), headline.lead, *headline.cautions]
    return PageFacts(description=unmarked(" ".join(said)), strength=unmarked(headline.strength or ""))


def contents(blocks: Iterable[Block]) -> list[Block]:
    """Return links to the sections of a page, in one paragraph."""
    titles = [block.text for block in blocks if isinstance(block, Heading) and block.level == 2 and block.listed]
    return [" · ".join(f"[{title}](#{anchor(title)})" for title in titles)] if len(titles) > 1 else []


def _weights(report: Report) -> list[Block]:
    run_ids = {record.run_id for record in report.records}
    return [] if report.analysis is None else weight_section(report.analysis, report.name, run_ids)


def _protocol(comparison: Comparison, undone: int) -> list[Block]:
    """Return the protocol card: conditions that all runs share, the size of each method, and the work that runs used."""
    shared: list[Block] = ["Equal for all runs:", budgets.recipe(comparison), *budgets.protocols(comparison)]
    shared += [
        "Each method: *adapter parameters* are without the head, *trained* ones with each task's; *stored* ones are saved.",
        budgets.counts(comparison),
    ]
    if any(row.exempt for setting in comparison.settings for row in setting.rows):
        shared.append(exempt_note(comparison.settings))
    used = budgets.work(comparison)
    shared += ["What the runs used, medians over them:", *used] if used else []
    return [
        Heading(2, "Protocol and budget"),
        _introduction(comparison, undone),
        *plateau_blocks(comparison),
        *improving_blocks(comparison),
        Fold("What all runs shared", shared),
    ]


def _introduction(comparison: Comparison, undone: int) -> str:
    """Return how the runs ended and how many are *undone*, how many were trials, and what the scores of the others are."""
    ended = sorted(comparison.statuses.items(), key=lambda item: (item[0] != "ok", item[0]))
    statuses = [f"{number} {'' if index else 'ended '}{code(status)}" for index, (status, number) in enumerate(ended)]
    statuses += [f"{undone} not done"] if undone else []
    trying = [setting for setting in comparison.settings if setting not in comparison.results]
    trials = len({run_id for setting in trying for row in setting.rows for run_id in row.run_ids})
    are = "is" if trials == 1 else "are"
    tuned = f" Among them {are} {plural(trials, 'trial')} of learning rates." if trials else ""
    metrics = dict.fromkeys(
        f"{tables.metric_name(one)}{' (lower is better)' if one.spec.task.higher_is_better is False else ''} "
        f"{tables.on_split(one)}"
        for one in comparison.results
    )
    scored = {setting.spec.task.name for setting in comparison.settings if not (setting.search or setting.trials)}
    tasks = dict.fromkeys(setting.spec.task.name for setting in comparison.settings)
    searches = [code(task) for task in tasks if task not in scored]
    search = ""
    if searches:
        search = f" On {listed(searches)} this is a search: its scores choose learning rates and are not results."
    scores = f"Scores{' of the others' if trials else ''} are {listed([*metrics])}."
    return f"Of {plural(comparison.runs + undone, 'run')}, {listed(statuses)}.{tuned} {scores}{search}"


_KINDS = {
    "trade_offs": "Score against parameters, memory and time",
    "learning_curves": "Training loss against the step",
    "over_time": "Score against training time",
    "learning_rates": "Score against learning rate",
    "sweeps": "Score along one number",
}


def _figures(plans: Sequence[FigurePlan], folder: str, comparison: Comparison) -> list[Block]:
    """Return the figures, one after the other; of several tasks those of each are folded away."""
    by_name: dict[str, list[Block]] = {}
    for plan in plans:
        of_settings = [tables.setting_name(setting, comparison) for setting in plan.settings]
        name = code(plan.settings[0].spec.task.name) if plan.sweeps else listed(of_settings)
        models = {tables.model_name(table) for table in plan.tables}
        if len(models) == 1 and models != {MISSING}:  # several are named by their panels
            name += f", {models.pop()}"
        figure = Figure(_KINDS[plan.kind], f"{folder}/{plan.file}", f"{name}. {plan.caption}")
        by_name.setdefault(plan.settings[0].spec.task.name, []).append(figure)
    blocks: list[Block] = []
    for task, of_task in by_name.items():
        blocks += of_task if len(by_name) == 1 else [Heading(3, code(task)), Fold("Figures", of_task)]
    without = left_out(comparison)
    blocks += [without] if without is not None else []
    return [Heading(2, "Figures"), *blocks] if blocks else []


def _costs(comparison: Comparison) -> list[Block]:
    found = tables.costs(comparison)
    if found is None:
        return []
    table, in_all = found
    rows = [row for setting in comparison.settings for row in setting.rows]
    known = [row.measured for row in rows]
    measured = [row for row in known if {row.train_peak_bytes, row.step_seconds, row.train_seconds} != {None}]
    shared = [row for row in measured if row.exclusive is False]
    unsaid = sum(row.exclusive is None for row in measured)
    if not measured:
        alone = "No run has a speed or memory number."
    elif unsaid:
        alone = f"{unsaid} of {plural(len(measured), 'row')} do not record whether other work ran beside"
        alone += f"; {len(shared)}, marked {tables.SHARED}, had some." if shared else "."
    elif not shared:
        alone = "Every speed and memory number on this page was measured with nothing else running."
    elif len(shared) == len(measured):
        alone = "Other work ran beside every row: times and memory on this page are rough."
    else:
        alone = f"Other work ran beside {len(shared)} of {plural(len(measured), 'row')}, marked {tables.SHARED}."
    resumed = sum(run.resumed for row in rows for run in row.records)
    if resumed:
        are = "is" if resumed == 1 else "are"
        alone += (
            f" {plural(resumed, 'run')} went on from a checkpoint after a stop, and {are} in no speed or memory number"
        )
        of_part = f" but those marked {tables.RESUMED}: of the part after it, training seconds of both"
        alone += of_part * any(row.only_resumed for row in rows) + "."
    shown = table if len(table.rows) <= MOST_COSTS else Fold("Seconds of one run", [table])
    return [Heading(2, "Costs"), f"{alone} Failed runs have no times. {in_all}", shown]


def _warnings(comparison: Comparison) -> list[Block]:
    if not comparison.warnings:
        return []
    said = [f"{inert(text, 600)} ({plural(number, 'run')})" for text, number in comparison.warnings.items()]
    return [Heading(2, "Warnings"), TextList(said)]


def _model(model: ModelSpec) -> str:
    name = f" is {code(model.name)}" if model.name != model.shown else ""
    weights = code(model.sha256[:16]) if model.sha256 is not None else "not recorded"
    revision = f", revision {code(model.revision)}" if model.revision else ""
    return f"{inert(model.shown, 80)}{name}: weights {weights}{revision}."


def _commands(comparison: Comparison) -> list[Block]:
    if not comparison.commands:
        return []
    of_suites = any(command.startswith("lora-bench ") for command in comparison.commands)
    one_alone = ["Add `--only RUN_ID` for one record."] if of_suites else []
    from_folder = [DATA_FOLDER] if any(" --data-dir " in command for command in comparison.commands) else []
    return [Heading(2, "Make it again"), Commands(comparison.commands), *one_alone, *from_folder]


def _provenance(comparison: Comparison) -> list[Block]:
    models = {_model(table.model) for setting in comparison.settings for table in setting.tables}
    return [
        Heading(2, "Where the numbers come from"),
        f"Every number on this page is computed from these {plural(comparison.runs, 'record')}.",
        TextList(sorted(models)),
        Fold(f"{count(comparison.runs)} records", [tables.provenance(comparison)]),
    ]
