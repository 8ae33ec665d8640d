"""JSON files that carry a hash of their own content, so that damage on the disk is noticed.

The key `sha256` holds the hash of all other content, as canonical JSON. It is no signature: it detects damage, not intent.
Files from before seals are read without one.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from lora_bench.util.atomic_files import QUARANTINE, quarantine, remove_orphans, write_atomic
from lora_bench.util.hashing import content_hash
from lora_bench.util.regular_files import load_json, read_regular

ModelT = TypeVar("ModelT", bound=BaseModel)

SEAL = "sha256"
"""The key that carries the hash of the rest of a file."""


class DamagedContent(ValueError):
    """The content read differs from the content written, with the reason."""


def seal(content: dict[str, Any]) -> bytes:
    """Return plain data with its hash, as stored: sorted keys, two spaces, no NaN, a newline at the end."""
    return as_json({**content, SEAL: content_hash(content)})


def with_seal(schema: dict[str, Any]) -> None:
    """Add the seal to the JSON Schema of a record: it belongs to the file and is no field of the record."""
    schema["properties"][SEAL] = {
        "description": "Of the rest of this file, as canonical JSON: it tells whether the file changed on the disk",
        "title": "Sha256",
        "type": "string",
    }


def as_json(content: dict[str, Any]) -> bytes:
    """Return plain data as stored, without a seal."""
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def unseal(raw: bytes) -> tuple[dict[str, Any], bool]:
    """Return a JSON object without its seal, and True if it had one. Raise DamagedContent for other content or another seal."""
    try:
        data = load_json(raw)
    except (ValueError, RecursionError) as error:
        raise DamagedContent(str(error)) from None
    if not isinstance(data, dict):
        raise DamagedContent(f"must be a JSON object, got {type(data).__name__}")
    if SEAL not in data:
        return data, False
    said = data.pop(SEAL)
    try:
        found = content_hash(data)
    except ValueError as error:  # a lone surrogate, which UTF-8 cannot encode
        raise DamagedContent(str(error)) from None
    if found != said:
        raise DamagedContent("its sha256 does not match its content; the file changed after it was written")
    return data, True


def is_seal(content: dict[str, Any], name: str) -> bool:
    """Return True if a field of plain data is the seal of the rest, under a name damaged on the disk."""
    if name not in content:
        return False
    try:
        return bool(content_hash({key: content[key] for key in content if key != name}) == content[name])
    except ValueError:  # NaN, an infinity or a lone surrogate, which no sealed file has
        return False


def keep(path: Path, content: dict[str, Any]) -> None:
    """Store plain data in the cache."""
    remove_orphans(path.parent)
    write_atomic(path, seal(content))


def kept(path: Path) -> dict[str, Any] | None:
    """Return cached data, or None to compute it again if it is missing or damaged; a damaged file is quarantined beside it."""
    try:
        content, sealed = unseal(read_regular(path))
    except FileNotFoundError:
        return None
    except DamagedContent as damage:
        quarantine(path, f"{path.name}: {damage}", path.parent / QUARANTINE)
        return None
    return content if sealed else None


def kept_as(path: Path, model: type[ModelT]) -> ModelT | None:
    """Return cached data as an instance of *model*, or None if it is missing, damaged or invalid."""
    content = kept(path)
    try:
        # JSON mode accepts a list for a tuple and keeps every other type strict.
        return None if content is None else model.model_validate_json(json.dumps(content))
    except ValidationError:
        return None  # written by a lora_bench between two releases
