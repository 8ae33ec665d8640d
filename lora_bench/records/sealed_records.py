"""Read and write records of any kind, in a file each or all of a suite in one, each with a hash of itself.

In a file of many a record has a line a field, so that a diff shows what changed of which run:

    {"schema": 1, "sha256": "<hash of the records' hashes>", "records": [
    {"run_id": "0d8f45b947d1ca26", "sha256": "<hash of the rest of the record>",
     "analysis": {...},
     "attempts": 1,
     ...}
    ]}
"""

import contextlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from lora_bench.documents import dotted
from lora_bench.errors import BadInput, Fault, collecting, refuse
from lora_bench.util.atomic_files import write_atomic
from lora_bench.util.hashing import content_hash
from lora_bench.util.regular_files import MIB, load_json, read_regular
from lora_bench.util.sealed_json import SEAL, DamagedContent, as_json, is_seal, seal, unseal

# Our largest record has some 100 kB, and our largest file of many 2 MB.
MAX_RECORD_BYTES, MAX_RECORDS_BYTES = 64 * MIB, 128 * MIB
SCHEMA = 1

# The fields that name a record of a run or of a probe.
_NAMES = ("run_id", "probe_id", "repeat", "twin")

ModelT = TypeVar("ModelT", bound=BaseModel)


class DamagedRecord(BadInput):
    """A file that was a record and is no longer readable."""


class MissingRecord(BadInput):
    """The file of a record does not exist, or no longer."""


def read_sealed(path: Path, model: type[ModelT], newest: int, kind: str) -> ModelT:
    """Read a record of any kind, with or without a seal; *newest* is the newest known schema, *kind* its name in messages.

    Raise BadInput if it is unreadable or from a newer lora_bench; `DamagedRecord` if it is damaged, `MissingRecord` if it does
    not exist.
    """
    try:
        data, has_seal = unseal(read_regular(path, MAX_RECORD_BYTES))
    except OSError as error:
        kind_of_fault = MissingRecord if isinstance(error, FileNotFoundError) else BadInput
        raise kind_of_fault([Fault(f"is no {kind}: {error.strerror}", file=str(path))]) from None
    except DamagedContent as error:
        raise DamagedRecord([Fault(f"is no {kind}: {error}", file=str(path))]) from None
    return _checked(data, has_seal, str(path), model, newest, kind)


def read_many(path: Path, model: type[ModelT], newest: int, kind: str) -> list[ModelT]:
    """Read a file of records as `read_sealed` does. Raise BadInput with each that is unreadable, changed or newer."""
    records: list[ModelT] = []
    faults: list[Fault] = []
    for number, record in enumerate(contents(path), 1):
        name = ", ".join(str(record[key])[:100] for key in _NAMES if key in record)
        shown = f"{path}: record {number} ({name})"
        content = {key: value for key, value in record.items() if key != SEAL}
        with collecting(faults):
            if not _is_hash_of(content, record.get(SEAL)):
                raise DamagedRecord([Fault("does not match its sha256; it changed after it was written", file=shown)])
            records.append(_checked(content, True, shown, model, newest, kind))
    refuse(faults)
    return records


def read_each(files: Iterable[Path], read: Callable[[Path], ModelT]) -> list[ModelT]:
    """Read single records, without those that another process moved away. Raise BadInput with all that cannot be read."""
    records: list[ModelT] = []
    faults: list[Fault] = []
    for file in files:
        with collecting(faults), contextlib.suppress(MissingRecord):
            records.append(read(file))
    refuse(faults)
    return records


