"""Completion in real shells: what a user gets at the tab key."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each takes the line so far, and prints a completion a line: where the shell would show them, our script does.
SHELLS = {
    "bash": """
        eval "$(lora-bench completion bash)"
        complete -p lora-bench >&2
        COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9
        _python_argcomplete lora-bench 2>/dev/null
        printf '%s\\n' "${COMPREPLY[@]}"
    """,
    "zsh": """
        compdef() { print -u2 "complete $2" }
        _describe() { print -l -- ${(P)2} }
        eval "$(lora-bench completion zsh)"
        BUFFER=$1 CURSOR=${#1} words=(${(z)1})
        _python_argcomplete
    """,
    "fish": """
        lora-bench completion fish | source
        complete lora-bench >&2
        complete --do-complete "$argv[2]"
    """,
}


@pytest.fixture(params=SHELLS)
def completed(request, tmp_path):
    """Return the completions of a line, as this shell has them."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed here")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "lora-bench"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m lora_bench.cli "$@"\n')
    script.chmod(0o755)
    (tmp_path / "tickets.csv").touch()
    environment = {
        **os.environ, "PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path), "PYTHONSAFEPATH": "1",
    }  # fmt: skip

    def ask(line):
        command = [request.param, "-c", SHELLS[request.param], "_", line]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "complete" in done.stderr, done.stderr
        # zsh and fish show help beside an option.
        return {text.split(":")[0].split("\t")[0].strip() for text in done.stdout.splitlines()}

    return ask


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("lora-bench rep", {"report", "reproduce"}),
        ("lora-bench baseline ac", {"accept"}),
        ("lora-bench run smoke --ret", {"--retry"}),
        ("lora-bench list me", {"methods"}),
        ("lora-bench try tick", {"tickets.csv"}),
    ],
)
def test_commands_options_and_files_are_completed(completed, line, names):
    assert completed(line) == names


def test_a_command_that_no_shell_asked_completes_nothing(monkeypatch, capsys):
    from lora_bench.cli import main

    monkeypatch.delenv("_ARGCOMPLETE", raising=False)
    assert main(["completion", "fish"]) == 0
    assert "complete" in capsys.readouterr().out
