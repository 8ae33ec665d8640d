"""Help of the command line: for each command one sentence, an example, and its options in four groups.

A mistyped command or choice is answered with the nearest one, and a command that needs another word shows its help.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lora_bench.errors import did_you_mean
from lora_bench.records.layout import PROBES_FILE, RUNS_FILE

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction["Parser"]

USAGE_ERROR = 2


def records_at(text: str) -> Path:
    """Return the folder of records that a user named: by its path, or by that of the file that holds them."""
    path = Path(text)
    return path.parent if path.name in (RUNS_FILE, PROBES_FILE) and path.is_file() else path


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Leaves descriptions as they are, and aligns the list of commands with its longest name."""

    def _iter_indented_subactions(self, action: argparse.Action) -> Generator[argparse.Action, None, None]:
        # argparse indents subcommands after it has measured them, so that long names get a line of their own.
        if isinstance(action, argparse._SubParsersAction):
            yield from action._get_subactions()


class Parser(argparse.ArgumentParser):
    """A parser that names the nearest choice, and whose `main` shows its help where the command itself is missing."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        close = did_you_mean(str(value), known)
        if isinstance(action, argparse._SubParsersAction):
            raise argparse.ArgumentError(None, f"unknown command {value!r}{close} (known: {', '.join(known)})")
        raise argparse.ArgumentError(action, f"must be one of {', '.join(known)}, got {value!r}{close}")

    def error(self, message: str) -> NoReturn:
        """Print the error and the command for help, and exit with 2."""
        self.exit(USAGE_ERROR, f"{self.prog}: {message}\nsee: {self.prog} --help\n")

    def show_help(self, arguments: argparse.Namespace) -> int:
        """Print the help, for a command line that names no command; the exit code of a mistake."""
        self.print_help()
        return USAGE_ERROR


@dataclass(frozen=True)
class Groups:
    """The options of a command.

    Args:
        parser: The command's own parser.
        what: What it works on.
        where: Files, folders and machines.
        how: How the work is done.
        output: What it prints and writes.
    """

    parser: Parser
    what: argparse._ArgumentGroup
    where: argparse._ArgumentGroup
    how: argparse._ArgumentGroup
    output: argparse._ArgumentGroup


def add_command(commands: Commands, name: str, does: str, example: str, *, takes: str = "", more: str = "") -> Groups:
    """Add a command.

    Args:
        commands: Where to.
        name: Its name.
        does: What it does: one sentence that begins with a verb, without capital and full stop.
        example: A command line that works.
        takes: Its arguments, for the line of its usage.
        more: A further paragraph, such as its exit codes.
    """
    sentence = textwrap.fill(f"{does[0].upper()}{does[1:]}.", 78)
    parser = commands.add_parser(
        name,
        help=does,
        usage=" ".join(filter(None, ["%(prog)s", takes, "[options]"])),
        description="\n\n".join(filter(None, [sentence, f"Example:\n  {example}", more])),
        formatter_class=Formatter,
        add_help=False,
    )
    # Positional arguments would otherwise stand in a group of their own.
    what, where, how, output = (parser.add_argument_group(title) for title in ("what", "where", "how", "output"))
    output.add_argument("-h", "--help", action="help", help="show this help and exit")
    return Groups(parser, what, where, how, output)


def add_verbs(commands: Commands, name: str, does: str, example: str, *, title: str, metavar: str) -> Commands:
    """Add a command that takes a further word, and shows its help without one."""
    groups = add_command(commands, name, does, example, takes=metavar)
    groups.parser.set_defaults(command=groups.parser.show_help)
    return groups.parser.add_subparsers(title=title, metavar=metavar, prog=groups.parser.prog)
