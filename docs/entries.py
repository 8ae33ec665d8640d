"""Names and their descriptions, for the lists of pages that are made from docstrings."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby


def merged(about: dict[str, str], names: Iterable[str]) -> list[tuple[str, str]]:
    """Return names and their descriptions; neighbours with the same description share an entry."""
    by_text = groupby(names, key=lambda name: about[name])
    return [(", ".join(f"`{name}`" for name in group), text) for text, group in by_text]
