"""The purpose of a suite whose file is beside its records, as a baseline has it."""

from __future__ import annotations

from pathlib import Path

from lora_bench.documents import read_yaml
from lora_bench.errors import BadInput


def about_in(folder: Path) -> str:
    """Return the `about` of the suite in a folder, on one line; empty without a file that says it.

    A file that cannot be read says nothing: records are reported whatever is beside them.
    """
    file = folder / "suite.yaml"
    try:
        found = read_yaml(file).data.get("about") if file.is_file() else None
    except BadInput:
        found = None
    return " ".join(found.split()) if isinstance(found, str) else ""
