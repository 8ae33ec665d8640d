"""A prepared folder: it names its suite, so that a worker needs only the folder.

    runs/<suite>/work.json    a suite by name, or a suite's file relative to this folder

Every user with write access can put anything there. So it is read as strictly as a suite, and can allow nothing that a suite
could not: only the command line of a worker allows pickled weights and code. A suite that changed since is refused, because
workers started before and after the change, or on machines with different copies, would do different runs.
"""

import hashlib
import os
import shlex
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from lora_bench.documents import Strict, read_yaml, validate
from lora_bench.errors import LoraBenchError
from lora_bench.models.shapes import refuse_shapes
from lora_bench.suite.consent import check_permissions
from lora_bench.suite.load_suite import Suite, check_pickles, load_suite
from lora_bench.tasks.declaration import definition
from lora_bench.util.atomic_files import check_writable, write_atomic
from lora_bench.util.filenames import FileName
from lora_bench.util.hashing import content_hash
from lora_bench.util.regular_files import read_regular
from lora_bench.util.sealed_json import as_json

FILE = "work.json"
SCHEMA = 1

_Text = Annotated[str, Field(min_length=1, max_length=4_000)]


class Prepared(Strict):
    """The content of `work.json`.

    Args:
        suite: Name of a suite.
        file: File of a suite, relative to the folder; exactly one of these two is given.
        sha256: Hash of the suite's file.
        series: Label of a repeat.
        data_dir: Folder with data sets, relative to this folder.
    """

    schema_version: int = Field(alias="schema")
    suite: _Text | None = None
    file: _Text | None = None
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    series: FileName | None = None
    data_dir: _Text | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.suite is None) == (self.file is None):
            raise ValueError("give one of suite and file")
        return self


@dataclass(frozen=True)
class PreparedWork:
    """The work of a prepared folder."""

    suite: Suite
    series: str | None
    data_dir: Path | None


def prepare(folder: Path, suite: Suite, asked: str, *, series: str | None = None, data_dir: Path | None = None) -> Path:
    """Write the workers' file with the suite as *asked* for; return its path. Raise LoraBenchError if it cannot be written."""
    refuse_shapes(entry.model for entry in suite.models)
    check_writable(folder, "--runs")
    # A suite by name is a file too if it is the user's own: workers may have another working folder.
    own = suite.file.resolve().is_relative_to(Path("baselines").resolve())
    is_file = own or suite.file in (Path(asked), Path(asked, "suite.yaml"))
    file = Prepared(
        schema=SCHEMA,
        suite=None if is_file else asked,
        file=_seen_from(folder, suite.file) if is_file else None,
        sha256=_hash_of(suite),
        series=series,
        data_dir=None if data_dir is None else _seen_from(folder, data_dir),
    )
    write_atomic(folder / FILE, as_json(file.model_dump(mode="json", by_alias=True, exclude_defaults=True)))
    return folder / FILE


def read_prepared(folder: Path, allow_pickle: Collection[str] = (), allow_code: Collection[str] = ()) -> PreparedWork:
    """Return the work of a prepared folder, for which the user allows pickled weights and code (as `NAME@HASH`).

    Raise LoraBenchError if it is not prepared, or its suite is missing or has changed. Raise BadInput with every fault of its
    content, or of its suite.
    """
    path = folder / FILE
    if not path.is_file():
        raise LoraBenchError(_unprepared(folder))
    document = read_yaml(path)
    version = document.data.get("schema")
    if isinstance(version, int) and version > SCHEMA:
        raise LoraBenchError(f"{path} has schema {version}, and this lora_bench reads up to {SCHEMA}; upgrade it")
    content = validate(Prepared, document)
    suite = _suite_of(content, folder)
    if _hash_of(suite) != content.sha256:
        raise LoraBenchError(f"the suite {suite.file} has changed since {folder} was prepared; {_how_to(folder)}")
    suite = replace(suite, pickles=check_pickles(allow_pickle, suite.models), code=check_permissions(allow_code, suite))
    return PreparedWork(suite, content.series, None if content.data_dir is None else _place(folder, content.data_dir))


def _suite_of(content: Prepared, folder: Path) -> Suite:
    if content.file is None:
        assert content.suite is not None, "one of the two is given"
        return load_suite(content.suite)
    file = _place(folder, content.file)
    if not file.is_file():
        raise LoraBenchError(
            f"{folder / FILE} names the suite {content.file}, and {file} is not a file; {_how_to(folder)}"
        )
    return load_suite(file)


def _unprepared(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is not there; `lora-bench plan SUITE --prepare` makes runs/SUITE for workers"
    inside = [f"`lora-bench work {shlex.quote(str(path.parent))}`" for path in sorted(folder.glob(f"*/{FILE}"))[:3]]
    hint = f"; did you mean {' or '.join(inside)}?" if inside else f"; {_how_to(folder)}"
    return f"{folder} has no {FILE}, which names its suite{hint}"


def _how_to(folder: Path) -> str:
    return f"`lora-bench plan SUITE --prepare`, with --runs where {folder} is not in ./runs, prepares it"


def _hash_of(suite: Suite) -> str:
    """Return the hash of everything that makes its runs, because a named task is a file that may differ between folders."""
    written = hashlib.sha256(read_regular(suite.file)).hexdigest()
    return content_hash([written, [definition(task) for task, _ in suite.tasks]])


def _seen_from(folder: Path, path: Path) -> str:
    """Return a path relative to a runs folder, which may be a link, or be mounted elsewhere on another machine."""
    # The last part may be a link to a file in another folder, so it is not resolved.
    whole = path.parent.resolve() / path.name
    try:
        return Path(os.path.relpath(whole, folder.resolve())).as_posix()
    except ValueError:
        raise LoraBenchError(f"workers cannot find {whole} from {folder}, since it is on another drive") from None


def _place(folder: Path, seen: str) -> Path:
    """Return the place of a path relative to a runs folder; relative to the working folder if it is below that."""
    path = Path(os.path.normpath(folder.resolve() / seen))
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
