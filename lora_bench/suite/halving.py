"""Successive halving: the work of a number of trials, spent on more learning rates in shorter runs.

docs/budgets.md#successive-halving has the rule. Jamieson and Talwalkar 2016, https://arxiv.org/abs/1502.07943
"""

from dataclasses import dataclass

from lora_bench.errors import LoraBenchError


@dataclass(frozen=True)
class Rung:
    """The trials of a halving with the same work: that of a reported run divided by *part*."""

    number: int
    trials: int
    part: int


def rungs_of(trials: int, factor: int, number: int) -> tuple[Rung, ...]:
    """Return the rungs of a halving, the shortest runs first.

    All rungs together may spend the work of *trials* runs with all of the work. The *factor*, at least 2, is the ratio of the
    work of one rung's runs to the last one's, and of trials to those that go on; the *number* of rungs is at least 2. Raise
    LoraBenchError if the last rung has nothing to choose from, or halving tries no more rates.
    """
    if trials < 2 * number:
        fewer = f"rungs: {trials // 2}, or " if trials >= 4 else ""
        raise LoraBenchError(
            f"{number} rungs spend the work of {trials} trials, and leave the last one less than two learning rates to choose "
            f"from: take {fewer}trials: {2 * number}"
        )
    parts = [factor**step for step in range(number)]
    most = trials * parts[-1]
    # Without rounding, each rung spends the same. At least so many begin, and a few more if rounding leaves room.
    begun = most // number
    while sum((begun + 1) // part * part for part in parts) <= most:
        begun += 1
    if begun <= trials:
        more = ", or rungs: 3" if trials >= 6 else ""
        raise LoraBenchError(
            f"a halving by {factor} in {number} rungs tries {begun} learning rates, and {trials} trials with all of the work "
            f"try as many: take halving: 3{more}"
        )
    return tuple(Rung(step + 1, begun // parts[step], parts[number - 1 - step]) for step in range(number))
