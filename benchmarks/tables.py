"""Markdown tables of simulations, short enough to read: one row a world, with the numbers of seeds or nights side by side."""

from collections.abc import Iterable, Iterator
from itertools import groupby


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def folded(lines: Iterable[str]) -> Iterator[str]:
    """Join neighbouring rows with the same first cell; cells that differ become `a/b/c`, cells that agree stay."""
    for first, group in groupby(lines, key=lambda line: cells(line)[0]):
        rows = list(group)
        if len(rows) == 1:
            yield rows[0]
            continue
        columns = [list(column) for column in zip(*map(cells, rows), strict=True)]
        joined = (column[0] if len(set(column)) == 1 else "/".join(column) for column in columns[1:])
        yield f"| {' | '.join([first, *joined])} |"


def unfolded(rows: Iterable[str]) -> list[list[str]]:
    """Return the cells of the rows that `folded` joined, one list a row."""
    found = []
    for row in rows:
        columns = [cell.split("/") for cell in cells(row)]
        count = max(len(column) for column in columns)
        found += [[column[index % len(column)] for column in columns] for index in range(count)]
    return found
