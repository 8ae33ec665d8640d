"""The commands that begin with a table: `try` compares methods on it, `init` only writes the suite for that."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from lora_bench.cli.help import Commands, Groups, add_command
from lora_bench.cli.shared_options import above_zero, quiet_option, runs_option
from lora_bench.errors import LoraBenchError
from lora_bench.util.redaction import message

Parse = Callable[[Sequence[str]], argparse.Namespace]

DEFAULT_MINUTES, MOST_MINUTES = 10.0, 1e6
# An encoder writes no text.
WRITER = "gpt2-mini"


def add_try(commands: Commands, parse: Parse) -> None:
    """Add the commands; *parse* reads a whole command line, as `try` ends in the commands that a user would give next."""
    tries = add_command(
        commands,
        "try TABLE",
        "compare four methods on your own table: write a suite, train for about --minutes, and name the method to take",
        "lora-bench try tickets.csv --text subject --label queue --minutes 10",
        _try,
        parse=parse,
        resumes=True,
    )
    _options(tries)
    runs_option(tries)
    tries.how.flag("--dry-run", "write the suite and show its plan; train nothing")
    quiet_option(tries, "failures and the answer only")

    init = add_command(
        commands,
        "init TABLE",
        "write the suite that `try` would run on a table, with comments, and train nothing",
        "lora-bench init tickets.csv --text subject --label queue",
        _init,
    )
    _options(init)


def _options(groups: Groups) -> None:
    what = groups.what
    what.takes("table", "TABLE", "CSV, TSV, JSONL or Parquet file, one example a row", type=Path)
    what.takes("--text", "COLUMN", "column of the text (default: guessed)")
    what.takes("--text-pair", "COLUMN", "column of a second text, for pairs")
    what.takes("--label", "COLUMN", "column of what to predict, or columns of 0 and 1: A,B,C (default: guessed)")
    what.takes("--kind", "KIND", "kind of task, such as regression or tokens (default: guessed)")
    what.takes("--metric", "METRIC", "metric to compare by, such as macro_f1 (default: guessed)")
    what.takes("--valid", "FILE", "file of the selection rows (default: a share of the table)", type=Path)
    what.takes("--test", "FILE", "file of the test rows (default: a share of the table)", type=Path)
    what.takes("--split", "COLUMN", "column that says which rows are train, valid and test")
    what.takes("--group", "COLUMN", "keep rows with equal values of this column in one split, such as a customer's")
    what.takes("--time", "COLUMN", "column of dates or numbers: test on the last rows")
    what.takes("--model", "MODEL", "base model (default: minilm-l6-roberta, which needs no hub)")
    minutes = "minutes that all runs together may take, by estimate (default: 10)"
    groups.how.takes("--minutes", "N", minutes, type=_minutes)


def _minutes(text: str) -> float:
    minutes = above_zero(text)
    if minutes > MOST_MINUTES:
        raise argparse.ArgumentTypeError(f"must be at most {MOST_MINUTES:,.0f}, got {text}")
    return minutes


def _write(arguments: argparse.Namespace, *, again: bool) -> Path:
    """Inspect the table, print the findings, and write the suite, or use one that is there *again*; return its file."""
    from lora_bench.kinds import find_kind
    from lora_bench.plan.fit_minutes import DEFAULT_MODEL, draft_suite
    from lora_bench.suite.from_table import FIRST_LOOK, name_of, refuse_another
    from lora_bench.tasks.guess_task import LookOptions
    from lora_bench.tasks.look import look
    from lora_bench.util.atomic_files import write_atomic

    file = Path(f"{name_of(arguments.table.name)}.yaml")
    if again and file.exists():
        refuse_another(file, arguments.table, _given(arguments))
    seen = look(arguments.table, LookOptions(**{key.name: getattr(arguments, key.name) for key in fields(LookOptions)}))
    for sentence in seen.sentences:
        print(message(sentence))
    sys.stdout.flush()
    minutes, model = arguments.minutes or DEFAULT_MINUTES, arguments.model or DEFAULT_MODEL
    if arguments.model is None and find_kind(seen.kind).writes:
        model = WRITER
        print(f"guessed: the base model is {model}, which writes texts; --model names another")
    draft = draft_suite(seen, Path(), model=model, minutes=minutes)
    if not file.exists():
        write_atomic(file, draft.text(Path()).encode("utf-8"))
        up_to = "up to " if draft.seeds > FIRST_LOOK else ""
        print(f"wrote {file}: {up_to}{draft.seeds} seeds, {draft.train_examples:,} examples a run; edit it as you like")
    elif again:
        print(f"{file} is there already and is used as it is; delete it to begin anew")
    else:
        raise LoraBenchError(
            f"{file} is there already; delete it to begin anew, or `lora-bench run {shlex.quote(str(file))}`"
        )
    return file


def _given(arguments: argparse.Namespace) -> dict[str, str | None]:
    """Return what the command line says of the suite beside the table, by option."""
    minutes = None if arguments.minutes is None else f"{arguments.minutes:g}"
    named = {
        name: getattr(arguments, name)
        for name in ("text", "text_pair", "label", "kind", "metric", "split", "group", "time")
    }
    files = {name: getattr(arguments, name) for name in ("valid", "test")}
    named |= {name: path if path is None else os.path.relpath(path) for name, path in files.items()}
    given: dict[str, str | None] = {f"--{name.replace('_', '-')}": value for name, value in named.items()}
    return {**given, "--model": arguments.model, "--minutes": minutes}


def _init(arguments: argparse.Namespace) -> int:
    file = _write(arguments, again=False)
    print(f"next: lora-bench plan {shlex.quote(str(file))}, then lora-bench run {shlex.quote(str(file))}")
    return 0


def _try(arguments: argparse.Namespace) -> int:
    file = _write(arguments, again=True)
    runs = ["--runs", str(arguments.runs)]
    if arguments.dry_run:
        return _do(arguments.parse, ["plan", str(file), *runs])
    code = _do(arguments.parse, ["run", str(file), *runs, *(["--quiet"] if arguments.quiet else [])])
    folder = shlex.quote(str(arguments.runs / file.stem))
    if code == 0 and arguments.quiet:  # else `run` has ended with the report's answer
        code = _do(arguments.parse, ["choose", str(arguments.runs / file.stem)])
    if code == 0:
        print(f"to take one now: lora-bench choose {folder}; its weights: lora-bench use {folder}")
    return code


def _do(parse: Parse, words: list[str]) -> int:
    """Do another command, as if it had been typed."""
    asked = parse(words)
    sys.stdout.flush()
    return int(asked.command(asked))
