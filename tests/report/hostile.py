"""Strings that mean to be more than text, and records, probes and published tables that have one in every place.

Every renderer is held to the same table: what it shows of a hostile record has the structure of what it shows of one whose
strings are `WORDS`.
"""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from lora_bench.published import CellVerdict, PublishedTable, judge_table, load_table
from lora_bench.records.probe_record import ProbeRecord
from lora_bench.records.protocol import PROTOCOLS
from lora_bench.records.record import Record
from lora_bench.report.probes.claims import Claim, Claims, Quantity
from lora_bench.report.sections.compare_runs import RunSet, TwoSets, hold_against
from tests.probe.records import probe_record
from tests.sample_records import ENVIRONMENT, METHODS, PARAMETERS, record

# No identifier, so it is shown as text and not as code; what is hostile is neither.
WORDS = "words, and nothing else"

STRINGS = {
    # HTML, and what might become HTML where a text is taken apart or put together twice
    "script": "<script>alert(1)</script>",
    "image element": '<img src=x onerror="alert(1)">',
    "end of a script": "</script><script>alert(1)</script>",
    "end of a style": "</style><style>*{display:none}</style>",
    "end of the page": "</table></main></body></html>",
    "comment": "<!-- hidden",
    "attribute": '" onmouseover="alert(1)" x=\'',
    "entities": "&lt;script&gt; &#60;b&#62; &amp;lt;i&amp;gt;",
    "fold": "<details><summary>3 records</summary>",
    "end of a fold": "</details>",
    "SVG": '<svg onload="alert(1)"><foreignObject>x</foreignObject></svg> ]]>',
    # Markdown
    "link": "[text](https://evil.example) [text](javascript:alert(1)) <https://evil.example>",
    "reference": "[text][1]\n\n[1]: https://evil.example",
    "image": "![i](//evil.example/i.svg) ![i](report/vader-film-trade-offs.svg)",
    "emphasis": "**b** __b__ *i* _i_ ~~s~~",
    "cells": "a|b`c` | d \\| e \\",
    "blocks": "\n# heading\n\n- item\n\n> quote\n\n---\n\n1. one",
    "item": "- item",
    "number": "1. item",
    "fence": "```\n</details>\n```",
    "tildes": "~~~ x",
    "formula": "$x$ and $$\\frac{1}{2}$$",
    "mentions": "@octocat #12 GH-12 org/name#12 www.evil.example https://evil.example mail@evil.example",
    # spreadsheets
    "command": "=cmd|'/c calc'!A1",
    "plus": "+1+cmd",
    "minus": "-2+3",
    "function": "@SUM(A1)",
    "tab": "\t=1",
    "full width": "＝1",
    "behind a separator": "a;=1",
    # terminals
    "colour": "\x1b[31mred\x1b[0m \x1b]8;;https://evil.example\x07link\x1b]8;;\x07 \x9b31m",
    # logs of CI
    "workflow": "x ##[error]y ##\u200b[group]z\n::error::x\n \u2066::set-env name=X::y",
    "rich": "[red]x[/red] [link=https://evil.example]x[/link] [/]",
    "around": "a\u202eb\u2066c\u200bd\x00e",
    # folders
    "folders": "/home/alice/secret/train.csv C:\\Users\\alice\\x file:///home/alice/y",
}

HOSTILE = " ".join(["a|b`c`\n# heading", *STRINGS.values()])
"""All of them at once."""


def strings(*alone: str) -> pytest.MarkDecorator:
    """Give a test `HOSTILE` as *text*, and these strings, which do harm only where a text begins; the others are slow."""
    assert STRINGS.keys() >= {*alone}
    each = [
        pytest.param(text, id=name, marks=() if name in alone else pytest.mark.slow) for name, text in STRINGS.items()
    ]
    return pytest.mark.parametrize("text", [pytest.param(HOSTILE, id="all"), *each])


in_markdown = strings("blocks", "item", "number", "fence", "tildes")
in_spreadsheets = strings("command", "plus", "minus", "function", "tab", "full width", "behind a separator")
anywhere = strings()


def hostile_records(text: str = HOSTILE) -> list[Record]:
    """A result, a failed run and the reference, and a search of two rates: *text* is every string of theirs."""
    method = METHODS["lora"].model_copy(
        update={"label": text, "size": text, "options": {text: text}, "chosen": {text: text}}
    )
    environment = ENVIRONMENT.model_copy(
        update={"device": text, "cpu": text, "system": text, "python": text, "packages": {text: text}}
    )
    named = {"task": text, "metric": text, "model": text, "suite": text, "command": text, "environment": environment}
    recipe = {"schedule": text, "arguments": {f"x {text}": text}}
    own = {"source": text, "protocol": text, "series": text}
    other = {**named, "task": f"{text} again"}
    return [
        record(method, seed=0, warnings=(text,), training=recipe, **named),
        record(method, seed=1, status="failed", reason=text, training=recipe, **named),
        record("full", seed=0, training=recipe, **named),
        record(method, seed=2, spec=own, **named),
        *(record(method, learning_rate=rate, spec={"score_on": "selection"}, **other) for rate in (1e-3, 1e-4)),
    ]


def hostile_probes(text: str = HOSTILE) -> list[ProbeRecord]:
    """A cell that is measured twice, one that failed, and full fine-tuning."""
    method = METHODS["lora"].model_copy(update={"label": text})
    named = {
        "model": text,
        "suite": text,
        "command": text,
        "environment": ENVIRONMENT.model_copy(update={"device": text, "cpu": text}),
        "unmeasured": {text: text},
    }
    return [
        *(probe_record(method, repeat, **named) for repeat in range(2)),
        probe_record(method, 0, twin=True, **named),
        probe_record("prefix_tuning", status="failed", reason=text, **{**named, "unmeasured": {}}),
        probe_record("full", **named),
    ]


def hostile_claims(text: str = HOSTILE) -> Claims:
    """A paper's claim of every quantity, to be held against `hostile_probes`."""
    quantities = get_args(Quantity)
    return Claims(
        paper=text,
        claims=tuple(Claim(quantity=quantity, where=text, of=text, printed=text) for quantity in quantities),
    )


def hostile_sets(text: str = HOSTILE) -> TwoSets:
    """Two sets of runs that share what the first of them has."""
    records = hostile_records(text)
    more = record("prefix_tuning", task=f"{text} more", model=text)
    sets = (
        RunSet(name, found, lambda run_id: None) for name, found in ((text, records), (f"{text} 2", [*records, more]))
    )
    return hold_against(*sets)


def hostile_published(text: str = HOSTILE) -> tuple[PublishedTable, list[CellVerdict]]:
    """A published table with a verdict a cell: one was run, one failed and the others were not run."""
    found = load_table("lora-table2")
    model = "FacebookAI/roberta-base"
    strings = {"row": text, "copied": text, "notes": (text,), "unpublished": (text,), "printed_metric": text}
    cells = tuple(
        dataclasses.replace(cell, **strings)
        for cell in found.cells
        if cell.model == model and cell.row == "LoRA" and not cell.derived
    )
    table = dataclasses.replace(found, title=text, source=text, notes=(text,), cells=cells)
    spec = {"protocol": "paper", "rules": PROTOCOLS["paper"]}
    counted = PARAMETERS["lora"].model_copy(update={"adapter": 294_912})
    records = [
        record("lora", task="rte", score=0.5, seed=seed, model=text, spec=spec, parameters=counted) for seed in range(3)
    ]
    records.append(record("lora", task="cola", score=None, model=text, spec=spec, status="failed", reason=text))
    return table, judge_table(table, records, lambda cell: None, {model: text})
