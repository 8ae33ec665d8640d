"""Parts of a transformer layer, and the roles by which a method names them. This module imports no torch."""

from collections.abc import Iterable, Mapping
from typing import Literal

Part = Literal["query", "key", "value", "attention_output", "feed_forward_in", "feed_forward_gate", "feed_forward_out"]

Role = Literal["query", "key", "value", "output", "ffn", "all"]

ROLES: Mapping[Role, tuple[Part, ...]] = {
    "query": ("query",),
    "key": ("key",),
    "value": ("value",),
    "output": ("attention_output",),
    "ffn": ("feed_forward_in", "feed_forward_gate", "feed_forward_out"),
    "all": ("query", "key", "value", "attention_output", "feed_forward_in", "feed_forward_gate", "feed_forward_out"),
}
"""Parts of a layer by role; a role means the same in every family."""


def roles_in_order(roles: Iterable[Role]) -> tuple[Role, ...]:
    """Return the roles in one order, so that two spellings are one method; all are `all`. Raise ValueError for a repeat."""
    named = tuple(roles)
    if len(set(named)) < len(named) or ("all" in named and len(named) > 1):
        raise ValueError(f"names something twice: {', '.join(named)}")
    every = tuple(role for role in ROLES if role != "all")
    return ("all",) if set(named) == set(every) else tuple(role for role in ROLES if role in named)


def parts_of(roles: Iterable[Role]) -> tuple[Part, ...]:
    """Return the parts that *roles* stand for, each once, in the order of a layer's computation."""
    named = {part for role in roles for part in ROLES[role]}
    return tuple(part for part in ROLES["all"] if part in named)
