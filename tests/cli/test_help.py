"""The help of every command, and the answer to a command line that is wrong."""

import argparse
import shlex

import pytest

from lora_bench.cli import main
from lora_bench.cli.help import QUESTIONS
from lora_bench.cli.parser import build_parser

GROUPS = ["what", "where", "how", "output"]
GATE_GROUPS = [
    "tests of the gate on your own accepted nights, without RUNS",
    "search for the change that made a series fail",
]


def commands(parser=None, names=()):
    """Every command with its words, those of `baseline` and `import` among them."""
    for action in (parser or build_parser())._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, one in action.choices.items():
                yield (*names, name), one
                yield from commands(one, (*names, name))


COMMANDS = dict(commands())


def test_commands_of_two_words_are_seen_too():
    assert {("run",), ("baseline",), ("baseline", "accept")} <= COMMANDS.keys()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_is_a_sentence_an_example_and_options_in_groups(words):
    parser = COMMANDS[words]
    sentence, example = parser.description.split("\n\n")[:2]
    sentence = sentence.replace("\n", " ")
    assert sentence[0].isupper() and sentence.endswith(".") and len(sentence.split()) <= 25
    command = shlex.split(example.removeprefix("Example:\n  "))
    # Of a command that takes a further word, the example has one.
    assert command[: 1 + len(words)] == ["lora-bench", *words]
    build_parser().parse_args(command[1:])
    for group in parser._action_groups:
        if group._group_actions and not isinstance(group._group_actions[0], argparse._SubParsersAction):
            assert group.title in (GROUPS if words != ("check",) else [*GROUPS, *GATE_GROUPS])
            assert all(action.help for action in group._group_actions)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_fits_80_columns(words, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as done:
        main([*words, "--help"])
    said = capsys.readouterr().out
    assert done.value.code == 0 and said.startswith(f"usage: lora-bench {' '.join(words)}")
    long = [line for line in said.splitlines() if len(line) > 80]
    assert not [line for line in long if not line.startswith(("usage:", "  lora-bench"))]


def test_a_command_line_without_a_command_shows_the_help_and_is_a_mistake(capsys):
    assert main([]) == 2
    said = capsys.readouterr().out
    assert "lora-bench try TABLE" in said
    # The commands of each question stand below it.
    assert (
        said.index(QUESTIONS["try"])
        < said.index("\n  predict ")
        < said.index(QUESTIONS["run"])
        < said.index("\n  pool ")
    )
    assert all(f"\n  {words[0]} " in said for words in COMMANDS)


@pytest.mark.parametrize("name", ["baseline", "import"])
def test_a_command_that_lacks_its_second_word_shows_its_help(name, capsys):
    assert main([name]) == 2
    assert f"usage: lora-bench {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["judge", "x.csv", "--methd=y"], "lora-bench judge: unknown option --methd; did you mean '--method'?"),
        (["lst"], "lora-bench: unknown command 'lst'; did you mean 'list'?"),
        (["qwertz"], "lora-bench: unknown command 'qwertz' (known: try, init, fleet, choose,"),
        (
            ["list", "metods"],
            "lora-bench list: argument WHAT: must be one of methods, models, tasks, suites, family, got 'metods'; did you",
        ),
        (
            ["export", "runs", "--to", "cvs"],
            "must be one of csv, parquet, json, mlflow, trackio, baseline, runs, peft-results, got 'cvs'; did you mean 'csv'?",
        ),
        (["run"], "lora-bench run: the following arguments are required: SUITE\nsee: lora-bench run --help"),
        (["baseline", "acept", "x"], "lora-bench baseline: unknown command 'acept'; did you mean 'accept'?"),
    ],
)
def test_a_mistyped_line_is_answered_with_the_nearest_choice(line, said, capsys):
    with pytest.raises(SystemExit) as done:
        main(line)
    assert done.value.code == 2
    assert said in capsys.readouterr().err
