"""Why something could not be measured, in a line."""

from __future__ import annotations

import torch

from lora_bench.errors import LoraBenchError

NO_MEMORY = "there is not the memory for it"

# How torch's allocators for CPU memory say it, in an error of no class of its own.
CPU_ALLOCATOR = ("can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that device or machine had too little memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in CPU_ALLOCATOR)


def reason_of(error: BaseException) -> str:
    """An error's first line, with its kind where that says more than the message does."""
    first = next(iter(str(error).strip().splitlines()), "")
    if first and isinstance(error, LoraBenchError | ValueError | NotImplementedError):
        return first
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
