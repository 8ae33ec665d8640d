"""The command line: arguments in, one library call, exit code out.

Exit codes: 0 done; 1 a committed report differs from its records; 2 bad input, before any work; 3 some runs ended neither
`ok` nor `unsupported`; 130 and 143 stopped by SIGINT or SIGTERM. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_bench.errors import LoraBenchError, WorkersLost
from lora_bench.exchange import add_exchange
from lora_bench.version import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from lora_bench.plan import Plan
    from lora_bench.probe_execute import ProbeOutcome
    from lora_bench.probe_record import ProbeRecord
    from lora_bench.probe_suite import ProbeSuite
    from lora_bench.record import Record
    from lora_bench.suite import Suite

DONE, DIFFERS, BAD_INPUT, SOME_FAILED = 0, 1, 2, 3
SIGNALS = {"SIGINT": 130, "SIGTERM": 143}
PLAIN_WIDTH = 120


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except LoraBenchError as error:
        print(f"lora-bench: {error}", file=sys.stderr)
        return SOME_FAILED if isinstance(error, WorkersLost) else BAD_INPUT
    except KeyboardInterrupt:
        return SIGNALS["SIGINT"]
    except BrokenPipeError:
        return DONE  # the reader of a pipe such as `| head` has seen enough
    except OSError as error:
        print(f"lora-bench: {error}", file=sys.stderr)
        return BAD_INPUT
    finally:
        _flush()


def _flush() -> None:
    """Empty the buffers; what no reader is left for goes nowhere, and Python ends without an error of its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lora-bench",
        description="Compare fine-tuning methods under matched budgets.",
        epilog="Begin with: lora-bench run quickstart",
    )
    parser.add_argument("--version", action="version", version=f"lora-bench {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="do every run of a suite that has no record yet, and write its report")
    run.add_argument("suite", metavar="SUITE", help="a suite by name, or its YAML file")
    _running_options(run)
    run.set_defaults(command=_run)

    plan = commands.add_parser(
        "plan", help="show every run of a suite with its size, counts and cost, and train nothing"
    )
    plan.add_argument("suite", metavar="SUITE", help="a suite by name, or its YAML file")
    _runs_option(plan)
    plan.add_argument("--series", metavar="LABEL", help="the label of a repeat")
    plan.add_argument("--device", metavar="CARD", help='say whether each run fits a card, such as "H100 80GB" or 24GB')
    _data_option(plan)
    plan.set_defaults(command=_plan)

    probe = commands.add_parser(
        "probe", help="measure speed, memory, latency and storage of a suite's methods, each alone on its device"
    )
    probe.add_argument("suite", metavar="SUITE", help="a suite, or a suite of probes, by name or its YAML file")
    _runs_option(probe)
    probe.add_argument(
        "--processes", type=_positive, metavar="N", help="processes for each cell; 3 on a CPU, 5 on a GPU"
    )
    probe.add_argument("--share", action="store_true", help="measure although something else is at work on the device")
    probe.add_argument("--retry", action="store_true", help="measure again what did not end ok")
    _data_option(probe)
    probe.add_argument("--quiet", action="store_true", help="say only what failed")
    probe.set_defaults(command=_probe)

    reproduce = commands.add_parser("reproduce", help="run a published table again, and hold its numbers against ours")
    reproduce.add_argument("table", metavar="TABLE", help="a published table by name: see `lora-bench published`")
    reproduce.add_argument(
        "--model", metavar="MODEL", help="one base model of the table, or any that stands in for one"
    )
    reproduce.add_argument("--as", dest="role", metavar="MODEL", help="the base model that a stand-in is run for")
    reproduce.add_argument("--tasks", type=_names, default=[], metavar="A,B", help="some of the table's tasks")
    reproduce.add_argument(
        "--methods", type=_names, default=[], metavar="A,B", help="some of its rows, by method label"
    )
    reproduce.add_argument("--seeds", type=_count, metavar="N", help="number of seeds; the table's by default")
    reproduce.add_argument("--protocol", metavar="NAME", help="another protocol than the table's: strict or paper")
    reproduce.add_argument("--plan", action="store_true", help="show every run with its recipe and cost; train nothing")
    reproduce.add_argument("--device", metavar="CARD", help="with --plan: say whether each run fits a card")
    _running_options(reproduce)
    reproduce.set_defaults(command=_reproduce)

    published = commands.add_parser("published", help="list the published tables that are known, or the cells of one")
    published.add_argument("table", nargs="?", metavar="TABLE", help="a table by name")
    published.set_defaults(command=_published)

    report = commands.add_parser("report", help="render records as Markdown with figures, and as one HTML page")
    report.add_argument("runs", metavar="RUNS", type=Path, help="a folder of runs, a baseline, or the baselines folder")
    report.add_argument("--out", metavar="FOLDER", type=Path, help="where to write; beside the runs by default")
    report.add_argument("--published", metavar="TABLE", help="hold the records against a published table")
    report.add_argument("--as", dest="role", metavar="MODEL", help="the table's base model that another stands in for")
    report.add_argument("--data", action="store_true", help="also write every number, as CSV, Parquet and JSON")
    report.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a report would differ")
    report.set_defaults(command=_report)

    baseline = commands.add_parser("baseline", help="keep the records of runs as a baseline")
    verbs = baseline.add_subparsers(title="verbs", required=True, metavar="VERB")
    accept = verbs.add_parser("accept", help="copy records and predictions into ./baselines/NAME/records")
    accept.add_argument("runs", metavar="RUNS", type=Path, help="a folder of runs")
    accept.add_argument("--name", metavar="NAME", help="of the baseline; the name of the runs' folder by default")
    accept.set_defaults(command=_accept)

    add_exchange(commands)

    listing = commands.add_parser("list", help="list what can be named in a suite")
    listing.add_argument("what", choices=["methods", "models", "tasks", "suites"])
    listing.set_defaults(command=_list)

    schema = commands.add_parser("schema", help="print the JSON Schema of a suite or a record")
    schema.add_argument("what", choices=["suite", "probe-suite", "record", "probe", "task"])
    schema.set_defaults(command=_schema)
    return parser


def _running_options(parser: argparse.ArgumentParser) -> None:
    _runs_option(parser)
    parser.add_argument("--workers", type=_count, metavar="N", help="runs at once; 0 does them in this process")
    parser.add_argument("--only", action="append", default=[], metavar="RUN_ID", help="do this run; may be repeated")
    parser.add_argument(
        "--retry", action="store_true", help="do runs again that failed, timed out or ran out of memory"
    )
    parser.add_argument(
        "--series", metavar="LABEL", help="a repeat of the whole suite under this label, with its own seeds"
    )
    _data_option(parser)
    parser.add_argument("--no-probes", action="store_true", help="leave the probes that the suite asks for unmeasured")
    parser.add_argument("--quiet", action="store_true", help="say only what failed")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _runs_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="holds SUITE/RUN_ID (./runs)")


