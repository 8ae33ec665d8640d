"""What the gate writes: its answer in files, on the terminal and in a workflow, and its exit codes."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lora_bench.errors import LoraBenchError
from lora_bench.util.redaction import message

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lora_bench.gate import Answer

DONE, BROKE_OFF, CANNOT_DECIDE = 0, 3, 4


def write_answer(
    answer: Answer, arguments: argparse.Namespace, commands: Sequence[str], comment: Sequence[str] = ()
) -> bool:
    """Write every requested output, the terminal's last; return False if any failed.

    *commands* come next for a user. *comment* is what `--markdown` writes, and the summary of a GitHub step too.
    """
    from lora_bench.gate import outputs
    from lora_bench.records.store import write_atomic

    broken = []

    @contextlib.contextmanager
    def output(what: object) -> Iterator[None]:
        """Limit an error to the output that caused it."""
        try:
            yield
        except (OSError, LoraBenchError) as error:
            broken.append(what)
            warn(f"{what} could not be written: {error}")

    files = (
        (arguments.json, outputs.to_answer_json),
        (arguments.junit, outputs.to_junit),
        (arguments.badge, outputs.to_badge),
        (arguments.markdown, lambda _: ("\n".join(comment) + "\n").encode("utf-8")),
    )
    for file, make in files:
        if file is not None:
            with output(file):
                write_atomic(file, make(answer))
    if arguments.plot is not None:
        from lora_bench.gate.plot import plots

        with output(arguments.plot):
            for name, content in plots(answer).items():
                write_atomic(arguments.plot / name, content)
    summary = os.environ.get("GITHUB_STEP_SUMMARY") if arguments.github else None
    if summary:
        from lora_bench.gate.gate_summary import summary_lines

        with output("the step summary"), Path(summary).open("a", encoding="utf-8") as opened:
            opened.write("\n".join(comment or summary_lines(answer)) + "\n")
    # A reader such as `| head` may close the pipe early; the exit code stays the answer's.
    with output("standard output"), contextlib.suppress(BrokenPipeError):
        _tell(answer, commands, github=arguments.github)
    return not broken


def _tell(answer: Answer, commands: Sequence[str], *, github: bool) -> None:
    from lora_bench.gate import outputs
    from lora_bench.gate.gate_summary import terminal_lines

    if github:
        print(*outputs.annotation_lines(answer), sep="\n")
    *lines, headline = terminal_lines(answer)
    print_lines([*lines, *(f"next: {command}" for command in commands if answer.verdict != "pass"), headline])


def print_lines(lines: Iterable[str]) -> None:
    """Print lines whose strings may come from records."""
    for line in lines:
        print(message(line))


def warn(text: str) -> None:
    """Print a message to standard error; ignore a closed stream."""
    with contextlib.suppress(OSError):
        print(message(f"lora-bench: {text}"), file=sys.stderr)
