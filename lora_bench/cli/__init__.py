"""The command line: arguments in, one library call, exit code out; and what a terminal shows."""

from lora_bench.cli.parser import main

__all__ = ["main"]
