"""Guesses how a table is written, and what it is made for: asks each kind of task whether it is seen there, stage by stage.

The first that finds its columns names the kind. A kind says in `TaskKind.seen_in` what it looks like in a table.
"""

import csv
import io
import typing
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from lora_bench.errors import LoraBenchError
from lora_bench.kinds import find_kind, known_kinds
from lora_bench.kinds.support.table_view import LABELLED, SPLIT_VALUES, GuessedTask, Stage, View
from lora_bench.tasks.source_tables import Format
from lora_bench.util.regular_files import read_regular

SEPARATORS = (",", ";", "\t", "|")
# Number of lines that the separator is guessed from.
SAMPLE_LINES = 200


def guess_task(view: View) -> GuessedTask:
    """Return the kind of a table and its columns, those that the user names kept. Raise LoraBenchError if none fit."""
    asked = view.asked
    for name in view.table.names:
        if name != asked.split and name not in (asked.label, asked.text, asked.group) and view.splits(name):
            named = any(str(value).strip().casefold() in SPLIT_VALUES for value in view.values(name))
            way = f"--split {name} keeps to them" if named else f"--group {name} keeps equal values together"
            view.said.append(f"guessed: {name} names splits and is no label; {way}")
    # A chat may also be texts to write, as its model's kind is seen.
    asked_kinds = known_kinds().keys() if asked.kind is None else {asked.kind, find_kind(asked.kind).model_kind}
    for stage, (name, kind) in product(typing.get_args(Stage), known_kinds().items()):
        has_columns = stage not in LABELLED or asked.label is not None or view.possible
        if name in asked_kinds and has_columns and (found := kind.seen_in(view, stage)) is not None:
            return replace(found, kind=asked.kind or name)
    if asked.kind is not None:
        return replace(view.labelled(), kind=asked.kind)
    raise view.no_label()


def how_separated(file: Path, format: Format | None, guessed: list[str]) -> tuple[str | None, Any]:
    """Return the separator and the encoding of a file; None for the usual ones."""
    raw = read_regular(file) if file.is_file() and file.suffix.lower() != ".gz" else b""
    encoding = _encoding(raw)
    if encoding != "utf-16" and b"\0" in raw:
        raise LoraBenchError(f"{file} has bytes of value 0, as no text in UTF-8 has: save it as CSV in UTF-8")
    if encoding is not None:
        guessed.append(f"guessed: the encoding is {encoding}, as it is not UTF-8")
    lines = raw.decode(encoding or "utf-8-sig", errors="replace").splitlines(keepends=True)[:SAMPLE_LINES]
    usual = "\t" if format == "tsv" else ","
    found = max(SEPARATORS, key=lambda one: (_evenness(lines, one), one == usual)) if lines else usual
    if found == usual:
        return None, encoding
    guessed.append(f"guessed: values are separated by {'tabs' if found == chr(9) else repr(found)}")
    return found, encoding


def _encoding(raw: bytes) -> str | None:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    for encoding in ("utf-8", "cp1252"):
        try:
            raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        return None if encoding == "utf-8" else encoding
    return "latin-1"


def _evenness(lines: Sequence[str], separator: str) -> float:
    """Return the share of rows with as many values as the first; 0 if that has one alone."""
    try:
        rows = [row for row in csv.reader(io.StringIO("".join(lines)), delimiter=separator) if row]
    except csv.Error:
        return 0.0
    if not rows or len(rows[0]) < 2:
        return 0.0
    return sum(len(row) == len(rows[0]) for row in rows) / len(rows)
