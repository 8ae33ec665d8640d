"""The command line: arguments in, one library call, exit code out.

Exit codes: 0 done or pass; 1 a regression, or a committed report differs from its records; 2 bad input, before any work; 3 some
runs ended neither `ok` nor `unsupported`, the work broke off, or lora_bench itself has a fault; 4 the gate cannot decide; 130
and 143 stopped by SIGINT or SIGTERM. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_bench.cli import commands, reading_commands
from lora_bench.cli.baseline_commands import add_baseline
from lora_bench.cli.commands import BAD_INPUT, DONE, FULL, GOES_ON, SOME_FAILED
from lora_bench.cli.completion import add_completion, complete
from lora_bench.cli.exchange_commands import add_exchange
from lora_bench.cli.gate_commands import add_check, mistaken_code
from lora_bench.cli.help import Formatter, Groups, Parser, add_command, records_at
from lora_bench.cli.try_commands import add_try
from lora_bench.cli.winner_commands import add_winner
from lora_bench.errors import LoraBenchError, WorkBroken, WorkersLost
from lora_bench.util.redaction import message
from lora_bench.util.signals import CODES, Stopped, ending_on_signals
from lora_bench.version import __version__

if TYPE_CHECKING:
    from lora_bench.cli.help import Commands


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = build_parser()
    complete(parser)
    try:
        arguments = parser.parse_args(argv)
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
    except Exception as error:
        # Python itself would exit with 1, which stands for a regression.
        print(message("".join(traceback.format_exception(error))), file=sys.stderr)
        print("lora-bench: this is a fault in lora_bench; please report it with the lines above", file=sys.stderr)
        return SOME_FAILED
    finally:
        _flush()


def _flush() -> None:
    """Empty the buffers; drop output without a reader, so that Python ends without an error of its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def build_parser() -> Parser:
    """Build the parser of the command line, with all commands."""
    parser = Parser(
        prog="lora-bench",
        description="Compare fine-tuning methods under matched budgets.",
        epilog="Begin with:   lora-bench run quickstart\nOptions and an example of a command:   lora-bench COMMAND --help",
        usage="%(prog)s COMMAND [options]",
        formatter_class=Formatter,
    )
    parser.add_argument("--version", action="version", version=f"lora-bench {__version__}")
    parser.set_defaults(command=parser.show_help)
    subcommands = parser.add_subparsers(title="commands", metavar="COMMAND", prog=parser.prog)
    add_try(subcommands, parser.parse_args)
    _add_run(subcommands)
    _add_plan(subcommands)
    _add_work(subcommands)
    _add_probe(subcommands)
    _add_reproduce(subcommands)
    _add_report(subcommands)
    add_winner(subcommands)
    add_check(subcommands)
    add_baseline(subcommands)
    add_exchange(subcommands)
    _add_listings(subcommands)
    add_completion(subcommands)
    return parser


def _add_run(subcommands: Commands) -> None:
    run = add_command(
        subcommands,
        "run",
        "train every missing run of a suite, then write its report; after a stop, the same command resumes",
        "lora-bench run quickstart",
        takes="SUITE",
    )
    _suite_argument(run, "suite name (see `lora-bench list suites`) or YAML file")
    _seeds_option(run)
    _running_options(run)
    run.parser.set_defaults(command=commands.run)


def _add_plan(subcommands: Commands) -> None:
    plan = add_command(
        subcommands,
        "plan",
        "show the data of a suite, every run with its size and cost, and the code it would run; train nothing",
        'lora-bench plan quickstart --device "H100 80GB"',
        takes="SUITE",
    )
    _suite_argument(plan, "suite name or YAML file")
    _seeds_option(plan)
    _series_option(plan)
    _permission_options(plan)
    _runs_option(plan)
    _data_option(plan)
    plan.how.add_argument(
        "--device", metavar="CARD", help='say whether each run fits a GPU, such as "H100 80GB" or 24GB'
    )
    _prepare_option(plan)
    plan.output.add_argument("--json", action="store_true", help="print one JSON object in place of tables")
    plan.parser.set_defaults(command=commands.plan)


def _add_work(subcommands: Commands) -> None:
    work = add_command(
        subcommands,
        "work",
        "train unclaimed runs of a prepared folder; start as many workers as you like",
        "lora-bench work runs/quickstart",
        takes="RUNS",
    )
    work.what.add_argument(
        "runs", metavar="RUNS", type=Path, help="the suite's folder that `lora-bench plan SUITE --prepare` wrote"
    )
    _permission_options(work)
    work.how.add_argument(
        "--workers", type=_count, default=1, metavar="N", help="runs at once (default: 1); 0 trains in this process"
    )
    work.how.add_argument(
        "--among",
        type=_positive,
        default=1,
        metavar="N",
        help="number of `work` commands on this folder, so that packs leave runs for each (default: 1)",
    )
    work.how.add_argument(
        "--no-wait", dest="wait", action="store_false", help="exit when other processes hold all runs that are left"
    )
    _how_options(work)
    work.parser.set_defaults(command=commands.work, resumes=True)


