"""Files as tables: csv, tsv, JSON, Parquet, and the forms in which some sets are released.

The standard library reads csv, tsv and jsonl. It keeps every value as written, so that "NA" and "null" stay words and a label
"1" stays "1". It knows the line of each row, and reads 10,000 rows in some hundredths of a second without a cache that could
go stale. A file may be gzipped. Only the wanted columns are kept: MNLI's parses alone are some 250 MB.
"""

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal

from lora_bench.errors import BadInput, Fault, did_you_mean, first_line
from lora_bench.kinds.support.row_values import SHOWN_ROWS, Table
from lora_bench.tasks import releases
from lora_bench.tasks.source_tables import SEPARATED, SUFFIXES, Format, Layout, format_of, from_datasets, inside
from lora_bench.util.regular_files import MIB, read_regular

# Longer than any text a model here could read; a quotation mark that is never closed swallows more.
MAX_FIELD_CHARACTERS = 10_000_000

# A small file may hold any number of equal bytes or rows.
MAX_UNPACKED_BYTES, MAX_PARQUET_ROWS = 1024 * MIB, 10_000_000


def read_file(path: Path, layout: Layout) -> tuple[Table, str]:
    """Return the rows of a local file, and the sha256 of its content (unpacked if it is gzipped).

    WebNLG's rows may come from a folder, whose files are read in the order of their paths. Raise BadInput if the file is
    missing or does not fit its format.
    """
    shown = _from_here(path)
    if layout.format == "webnlg" and path.is_dir():
        return _folder(path, layout)
    raw = _content(path)
    if layout.format == "wikisql":
        tables = _content(path.with_name(path.name.replace(".jsonl", ".tables.jsonl")))
        both = hashlib.sha256(hashlib.sha256(raw).digest() + hashlib.sha256(tables).digest()).hexdigest()
        return _released(lambda: releases.wikisql(raw, tables), shown, layout, own=True), both
    return read_bytes(raw, shown, layout), hashlib.sha256(raw).hexdigest()


def read_bytes(raw: bytes, shown: str, layout: Layout, *, own: bool = True) -> Table:
    """Return the rows of a file with the content *raw*. Raise BadInput if it does not fit its format."""
    format = layout.format or format_of(shown)
    if format is None:
        is_sheet = Path(shown).suffix.lower() in (".xlsx", ".xls", ".ods")
        way = "save the sheet as CSV" if is_sheet else "rename it, or say `format:` in a suite"
        raise BadInput([Fault(f"has no known suffix ({', '.join(SUFFIXES)}); {way}", file=shown)])
    if format == "wikisql":
        raise BadInput([Fault("WikiSQL is read from a local file with its tables beside it", file=shown)])
    if format == "parquet":
        return _parquet(raw, shown, layout.wanted, own)
    if format == "squad":
        return _released(lambda: releases.squad(raw), shown, layout, own)
    if format in ("webnlg", "dart"):
        read = releases.webnlg if format == "webnlg" else releases.dart
        return _released(lambda: read(raw, Path(shown).stem), shown, layout, own)
    try:
        if format in SEPARATED:
            return _separated(raw, shown, format, layout, own)
        if format == "orange":
            # Below the names of the columns stand their types and their roles.
            head, _, _, *rows = [*raw.split(b"\n", 3), b"", b"", b""][:4]
            return _separated(b"\n\n\n".join([head, *rows]), shown, "tsv", layout, own)
        text = raw.decode("utf-8-sig")  # spreadsheets and MRPC begin with a byte-order mark
    except UnicodeError:
        if layout.encoding is not None:
            raise BadInput([Fault(f"is not {layout.encoding} text", file=shown)]) from None
        hint = "; name its `encoding:`, such as cp1252" if format in SEPARATED else ""
        raise BadInput([Fault(f"is not UTF-8 text{hint}", file=shown, line=_line_of_wrong_byte(raw))]) from None
    if format == "conll":
        return _released(lambda: releases.conll(text, layout.columns), shown, layout, own, place="line")
    objects, places = _jsonl(text, shown) if format == "jsonl" else _json(text, shown)
    names = list(dict.fromkeys(name for value in objects for name in value))
    columns = {
        name: [inside(value, name) for value in objects] for name in layout.wanted if name.split(".")[0] in names
    }
    place: Literal["line", "row"] = "line" if format == "jsonl" else "row"
    if "\\ud" in text.lower():
        _refuse_half_characters(columns, shown, places, place)
    return Table(shown, tuple(dict.fromkeys([*names, *columns])), columns, places, place=place, own=own)