def contents(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file of many as plain data, each with its seal, which the caller checks.

    Raise BadInput if the file is unreadable or from a newer lora_bench, or a record was added or removed by hand.
    """

    def refused(message: str) -> DamagedRecord:
        return DamagedRecord([Fault(message, file=str(path))])

    try:
        data = load_json(read_regular(path, MAX_RECORDS_BYTES))
    except OSError as error:
        raise BadInput([Fault(f"cannot be read: {error.strerror}", file=str(path))]) from None
    except (ValueError, RecursionError) as error:
        raise refused(f"is no file of records: {error}") from None
    records = data.get("records") if isinstance(data, dict) else None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise refused("is no file of records: it must be a JSON object with a list of objects, `records`")
    if data.get("schema") != SCHEMA:
        newer = f"has schema {str(data.get('schema'))[:20]}, and this lora_bench reads {SCHEMA}; upgrade it"
        raise BadInput([Fault(newer, file=str(path))])
    if not _is_hash_of(_seals(records), data.get(SEAL)):
        raise refused("its sha256 does not match its records; the file changed after it was written")
    return records


def write_many(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write records, given as plain data without seals, into one file, ordered by their names."""
    ordered = sorted(records, key=lambda record: [record.get(key) for key in _NAMES])
    with_seals = [{**record, SEAL: content_hash(record)} for record in ordered]
    head = f'{{"schema": {SCHEMA}, "{SEAL}": "{content_hash(_seals(with_seals))}", "records": [\n'
    write_atomic(path, (head + ",\n".join(map(_lines, with_seals)) + "\n]}\n").encode("utf-8"))


def _lines(record: dict[str, Any]) -> str:
    """Return a record as JSON: its name and its seal on a line, then a line a field."""

    def pair(key: str) -> str:
        return f'"{key}": ' + json.dumps(record[key], sort_keys=True, ensure_ascii=False, allow_nan=False)

    first = [key for key in (*_NAMES, SEAL) if key in record]
    fields = [pair(key) for key in sorted(record.keys() - set(first))]
    return "{" + ",\n ".join([", ".join(map(pair, first)), *fields]) + "}"


def _seals(records: Iterable[dict[str, Any]]) -> list[Any]:
    return [record.get(SEAL) for record in records]


def _is_hash_of(content: Any, sha256: Any) -> bool:
    """Return True if a hash is that of plain data; data with a lone surrogate have none."""
    try:
        return bool(content_hash(content) == sha256)
    except ValueError:
        return False


def _checked(data: dict[str, Any], has_seal: bool, file: str, model: type[ModelT], newest: int, kind: str) -> ModelT:
    """Return plain data as a record. Raise BadInput as `read_sealed` does."""

    def fault(message: str) -> list[Fault]:
        return [Fault(message, file=file)]

    version = data.get("schema")
    if isinstance(version, int) and version > newest:
        schema = f"{kind.removesuffix(' record')} schema {version}"
        newer = f"was written with {schema}, and this lora_bench reads up to {newest}; upgrade it"
        raise BadInput(fault(newer))
    try:
        # JSON mode accepts a list for a tuple and keeps every other type strict.
        return model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        unread = [dotted(one["loc"]) for one in error.errors() if one["type"] == "extra_forbidden"]
        all_unread = len(unread) == error.error_count()
        if not has_seal and (not all_unread or any(is_seal(data, name) for name in unread)):
            raise DamagedRecord(fault(f"is no {kind}: {first_fault(error)}")) from None
        # Its own version of lora_bench sealed it, or exported it without a seal, so its unknown fields are intended.
        said = f"it has {', '.join(unread[:3])}" if all_unread else first_fault(error)
        newer = f"is no {kind} that this lora_bench knows: {said}, which a newer one may have written; upgrade it"
        raise BadInput(fault(newer)) from None
    except ValueError as error:
        raise DamagedRecord(fault(f"is no {kind}: {error}")) from None


def first_fault(error: Exception) -> str:
    """Describe the fault of an unreadable file in a line."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"{dotted(first['loc'])}: {first['msg']} (of {error.error_count()} faults)"


def to_json(record: BaseModel) -> bytes:
    """Return a record as exported: sorted keys, two spaces, no NaN, a newline at the end."""
    return as_json(record.model_dump(mode="json", by_alias=True))


def sealed(record: BaseModel) -> bytes:
    """Return a record as stored in a runs folder: with a hash of itself."""
    return seal(record.model_dump(mode="json", by_alias=True))