def _data_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir", type=Path, metavar="FOLDER", help="holds data sets as they circulate (FOLDER/CoLA/train.tsv, …)"
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got {text!r}")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _console() -> Console:
    from lora_bench.progress import QuietOnBrokenPipe

    return QuietOnBrokenPipe() if sys.stdout.isatty() else QuietOnBrokenPipe(width=PLAIN_WIDTH)


def _run(arguments: argparse.Namespace) -> int:
    from lora_bench.suite import load_suite

    return _run_and_report(load_suite(arguments.suite), arguments, lambda records: [])


def _run_and_report(
    suite: Suite, arguments: argparse.Namespace, sections: Callable[[Sequence[Record]], list[list[str]]]
) -> int:
    """Do what is missing of a suite, write its report with further sections made of its records, and say how it ended."""
    from lora_bench.execute import run_suite, runs_folder
    from lora_bench.probe_store import read_probes
    from lora_bench.progress import display
    from lora_bench.report import write_report
    from lora_bench.store import answers_in

    console = _console()
    with display(console, quiet=arguments.quiet) as shown:
        outcome = run_suite(
            suite,
            runs=arguments.runs,
            workers=arguments.workers,
            only=arguments.only,
            retry=arguments.retry,
            series=arguments.series,
            data_dir=arguments.data_dir,
            display=shown,
        )
    folder = runs_folder(suite, arguments.runs, arguments.series)
    interrupted = outcome.interrupted
    if suite.content.probe is not None and not (interrupted or arguments.only or arguments.no_probes):
        interrupted = _probe_after_runs(suite, folder, arguments, console)
    if outcome.records:
        written = write_report(
            outcome.records,
            folder,
            sections=sections(outcome.records),
            probes=read_probes(folder),
            answers=answers_in(folder, outcome.records),
        )
        if not arguments.quiet:
            _show(console, outcome.records)
            console.print(f"report: {written[0]} and {written[1].name}", markup=False, highlight=False)
    if interrupted is not None:
        return _stopped(console, interrupted)
    failed = [record for record in outcome.records if record.status not in ("ok", "unsupported")]
    return SOME_FAILED if failed else DONE


