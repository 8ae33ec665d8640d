"""The commands that exchange records with other programs: `export` and `import`, as the command line has them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lora_bench.errors import BadInput

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_exchange(commands: Commands) -> None:
    """Add the commands; each returns 0, or raises what the user can put right."""
    export = commands.add_parser("export", help="write every number of records as a table, or into a tracker")
    export.add_argument("runs", metavar="RUNS", type=Path, help="a folder of runs, a baseline, or one record")
    export.add_argument("--to", required=True, choices=["csv", "parquet", "mlflow", "trackio"], help="the format")
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


def _export(arguments: argparse.Namespace) -> int:
    from lora_bench.export import export
    from lora_bench.store import read_records

    runs: Path = arguments.runs
    beside = runs if runs.is_dir() else runs.parent
    print(export(read_records(runs), arguments.to, beside=beside, out=arguments.out))
    return 0


def _import_peft_results(arguments: argparse.Namespace) -> int:
    from lora_bench.peft_results import import_results

    target = arguments.runs / "peft-results"
    imported = import_results(arguments.folder, target)
    print(f"{len(imported.records)} of {imported.files} result files are records in {target}")
    if imported.faults:
        raise BadInput(imported.faults)
    return 0
