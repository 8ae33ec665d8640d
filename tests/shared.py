"""Where the real data sets lie that may not be shipped; tests that read them are skipped where they are absent."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("LORA_BENCH_SHARED") or Path(__file__).parents[2] / "shared")


def shared(*parts: str) -> Path:
    """A folder or file of the shared data; skips the test without it."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} in a folder of real data sets; set LORA_BENCH_SHARED to it")
    return path
