"""Methods, one file each, found in this folder and by the entry-point group `lora_bench.methods`."""

from lora_bench.methods.contract import (
    Method,
    Preset,
    broken_plug_ins,
    known_methods,
    known_presets,
    loss_term,
    method_of_peft,
    options_of,
    own_callbacks,
    packed_options,
    rate_factors,
    rates_to_try,
    register,
    trains_base,
    unknown_method,
    with_size,
)

__all__ = [
    "Method", "Preset", "broken_plug_ins", "known_methods", "known_presets", "loss_term", "method_of_peft", "options_of",
    "own_callbacks", "packed_options", "rate_factors", "rates_to_try", "register", "trains_base", "unknown_method", "with_size",
]  # fmt: skip
