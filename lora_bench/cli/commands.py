"""The commands that plan, run and measure, one function each: one library call, what is shown, and the exit code."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from lora_bench.cli.help import DONE, FULL, GOES_ON, SOME_FAILED
from lora_bench.cli.plan_table import plan_tables
from lora_bench.errors import LoraBenchError, WorkBroken, WorkersLost
from lora_bench.execute.options import RunOptions
from lora_bench.execute.outcome import Outcome
from lora_bench.execute.prepared_folder import prepare, read_prepared
from lora_bench.execute.progress import OwnLines, QuietOnBrokenPipe, display
from lora_bench.execute.run_probes import ProbeOutcome, run_probes, shown
from lora_bench.execute.run_suite import run_suite, runs_folder
from lora_bench.plan.item_texts import item_texts
from lora_bench.plan.make_plan import make_plan
from lora_bench.plan.probe_plan import plan_probes
from lora_bench.published import PublishedTable, load_table
from lora_bench.published.reproduce import published_blocks, reproduction
from lora_bench.published.table_terminal import choices_listing
from lora_bench.records.fleet_record import FLEET
from lora_bench.records.outcomes import OUT_OF_TIME, at_work
from lora_bench.records.probe_record import ProbeRecord
from lora_bench.records.record import Record
from lora_bench.records.store import answers_in, read_records, record_files
from lora_bench.records.weight_analysis import read_analysis
from lora_bench.report import Report, terminal_answer, write_report
from lora_bench.report.blocks import Block
from lora_bench.report.index_page import write_index
from lora_bench.report.probes.fleet_page import fleet_files
from lora_bench.report.text import plural
from lora_bench.suite.consent import check_permissions
from lora_bench.suite.load_suite import Suite, check_pickles, load_suite, with_seeds
from lora_bench.suite.probe_suite import ProbeSuite, load_probe_suite
from lora_bench.util.atomic_files import write_atomic
from lora_bench.util.failpoints import reach
from lora_bench.util.redaction import message, without_secrets
from lora_bench.util.signals import CODES

SuiteT = TypeVar("SuiteT", Suite, ProbeSuite, Suite | ProbeSuite)

PLAIN_WIDTH = 120

# Options of `reproduce` that name a part of the table, or change how it is run.
PART_OF_TABLE = (
    "model", "role", "revision", "tasks", "methods", "seeds", "protocol", "epochs", "train_examples", "start_from",
)  # fmt: skip


def terminal() -> Console:
    """Return a console for standard output; a pipe has a fixed width."""
    return QuietOnBrokenPipe() if sys.stdout.isatty() else QuietOnBrokenPipe(width=PLAIN_WIDTH)


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False)


def _suite(arguments: argparse.Namespace) -> Suite:
    suite = _allowed(load_suite(arguments.suite), arguments)
    return suite if arguments.seeds is None else with_seeds(suite, arguments.seeds)


def options_of(arguments: argparse.Namespace) -> RunOptions:
    """Return the options of runs that a command line gives."""
    values = vars(arguments)
    return RunOptions(**{field.name: values[field.name] for field in fields(RunOptions) if field.name in values})


def _allowed(suite: SuiteT, arguments: argparse.Namespace) -> SuiteT:
    """Return a suite with the command line's permissions: base models with pickled weights, and code."""
    pickles, code = check_pickles(arguments.allow_pickle, suite.models), check_permissions(arguments.allow_code, suite)
    return replace(suite, pickles=pickles, code=code)


