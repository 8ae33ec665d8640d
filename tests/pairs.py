"""Tables of two parameters of which the default command tries one diagonal."""

from collections.abc import Iterable

import pytest


def pairs(names: str, rows: Iterable[str], columns: Iterable[str], start: int = 0) -> pytest.MarkDecorator:
    """Give a test every row with every column, slow but for one diagonal, which has each of both.

    Args:
        names: Names of the test's two parameters.
        rows: Values of the first.
        columns: Values of the second.
        start: The column of the first row, another in each test of a file, for more of the pairs.
    """
    rows, columns = [*rows], [*columns]
    steps = range(max(len(rows), len(columns)))
    fast = {(rows[step % len(rows)], columns[(step + start) % len(columns)]) for step in steps}
    table = [(row, column) for row in rows for column in columns]
    return pytest.mark.parametrize(
        names,
        [pytest.param(*pair, id="-".join(pair), marks=() if pair in fast else pytest.mark.slow) for pair in table],
    )