def _add_probe(subcommands: Commands) -> None:
    probe = add_command(
        subcommands,
        "probe",
        "measure speed, memory, latency and storage of each method, alone on its device",
        "lora-bench probe quickstart",
        takes="SUITE",
    )
    _suite_argument(probe, "suite, or suite of probes: a name or YAML file")
    _permission_options(probe)
    _runs_option(probe)
    _data_option(probe)
    probe.how.add_argument(
        "--processes", type=_positive, metavar="N", help="processes for each cell (default: 3 on a CPU, 5 on a GPU)"
    )
    probe.how.add_argument("--share", action="store_true", help="measure even if another process uses the device")
    probe.how.add_argument("--retry", action="store_true", help="measure again what did not end ok")
    _quiet_option(probe)
    probe.parser.set_defaults(command=commands.probe, resumes=True)


def _add_reproduce(subcommands: Commands) -> None:
    reproduce = add_command(
        subcommands,
        "reproduce",
        "run a published table again and compare its numbers with yours",
        "lora-bench reproduce lora-table2 --model roberta-base --tasks sst2,cola --plan",
        takes="TABLE",
    )
    what = reproduce.what
    what.add_argument("table", metavar="TABLE", help="published table (see `lora-bench published`)")
    what.add_argument("--model", metavar="MODEL", help="one base model of the table, or a stand-in for one")
    what.add_argument("--as", dest="role", metavar="MODEL", help="the table's base model that the stand-in replaces")
    what.add_argument(
        "--revision", metavar="COMMIT", help="revision of the base model on the hub, such as one that has safetensors"
    )
    what.add_argument("--tasks", type=_names, default=[], metavar="A,B", help="some of the table's tasks")
    what.add_argument("--methods", type=_names, default=[], metavar="A,B", help="some of its rows, by method label")
    what.add_argument("--seeds", type=_count, metavar="N", help="number of seeds (default: the table's)")
    what.add_argument("--protocol", metavar="NAME", help="strict or paper (default: the table's)")
    what.add_argument(
        "--epochs", type=float, metavar="N", help="a smoke test of N epochs; makes every cell not comparable"
    )
    what.add_argument(
        "--train-examples",
        type=_positive,
        metavar="N",
        help="a smoke test of N examples; makes every cell not comparable",
    )
    what.add_argument(
        "--start-from",
        type=Path,
        metavar="FOLDER",
        help="an adapter in PEFT's format for rows that start from another task's run; not comparable",
    )
    reproduce.how.add_argument(
        "--plan",
        action="store_true",
        help="show every run with its recipe, counts and memory; train nothing, download nothing of the table",
    )
    reproduce.how.add_argument("--device", metavar="CARD", help="with --plan: say whether each run fits a GPU")
    _prepare_option(reproduce)
    _running_options(reproduce)
    reproduce.parser.set_defaults(command=commands.reproduce)

    published = add_command(
        subcommands,
        "published",
        "list the published tables, or the cells of one",
        "lora-bench published lora-table2",
        takes="[TABLE]",
    )
    published.what.add_argument("table", nargs="?", metavar="TABLE", help="a table by name (default: list all)")
    published.parser.set_defaults(command=reading_commands.published)


def _add_report(subcommands: Commands) -> None:
    report = add_command(
        subcommands,
        "report",
        "write the report of records: Markdown with figures, and one HTML page",
        "lora-bench report runs/quickstart",
        takes="RUNS",
    )
    report.what.add_argument(
        "runs", metavar="RUNS", type=records_at, help="folder of runs, a baseline, or the baselines folder"
    )
    report.what.add_argument("--published", metavar="TABLE", help="compare the records with a published table")
    report.what.add_argument(
        "--as", dest="role", metavar="MODEL", help="the table's base model that yours stands in for"
    )
    report.what.add_argument(
        "--reference", metavar="METHOD", help="compare with this method, by label (default: as declared, full or lora)"
    )
    report.what.add_argument(
        "--texts",
        metavar="SUITE",
        help="show the texts of test items from this suite's data, where its licence allows it",
    )
    report.where.add_argument("--out", metavar="FOLDER", type=Path, help="folder to write to (default: RUNS itself)")
    report.output.add_argument("--data", action="store_true", help="also write every number as CSV, Parquet and JSON")
    report.output.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if a report on disk differs from its records"
    )
    report.parser.set_defaults(command=reading_commands.report)