def _stopped(console: Console, signal_name: str) -> int:
    console.print("stopped; the same command goes on from here", markup=False, highlight=False)
    return SIGNALS.get(signal_name, SIGNALS["SIGINT"])


def _probe_after_runs(suite: Suite, folder: Path, arguments: argparse.Namespace, console: Console) -> str | None:
    """Measure what the suite's report needs, now that its runs keep the machine busy no longer; the signal that ended it."""
    try:
        return _measure(suite, folder, arguments, console, processes=None, share=False).interrupted
    except WorkersLost:
        raise
    except LoraBenchError as error:
        # The runs are done, and their scores need no probes.
        console.print(f"not probed: {error}", markup=False, highlight=False)
        return None


def _show(console: Console, records: Sequence[Record]) -> None:
    from lora_bench.report import terminal_table

    console.print(terminal_table(records))
    for warning in dict.fromkeys(warning for record in records for warning in record.warnings):
        console.print(f"warning: {warning}", markup=False, highlight=False)


def _plan(arguments: argparse.Namespace) -> int:
    from lora_bench.suite import load_suite

    return _make_and_show_plan(load_suite(arguments.suite), arguments)


def _make_and_show_plan(suite: Suite, arguments: argparse.Namespace) -> int:
    from lora_bench.execute import runs_folder
    from lora_bench.plan import make_plan

    console = _console()
    plan = make_plan(
        suite,
        runs_folder(suite, arguments.runs, arguments.series),
        series=arguments.series,
        data_dir=arguments.data_dir,
        progress=lambda message: print(message, file=sys.stderr),
    )
    _show_plan(console, plan, arguments.device)
    return DONE


def _reproduce(arguments: argparse.Namespace) -> int:
    from lora_bench.report.published_terminal import verdicts_listing
    from lora_bench.reproduce import published_lines, reproduction, verdicts

    made = reproduction(
        arguments.table,
        model=arguments.model,
        role=arguments.role,
        tasks=arguments.tasks,
        methods=arguments.methods,
        seeds=arguments.seeds,
        protocol=arguments.protocol,
    )
    if arguments.plan:
        return _make_and_show_plan(made.suite, arguments)

    def sections(records: Sequence[Record]) -> list[list[str]]:
        if not arguments.quiet:
            _console().print(verdicts_listing(verdicts(made.table, records, arguments.role)))
        return [published_lines(made.table.name, records, arguments.role)]

    return _run_and_report(made.suite, arguments, sections)


def _probe(arguments: argparse.Namespace) -> int:
    from lora_bench.execute import runs_folder
    from lora_bench.probe_suite import load_probe_suite
    from lora_bench.report import write_report
    from lora_bench.store import answers_in, read_records, record_files

    suite = load_probe_suite(arguments.suite)
    folder = runs_folder(suite, arguments.runs)
    console = _console()
    outcome = _measure(suite, folder, arguments, console, processes=arguments.processes, share=arguments.share)
    if outcome.records:
        records = read_records(folder) if record_files(folder) else []
        written = write_report(records, folder, probes=outcome.records, answers=answers_in(folder, records))
        if not arguments.quiet:
            console.print(f"report: {written[0]} and {written[1].name}", markup=False, highlight=False)
    if outcome.interrupted is not None:
        return _stopped(console, outcome.interrupted)
    return SOME_FAILED if any(record.status not in ("ok", "unsupported") for record in outcome.records) else DONE


