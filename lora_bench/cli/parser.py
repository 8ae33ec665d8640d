"""The command line: arguments in, one library call, exit code out.

Exit codes: 0 done or pass; 1 a regression, or a committed report differs from its records; 2 bad input, before any work; 3 some
runs ended neither `ok` nor `unsupported`, the work broke off, or lora_bench itself has a fault; 4 the gate cannot decide; 130
and 143 stopped by SIGINT or SIGTERM. Nothing heavy is imported before a command needs it.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from lora_bench.cli import shared_options as options
from lora_bench.cli.completion import add_completion, complete
from lora_bench.cli.gate_options import add_baseline, add_check
from lora_bench.cli.help import (
    BAD_INPUT,
    DONE,
    FULL,
    GOES_ON,
    SOME_FAILED,
    Commands,
    Formatter,
    Groups,
    Parser,
    add_command,
    command_of,
)
from lora_bench.cli.result_options import add_exchange, add_judge, add_try, add_winner
from lora_bench.errors import LoraBenchError, WorkBroken, WorkersLost
from lora_bench.util.redaction import message
from lora_bench.util.signals import CODES, Stopped, ending_on_signals
from lora_bench.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = build_parser()
    complete(parser)
    arguments = parser.parse_args(argv)
    resumes = getattr(arguments, "resumes", False)
    try:
        with ending_on_signals():
            return int(command_of(arguments)(arguments))
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
        description="Which fine-tuning method gives the better model, and how sure is that?",
        epilog="Begin with:   lora-bench try TABLE\nOptions and an example of a command:   lora-bench COMMAND --help",
        usage="%(prog)s COMMAND [options]",
        formatter_class=Formatter,
    )
    parser.add_argument("--version", action="version", version=f"lora-bench {__version__}")
    parser.set_defaults(command=parser.show_help)
    subcommands = parser.add_subparsers(title="commands", metavar="COMMAND", prog=parser.prog)
    add_try(subcommands, parser.parse_args)
    add_winner(subcommands)
    add_judge(subcommands)
    _add_run(subcommands)
    _add_plan(subcommands)
    _add_fits(subcommands)
    _add_work(subcommands)
    _add_probe(subcommands)
    _add_report(subcommands)
    _add_pool(subcommands)
    _add_reproduce(subcommands)
    add_check(subcommands)
    add_baseline(subcommands)
    add_exchange(subcommands)
    _add_listings(subcommands)
    add_completion(subcommands)
    return parser


def _add_run(subcommands: Commands) -> None:
    run = add_command(
        subcommands,
        "run SUITE",
        "train every missing run of a suite, then write its report; after a stop, the same command resumes",
        "lora-bench run quickstart",
        "commands:run",
        resumes=True,
    )
    run.what.takes("suite", "SUITE", "suite name (see `lora-bench list suites`) or YAML file")
    options.seeds_option(run)
    minutes = "stop after so many minutes, seed by seed until then; the same command continues (default: no limit)"
    run.how.takes("--minutes", "N", minutes, type=options.minutes)
    _running_options(run)


def _add_plan(subcommands: Commands) -> None:
    plan = add_command(
        subcommands,
        "plan SUITE",
        "show the data of a suite, every run with its size and cost, and the code it would run; train nothing",
        'lora-bench plan quickstart --device "H100 80GB"',
        "commands:plan",
    )
    plan.what.takes("suite", "SUITE", "suite name or YAML file")
    options.seeds_option(plan)
    options.series_option(plan)
    options.permission_options(plan.what)
    options.runs_option(plan)
    options.data_option(plan)
    plan.how.takes("--device", "CARD", 'say whether each run fits a GPU, such as "H100 80GB" or 24GB')
    plan.how.flag("--prepare", "prepare the runs folder for `lora-bench work`; train nothing")


def _add_fits(subcommands: Commands) -> None:
    fits = add_command(
        subcommands,
        "fits MODEL",
        "say which methods fit a GPU with a base model, and at which batch, from its config.json alone",
        "lora-bench fits gpt2-large --device T4",
        "fits_table:fits",
    )
    fits.what.takes(
        "model", "MODEL", "shape (`gpt2-large`), folder with a config.json, or OWNER/NAME@REVISION on the hub"
    )
    fits.where.takes("--device", "CARD", 'a GPU, such as T4, "A100 80GB" or 24GB', required=True)
    fits.how.takes("--length", "N", "tokens of a row (default: 512)", type=options.positive, default=512)
    fits.how.takes(
        "--batch", "N", "rows of the batch whose memory is shown (default: 1)", type=options.positive, default=1
    )


def _add_work(subcommands: Commands) -> None:
    work = add_command(
        subcommands,
        "work RUNS",
        "train unclaimed runs of a prepared folder; start as many workers as you like",
        "lora-bench work runs/quickstart",
        "commands:work",
        resumes=True,
    )
    prepared = "the suite's folder that `lora-bench plan SUITE --prepare` wrote"
    work.what.takes("runs", "RUNS", prepared, type=Path)
    options.permission_options(work.what)
    at_once = "runs at once (default: 1); 0 trains in this process"
    work.how.takes("--workers", "N", at_once, type=options.count, default=1)
    among = "number of `work` commands on this folder, so that packs leave runs for each (default: 1)"
    work.how.takes("--among", "N", among, type=options.positive, default=1)
    work.how.switch("--no-wait", "wait", "exit when other processes hold all runs that are left")
    options.how_options(work)


def _add_probe(subcommands: Commands) -> None:
    probe = add_command(
        subcommands,
        "probe SUITE",
        "measure speed, memory, latency and storage of each method, alone on its device",
        "lora-bench probe quickstart",
        "commands:probe",
        resumes=True,
    )
    probe.what.takes(
        "suite", "SUITE", "suite, or suite of probes: a name or YAML file; or fleet: many adapters on a base"
    )
    options.permission_options(probe.what)
    options.runs_option(probe)
    options.data_option(probe)
    processes = "processes for each cell (default: 3 on a CPU, 5 on a GPU)"
    probe.how.takes("--processes", "N", processes, type=options.positive)
    probe.how.flag("--share", "measure even if another process uses the device")
    probe.how.flag("--retry", "measure again what did not end ok")
    options.quiet_option(probe)


def _add_reproduce(subcommands: Commands) -> None:
    reproduce = add_command(
        subcommands,
        "reproduce TABLE",
        "run a published table again and compare its numbers with yours",
        "lora-bench reproduce lora-table2 --model roberta-base --tasks sst2,cola --plan",
        "commands:reproduce",
        resumes=True,
    )
    what, how = reproduce.what, reproduce.how
    what.takes("table", "TABLE", "published table (see `lora-bench published`)")
    what.takes("--model", "MODEL", "one base model of the table, or a stand-in for one")
    what.takes("--as", "MODEL", "the table's base model that the stand-in replaces", dest="role")
    what.takes("--revision", "COMMIT", "revision of the base model on the hub, such as one that has safetensors")
    what.takes("--tasks", "A,B", "some of the table's tasks", type=options.names, default=())
    what.takes("--methods", "A,B", "some of its rows, by method label", type=options.names, default=())
    what.takes("--seeds", "N", "number of seeds (default: the table's)", type=options.count)
    what.takes("--protocol", "NAME", "strict or paper (default: the table's)")
    what.takes("--epochs", "N", "a smoke test of N epochs; makes every cell not comparable", type=float)
    smoke = "a smoke test of N examples; makes every cell not comparable"
    what.takes("--train-examples", "N", smoke, type=options.positive)
    adapter = "an adapter in PEFT's format for rows that start from another task's run; not comparable"
    what.takes("--start-from", "FOLDER", adapter)
    plan = "show every run with its recipe, counts and memory; train nothing, download nothing of the table"
    how.flag("--plan", plan)
    how.takes("--device", "CARD", "with --plan: say whether each run fits a GPU")
    _running_options(reproduce)

    published = add_command(
        subcommands,
        "published [TABLE]",
        "list the published tables, or the cells of one",
        "lora-bench published lora-table2",
        "reading_commands:published",
    )
    published.what.takes("table", "TABLE", "a table by name (default: list all)", nargs="?")


def _add_report(subcommands: Commands) -> None:
    report = add_command(
        subcommands,
        "report RUNS...",
        "write the report of records: Markdown with figures, and one HTML page",
        "lora-bench report runs/quickstart",
        "reading_commands:report",
    )
    what, output = report.what, report.output
    runs = "folder of runs, a baseline, or the baselines folder; several are one report, in which each run counts once"
    what.takes("runs", "RUNS", runs, nargs="+", type=options.records_at)
    what.takes("--published", "TABLE", "compare the records with a published table")
    what.takes("--as", "MODEL", "the table's base model that yours stands in for", dest="role")
    what.takes("--reference", "METHOD", "compare with this method, by label (default: as declared, full or lora)")
    what.takes("--margin", "X", "ask with this margin, in the metric's unit; the page says so", type=options.margin)
    what.takes("--alpha", "A", "ask with this error level, such as 0.01; the page says so", type=options.alpha)
    what.takes("--texts", "SUITE", "show the texts of test items from this suite's data, where its licence allows it")
    report.where.takes("--out", "FOLDER", "folder to write to (default: RUNS itself; needed for several)", type=Path)
    output.flag("--watch", "write it again after each run, as a page that reloads itself, until Ctrl-C")
    output.flag("--data", "also write every number as CSV, Parquet and JSON")
    options.paper_options(report)
    output.flag("--check", "write nothing; exit with 1 if a report on disk differs from its records")


def _add_pool(subcommands: Commands) -> None:
    pool = add_command(
        subcommands,
        "pool FOLDERS...",
        "analyse the records of several suites as one: pairs of methods over tasks and base models",
        "lora-bench pool runs/tickets runs/reviews --out pool.md",
        "reading_commands:pool",
    )
    folders = "folders of runs, baselines, or a folder of these"
    pool.what.takes("folders", "FOLDERS", folders, nargs="+", type=options.records_at)
    pool.where.takes("--out", "FILE", "Markdown file to write (default: print it)", type=Path)


def _add_listings(subcommands: Commands) -> None:
    listing = add_command(
        subcommands,
        "list WHAT [MODEL]",
        "list the methods, models, tasks or suites that have a name, or the parts of a base model",
        "lora-bench list methods",
        "reading_commands:list_names",
    )
    lists = ["methods", "models", "tasks", "suites", "family"]
    of_names = "methods, models, tasks or suites; or family, with a MODEL, for the names of its parts"
    listing.what.takes("what", "WHAT", of_names, choices=lists)
    listing.what.takes("model", "MODEL", "base model, for family", nargs="?")
    listing.what.takes("--revision", "COMMIT", "revision of MODEL on the hub")

    schema = add_command(
        subcommands,
        "schema WHAT",
        "print the JSON Schema of a file that lora-bench reads or writes",
        "lora-bench schema suite",
        "reading_commands:print_schema",
    )
    schemas = ["suite", "probe-suite", "record", "probe", "task", "night", "answer"]
    schema.what.takes("what", "WHAT", ", ".join(schemas), choices=schemas)


def _running_options(groups: Groups) -> None:
    what = groups.what
    what.several("--only", "RUN_ID", "train only this run; may be repeated")
    done = "take the runs that this folder or baseline has as done, and copy them"
    what.takes("--continue-from", "RUNS", done, type=options.records_at)
    options.series_option(groups)
    what.flag("--no-probes", "skip the probes that the suite asks for")
    options.permission_options(what)
    options.runs_option(groups)
    options.data_option(groups)
    cluster = "train on a Ray cluster whose nodes see the same folders: HOST:PORT, auto, or local for a temporary one"
    groups.where.takes("--ray", "ADDRESS", cluster)
    workers = "runs at once (default: from cores, GPUs and memory); 0 trains in this process"
    groups.how.takes("--workers", "N", workers, type=options.count)
    options.how_options(groups)
