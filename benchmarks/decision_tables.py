"""The tables of `benchmarks.decisions`: real ones, with the rows that are not trained on as a large test set.

Those of the suite `contest` have its training rows. Nothing is downloaded.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_bench.errors import LoraBenchError
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks import Task, find_folder, in_folder, load_data, load_task
from lora_bench.tasks.sources import Data
from lora_bench.util.pip_assets import is_cached
from lora_bench.util.seeding import distinct_rows

MOST_TEST_ROWS = 4_000
Row = tuple[tuple[str, ...], str | float]


@dataclass(frozen=True)
class Table:
    """A table with its large test set.

    Args:
        metric: Its metric; higher is better.
        pool: Rows to draw the training rows from.
        test: Rows to answer.
        rows: Number of training rows.
    """

    metric: str
    pool: Sequence[Row]
    test: Sequence[Row]
    rows: int


def contest(name: str) -> Callable[[Path], Table]:
    """Return the reader of a task of the suite `contest`."""

    def read(data_dir: Path) -> Table:
        suite = load_suite("contest")
        task, base = next(pair for pair in suite.tasks if pair[0].task.removesuffix("_1000") == name)
        return of_task(task, base, data_dir, 1_000)

    return read


def of_ours(name: str, **shares: Any) -> Callable[[Path], Table]:
    """Return the reader of a task of the package, dealt out in these shares."""

    def read(data_dir: Path) -> Table:
        task = load_task(name)
        assert task.split is not None
        split = task.split.model_copy(update=shares)
        return of_task(task.model_copy(update={"split": split}), Path(), data_dir, 1_500)

    return read


def qnli(data_dir: Path) -> Table:
    """Return GLUE's QNLI, its validation rows dealt out by question: a folder of GLUE's files may lack its training rows."""
    task = load_task("qnli")
    assert task.split is not None
    split = task.split.model_copy(update={"train": 0.3, "test": 0.68, "by": "question"})
    here = {"data": Data(file="dev.tsv"), "local": None, "release": None, "quoting": False, "split": split}
    return of_task(task.model_copy(update=here), data_dir / "glue" / "qnli", data_dir, 1_500)


def of_task(task: Task, base: Path, data_dir: Path, rows: int) -> Table:
    """Return a task as a table."""
    if task.data.asset is not None and not is_cached(task.data.asset):
        raise LoraBenchError(f"{task.data.asset} is not in the cache; a plan of a suite with this task obtains it")
    if task.local is not None:
        base = find_folder(task, data_dir)
        task = in_folder(task, base)
    data = load_data(task, base)

    def rows_of(split: str) -> list[Row]:
        found = data.splits[split]
        labels = [data.labels[label] for label in found.labels] if data.labels else map(float, found.labels)
        return list(zip(found.texts, labels, strict=True))

    return Table(task.metric, rows_of("train"), some(rows_of("test"), MOST_TEST_ROWS), rows)


def two_authors(data_dir: Path) -> Table:
    """Return paragraphs of Hardy and of Charlotte Brontë, as many of each."""
    archive = data_dir / "corpus" / "english_novels_94.tar.xz"
    if not archive.is_file():
        raise LoraBenchError(f"there is no {archive}")
    found: dict[str, dict[str, None]] = {"Hardy": {}, "Cbronte": {}}
    with tarfile.open(archive) as novels:
        for member in novels:
            author = Path(member.name).name.split("_")[0]
            file = novels.extractfile(member) if author in found else None
            if file is not None:
                found[author] |= dict.fromkeys(paragraphs(file.read().decode("utf-8")))
    each = [[((text,), author) for text in some([*texts], 1_998)] for author, texts in found.items()]
    rows = some([row for rows in each for row in rows], 3_996)
    return Table("accuracy", rows[:1_500], rows[1_500:], 1_500)


def paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of 8 to 60 words.

    A paragraph ends at a blank line or with a sentence, in a line too short to be wrapped or too long to have been.
    """
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        lines.append(line.strip())
        ends = re.search(r"[.!?]['\"]?$", lines[-1]) is not None and not 50 <= len(lines[-1]) <= 80
        if ends or not lines[-1]:
            words = " ".join(lines).split()
            if 8 <= len(words) <= 60:
                yield " ".join(words)
            lines = []


def some(rows: Sequence[Any], wanted: int, seed: int = 0) -> list[Any]:
    """Return so many rows, or all, in an order that the seed draws."""
    return [rows[row] for row in distinct_rows(seed, len(rows), wanted)]


# `movie_reviews` is no default: its snippets overlap sst2, and the two may not count as two tables.
DEFAULTS = [
    "cola", "mrpc", "rte", "stsb", "sst2", "tweets", "product_reviews", "newsgroups", "reuters_r8", "editorials", "two_authors",
    "qnli",
]  # fmt: skip
TABLES: dict[str, Callable[[Path], Table]] = {
    **{name: contest(name) for name in DEFAULTS[:9]},
    "editorials": of_ours("editorials", train=0.4, selection=0.05, test=0.55),
    "movie_reviews": of_ours("movie_reviews", train=0.2, selection=0.05, test=0.75),
    "two_authors": two_authors,
    "qnli": qnli,
}