def run(
    arguments: argparse.Namespace,
    suite: Suite | None = None,
    sections: Callable[[Sequence[Record]], list[list[Block]]] = lambda records: [],
    out_of_time: str = "the time is over; run the same command again to continue",
) -> int:
    """Train every missing run of a suite, by default the one given, and write its report, with *sections* of its records.

    *out_of_time* is said where `--minutes` ended the work.
    """
    suite, console = suite or _suite(arguments), terminal()
    with display(console, quiet=arguments.quiet) as screen:
        outcome = run_suite(suite, options_of(arguments), display=screen)
    interrupted = outcome.interrupted
    with at_work(did=lambda: outcome.done > 0):
        if suite.content.probe is not None and not (interrupted or arguments.only or arguments.no_probes):
            interrupted = _probe_after_runs(suite, outcome.folder, arguments, console)
        reach("suite.report")
        if outcome.records:
            report = replace(outcome.report, sections=sections(outcome.records), texts=item_texts(suite))
            written = write_report(report, outcome.folder)
            index = write_index(Path(arguments.runs))
            if not arguments.quiet:
                for warning in dict.fromkeys(warning for record in outcome.records for warning in record.warnings):
                    _say(console, f"warning: {warning}")
                console.print(terminal_answer(report), highlight=False)
                _say(console, f"report: {written[0]} and {written[1].name}; all suites: {index}")
    if interrupted == OUT_OF_TIME:
        _say(console, out_of_time)
        return DONE
    return _stopped(console, interrupted) if interrupted is not None else _ended(console, outcome, arguments.only)


def _ended(console: Console, outcome: Outcome, only: Sequence[str] = ()) -> int:
    """Return the exit code of work that was not stopped; *only* these runs were asked for by name."""
    waiting = outcome.later if not only and not outcome.elsewhere else 0
    for number, verbs, what in (
        (len(outcome.undone), ("is", "are"), "not done; run the same command again to continue with them"),
        (waiting, ("waits", "wait"), "for others that ended without a score; run the same command again to continue"),
    ):
        if number:
            _say(console, f"{plural(number, 'run')} {verbs[number > 1]} {what}")
    failed = [record for record in outcome.records if record.status not in ("ok", "unsupported")]
    return SOME_FAILED if failed or outcome.undone or waiting else DONE


def _stopped(console: Console, by: str) -> int:
    """Say that a signal of this name, or a full disk, stopped the work; return the exit code."""
    _say(console, GOES_ON if by in CODES else FULL)
    return CODES.get(by, SOME_FAILED)


def _probe_after_runs(suite: Suite, folder: Path, arguments: argparse.Namespace, console: Console) -> str | None:
    """Measure the suite's probes after its runs, on an idle machine; return the signal that ended it, or None."""
    try:
        return _measure(suite, folder, arguments, console).interrupted
    except (WorkersLost, WorkBroken):
        raise
    except LoraBenchError as error:
        # The runs are done, and their scores need no probes.
        _say(console, without_secrets(f"speed, memory and storage were not measured: {error}"))
        return None


def plan(arguments: argparse.Namespace) -> int:
    """Show the data of a suite, and every run with its size, counts and cost."""
    if arguments.prepare and arguments.seeds is not None:
        raise LoraBenchError("--seeds does not go with --prepare, whose workers read the suite: write `seeds` there")
    suite = _suite(arguments)
    return _make_and_show_plan(suite, arguments, arguments.suite if arguments.prepare else None)


def _make_and_show_plan(
    suite: Suite, arguments: argparse.Namespace, asked: str | None = None, table: PublishedTable | None = None
) -> int:
    """Show a suite's plan, and prepare its folder for workers where *asked* says what the user asked for.

    Where the suite repeats a published table, show its methods' options and what the source does not say too.
    """
    console = terminal()
    folder = runs_folder(suite, arguments.runs, arguments.series)
    plan = make_plan(
        suite,
        folder,
        series=arguments.series,
        data_dir=arguments.data_dir,
        progress=lambda line: print(message(line), file=sys.stderr),
        # Workers need models and data. A published table's shapes and counts are known.
        download=asked is not None or suite.command[:1] != ("reproduce",),
        with_data=True,
        slowdowns=vars(arguments).get("slowdowns", {}),
    )
    parts = plan_tables(plan, arguments.device, narrow=console.width < PLAIN_WIDTH)
    if table is not None:
        parts[-1:-1] = choices_listing(table, plan)  # before the totals
    for part in parts:
        console.print(part, highlight=False)
    if asked is not None:
        prepare(folder, suite, asked, series=arguments.series, data_dir=arguments.data_dir)
        line = f"prepared; start as many workers as you like with: lora-bench work {shlex.quote(str(folder))}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return DONE


