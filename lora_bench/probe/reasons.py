"""Reasons why a quantity could not be measured, in a line."""

from __future__ import annotations

from lora_bench.errors import LoraBenchError, first_line, typed_line
from lora_bench.records.outcomes import is_out_of_memory as is_out_of_memory

NO_MEMORY = "there is not the memory for it"
NOT_TRACED = "the profiler traced no kernel"


def reason_of(error: BaseException) -> str:
    """Return an error's first line, with its class if that says more than the message."""
    tells = isinstance(error, LoraBenchError | ValueError | NotImplementedError)
    return first_line(error) if tells else typed_line(error)
