"""Why something could not be measured, in a line."""

from __future__ import annotations

from lora_bench.errors import LoraBenchError
from lora_bench.records.outcomes import is_out_of_memory as is_out_of_memory

NO_MEMORY = "there is not the memory for it"


def reason_of(error: BaseException) -> str:
    """An error's first line, with its kind where that says more than the message does."""
    first = next(iter(str(error).strip().splitlines()), "")
    if first and isinstance(error, LoraBenchError | ValueError | NotImplementedError):
        return first
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
