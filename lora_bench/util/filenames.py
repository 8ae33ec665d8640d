"""Check names that become folders and files: one plain part of a path, on every system.

Suites, tasks, series, baselines and run ids have such names. They may come from a downloaded file or from other people's
records, and must not lead anywhere else.
"""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
EXPECTED = "letters, digits, '.', '_' and '-', at most 100 of them, the first a letter or digit"

# Windows opens a device for these names, with any extension.
_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
_SHOWN_CHARACTERS = 100


def file_name(name: str) -> str:
    """Return *name* if it is safe as a file name. Raise ValueError if it leads elsewhere, or some system cannot store it."""
    if not re.fullmatch(NAME, name):
        raise ValueError(f"a name must have {EXPECTED}, got {name[:_SHOWN_CHARACTERS]!r}")
    return _on_every_system(name)


def _on_every_system(name: str) -> str:
    if _DEVICE.fullmatch(name) or name.endswith("."):
        raise ValueError(f"{name!r} is a reserved name on Windows")
    return name


Name = Annotated[str, Field(pattern=NAME), AfterValidator(_on_every_system)]
FileName = Annotated[str, AfterValidator(file_name)]