def _add_listings(subcommands: Commands) -> None:
    listing = add_command(
        subcommands,
        "list",
        "list the methods, models, tasks or suites that have a name, or the parts of a base model",
        "lora-bench list methods",
        takes="WHAT [MODEL]",
    )
    listing.what.add_argument(
        "what",
        choices=["methods", "models", "tasks", "suites", "family"],
        metavar="WHAT",
        help="methods, models, tasks or suites; or family, with a MODEL, for the names of its parts",
    )
    listing.what.add_argument("model", nargs="?", metavar="MODEL", help="base model, for family")
    listing.what.add_argument("--revision", metavar="COMMIT", help="revision of MODEL on the hub")
    listing.output.add_argument("--as-yaml", action="store_true", help="print a family as the key of a suite's model")
    listing.parser.set_defaults(command=reading_commands.list_names)

    schema = add_command(
        subcommands,
        "schema",
        "print the JSON Schema of a file that lora-bench reads or writes",
        "lora-bench schema suite",
        takes="WHAT",
    )
    schemas = ["suite", "probe-suite", "record", "probe", "task", "night", "answer"]
    schema.what.add_argument("what", choices=schemas, metavar="WHAT", help=", ".join(schemas))
    schema.parser.set_defaults(command=reading_commands.print_schema)


def _running_options(groups: Groups) -> None:
    groups.parser.set_defaults(resumes=True)
    groups.what.add_argument(
        "--only", action="append", default=[], metavar="RUN_ID", help="train only this run; may be repeated"
    )
    groups.what.add_argument(
        "--continue-from",
        type=records_at,
        metavar="RUNS",
        help="take the runs that this folder or baseline has as done, and copy them",
    )
    _series_option(groups)
    groups.what.add_argument("--no-probes", action="store_true", help="skip the probes that the suite asks for")
    _permission_options(groups)
    _runs_option(groups)
    _data_option(groups)
    groups.where.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="train on a Ray cluster whose nodes see the same folders: HOST:PORT, auto, or local for a temporary one",
    )
    groups.how.add_argument(
        "--workers",
        type=_count,
        metavar="N",
        help="runs at once (default: from cores, GPUs and memory); 0 trains in this process",
    )
    _how_options(groups)


def _how_options(groups: Groups) -> None:
    how = groups.how
    how.add_argument(
        "--retry", action="store_true", help="also repeat runs that failed, timed out or ran out of memory"
    )
    how.add_argument(
        "--timeout",
        type=_count,
        metavar="SECONDS",
        help="end a run that makes no progress for SECONDS; 0: never (default: the run's estimated time, at least 1800)",
    )
    how.add_argument(
        "--no-pack",
        dest="pack",
        action="store_false",
        help="train every run alone (default: runs that can share a base model take their steps together)",
    )
    how.add_argument(
        "--no-cut",
        dest="cut",
        action="store_false",
        help="DeBERTa: compute all relative positions at every step (default: only those within the inputs' length)",
    )
    _quiet_option(groups)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _suite_argument(groups: Groups, help: str) -> None:
    groups.what.add_argument("suite", metavar="SUITE", help=help)


def _seeds_option(groups: Groups) -> None:
    groups.what.add_argument(
        "--seeds",
        type=_positive,
        metavar="N",
        help="seeds of every method: the suite's and the next ones (default: as the suite says)",
    )


def _series_option(groups: Groups) -> None:
    groups.what.add_argument(
        "--series",
        type=_name,
        metavar="LABEL",
        help="repeat the suite with new seeds under this label, such as night-42",
    )


def _runs_option(groups: Groups) -> None:
    groups.where.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        metavar="FOLDER",
        help="folder for SUITE/RUN_ID and SUITE/report.md (default: ./runs)",
    )


def _data_option(groups: Groups) -> None:
    groups.where.add_argument(
        "--data-dir",
        type=Path,
        metavar="FOLDER",
        help="folder of data sets as they circulate, such as FOLDER/CoLA/train.tsv",
    )


def _prepare_option(groups: Groups) -> None:
    groups.how.add_argument(
        "--prepare", action="store_true", help="prepare the runs folder for `lora-bench work`; train nothing"
    )


def _permission_options(groups: Groups) -> None:
    groups.what.add_argument(
        "--allow-pickle",
        action="append",
        default=[],
        metavar="MODEL",
        help="read this base model's pickled weights; a pickle can run code, so know who made it; may be repeated",
    )
    groups.what.add_argument(
        "--allow-code",
        action="append",
        default=[],
        metavar="NAME@HASH",
        help="allow this code of the suite, as `plan` lists it; it runs with your rights, so read it first; may be repeated",
    )


def _quiet_option(groups: Groups) -> None:
    groups.output.add_argument("--quiet", action="store_true", help="print failures only")


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
