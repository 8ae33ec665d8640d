"""The commands that take records on: `compare`, `export` and `import`, as the command line has them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lora_bench.errors import BadInput

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_exchange(commands: Commands) -> None:
    """Add the commands; each returns 0, or raises what the user can put right."""
    compare = commands.add_parser("compare", help="hold two sets of runs against each other")
    compare.add_argument("first", metavar="RUNS_A", type=Path, help="a folder of runs, or a baseline")
    compare.add_argument("second", metavar="RUNS_B", type=Path, help="what is held against it")
    compare.add_argument("--margin", type=_margin, metavar="X", help="the difference of scores that does not matter")
    compare.add_argument(
        "--out", type=Path, default=Path(), metavar="FOLDER", help="gets compare.md and compare.html (.)"
    )
    compare.set_defaults(command=_compare)

    export = commands.add_parser("export", help="write every number of records as a table, or into a tracker")
    export.add_argument("runs", metavar="RUNS", type=Path, help="a folder of runs, a baseline, or one record")
    export.add_argument(
        "--to", required=True, choices=["csv", "parquet", "json", "mlflow", "trackio"], help="the format"
    )
    export.add_argument(
        "--out",
        metavar="PATH",
        help="the file, the tracker's folder or its URI; beside the runs, or as the tracker has it",
    )
    export.set_defaults(command=_export)

    imports = commands.add_parser("import", help="read other people's results as records")
    sources = imports.add_subparsers(title="sources", required=True, metavar="SOURCE")
    peft_results = sources.add_parser("peft-results", help="result files of PEFT's method_comparison")
    peft_results.add_argument("folder", metavar="DIR", type=Path, help="method_comparison, or a folder below it")
    peft_results.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="gets peft-results/RUN_ID (./runs)"
    )
    peft_results.set_defaults(command=_import_peft_results)


def _margin(text: str) -> float:
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
    from lora_bench.exchange.peft_results import import_results

    target = arguments.runs / "peft-results"
    imported = import_results(arguments.folder, target)
    print(f"{len(imported.records)} of {imported.files} result files are records in {target}")
    if imported.faults:
        raise BadInput(imported.faults)
    return 0
