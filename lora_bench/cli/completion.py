"""Completion in shells: `lora-bench completion SHELL` prints the code for a shell.

That code runs `lora-bench` at each completion, with the line so far in the environment; argcomplete answers from the parser.
Names of suites, tables, tasks, methods, models and baselines are looked up only then.
"""

import argparse
import os
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path

from lora_bench.cli.help import Commands, add_command

SHELLS = ("bash", "zsh", "fish")
ASKED = "_ARGCOMPLETE"
# By the name of the argument that takes them, a function that gives them; its module is imported only when it is called.
_SUITES, _TABLES = "lora_bench.util.paths:suite_files", "lora_bench.published.reading:known_tables"
_BASELINES = "lora_bench.cli.shared_options:known_baselines"
NAMES = {
    "suite": _SUITES,
    "texts": _SUITES,
    "table": _TABLES,
    "published": _TABLES,
    "tasks": "lora_bench.util.paths:task_files",
    "reference": "lora_bench.methods:known_methods",
    "kind": "lora_bench.kinds:known_kinds",
    "metric": "lora_bench.metrics:known_metrics",
    "model": "lora_bench.models.registry:known_models",
    "baseline": _BASELINES,
    "against": _BASELINES,
    "name": _BASELINES,
}


def add_completion(commands: Commands) -> None:
    """Add the command."""
    completion = add_command(
        commands,
        "completion SHELL",
        "print the code by which a shell completes commands, options and names",
        "lora-bench completion bash",
        "completion:print_code",
        more='In ~/.bashrc:                   eval "$(lora-bench completion bash)"\n'
        'In ~/.zshrc, after compinit:    eval "$(lora-bench completion zsh)"\n'
        "In ~/.config/fish/config.fish:  lora-bench completion fish | source",
    )
    completion.what.takes("shell", "SHELL", ", ".join(SHELLS), choices=SHELLS)


def print_code(arguments: argparse.Namespace) -> int:
    """Print the code for a shell."""
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


def _completer(names: str) -> Callable[..., list[str]]:
    """Return a completer of files and of the names of an entry of `NAMES`. Of a list with commas, the last is completed."""

    def completions(prefix: str, **_: object) -> list[str]:
        from argcomplete.completers import FilesCompleter

        before = prefix[: prefix.rfind(",") + 1]
        found = [f"{before}{name}" for name in pkgutil.resolve_name(names)()]
        return [*found, *FilesCompleter()(prefix)]

    return completions