def _refuse_half_characters(
    columns: dict[str, list[Any]], shown: str, places: list[int], place: Literal["line", "row"]
) -> None:
    """Refuse an escape of half a character without its other half, which no tokenizer and no record can take."""
    faults = []
    for name, values in columns.items():
        for number, value in zip(places, values, strict=True):
            try:
                json.dumps(value, ensure_ascii=False).encode("utf-8")
            except UnicodeEncodeError as error:
                half = f"has half of a character (\\u{ord(error.object[error.start]):04x}) in column {name!r}"
                row = number if place == "line" else None
                faults.append(Fault(half if row is not None else f"{half} of row {number}", shown, row))
    if faults:
        raise BadInput(faults[:SHOWN_ROWS])


def _content(path: Path) -> bytes:
    """Return the content of a local file, or of its gzipped form if only that exists."""
    shown = _from_here(path)
    packed = path.with_name(f"{path.name}.gz")
    if not path.exists() and packed.is_file():
        path = packed
    try:
        raw = read_regular(path)
    except FileNotFoundError:
        hint = did_you_mean(path.name, sorted(entry.name for entry in path.parent.glob("*")))
        raise BadInput([Fault(f"there is no such file{hint}", file=shown)]) from None
    except OSError as error:
        raise BadInput([Fault(f"cannot be read: {error.strerror}", file=shown)]) from None
    if path.suffix.lower() != ".gz":
        return raw
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as unpacked:
            content = unpacked.read(MAX_UNPACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput([Fault(f"is no whole gzip file: {first_line(error)}", file=shown)]) from None
    if len(content) > MAX_UNPACKED_BYTES:
        raise BadInput([Fault(f"unpacks to more than {MAX_UNPACKED_BYTES / MIB:,.0f} MiB", file=shown)])
    return content


def _folder(path: Path, layout: Layout) -> tuple[Table, str]:
    """Return the rows of every XML file of a folder, and a hash of their paths inside it and their content."""
    files = sorted(file for file in path.rglob("*.xml") if file.is_file())
    if not files:
        raise BadInput([Fault("has no XML file", file=_from_here(path))])
    whole = hashlib.sha256()
    tables = []
    for file in files:
        if not file.resolve().is_relative_to(path.resolve()):
            raise BadInput([Fault("is a link that leads out of its folder", file=_from_here(file))])
        raw = _content(file)
        whole.update(f"{file.relative_to(path).as_posix()} {hashlib.sha256(raw).hexdigest()}\n".encode())
        tables.append(read_bytes(raw, _from_here(file), layout))
    columns = {name: [value for table in tables for value in table.columns[name]] for name in tables[0].columns}
    places = range(1, sum(len(table.places) for table in tables) + 1)
    return Table(_from_here(path), tables[0].names, columns, places, place="row"), whole.hexdigest()


def _released(
    read: Callable[[], releases.Rows],
    shown: str,
    layout: Layout,
    own: bool,
    place: Literal["line", "row"] = "row",
) -> Table:
    """Return the table of a release in a form of its own."""
    try:
        names, rows, places = read()
    except releases.NotThisForm as error:
        raise BadInput([Fault(error.message, file=shown, line=error.line)]) from None
    columns = {name: [row[index] for row in rows] for index, name in enumerate(names) if name in layout.wanted}
    return Table(shown, names, columns, places, place=place, own=own)


def _separated(raw: bytes, shown: str, format: Format, layout: Layout, own: bool) -> Table:
    reader = csv.reader(
        io.TextIOWrapper(io.BytesIO(raw), encoding=layout.encoding or "utf-8-sig", newline=""),
        delimiter=layout.delimiter or ("\t" if format == "tsv" else ","),
        quoting=csv.QUOTE_MINIMAL if layout.quoting else csv.QUOTE_NONE,
        strict=True,
    )
    names = layout.columns
    kept: list[tuple[int, list[str]]] | None = None
    columns: dict[str, list[str]] = {}
    places: list[int] = []
    uneven: list[tuple[int, int]] = []
    limit = csv.field_size_limit(MAX_FIELD_CHARACTERS)
    end = 0
    try:
        for row in reader:
            start, end = end + 1, reader.line_num
            if not row:
                continue
            if names is None:
                names = tuple(row)
                continue
            if kept is None:
                columns = {name: [] for name in names if name in layout.wanted}
                kept = [(names.index(name), values) for name, values in columns.items()]
            if len(row) != len(names):
                uneven.append((start, len(row)))
                continue
            for index, values in kept:
                values.append(row[index])
            places.append(start)
    except csv.Error as error:
        hint = "; if quotation marks are part of the text, say `quoting: false`" if layout.quoting else ""
        raise BadInput([Fault(f"is no valid {format}: {error}{hint}", file=shown, line=end + 1)]) from None
    finally:
        csv.field_size_limit(limit)
    if names is None:
        raise BadInput([Fault("is empty", file=shown)])
    if uneven and layout.uneven_rows == "refuse":
        quoted = b'"' in raw and layout.quoting
        hint = "; if quotation marks are part of the text, say `quoting: false`" if quoted else ""
        raise BadInput(
            Fault(f"has {given} values, but there are {len(names)} columns ({', '.join(names)}){hint}", shown, line)
            for line, given in uneven[:SHOWN_ROWS]
        )
    # Spreadsheets end each line with empty cells.
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise BadInput([Fault(f"has the column {name!r} twice", file=shown) for name in repeated])
    columns = columns or {name: [] for name in names if name in layout.wanted}
    return Table(shown, tuple(dict.fromkeys(names)), columns, places, own=own, left_out=len(uneven))


def _line_of_wrong_byte(raw: bytes) -> int | None:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return raw.count(b"\n", 0, error.start) + 1
    return None


def _jsonl(text: str, shown: str) -> tuple[list[dict[str, Any]], list[int]]:
    objects: list[dict[str, Any]] = []
    places: list[int] = []
    faults: list[Fault] = []
    # Not splitlines, which also splits at characters that may stand inside a JSON string.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            faults.append(Fault(_no_json(error), shown, line))
            continue
        if not isinstance(value, dict):
            faults.append(Fault(f"must be one JSON object on each line, got {type(value).__name__}", shown, line))
            continue
        objects.append(value)
        places.append(line)
    if faults:
        raise BadInput(faults[:SHOWN_ROWS])
    if not objects:
        raise BadInput([Fault("is empty", file=shown)])
    return objects, places


def _json(text: str, shown: str) -> tuple[list[dict[str, Any]], list[int]]:
    try:
        objects = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput([Fault(_no_json(error), shown, getattr(error, "lineno", None))]) from None
    if not isinstance(objects, list) or not all(isinstance(value, dict) for value in objects):
        raise BadInput(
            [Fault("must be a JSON list of objects; for one object on each line say `format: jsonl`", shown)]
        )
    if not objects:
        raise BadInput([Fault("is empty", file=shown)])
    return objects, list(range(1, len(objects) + 1))


def _no_json(error: Exception) -> str:
    """Return what is wrong with text that is no JSON, is nested too deeply, or has a number of thousands of digits."""
    if isinstance(error, json.JSONDecodeError):
        return f"is no valid JSON: {error.msg} (column {error.colno})"
    return "is nested too deeply" if isinstance(error, RecursionError) else f"is no valid JSON: {first_line(error)}"


def _parquet(raw: bytes, shown: str, wanted: Collection[str], own: bool) -> Table:
    import datasets
    import pyarrow.parquet

    try:
        # An arrow table in memory: `load_dataset` would keep a copy in its cache and recognise the file by its time.
        rows = pyarrow.parquet.ParquetFile(io.BytesIO(raw)).metadata.num_rows
        if rows > MAX_PARQUET_ROWS:
            raise BadInput([Fault(f"has {rows:,} rows; at most {MAX_PARQUET_ROWS:,} are read", file=shown)])
        loaded = datasets.Dataset(pyarrow.parquet.read_table(io.BytesIO(raw)))
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput([Fault(f"is no valid parquet: {first_line(error)}", file=shown)]) from None
    return from_datasets(loaded, shown, wanted, own)


def _from_here(path: Path) -> str:
    """Return a path as short as it can be from the working folder."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
