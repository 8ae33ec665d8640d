"""Methods, one file each, found in this folder and by the entry-point group `lora_bench.methods`."""

from lora_bench.methods.contract import (
    Method,
    broken_plug_ins,
    known_methods,
    loss_term,
    own_callbacks,
    rate_factors,
    register,
    trains_base,
    unknown_method,
    with_size,
)

__all__ = [
    "Method", "broken_plug_ins", "known_methods", "loss_term", "own_callbacks", "rate_factors", "register", "trains_base",
    "unknown_method", "with_size",
]  # fmt: skip
