"""Cache of the tokens of a large data set: made once per machine, and mapped into memory by every worker.

    tokens/<key>.arrow    the examples as a table of Arrow
          <key>.json      the share that was truncated, and the hash of the table; written last

Without it each worker would tokenise MNLI's 393,000 pairs again, and store them as a gigabyte of Python's numbers. Mapped
tokens are in memory once for all workers, and only while they are read. One worker makes them, and the others wait for it.
Damaged files are moved to `quarantine/` beside them, and made again.
"""

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lora_bench.util.atomic_files import QUARANTINE, quarantine, write_atomic
from lora_bench.util.regular_files import sha256_of
from lora_bench.util.sealed_json import keep, kept

Example = dict[str, Any]

# Smaller data sets are tokenised in a second or two, and take some ten MiB.
LEAST_EXAMPLES = 20_000


class MappedExamples(Sequence[Example]):
    """Examples in a table whose file is mapped into memory, each made on access; *tuples* names the columns of tuples."""

    def __init__(self, table: pa.Table, tuples: Sequence[str]) -> None:
        self._table, self._tuples = table, tuple(tuples)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        (example,) = self._table.slice(range(len(self))[index], 1).to_pylist()
        return {**example, **{name: tuple(example[name]) for name in self._tuples}}


def shared_examples(
    folder: Path, key: str, make: Callable[[], tuple[list[Example], float]]
) -> tuple[Sequence[Example], float]:
    """Return the examples of *make*, and the share that was truncated, made once for all processes of this machine."""
    manifest, file = folder / f"{key}.json", folder / f"{key}.arrow"
    with _alone(folder / f"{key}.lock"):
        found = _read(manifest, file)
        if found is not None:
            return found
        examples, truncated = make()
        try:
            _write(manifest, file, examples, truncated)
        except OSError:
            return examples, truncated  # training needs no cache: its disk may be full, or read-only
        return _read(manifest, file) or (examples, truncated)


def _write(manifest: Path, file: Path, examples: list[Example], truncated: float) -> None:
    table, content = pa.Table.from_pylist(examples), io.BytesIO()
    with pa.ipc.new_file(content, table.schema) as writer:
        writer.write_table(table)
    raw = content.getvalue()
    write_atomic(file, raw)
    tuples = [name for name, value in examples[0].items() if isinstance(value, tuple)]
    keep(manifest, {"tuples": tuples, "cut": truncated, "sha256_of_tokens": hashlib.sha256(raw).hexdigest()})


def _read(manifest: Path, file: Path) -> tuple[MappedExamples, float] | None:
    """Return the cached examples, or None if they are missing, damaged or unreadable."""
    try:
        said = kept(manifest)
        if said is None or not file.is_file():
            return None
        if sha256_of(file) != said["sha256_of_tokens"]:
            quarantine(file, f"{file.name} does not match {manifest.name}", file.parent / QUARANTINE)
            return None
        table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
    except OSError:
        return None
    return MappedExamples(table, said["tuples"]), said["cut"]


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock in this block, so that one process at a time is in it, if the file system has locks."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(ImportError, OSError):  # the cache may be read-only
            import fcntl

            fcntl.flock(held.enter_context(lock.open("ab")), fcntl.LOCK_EX)
        yield
