"""Guesses what a table is made for: asks each kind of task whether it is seen there, stage by stage.

The first that finds its columns names the kind. A kind says in `TaskKind.seen_in` what it looks like in a table.
"""

from __future__ import annotations

import typing
from dataclasses import replace
from itertools import product

from lora_bench.kinds import find_kind, known_kinds
from lora_bench.kinds.support.table_view import LABELLED, SPLIT_VALUES, GuessedTask, Stage, View


def guess_task(view: View) -> GuessedTask:
    """Return the kind of a table and its columns, those that the user names kept. Raise LoraBenchError if none fit."""
    asked = view.asked
    for name in view.table.names:
        if name != asked.split and name not in (asked.label, asked.text, asked.group) and view.splits(name):
            named = any(str(value).strip().casefold() in SPLIT_VALUES for value in view.values(name))
            way = f"--split {name} keeps to them" if named else f"--group {name} keeps equal values together"
            view.said.append(f"guessed: {name} names splits and is no label; {way}")
    # A chat may also be texts to write, as its model's kind is seen.
    asked_kinds = known_kinds().keys() if asked.kind is None else {asked.kind, find_kind(asked.kind).model_kind}
    for stage, (name, kind) in product(typing.get_args(Stage), known_kinds().items()):
        has_columns = stage not in LABELLED or asked.label is not None or view.possible
        if name in asked_kinds and has_columns and (found := kind.seen_in(view, stage)) is not None:
            return replace(found, kind=asked.kind or name)
    if asked.kind is not None:
        return replace(view.labelled(), kind=asked.kind)
    raise view.no_label()
