"""Guesses how a table is written: the sign between its values, and its encoding."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_bench.errors import LoraBenchError
from lora_bench.tasks.source_tables import Format
from lora_bench.util.regular_files import read_regular

SEPARATORS = (",", ";", "\t", "|")
# Number of lines that the separator is guessed from.
SAMPLE_LINES = 200


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
