"""The version of lora_bench, the one place where it is written."""

__version__ = "0.1.0"
