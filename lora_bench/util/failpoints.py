"""Sites in the code at which tests interrupt a process, to try every possible interruption.

A site is an audit event of Python, `lora_bench.SITE`. Without an audit hook it does nothing. `tests/faults/failpoints.py`
lists the sites, and its hook kills the process there, fills its disk, and more: see docs/faults.md.
"""

import sys


def reach(site: str, *facts: object) -> None:
    """Announce to audit hooks that the process is at *site*, with *facts* that a hook may change."""
    sys.audit(f"lora_bench.{site}", *facts)
