"""Groups of items as a text: `0-3 5,9` says that items 0 to 3 are a group, 5 and 9 another, and the rest stand alone."""

from collections.abc import Iterator, Sequence
from itertools import groupby

PATTERN = r"^\d+(-\d+)?(,\d+(-\d+)?)*( \d+(-\d+)?(,\d+(-\d+)?)*)*$"


def groups_as_text(groups: Sequence[int]) -> str | None:
    """Return the groups of two items or more, by the number of each item's group; None without any."""
    items: dict[int, list[int]] = {}
    for item, group in enumerate(groups):
        items.setdefault(group, []).append(item)
    return " ".join(",".join(_ranges(found)) for found in items.values() if len(found) > 1) or None


def groups_of_text(text: str, count: int) -> list[int]:
    """Return the first item of each item's group. Raise ValueError for an item beyond *count*, or in two groups."""
    groups = [*range(count)]
    seen: set[int] = set()
    for group in text.split(" "):
        items: list[int] = []
        for part in group.split(","):
            first, _, last = part.partition("-")
            if int(last or first) >= count:
                raise ValueError(f"a group has item {last or first} of {count:,}")
            items += range(int(first), int(last or first) + 1)
        if len(set(items)) < len(items) or seen.intersection(items):
            raise ValueError(f"an item of the group {group[:40]} is in it twice, or in another one")
        seen.update(items)
        for item in items:
            groups[item] = items[0]
    return groups


def _ranges(items: Sequence[int]) -> Iterator[str]:
    for _, run in groupby(enumerate(items), key=lambda pair: pair[1] - pair[0]):
        found = [item for _, item in run]
        yield str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}"