def _measure(
    suite: Suite | ProbeSuite,
    folder: Path,
    arguments: argparse.Namespace,
    console: Console,
    *,
    processes: int | None,
    share: bool,
) -> ProbeOutcome:
    """Measure the probes of a suite that have no record yet, and say how each ends."""
    from lora_bench.probe_execute import run_probes, shown
    from lora_bench.probe_plan import plan_probes

    def say(line: str) -> None:
        if not arguments.quiet:
            console.print(line, markup=False, highlight=False)

    def tell(record: ProbeRecord, place: str) -> None:
        if not arguments.quiet or record.status != "ok":
            console.print(f"{place} {shown(record)}".lstrip(), markup=False, highlight=False)

    plan = plan_probes(suite, folder, processes=processes, data_dir=arguments.data_dir, progress=say)
    missing = len(plan.missing(retry=arguments.retry))
    refused = f", {len(plan.refused)} cells cannot be measured" if plan.refused else ""
    say(f"probes: {missing or 'none'} of {len(plan.jobs)} processes to do{refused}")
    return run_probes(plan, share=share, retry=arguments.retry, tell=tell)


def _published(arguments: argparse.Namespace) -> int:
    from lora_bench.published import load_table
    from lora_bench.report.published_terminal import cells_listing, tables_listing

    shown = tables_listing() if arguments.table is None else cells_listing(load_table(arguments.table))
    _console().print(shown, highlight=False)
    return DONE


def _show_plan(console: Console, plan: Plan, card: str | None) -> None:
    from lora_bench.plan_table import plan_tables

    for part in plan_tables(plan, card):
        console.print(part, highlight=False)


def _report(arguments: argparse.Namespace) -> int:
    from lora_bench.export import data_files
    from lora_bench.probe_store import probe_files, read_probes
    from lora_bench.report import check_report, write_report
    from lora_bench.store import answers_in, read_records, record_files

    def has_records(path: Path) -> bool:
        return bool(record_files(path) or probe_files(path))

    folder: Path = arguments.runs
    sources: dict[str, Path] = {}
    if folder.is_dir() and not has_records(folder):
        # The baselines folder: one report for each baseline that has records.
        sources = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and has_records(path)}
    if not sources:
        name = "report" if arguments.out is None else folder.resolve().name
        sources = {name: folder}
    differences: list[str] = []
    for name, source in sources.items():
        probes = read_probes(source)
        records = read_records(source) if record_files(source) or not probes else []
        out = arguments.out or source
        sections = _published_sections(arguments, source, records)
        data = data_files(records, probes) if arguments.data else None
        if arguments.check:
            differences += check_report(records, out, name, sections, probes, data, answers_in(source, records))
        else:
            written = write_report(records, out, name, sections, probes, data, answers_in(source, records))
            print(*(path for path in written if path.suffix != ".svg"), sep="\n")
    for difference in differences:
        print(difference)
    return DIFFERS if differences else DONE


def _published_sections(arguments: argparse.Namespace, source: Path, records: Sequence[Record]) -> list[list[str]]:
    """What a published table says beside the records: the one that is named, or that lies beside them."""
    name = arguments.published or (source.resolve().name if (source / "published.csv").is_file() else None)
    if name is None:
        return []
    from lora_bench.reproduce import published_lines

    return [published_lines(name, records, arguments.role)]


def _accept(arguments: argparse.Namespace) -> int:
    from lora_bench.probe_store import PROBES, accept_probes, probe_files
    from lora_bench.store import accept, record_files

    folder: Path = arguments.runs
    target = Path("baselines") / (arguments.name or folder.resolve().name)
    if record_files(folder) or not probe_files(folder):
        print(f"{len(accept(folder, target))} records in {target / 'records'}")
    if probe_files(folder):
        print(f"{len(accept_probes(folder, target))} records in {target / PROBES}")
    return DONE


def _list(arguments: argparse.Namespace) -> int:
    from lora_bench.listing import listing

    console = _console()
    console.print(listing(arguments.what), highlight=False)
    return DONE


def _schema(arguments: argparse.Namespace) -> int:
    import json

    from pydantic import BaseModel

    from lora_bench.probe_record import ProbeRecord
    from lora_bench.probe_suite import ProbeFile
    from lora_bench.record import Record
    from lora_bench.suite_file import SuiteFile
    from lora_bench.tasks import Task

    models: dict[str, type[BaseModel]] = {
        "suite": SuiteFile, "probe-suite": ProbeFile, "record": Record, "probe": ProbeRecord, "task": Task,
    }  # fmt: skip
    model = models[arguments.what]
    print(json.dumps(model.model_json_schema(), indent=2, sort_keys=True))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
