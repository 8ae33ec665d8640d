"""The command line: arguments in, one library call, exit code out.

Exit codes: 0 done or pass; 1 a regression, or a committed report differs from its records; 2 bad input, before any work; 3 some
runs ended neither `ok` nor `unsupported`, or the work broke off; 4 the gate cannot decide; 130 and 143 stopped by SIGINT or
SIGTERM. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lora_bench.cli import commands
from lora_bench.cli.commands import BAD_INPUT, DONE, FULL, GOES_ON, SOME_FAILED
from lora_bench.cli.exchange_commands import add_exchange
from lora_bench.cli.gate_commands import add_check, mistaken_code
from lora_bench.errors import LoraBenchError, WorkBroken, WorkersLost
from lora_bench.util.redaction import message
from lora_bench.util.signals import CODES, Stopped, ending_on_signals
from lora_bench.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as end:
        raise SystemExit(mistaken_code(sys.argv[1:] if argv is None else argv, int(end.code or 0))) from None
    resumes = getattr(arguments, "resumes", False)
    try:
        with ending_on_signals():
            return int(arguments.command(arguments))
    except LoraBenchError as error:
        print(message(f"lora-bench: {error}"), file=sys.stderr)
        if isinstance(error, WorkBroken):
            print(GOES_ON, file=sys.stderr)
        return SOME_FAILED if isinstance(error, WorkersLost | WorkBroken) else BAD_INPUT
    except Stopped as stop:
        print(f"{GOES_ON}" if resumes else f"lora-bench: stopped by {stop.name}", file=sys.stderr)
        return CODES[stop.name]
    except BrokenPipeError:
        return DONE  # the reader of a pipe such as `| head` has seen enough
    except OSError as error:
        from lora_bench.records.outcomes import is_disk_full

        if resumes and is_disk_full(error):
            print(f"lora-bench: {FULL}", file=sys.stderr)
            return SOME_FAILED
        print(message(f"lora-bench: {error}"), file=sys.stderr)
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
    subcommands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = subcommands.add_parser("run", help="do every run of a suite that has no record yet, and write its report")
    run.add_argument("suite", metavar="SUITE", help="a suite by name, or its YAML file")
    _running_options(run)
    run.set_defaults(command=commands.run)

    plan = subcommands.add_parser(
        "plan", help="show every run of a suite with its size, counts and cost, and train nothing"
    )
    plan.add_argument("suite", metavar="SUITE", help="a suite by name, or its YAML file")
    _runs_option(plan)
    plan.add_argument("--series", type=_name, metavar="LABEL", help="the label of a repeat")
    plan.add_argument("--device", metavar="CARD", help='say whether each run fits a card, such as "H100 80GB" or 24GB')
    _data_option(plan)
    _prepare_option(plan)
    plan.set_defaults(command=commands.plan)

    work = subcommands.add_parser(
        "work",
        help="do whatever run of a prepared folder nobody is at, beside any number of others, until none is left",
    )
    work.add_argument(
        "runs",
        metavar="RUNS",
        type=Path,
        help="a suite's folder of runs, as `lora-bench plan SUITE --prepare` leaves it",
    )
    work.add_argument(
        "--workers", type=_count, default=1, metavar="N", help="runs at once (1); 0 does them in this process"
    )
    work.add_argument(
        "--among",
        type=_positive,
        default=1,
        metavar="N",
        help="how many of these commands are at work, so that packs of runs leave each of them something to do (1)",
    )
    work.add_argument(
        "--no-wait", dest="wait", action="store_false", help="end when nothing is left but the runs that others are at"
    )
    _pickle_option(work)
    _how_options(work)
    work.set_defaults(command=commands.work, resumes=True)

    probe = subcommands.add_parser(
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
    probe.set_defaults(command=commands.probe, resumes=True)

    reproduce = subcommands.add_parser(
        "reproduce", help="run a published table again, and hold its numbers against ours"
    )
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
    _prepare_option(reproduce)
    _running_options(reproduce)
    reproduce.set_defaults(command=commands.reproduce)

    published = subcommands.add_parser(
        "published", help="list the published tables that are known, or the cells of one"
    )
    published.add_argument("table", nargs="?", metavar="TABLE", help="a table by name")
    published.set_defaults(command=commands.published)

    report = subcommands.add_parser("report", help="render records as Markdown with figures, and as one HTML page")
    report.add_argument("runs", metavar="RUNS", type=Path, help="a folder of runs, a baseline, or the baselines folder")
    report.add_argument("--out", metavar="FOLDER", type=Path, help="where to write; beside the runs by default")
    report.add_argument("--published", metavar="TABLE", help="hold the records against a published table")
    report.add_argument("--as", dest="role", metavar="MODEL", help="the table's base model that another stands in for")
    report.add_argument("--data", action="store_true", help="also write every number, as CSV, Parquet and JSON")
    report.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a report would differ")
    report.set_defaults(command=commands.report)

    add_check(subcommands)
    add_exchange(subcommands)

    listing = subcommands.add_parser("list", help="list what can be named in a suite")
    listing.add_argument("what", choices=["methods", "models", "tasks", "suites"])
    listing.set_defaults(command=commands.list_names)

    schema = subcommands.add_parser("schema", help="print the JSON Schema of a suite or a record")
    schema.add_argument("what", choices=["suite", "probe-suite", "record", "probe", "task", "night", "answer"])
    schema.set_defaults(command=commands.print_schema)
    return parser


def _running_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(resumes=True)
    _runs_option(parser)
    parser.add_argument("--workers", type=_count, metavar="N", help="runs at once; 0 does them in this process")
    parser.add_argument("--only", action="append", default=[], metavar="RUN_ID", help="do this run; may be repeated")
    parser.add_argument(
        "--series", type=_name, metavar="LABEL", help="a repeat of the whole suite under this label, with its own seeds"
    )
    _data_option(parser)
    parser.add_argument("--no-probes", action="store_true", help="leave the probes that the suite asks for unmeasured")
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="do the runs on a Ray cluster whose nodes see the same folders: HOST:PORT, auto, or local for one of this machine",
    )
    _how_options(parser)


def _how_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--retry", action="store_true", help="do runs again that failed, timed out or ran out of memory"
    )
    parser.add_argument(
        "--timeout",
        type=_count,
        metavar="SECONDS",
        help="end a run that makes no progress for so long; 0 never does; by default as long as it was estimated to take, and "
        "at least half an hour",
    )
    parser.add_argument(
        "--no-pack",
        dest="pack",
        action="store_false",
        help="do every run by itself; by default runs that may share a base model take their steps together",
    )
    parser.add_argument(
        "--no-cut",
        dest="cut",
        action="store_false",
        help="have DeBERTa project its whole table of relative positions at every step, not only what rows reach",
    )
    parser.add_argument("--quiet", action="store_true", help="say only what failed")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _runs_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="holds SUITE/RUN_ID (./runs)")


def _prepare_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="train nothing, and leave in the runs folder what `lora-bench work` needs",
    )


def _pickle_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-pickle",
        action="append",
        default=[],
        metavar="MODEL",
        help="read this base model's weights although they are pickled: a file that can run code, so know who made it; may "
        "be repeated",
    )


def _data_option(parser: argparse.ArgumentParser) -> None:
    _pickle_option(parser)
    parser.add_argument(
        "--data-dir", type=Path, metavar="FOLDER", help="holds data sets as they circulate (FOLDER/CoLA/train.tsv, …)"
    )


def _name(text: str) -> str:
    from lora_bench.util.filenames import file_name

    try:
        return file_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got {text!r}")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)
