"""Cache of the tokens of a large data set: made once per machine, and mapped into memory by every worker.

    tokens/<key>.npy     the number of tokens of each example, then the tokens, column after column: int32
          <key>.json     the names of the columns, the columns with one value an example, and the hash of the file; written last

Without it each worker would tokenise MNLI's 393,000 pairs again, and store them as a gigabyte of Python's numbers. Mapped
tokens are in memory once for all workers, and only while they are read. One worker makes them, and the others wait for it.
Damaged files are moved to `quarantine/` beside them, and made again.
"""

import contextlib
import hashlib
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lora_bench.util.atomic_files import QUARANTINE, quarantine, write_atomic
from lora_bench.util.regular_files import sha256_of
from lora_bench.util.sealed_json import keep, kept

Example = dict[str, Any]

# Smaller data sets are tokenised in a second or two, and take some ten MiB.
LEAST_EXAMPLES = 20_000


class MappedExamples(Sequence[Example]):
    """Examples whose tokens are in a file, *numbers* of shape (examples + columns * tokens,); each is made on access.

    *columns* have a value a token, and *single* has those with one value an example.
    """

    def __init__(
        self, numbers: np.ndarray[Any, Any], columns: Sequence[str], single: dict[str, list[Any]], count: int
    ) -> None:
        self._ends = np.cumsum(numbers[:count], dtype=np.int64)
        self._tokens = numbers[count:].reshape(len(columns), -1)
        self._columns, self._single = tuple(columns), single

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        begin, end = self._ends[index - 1] if index else 0, self._ends[index]
        tokens = {name: self._tokens[row, begin:end].tolist() for row, name in enumerate(self._columns)}
        return {**tokens, **{name: values[index] for name, values in self._single.items()}}


def shared_examples(
    folder: Path, key: str, make: Callable[[], tuple[list[Example], float]]
) -> tuple[Sequence[Example], float]:
    """Return the examples of *make*, made once for all processes of this machine, and the share that was truncated.

    Each example has the same keys, and lists of integers of one length, single numbers, or tuples of numbers.
    """
    manifest, file = folder / f"{key}.json", folder / f"{key}.npy"
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
    columns = [name for name, value in examples[0].items() if isinstance(value, list)]
    single = [name for name in examples[0] if name not in columns]
    lengths = [len(example[columns[0]]) for example in examples]
    numbers = np.empty(len(lengths) + len(columns) * sum(lengths), dtype=np.int32)
    numbers[: len(lengths)] = lengths
    tokens = numbers[len(lengths) :].reshape(len(columns), -1)
    for row, name in enumerate(columns):
        tokens[row] = np.fromiter(itertools.chain.from_iterable(one[name] for one in examples), np.int32, sum(lengths))
    content = io.BytesIO()
    np.save(content, numbers, allow_pickle=False)
    raw = content.getvalue()
    write_atomic(file, raw)
    said = {
        "examples": len(examples),
        "columns": columns,
        "single": {name: [example[name] for example in examples] for name in single},
        "cut": truncated,
        "sha256_of_tokens": hashlib.sha256(raw).hexdigest(),
    }
    keep(manifest, said)


def _read(manifest: Path, file: Path) -> tuple[MappedExamples, float] | None:
    """Return the cached examples, or None if they are missing, damaged or unreadable."""
    try:
        said = kept(manifest)
        if said is None or not file.is_file():
            return None
        if sha256_of(file) != said["sha256_of_tokens"]:
            quarantine(file, f"{file.name} does not match {manifest.name}", file.parent / QUARANTINE)
            return None
        numbers = np.load(file, mmap_mode="r", allow_pickle=False)
    except OSError:
        return None
    # A value of an example is never a list: JSON has made one of the numbers of several labels.
    single = {
        name: [tuple(value) if isinstance(value, list) else value for value in values]
        for name, values in said["single"].items()
    }
    return MappedExamples(numbers, said["columns"], single, said["examples"]), said["cut"]


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock in this block, so that one process at a time is in it, if the file system has locks."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(ImportError, OSError):  # the cache may be read-only
            import fcntl

            fcntl.flock(held.enter_context(lock.open("ab")), fcntl.LOCK_EX)
        yield
