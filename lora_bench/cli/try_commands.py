"""The commands that begin with a table: `try` compares methods on it, `init` only writes the suite for that."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_bench.cli.help import add_command
from lora_bench.errors import LoraBenchError
from lora_bench.util.redaction import message

if TYPE_CHECKING:
    from lora_bench.cli.help import Commands, Groups

Parse = Callable[[Sequence[str]], argparse.Namespace]

DEFAULT_MINUTES = 10.0


def add_try(commands: Commands, parse: Parse) -> None:
    """Add the commands.

    Args:
        commands: Where to.
        parse: Parses a whole command line; `try` ends in the commands that a user would give next.
    """
    tries = add_command(
        commands,
        "try",
        "compare four methods on your own table: write a suite, train for about --minutes, and name the method to take",
        "lora-bench try tickets.csv --text subject --label queue --minutes 10",
        takes="TABLE",
    )
    _options(tries)
    tries.where.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        metavar="FOLDER",
        help="folder for SUITE/RUN_ID and SUITE/report.md (default: ./runs)",
    )
    tries.how.add_argument("--dry-run", action="store_true", help="write the suite and show its plan; train nothing")
    tries.output.add_argument("--quiet", action="store_true", help="print failures and the answer only")
    tries.parser.set_defaults(command=_try, parse=parse, resumes=True)

    init = add_command(
        commands,
        "init",
        "write the suite that `try` would run on a table, with comments, and train nothing",
        "lora-bench init tickets.csv --text subject --label queue",
        takes="TABLE",
    )
    _options(init)
    init.parser.set_defaults(command=_init)


def _options(groups: Groups) -> None:
    what = groups.what
    what.add_argument("table", metavar="TABLE", type=Path, help="CSV, TSV, JSONL or Parquet file, one example a row")
    what.add_argument("--text", metavar="COLUMN", help="column of the text (default: guessed)")
    what.add_argument("--text-pair", metavar="COLUMN", help="column of a second text, for pairs")
    what.add_argument("--label", metavar="COLUMN", help="column of the class or number to predict (default: guessed)")
    what.add_argument("--model", metavar="MODEL", help="base model (default: minilm-l6-roberta, which needs no hub)")
    groups.how.add_argument(
        "--minutes",
        type=_minutes,
        default=DEFAULT_MINUTES,
        metavar="N",
        help="minutes that all runs together may take, by estimate (default: 10)",
    )


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return value


def _write(arguments: argparse.Namespace, *, again: bool) -> Path:
    """Inspect the table, print the findings, and write the suite; return its file.

    Args:
        arguments: The command's.
        again: True to use a file that is there already.
    """
    from lora_bench.plan.fit_minutes import DEFAULT_MODEL, draft_suite
    from lora_bench.suite.from_table import FIRST_LOOK
    from lora_bench.tasks.look import look
    from lora_bench.util.atomic_files import write_atomic

    seen = look(arguments.table, arguments.text, arguments.text_pair, arguments.label)
    for sentence in seen.sentences:
        print(message(sentence))
    sys.stdout.flush()
    draft = draft_suite(seen, Path(), model=arguments.model or DEFAULT_MODEL, minutes=arguments.minutes)
    file = Path(f"{draft.name}.yaml")
    if not file.exists():
        write_atomic(file, draft.text(Path()).encode("utf-8"))
        up_to = "up to " if draft.seeds > FIRST_LOOK else ""
        print(f"wrote {file}: {up_to}{draft.seeds} seeds, {draft.train_examples:,} examples a run; edit it as you like")
    elif again:
        print(f"{file} is there already and is used as it is; delete it to begin anew")
    else:
        raise LoraBenchError(f"{file} is there already; delete it to begin anew, or `lora-bench run {file}`")
    return file


def _init(arguments: argparse.Namespace) -> int:
    file = _write(arguments, again=False)
    print(f"next: lora-bench plan {file}, then lora-bench run {file}")
    return 0


def _try(arguments: argparse.Namespace) -> int:
    file = _write(arguments, again=True)
    runs = ["--runs", str(arguments.runs)]
    if arguments.dry_run:
        return _do(arguments.parse, ["plan", str(file), *runs])
    code = _do(arguments.parse, ["run", str(file), *runs, *(["--quiet"] if arguments.quiet else [])])
    folder = arguments.runs / file.stem
    if code == 0 and arguments.quiet:  # else `run` has ended with the report's answer
        code = _do(arguments.parse, ["choose", str(folder)])
    if code == 0:
        print(f"to take one now: lora-bench choose {folder}; its weights: lora-bench use {folder}")
    return code


def _do(parse: Parse, words: list[str]) -> int:
    """Do another command, as if it had been typed."""
    asked = parse(words)
    sys.stdout.flush()
    return int(asked.command(asked))
