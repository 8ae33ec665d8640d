"""The command line: arguments in, one library call, exit code out; and the output on a terminal."""

from lora_bench.cli.parser import main

__all__ = ["main"]
