"""The commands that take records on: `compare`, `export` and `import`, as the command line has them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lora_bench.cli.help import add_command, add_verbs
from lora_bench.errors import BadInput

if TYPE_CHECKING:
    from lora_bench.cli.help import Commands
    from lora_bench.exchange.peft_results import Imported


def add_exchange(commands: Commands) -> None:
    """Add the commands; each returns 0, or raises an error that the user can fix."""
    compare = add_command(
        commands,
        "compare",
        "compare two sets of runs, and name what differs between them",
        "lora-bench compare runs/before runs/after",
        takes="RUNS_A RUNS_B",
    )
    compare.what.add_argument("first", metavar="RUNS_A", type=Path, help="folder of runs, or a baseline")
    compare.what.add_argument("second", metavar="RUNS_B", type=Path, help="folder or baseline to compare with it")
    compare.where.add_argument(
        "--out", type=Path, default=Path(), metavar="FOLDER", help="folder for compare.md and compare.html (default: .)"
    )
    compare.how.add_argument(
        "--margin",
        type=margin,
        metavar="X",
        help="difference that does not matter, in the metric's unit (default: the metric's own, such as 0.005 for accuracy)",
    )
    compare.parser.set_defaults(command=_compare)

    exports = add_command(
        commands,
        "export",
        "write every number of some records as a table, or into a tracker",
        "lora-bench export runs/quickstart --to csv",
        takes="RUNS --to FORMAT",
    )
    exports.what.add_argument("runs", metavar="RUNS", type=Path, help="folder of runs, a baseline, or one record")
    exports.where.add_argument(
        "--out", metavar="PATH", help="file, tracker's folder or URI (default: beside the runs, or the tracker's own)"
    )
    exports.output.add_argument(
        "--to",
        required=True,
        choices=["csv", "parquet", "json", "mlflow", "trackio"],
        metavar="FORMAT",
        help="csv, parquet, json, mlflow or trackio",
    )
    exports.parser.set_defaults(command=_export)

    sources = add_verbs(
        commands,
        "import",
        "read other people's results as records",
        "lora-bench import peft-results peft/method_comparison",
        title="sources",
        metavar="SOURCE",
    )
    peft_results = add_command(
        sources,
        "peft-results",
        "read the result files of PEFT's method_comparison as records",
        "lora-bench import peft-results peft/method_comparison",
        takes="DIR",
    )
    peft_results.what.add_argument("folder", metavar="DIR", type=Path, help="method_comparison, or a folder in it")
    peft_results.where.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        metavar="FOLDER",
        help="folder for peft-results/RUN_ID (default: ./runs)",
    )
    peft_results.what.add_argument(
        "--history",
        action="store_true",
        help="read results of all dates: in the git history of DIR, in dated snapshots, or in its files; writes history.md",
    )
    peft_results.parser.set_defaults(command=_import_peft_results)


def margin(text: str) -> float:
    """Return a margin of scores given on the command line."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text}")
    return value


def _compare(arguments: argparse.Namespace) -> int:
    from lora_bench.records.store import answers_in, read_records, write_atomic
    from lora_bench.report.html import render_page
    from lora_bench.report.sections.compare_runs import RunSet, hold_against, two_sets_lines

    folders: tuple[Path, Path] = (arguments.first, arguments.second)
    sets = []
    for folder in folders:
        records = read_records(folder)
        # The folders' own names, or where these are the same as many of their parents' as tell them apart.
        sets.append(RunSet(_name(folder, folders), records, answers_in(folder, records)))
    lines = two_sets_lines(hold_against(*sets, margin=arguments.margin))
    markdown = "\n".join(lines) + "\n"
    for name, content in (("compare.md", markdown), ("compare.html", render_page(markdown, {}))):
        write_atomic(arguments.out / name, content.encode("utf-8"))
        print(arguments.out / name)
    return 0


def _name(folder: Path, folders: tuple[Path, Path]) -> str:
    parts = [one.resolve().parts for one in folders]
    own = folder.resolve().parts
    for length in range(1, max(map(len, parts)) + 1):
        if parts[0][-length:] != parts[1][-length:]:
            return "/".join(own[-length:])
    return folder.name


def _export(arguments: argparse.Namespace) -> int:
    from lora_bench.exchange import export
    from lora_bench.records.store import read_records

    runs: Path = arguments.runs
    beside = runs if runs.is_dir() else runs.parent
    print(export(read_records(runs), arguments.to, beside=beside, out=arguments.out))
    return 0


def _import_peft_results(arguments: argparse.Namespace) -> int:
    target = arguments.runs / "peft-results"
    if arguments.history:
        imported = _import_history(arguments.folder, target)
    else:
        from lora_bench.exchange.peft_results import import_results

        imported = import_results(arguments.folder, target)
        print(f"{len(imported.records)} of {imported.files} result files are records in {target}")
    if imported.faults:
        raise BadInput(imported.faults)
    return 0


def _import_history(folder: Path, target: Path) -> Imported:
    from lora_bench.exchange.peft_results.all_versions import import_history
    from lora_bench.exchange.peft_results.history_page import history_lines
    from lora_bench.records.store import write_atomic

    imported = import_history(folder, target)
    print(f"{len(imported.records)} runs of {imported.files} versions of result files are records in {target}")
    page = target / "history.md"
    write_atomic(page, ("\n".join(history_lines(imported.records)) + "\n").encode("utf-8"))
    print(page)
    return imported