def work(arguments: argparse.Namespace) -> int:
    """Train unclaimed runs of a prepared folder until none is left."""
    folder: Path = arguments.runs
    prepared = read_prepared(folder, arguments.allow_pickle, arguments.allow_code)
    console = terminal()
    screen = OwnLines(console, quiet=arguments.quiet)
    options = replace(options_of(arguments), folder=folder, series=prepared.series, data_dir=prepared.data_dir)
    outcome = run_suite(prepared.suite, options, display=screen)
    if outcome.interrupted is not None:
        return _stopped(console, outcome.interrupted)
    later = f", {outcome.later} wait for these" if outcome.later else ""
    left = f", {outcome.elsewhere} claimed by other processes" if outcome.elsewhere else ""
    screen.say(f"{len(screen.own)} runs done here; {len(outcome.records)} done in all{left}{later}")
    return _ended(console, outcome)


def reproduce(arguments: argparse.Namespace) -> int:
    """Run a published table again, and compare its numbers with ours."""
    options = {name: getattr(arguments, name) for name in PART_OF_TABLE}
    suite = _allowed(reproduction(arguments.table, **options), arguments)
    if arguments.plan:
        return _make_and_show_plan(suite, arguments, table=load_table(arguments.table))

    role = arguments.role
    return run(arguments, suite, lambda records: [published_blocks(arguments.table, records, role)])


def probe(arguments: argparse.Namespace) -> int:
    """Measure speed, memory, latency and storage of a suite's methods, or of a fleet."""
    if arguments.suite == FLEET:
        return _probe_fleet(arguments)
    suite = _allowed(load_probe_suite(arguments.suite), arguments)
    folder = runs_folder(suite, arguments.runs)
    console = terminal()
    outcome = _measure(suite, folder, arguments, console)
    if outcome.records:
        with at_work():
            records = read_records(folder) if record_files(folder) else []
            answers, analysis = answers_in(folder, records), read_analysis(folder)
            written = write_report(Report(records, probes=outcome.records, answers=answers, analysis=analysis), folder)
            write_index(Path(arguments.runs))
        if not arguments.quiet:
            _say(console, f"report: {written[0]} and {written[1].name}")
    if outcome.interrupted is not None:
        return _stopped(console, outcome.interrupted)
    return SOME_FAILED if any(record.status not in ("ok", "unsupported") for record in outcome.records) else DONE


def _probe_fleet(arguments: argparse.Namespace) -> int:
    """Measure what many adapters on one base model cost, and write the page."""
    from lora_bench.execute.run_fleet_probe import run_fleet_probe

    if arguments.processes or arguments.share or arguments.retry or arguments.data_dir:
        raise LoraBenchError("`probe fleet` has one process for each part, and takes --runs and --quiet only")
    folder, console = Path(arguments.runs) / FLEET, terminal()

    def say(line: str) -> None:
        if not arguments.quiet:
            _say(console, line)

    with at_work():
        run_fleet_probe(folder, say)
        for name, page in fleet_files(folder, "report").items():
            write_atomic(folder / name, page)
        write_index(Path(arguments.runs))
    say(f"report: {folder / 'report.md'} and report.html")
    return DONE


def _measure(suite: Suite | ProbeSuite, folder: Path, arguments: argparse.Namespace, console: Console) -> ProbeOutcome:
    """Measure the probes of a suite that have no record yet, and say how each ends."""

    def say(line: str) -> None:
        if not arguments.quiet:
            _say(console, line)

    def tell(record: ProbeRecord, place: str) -> None:
        if not arguments.quiet or record.status != "ok":
            _say(console, f"{place} {shown(record)}".lstrip())

    # `run`, which measures after its runs, has neither of these two options.
    processes, share = getattr(arguments, "processes", None), getattr(arguments, "share", False)
    plan = plan_probes(suite, folder, processes=processes, data_dir=arguments.data_dir, progress=say)
    missing = len(plan.missing(retry=arguments.retry))
    refused = f", {len(plan.refused)} cells cannot be measured" if plan.refused else ""
    say(f"probes: {missing or 'none'} of {len(plan.jobs)} processes to do{refused}")
    with at_work():
        return run_probes(plan, share=share, retry=arguments.retry, tell=tell, say=say)
