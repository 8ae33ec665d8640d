"""Places in the code at which tests interrupt a process, so that every way to be cut off is tried.

A place is an audit event of Python, `lora_bench.SITE`. Without an audit hook it does nothing. `tests/faults/failpoints.py`
lists the places and has a hook that kills the process there, lets its disk be full, and more: see docs/faults.md.
"""

from __future__ import annotations

import sys


def reach(site: str, *facts: object) -> None:
    """Tell audit hooks that the process is at *site*, with *facts* that a hook may change."""
    sys.audit(f"lora_bench.{site}", *facts)
