"""The methods: one file each, found by listing this folder and by the entry-point group `lora_bench.methods`."""

from lora_bench.methods.base import Method, known_methods, own_callbacks, register, with_size

__all__ = ["Method", "known_methods", "own_callbacks", "register", "with_size"]
