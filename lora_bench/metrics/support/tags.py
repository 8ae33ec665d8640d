"""Shared parts of metrics of tagged words: entities by the rules of conlleval.

Labels are tags of entities in the form IOB1, IOB2 or IOBES: O outside of entities, else a prefix and a type, as in B-PER. An
entity begins at B and S, behind O, E and S, and where the type changes.
"""

import re
from collections.abc import Sequence

TAG = re.compile(r"O|([BIES])(?:-(.+))?", re.DOTALL)

UNTYPED = "entity"
"""Type of entities whose tags name none, such as B."""


def is_tag(label: str) -> bool:
    """Return True if a label is a tag of entities."""
    return TAG.fullmatch(label) is not None


def type_of(tag: str) -> str | None:
    """Return the type of the entities that a tag is of; None for a tag outside of them, or a label that is no tag."""
    given = TAG.fullmatch(tag)
    return None if given is None or given[1] is None else given[2] or UNTYPED


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return the type, the first word and the last word of each entity; a label that is no tag is outside of them."""
    found: set[tuple[str, int, int]] = set()
    before, of_type, first = "O", "", 0
    for place, tag in enumerate([*tags, "O"]):
        given = TAG.fullmatch(tag)
        prefix, type_ = (given[1] or "O", given[2] or "") if given is not None else ("O", "")
        begins = prefix in "BS" or before in "OES" or type_ != of_type
        if before != "O" and (prefix == "O" or begins):
            found.add((of_type, first, place - 1))
        if prefix != "O" and begins:
            first = place
        before, of_type = prefix, type_
    return found
