"""The commands that begin with a table: `try` compares methods and trains the chosen one, `init` writes the suite alone."""

import argparse
import os
import shlex
import sys
import time
from dataclasses import fields
from pathlib import Path

from lora_bench.cli.commands import run, terminal
from lora_bench.cli.help import DONE, SOME_FAILED, command_of
from lora_bench.cli.result_options import Parse
from lora_bench.errors import LoraBenchError
from lora_bench.execute.final_model import train_final
from lora_bench.execute.first_steps import slowdowns
from lora_bench.execute.options import Afterwards
from lora_bench.execute.progress import display
from lora_bench.kinds import find_kind
from lora_bench.kinds.support.table_view import LookOptions
from lora_bench.plan.fit_minutes import DEFAULT_MODEL, TIMES_DRAFT, draft_suite
from lora_bench.records.store import read_records, record_files
from lora_bench.suite.from_table import Draft, OtherOptions, is_unedited, marked, name_of, refuse_another
from lora_bench.tasks.look import look
from lora_bench.util.atomic_files import write_atomic
from lora_bench.util.redaction import message

DEFAULT_MINUTES = 10.0
# Fewer minutes leave no run.
LEAST_MINUTES = 0.05
# The run on all rows has more of them than any before it, and every core: it takes at most so many times the longest of those.
# On the tables of `benchmarks.decisions` it took .8 to 1.2 times.
TIMES_LONGEST = 1.25
# It is stopped so late; the rest of the tenth that all may take longer is for writing its model.
LATEST = 1.05
MEASURING = "some steps of training tell how fast this machine is now"
COMPARED = "the time for comparing is over; the same command with more --minutes would go on with it"
# An encoder writes no text.
WRITER = "gpt2-mini"


def _write(arguments: argparse.Namespace, *, again: bool, measured: bool = False) -> tuple[Path, Draft | None]:
    """Write the suite of a table, or use one that is there *again*; return its file, and its draft if it was written.

    One for other options that was not edited, of which no run has begun, is written anew. The machine is *measured*, or not.
    """
    file = Path(f"{name_of(arguments.table.name)}.yaml")
    anew = False
    if again and file.exists():
        try:
            refuse_another(file, arguments.table, _given(arguments))
        except OtherOptions:
            if (arguments.runs / file.stem).exists() or not is_unedited(file):
                raise
            anew = True
    seen = look(
        arguments.table, LookOptions(**{key.name: vars(arguments).get(key.name) for key in fields(LookOptions)})
    )
    for sentence in seen.sentences:
        print(message(sentence))
    minutes, model = arguments.minutes or DEFAULT_MINUTES, arguments.model or DEFAULT_MODEL
    if file.exists() and again and not anew:
        print(f"{file} is there already and is used as it is; delete it to begin anew")
        return file, None
    if file.exists() and not anew:
        raise LoraBenchError(
            f"{file} is there already; delete it to begin anew, or `lora-bench run {shlex.quote(str(file))}`"
        )
    if arguments.model is None and find_kind(seen.kind).writes:
        model = WRITER
        print(f"guessed: the base model is {model}, which writes texts; --model names another")
    if measured:
        print(MEASURING)
    sys.stdout.flush()
    draft = draft_suite(seen, Path(), model=model, minutes=minutes, measure=slowdowns if measured else None)
    write_atomic(file, marked(draft.text(Path())).encode("utf-8"))
    print(f"wrote {file}{' anew' if anew else ''}: {draft.said}; edit it as you like")
    return file, draft


def _model_of(file: Path) -> Path:
    """Return the folder of the model on all rows."""
    return Path(f"{file.stem}-model")


def _given(arguments: argparse.Namespace) -> dict[str, str | None]:
    """Return what the command line says of the suite beside the table, by option."""
    minutes = None if arguments.minutes is None else f"{arguments.minutes:g}"
    names = ("text", "text_pair", "label", "kind", "metric", "split", "group", "time")
    named = {name: getattr(arguments, name) for name in names}
    named |= {name: path and os.path.relpath(path) for name in ("valid", "test") for path in [getattr(arguments, name)]}
    given: dict[str, str | None] = {f"--{name.replace('_', '-')}": value for name, value in named.items()}
    return {**given, "--model": arguments.model, "--minutes": minutes}


def init(arguments: argparse.Namespace) -> int:
    """Write the suite of a table."""
    file, _ = _write(arguments, again=False)
    print(f"next: lora-bench plan {shlex.quote(str(file))}, then lora-bench run {shlex.quote(str(file))}")
    return DONE


def try_methods(arguments: argparse.Namespace) -> int:
    """Compare methods on a table, and train the chosen one."""
    begun = time.monotonic()
    file, draft = _write(arguments, again=True, measured=True)
    runs = ["--runs", str(arguments.runs)]
    slower = {} if draft is None else draft.slowdowns
    if arguments.dry_run:
        return _do(arguments.parse, ["plan", str(file), *runs], slowdowns=slower)
    measuring = 0.0 if draft is None else draft.measured_seconds
    around = measuring + TIMES_DRAFT * (time.monotonic() - begun - measuring)
    minutes = arguments.minutes or DEFAULT_MINUTES
    comparing = max(minutes - around / 60, LEAST_MINUTES)
    quiet = ["--quiet"] if arguments.quiet else []
    asked = arguments.parse(["run", str(file), *runs, "--minutes", f"{comparing:.3f}", *quiet])
    asked.slowdowns = slower
    if arguments.final and not _model_of(file).exists():
        asked.afterwards = Afterwards(0.0 if draft is None else draft.final_seconds, TIMES_LONGEST)
    sys.stdout.flush()
    code = run(asked, out_of_time=COMPARED) if arguments.final else run(asked)
    place = arguments.runs / file.stem
    records = read_records(place) if record_files(place) else []
    if code == 0 and not any(record.score is not None and record.spec.score_on == "test" for record in records):
        print(f"no run on the test split has ended in {minutes:g} minutes, so there is no answer yet")
        return SOME_FAILED
    if code == 0 and arguments.quiet:  # else `run` has ended with the report's answer
        code = _do(arguments.parse, ["choose", str(place)])
    if code == 0 and arguments.final:
        code = _final(arguments, file, LATEST * 60 * minutes - (time.monotonic() - begun))
    elif code == 0:
        folder = shlex.quote(str(place))
        print(f"to take one now: lora-bench choose {folder}; its weights: lora-bench use {folder}")
    return code


def _final(arguments: argparse.Namespace, file: Path, seconds: float) -> int:
    """Train the chosen method on nearly all rows in so many *seconds*, and say what answers new rows.

    Where the time does not hold that training, the best run of the comparison answers, and not all is done.
    """
    out = _model_of(file)
    try:
        with display(terminal(), quiet=arguments.quiet) as screen:
            made = train_final(file, arguments.runs, out, screen, seconds)
    except LoraBenchError as error:
        if not out.exists():
            raise
        made = str(error)
    print(message(made))
    ready = out if out.exists() else arguments.runs / file.stem
    until = "" if out.exists() else " until then"
    print(f"to answer new rows{until}: lora-bench predict {shlex.quote(str(ready))} new.csv")
    return DONE if out.exists() else SOME_FAILED


def _do(parse: Parse, words: list[str], **more: object) -> int:
    asked = parse(words)
    vars(asked).update(more)
    sys.stdout.flush()
    return int(command_of(asked)(asked))
