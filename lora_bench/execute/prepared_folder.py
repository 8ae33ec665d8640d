"""A prepared folder: it says whose runs it holds, so that a worker needs nothing but the folder.

    runs/<suite>/work.json    a suite by name, a suite's file as seen from this folder, or what is asked of a published table

Whoever can write to the folder can write anything there, so it is read as strictly as a suite, and says nothing that a suite
could not: the command line that starts a worker allows pickled weights and code. A suite that changed since is refused, lest
workers that were started before and after the change, or on machines with different copies of it, do different runs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from lora_bench.documents import Strict, read_yaml, validate
from lora_bench.errors import LoraBenchError
from lora_bench.published.reproduce import reproduction
from lora_bench.suite.consent import check_permissions
from lora_bench.suite.load_suite import Suite, check_pickles, load_suite
from lora_bench.tasks.declaration import definition
from lora_bench.util.atomic_files import check_writable, write_atomic
from lora_bench.util.filenames import FileName
from lora_bench.util.hashing import content_hash
from lora_bench.util.sealed_json import as_json

FILE = "work.json"
SCHEMA = 1

_Text = Annotated[str, Field(min_length=1, max_length=4_000)]


class Asked(Strict):
    """What is asked of a published table; see `lora_bench.published.reproduce.reproduction`."""

    name: _Text
    model: _Text | None = None
    role: _Text | None = None
    tasks: tuple[_Text, ...] = ()
    methods: tuple[_Text, ...] = ()
    seeds: int | None = Field(default=None, ge=0, le=100_000)
    protocol: _Text | None = None


class Prepared(Strict):
    """What a prepared folder says.

    Args:
        suite: The name of a suite.
        file: The file of a suite, as seen from the folder.
        table: What is asked of a published table; of these three one is given.
        model_folder: Whether the table's `model` is a folder, as seen from this one.
        sha256: Of the suite's file.
        series: Label of a repeat.
        data_dir: The folder that holds data sets, as seen from the folder.
    """

    schema_version: int = Field(alias="schema")
    suite: _Text | None = None
    file: _Text | None = None
    table: Asked | None = None
    model_folder: bool = False
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    series: FileName | None = None
    data_dir: _Text | None = None

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        if sum(given is not None for given in (self.suite, self.file, self.table)) != 1:
            raise ValueError("one of suite, file and table is to be given")
        return self


@dataclass(frozen=True)
class PreparedWork:
    """What a worker does: the suite of a prepared folder.

    Args:
        suite: Whose runs the folder holds.
        series: Label of a repeat.
        data_dir: Folder that holds data sets.
    """

    suite: Suite
    series: str | None
    data_dir: Path | None


def prepare(
    folder: Path, suite: Suite, asked: str | Asked, *, series: str | None = None, data_dir: Path | None = None
) -> Path:
    """Leave in a runs folder what workers need; the file that says it.

    Args:
        folder: Of the suite's runs.
        suite: The suite.
        asked: The suite as the user named it, or what they asked of a published table.
        series: Label of a repeat.
        data_dir: Folder that holds data sets.

    Raises:
        LoraBenchError: If the folder cannot be written.
    """
    check_writable(folder, "--runs")
    # One that is named is a file too where it is the user's own: workers may have another working folder.
    own = suite.file.resolve().is_relative_to(Path("baselines").resolve())
    is_file = isinstance(asked, str) and (own or suite.file in (Path(asked), Path(asked, "suite.yaml")))
    table = None if isinstance(asked, str) else asked
    model_folder = table is not None and table.model is not None and Path(table.model).is_dir()
    if table is not None and table.model is not None and model_folder:
        table = table.model_copy(update={"model": _seen_from(folder, Path(table.model))})
    said = Prepared(
        schema=SCHEMA,
        suite=asked if isinstance(asked, str) and not is_file else None,
        file=_seen_from(folder, suite.file) if is_file else None,
        table=table,
        model_folder=model_folder,
        sha256=_hash_of(suite),
        series=series,
        data_dir=None if data_dir is None else _seen_from(folder, data_dir),
    )
    write_atomic(folder / FILE, as_json(said.model_dump(mode="json", by_alias=True, exclude_defaults=True)))
    return folder / FILE


def read_prepared(folder: Path, allow_pickle: Collection[str] = (), allow_code: Collection[str] = ()) -> PreparedWork:
    """What a prepared folder asks a worker to do.

    Args:
        folder: Of a suite's runs.
        allow_pickle: Base models whose pickled weights may be read.
        allow_code: Code of the suite that may run, as `NAME@HASH`.

    Raises:
        LoraBenchError: If it is not prepared, or its suite is not there or has changed.
        BadInput: With every fault of what it says, or of its suite.
    """
    path = folder / FILE
    if not path.is_file():
        raise LoraBenchError(_unprepared(folder))
    document = read_yaml(path)
    version = document.data.get("schema")
    if isinstance(version, int) and version > SCHEMA:
        raise LoraBenchError(f"{path} has schema {version}, and this lora_bench reads up to {SCHEMA}; upgrade it")
    said = validate(Prepared, document)
    suite = _suite_of(said, folder)
    if _hash_of(suite) != said.sha256:
        raise LoraBenchError(f"the suite {suite.file} has changed since {folder} was prepared; {_how_to(folder)}")
    suite = replace(suite, pickles=check_pickles(allow_pickle, suite.models), code=check_permissions(allow_code, suite))
    return PreparedWork(suite, said.series, None if said.data_dir is None else _place(folder, said.data_dir))


def _suite_of(said: Prepared, folder: Path) -> Suite:
    if said.table is not None:
        asked = said.table
        if asked.model is not None and said.model_folder:
            asked = asked.model_copy(update={"model": str(_place(folder, asked.model))})
        return reproduction(**dict(asked)).suite
    if said.file is None:
        assert said.suite is not None, "one of the three is given"
        return load_suite(said.suite)
    file = _place(folder, said.file)
    if not file.is_file():
        raise LoraBenchError(f"{folder / FILE} names the suite {said.file}, and {file} is no file; {_how_to(folder)}")
    return load_suite(file)


def _unprepared(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is not there; `lora-bench plan SUITE --prepare` makes runs/SUITE for workers"
    inside = [f"`lora-bench work {path.parent}`" for path in sorted(folder.glob(f"*/{FILE}"))[:3]]
    hint = f"; did you mean {' or '.join(inside)}?" if inside else f"; {_how_to(folder)}"
    return f"{folder} has no {FILE}, which says whose runs it holds{hint}"


def _how_to(folder: Path) -> str:
    return f"`lora-bench plan SUITE --prepare`, with --runs where {folder} is not in ./runs, prepares it"


def _hash_of(suite: Suite) -> str:
    """Of all that its runs are made of: a task that is named lies in a file of its own, and another folder may have another."""
    written = hashlib.sha256(suite.file.read_bytes()).hexdigest()
    return content_hash([written, [definition(task) for task, _ in suite.tasks]])


def _seen_from(folder: Path, path: Path) -> str:
    """A path as seen from a runs folder, which may be a link, and may lie elsewhere on another machine with all around it."""
    # The last part may be a link to a file whose neighbours are not those of the link.
    whole = path.parent.resolve() / path.name
    try:
        return Path(os.path.relpath(whole, folder.resolve())).as_posix()
    except ValueError:
        raise LoraBenchError(f"workers cannot find {whole} from {folder}, since it is on another drive") from None


def _place(folder: Path, seen: str) -> Path:
    """Where a path as seen from a runs folder is: as the user would name it from the working folder, where it is below that."""
    path = Path(os.path.normpath(folder.resolve() / seen))
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
