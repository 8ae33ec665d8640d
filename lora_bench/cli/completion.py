"""Completion in shells: `lora-bench completion SHELL` prints the code for a shell.

That code runs `lora-bench` at each completion, with the line so far in the environment; argcomplete answers from the parser.
Names of suites, tables, tasks, methods, models and baselines are looked up only then.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lora_bench.cli.help import add_command

if TYPE_CHECKING:
    from lora_bench.cli.help import Commands

SHELLS = ("bash", "zsh", "fish")
ASKED = "_ARGCOMPLETE"

Names = Callable[[], Iterable[str]]


def add_completion(commands: Commands) -> None:
    """Add the command."""
    completion = add_command(
        commands,
        "completion",
        "print the code by which a shell completes commands, options and names",
        "lora-bench completion bash",
        takes="SHELL",
        more='In ~/.bashrc:                   eval "$(lora-bench completion bash)"\n'
        'In ~/.zshrc, after compinit:    eval "$(lora-bench completion zsh)"\n'
        "In ~/.config/fish/config.fish:  lora-bench completion fish | source",
    )
    completion.what.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    completion.parser.set_defaults(command=_print_code)


def _print_code(arguments: argparse.Namespace) -> int:
    from argcomplete.shell_integration import shellcode

    print(shellcode(["lora-bench"], shell=arguments.shell))
    return 0


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks for completions and end the process; do nothing in any other case."""
    if ASKED not in os.environ:
        return
    from argcomplete import autocomplete

    for action in _actions(parser):
        # A path of that name, such as the table of `try`, is completed as a file.
        if action.dest in NAMES and action.type is not Path and action.choices is None:
            action.completer = _completer(NAMES[action.dest])  # type: ignore[attr-defined]  # argcomplete reads it
    autocomplete(parser)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)


def _completer(names: Names) -> Callable[..., list[str]]:
    """Return a completer of names and files. Of a list with commas, the last name is completed."""

    def completions(prefix: str, **_: object) -> list[str]:
        from argcomplete.completers import FilesCompleter

        before = prefix[: prefix.rfind(",") + 1]
        found = [f"{before}{name}" for name in names()]
        return [*found, *FilesCompleter()(prefix)]

    return completions


def _suites() -> Iterable[str]:
    from lora_bench.util.paths import suite_files

    return suite_files()


def _tasks() -> Iterable[str]:
    from lora_bench.util.paths import task_files

    return task_files()


def _tables() -> Iterable[str]:
    from lora_bench.published.reading import known_tables

    return known_tables()


def _methods() -> Iterable[str]:
    from lora_bench.methods import known_methods

    return known_methods()


def _models() -> Iterable[str]:
    from lora_bench.models.registry import known_models

    return known_models()


def _baselines() -> Iterable[str]:
    from lora_bench.util.paths import folders

    return (path.name for folder in folders("baselines") for path in folder.iterdir() if path.is_dir())


# By the name of the argument that takes them.
NAMES: dict[str, Names] = {
    "suite": _suites,
    "texts": _suites,
    "table": _tables,
    "published": _tables,
    "tasks": _tasks,
    "reference": _methods,
    "model": _models,
    "baseline": _baselines,
    "against": _baselines,
    "name": _baselines,
}
