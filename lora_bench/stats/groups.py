"""Groups of methods without a significant difference.

The absence of a difference is not transitive: the first may be like the second, the second like the third, and the first
better than the third. Ranks hide that. So methods get letters: two methods share a letter exactly if no difference between
them is shown (compact letter display, Piepho 2004, https://doi.org/10.1198/1061860043515). A method may have several letters.
It also gets the range of ranks that the shown differences allow.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from lora_bench.errors import LoraBenchError
from lora_bench.stats.power import ALPHA


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Methods from best to worst mean, with groups and ranks.

    Args:
        order: Methods by their mean, best first; equal means by name.
        groups: The largest sets of methods without a shown difference, each in *order*, the best method's set first. A
            method may be in several.
        letters: For each method the letters of its groups: `a` is the first.
        ranks: For each method the best and the worst rank that the shown differences allow: 1 and the number of methods if
            none is shown. With error level alpha over all pairs, all true ranks lie in these ranges at once with
            probability 1 − alpha (Al Mohamad, Goeman and van Zwet 2022, Biometrics 78).
    """

    order: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    letters: dict[str, str]
    ranks: dict[str, tuple[int, int]]


def rank(
    means: Mapping[str, float],
    p_values: Mapping[tuple[str, str], float | None],
    *,
    alpha: float = ALPHA,
    higher_is_better: bool = True,
) -> Ranking:
    """Group methods by the differences that are shown, from the *means* of their scores.

    *p_values* has for every pair of methods, in either order, the p-value of no difference, adjusted over all pairs (see
    `holm`); None, as for too few seeds, shows no difference, and so does one above *alpha*. Raise LoraBenchError if a pair is
    missing.
    """
    order = tuple(sorted(means, key=lambda name: (-means[name] if higher_is_better else means[name], name)))
    apart = {pair for pair in itertools.combinations(order, 2) if _apart(pair, p_values, alpha)}
    groups = _largest_groups(order, apart)
    letters = {name: "".join(_letter(i) for i, group in enumerate(groups) if name in group) for name in order}
    return Ranking(
        order=order,
        groups=groups,
        letters=letters,
        ranks={
            name: (
                1 + sum(worse == name for _, worse in apart),
                len(order) - sum(better == name for better, _ in apart),
            )
            for name in order
        },
    )


def _apart(pair: tuple[str, str], p_values: Mapping[tuple[str, str], float | None], alpha: float) -> bool:
    known = [p_values[key] for key in (pair, pair[::-1]) if key in p_values]
    if not known:
        raise LoraBenchError(f"there is no comparison of {pair[0]} with {pair[1]}; expected one for every pair")
    return known[0] is not None and known[0] <= alpha


def _largest_groups(order: tuple[str, ...], apart: set[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """Return all largest sets without a pair of *apart*, by Piepho's insert and absorb."""
    groups = [frozenset(order)]
    for one, other in sorted(apart):
        split = [group for group in groups if one in group and other in group]
        groups = [group for group in groups if group not in split]
        for part in (group - {name} for group in split for name in (one, other)):
            if not any(part <= group for group in groups):
                groups = [group for group in groups if not group <= part] + [part]
    place = {name: index for index, name in enumerate(order)}
    return tuple(
        sorted((tuple(sorted(group, key=place.__getitem__)) for group in groups), key=lambda g: [place[n] for n in g])
    )


def _letter(index: int) -> str:
    """Return a, b, …, z, and then a pair in brackets."""
    return chr(ord("a") + index) if index < 26 else f"({chr(ord('a') + index // 26 - 1)}{chr(ord('a') + index % 26)})"
