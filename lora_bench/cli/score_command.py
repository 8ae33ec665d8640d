"""The command that scores adapters side by side: `lora-bench score`."""

import argparse
import sys
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lora_bench.cli.commands import terminal
from lora_bench.cli.help import DONE, SOME_FAILED, warn
from lora_bench.errors import LoraBenchError, did_you_mean
from lora_bench.report import text
from lora_bench.report.text import MISSING
from lora_bench.util.atomic_files import check_writable
from lora_bench.util.redaction import message

WRITTEN = (".csv", ".jsonl")


def score(arguments: argparse.Namespace) -> int:
    """Score adapters, print them from the best, and write what `judge` reads."""
    from lora_bench.fleet.score_adapters import score_adapters

    if arguments.out is not None:
        _check_out(arguments.out)
    sheet = score_adapters(
        arguments.adapters,
        arguments.task,
        base=arguments.base,
        split=arguments.split,
        data_dir=arguments.data_dir,
        max_length=arguments.max_length,
        say=(lambda said: None) if arguments.quiet else lambda said: print(message(said), file=sys.stderr),
    )
    metric = sheet.task.metric
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for header in ("adapter", "size", "weights", metric, "rows"):
        table.add_column(Text(header), justify="left" if header in ("adapter", "size") else "right")
    for one in sheet.scored:
        adapter = one.adapter
        weights = "whole model" if adapter.weights is None else f"{adapter.weights:,}"
        rows = f"{len(sheet.ids[sheet.task.fold_of(adapter.seed)]):,}"
        cells = (adapter.name, adapter.size or MISSING, weights, text.score(one.scores[metric]), rows)
        table.add_row(*map(Text, map(message, cells)))
    terminal().print(table, highlight=False)
    for folder, why in sheet.refused.items():
        warn(f"{folder} {why}")
    if arguments.out is not None:
        _write(arguments.out, list(sheet.rows()))
        print(message(f"{arguments.out}: for `lora-bench judge {arguments.out}`"))
    return SOME_FAILED if sheet.refused else DONE


def _check_out(out: Path) -> None:
    if out.suffix not in WRITTEN:
        raise LoraBenchError(f"{out}: end its name in {' or '.join(WRITTEN)}{did_you_mean(out.suffix, WRITTEN)}")
    if out.exists():
        raise LoraBenchError(f"{out} is there already; name a new file with --out")
    check_writable(out.absolute().parent, "--out")


def _write(out: Path, rows: list[dict[str, object]]) -> None:
    """Write rows as a table whose texts control no spreadsheet."""
    import pandas

    from lora_bench.exchange.table_files import to_csv
    from lora_bench.util.atomic_files import write_atomic

    frame = pandas.DataFrame(rows)
    write_atomic(out, to_csv(frame) if out.suffix == ".csv" else frame.to_json(orient="records", lines=True).encode())
