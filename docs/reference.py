"""The pages of the reference that the site makes anew at each build: command line, records and Python.

Nothing here needs torch: parsers and JSON Schemas are read, and docstrings are left to mkdocstrings.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from entries import merged

import lora_bench
from lora_bench.cli.parser import build_parser

SCHEMAS = Path(lora_bench.__file__).parent / "schemas"

# The records that commands leave, by the name of their schema.
RECORDS = {
    "record": ("A run", "`runs/SUITE/RUN_ID/record.json`"),
    "probe": ("A probe", "`runs/SUITE/probes/*.json`"),
    "night": ("An accepted night", "`baselines/NAME/nights/LABEL.json`"),
    "answer": ("An answer of the gate", "the file of `lora-bench check --json`"),
}

EXIT_CODES = """| exit code | meaning |
| ---: | --- |
| 0 | done, or pass |
| 1 | regression, or a report on disk differs from its records |
| 2 | bad input, before any work |
| 3 | a run, the work or lora_bench itself failed |
| 4 | the gate cannot decide |
| 130, 143 | stopped by SIGINT, SIGTERM |
"""

# What users import, besides the names of the package itself.
PYTHON = (
    "lora_bench.execute.outcome.Outcome",
    "lora_bench.testing.check_method",
    "lora_bench.methods.register",
    "lora_bench.families.declare",
    "lora_bench.tuners.BottleneckConfig",
    "lora_bench.tuners.PrefixConfig",
    "lora_bench.tuners.PrefixActivationConfig",
    "lora_bench.tuners.PrefixEmbeddingConfig",
    "lora_bench.tuners.FusedLoraConfig",
    "lora_bench.tuners.SelectedConfig",
    "lora_bench.tuners.CombinedConfig",
    "lora_bench.stats",
)


def pages() -> dict[str, str]:
    """Return the Markdown of each page by its name."""
    return {"command-line": command_line_page(), "records": records_page(), "python": python_page()}


def command_line_page() -> str:
    """Return every command with its example and its options."""
    found = ["# Command line\n\n`lora-bench COMMAND --help` prints the same.\n\n", EXIT_CODES, "\n"]
    for words, parser in commands(build_parser()):
        name = " ".join(words)
        sentence, *more = (parser.description or "").split("\n\n")
        found.append(f"## {name}\n\n{' '.join(sentence.split())}\n\n")
        for part in more:
            example = part.removeprefix("Example:\n  ")
            found.append(f"{' '.join(part.split())}\n\n" if example == part else f"```sh\n{example}\n```\n\n")
        for group in parser._action_groups:
            options = [option(action) for action in group._group_actions if told(action)]
            found.append(f"*{(group.title or '').capitalize()}*\n\n{''.join(options)}\n" if options else "")
    return "".join(found)


def commands(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command with its words, those under a command such as `baseline` among them."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, one in action.choices.items():
                yield (*words, name), one
                yield from commands(one, (*words, name))


def told(action: argparse.Action) -> bool:
    """Return whether a page of the command names it; `--help` is of all commands, and others have sections of their own."""
    return "--help" not in action.option_strings and not isinstance(action, argparse._SubParsersAction)


def option(action: argparse.Action) -> str:
    """Return one option or argument as an entry of a list."""
    value = f" {action.metavar}" if action.option_strings and action.metavar else ""
    name = ", ".join(f"{each}{value}" for each in action.option_strings) or str(action.metavar)
    choices = [f"`{each}`" for each in action.choices or () if str(each) not in (action.help or "")]
    one_of = f" One of {', '.join(choices)}." if choices else ""
    return f"- `{name}`: {(action.help or '').replace('%%', '%')}.{one_of}\n"


def records_page() -> str:
    """Return every field of the files that commands leave."""
    found = ["# Records\n\nRecords are JSON. `lora-bench schema NAME` prints the schema, with types.\n\n"]
    for name, (title, where) in RECORDS.items():
        schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
        found.append(f"## {title}\n\n{where[0].upper()}{where[1:]}; schema `{name}`.\n\n{fields(schema)}")
        for part, of in sorted(schema.get("$defs", {}).items()):
            own = fields(of)
            found.append(f"### {part} of `{name}`\n\n{own}" if own else "")
    return "".join(found)


def fields(schema: dict[str, Any]) -> str:
    """Return what a JSON Schema of one of our classes says: its docstring's first sentence, and each field."""
    names = list(schema.get("properties", {}))
    if not names:
        return ""
    texts = {name: schema["properties"][name]["description"].replace("None", "null") for name in names}
    entries = "".join(f"- {each}: {text}\n" for each, text in merged(texts, names))
    return f"{schema['description'].split(chr(10))[0]}\n\n{entries}\n"


def python_page() -> str:
    """Return the names that users import, for mkdocstrings to fill in."""
    where = [
        f"lora_bench.{lora_bench._WHERE[name]}.{name}" if name in lora_bench._WHERE else f"lora_bench.{name}"
        for name in lora_bench.__all__
        if name != "__version__"
    ]
    about = "# Python\n\nThe first names are imported from `lora_bench` itself: `from lora_bench import run_suite`.\n\n"
    return about + "".join(f"::: {name}\n\n" for name in [*where, *PYTHON])
