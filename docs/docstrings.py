"""Read the sections of Google docstrings, for the pages that are made from them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from itertools import groupby


def arguments(docstring: str | None, section: str = "Args") -> dict[str, str]:
    """Return the descriptions under `Args:`, or another heading, by argument."""
    _, _, after = inspect.cleandoc(docstring or "").partition(f"{section}:\n")
    found: dict[str, str] = {}
    name = ""
    for line in after.splitlines():
        if not line.startswith("    "):
            break
        if line.startswith("     ") and name:
            found[name] += f" {line.strip()}"
        else:
            name, _, text = line.strip().partition(": ")
            found[name] = text
    return found


def merged(about: dict[str, str], names: Iterable[str]) -> list[tuple[str, str]]:
    """Return names and their descriptions; neighbours with the same description share an entry."""
    by_text = groupby(names, key=lambda name: about[name])
    return [(", ".join(f"`{name}`" for name in group), text) for text, group in by_text]
