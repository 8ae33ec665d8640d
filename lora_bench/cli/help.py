"""Help of the command line: for each command one sentence, an example, and its options in four groups.

A mistyped command or choice is answered with the nearest one, and a command that needs another word shows its help.
"""

import argparse
import contextlib
import pkgutil
import sys
import textwrap
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from lora_bench.errors import did_you_mean
from lora_bench.util.redaction import message

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
# Exit codes, and what is said of work that stopped.
DONE, DIFFERS, BAD_INPUT, SOME_FAILED, CANNOT_DECIDE = 0, 1, 2, 3, 4
GOES_ON = "stopped; run the same command again to continue"
FULL = "stopped because the disk is full; make room, then run the same command again to continue"

# What a user asks, above the first command that answers it.
QUESTIONS = {
    "try": "Which method should I take for my table?",
    "judge": "Whose scores are better?",
    "run": "How do methods compare in a suite of my own?",
    "reproduce": "Does a published table hold?",
    "check": "Has a change made it worse?",
    "export": "How does it go with my tools?",
}


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Leaves descriptions as they are, and lists commands below `QUESTIONS`, aligned with the longest name."""

    def _format_action(self, action: argparse.Action) -> str:
        said = super()._format_action(action)
        question = QUESTIONS.get(str(action.metavar)) if not action.option_strings else None
        return f"\n{question}\n{said}" if question is not None else said

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

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse as argparse does, but refuse an unknown option here, where the command's own options are known."""
        found, left = super().parse_known_args(args, namespace)
        for word in left:
            if word.startswith("--"):
                given = word.partition("=")[0]
                self.error(f"unknown option {given}{did_you_mean(given, list(self._option_string_actions))}")
        return found, left

    def error(self, message: str) -> NoReturn:
        """Print the error and the command for help, and exit with 2."""
        self.exit(BAD_INPUT, f"{self.prog}: {message}\nsee: {self.prog} --help\n")

    def show_help(self, arguments: argparse.Namespace) -> int:
        """Print the help, for a command line that names no command; the exit code of a mistake."""
        self.print_help()
        return BAD_INPUT


@dataclass(frozen=True)
class Group:
    """A group of argparse for a command's arguments, whose further facts, such as a type, are argparse's too."""

    of: argparse._ArgumentGroup

    def takes(self, name: str, metavar: str, help: str, **facts: Any) -> None:
        """Add an argument with a value; it is an option if its name begins with dashes."""
        self.of.add_argument(name, metavar=metavar, help=help, **facts)

    def several(self, name: str, metavar: str, help: str, **facts: Any) -> None:
        """Add an option that may be repeated, whose values are a list."""
        self.takes(name, metavar, help, action="append", default=[], **facts)

    def flag(self, name: str, help: str, **facts: Any) -> None:
        """Add an option without a value."""
        self.of.add_argument(name, help=help, **{"action": "store_true", **facts})

    def switch(self, name: str, dest: str, help: str, **facts: Any) -> None:
        """Add an option without a value that turns *dest* off."""
        self.flag(name, help, dest=dest, action="store_false", **facts)


@dataclass(frozen=True)
class Groups:
    """The parser of a command and the groups of its options: *where* has files, folders and machines."""

    parser: Parser
    what: Group
    where: Group
    how: Group
    output: Group


def add_command(
    commands: Commands, words: str, does: str, example: str, run: str | None = None, *, more: str = "", **defaults: Any
) -> Groups:
    """Add a command.

    Args:
        commands: Where to.
        words: Its name, and its arguments for the line of its usage.
        does: What it does: one sentence that begins with a verb, without capital and full stop.
        example: A command line that works.
        run: Name of the function that does it and returns the exit code, as "module:function" of this folder: it is imported
            when the command is given. By default the command shows its help.
        more: A further paragraph, such as its exit codes.
        defaults: Further values for *run*.
    """
    name, _, takes = words.partition(" ")
    sentence = textwrap.fill(f"{does[0].upper()}{does[1:]}.", 78)
    parser = commands.add_parser(
        name,
        help=does,
        usage=" ".join(filter(None, ["%(prog)s", takes, "[options]"])),
        description="\n\n".join(filter(None, [sentence, f"Example:\n  {example}", more])),
        formatter_class=Formatter,
        add_help=False,
    )
    parser.set_defaults(command=parser.show_help if run is None else run, **defaults)
    # Positional arguments would otherwise stand in a group of their own.
    what, where, how, output = (Group(parser.add_argument_group(title)) for title in ("what", "where", "how", "output"))
    output.of.add_argument("-h", "--help", action="help", help="show this help and exit")
    return Groups(parser, what, where, how, output)


def command_of(arguments: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    """Return the function that does the command, imported now, and returns the exit code."""
    run = arguments.command
    return pkgutil.resolve_name(f"lora_bench.cli.{run}") if isinstance(run, str) else run  # type: ignore[no-any-return]


def add_verbs(commands: Commands, words: str, does: str, example: str, title: str) -> Commands:
    """Add a command that takes a further word, and shows its help without one."""
    parser = add_command(commands, words, does, example).parser
    return parser.add_subparsers(title=title, metavar=words.partition(" ")[2], prog=parser.prog)


def warn(text: str) -> None:
    """Print a message to standard error; ignore a closed stream."""
    with contextlib.suppress(OSError):
        print(message(f"lora-bench: {text}"), file=sys.stderr)
