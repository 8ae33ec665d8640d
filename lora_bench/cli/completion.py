"""Completion in shells: `lora-bench completion SHELL` prints the code for a shell.

That code runs `lora-bench` at each completion, with the line so far in the environment; argcomplete answers from the parser.
"""

import argparse
import os

from lora_bench.cli.help import Commands, add_command

SHELLS = ("bash", "zsh", "fish")
ASKED = "_ARGCOMPLETE"


def add_completion(commands: Commands) -> None:
    """Add the command."""
    completion = add_command(
        commands,
        "completion SHELL",
        "print the code by which a shell completes commands and options",
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

    autocomplete(parser)
