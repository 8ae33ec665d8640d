"""Letters of methods without a significant difference.

The absence of a difference is not transitive: the first may be like the second, the second like the third, and the first
better than the third. Ranks hide that. So methods get letters: two methods share a letter exactly if no difference between
them is shown (compact letter display, Piepho 2004, https://doi.org/10.1198/1061860043515). A method may have several letters.
"""

from collections.abc import Iterable


def tie_letters(number: int, apart: Iterable[tuple[int, int]]) -> list[str]:
    """Return the letters of so many methods, from best to worst, of which the pairs *apart*, the better first, differ.

    There are as few letters as the largest groups of ties, by Piepho's insert and absorb; the best method has the first.
    """
    groups = [frozenset(range(number))]
    for pair in sorted(apart):
        split = [group for group in groups if group.issuperset(pair)]
        groups = [group for group in groups if group not in split]
        for part in (group - {one} for group in split for one in pair):
            if not any(part <= group for group in groups):
                groups = [group for group in groups if not group <= part] + [part]
    groups.sort(key=sorted)
    return ["".join(_letter(i) for i, group in enumerate(groups) if place in group) for place in range(number)]


def _letter(index: int) -> str:
    """Return a, b, …, z, and then a pair in brackets."""
    return chr(ord("a") + index) if index < 26 else f"({chr(ord('a') + index // 26 - 1)}{chr(ord('a') + index % 26)})"
