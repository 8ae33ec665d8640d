"""Successive halving: the work of so many trials spent on more learning rates, most of which are tried for a short time only.

With a factor f and R rungs, a run of rung r has the work divided by f^(R − r), so one of the last rung has all of it. n trials
begin, and the best ⌊n / f⌋ of a rung go on to the next:

    spent(n) = Σ_r ⌊n / f^(r−1)⌋ / f^(R−r),   in units of a run with all of the work
    n        = the greatest number with spent(n) ≤ T, where T trials are to be paid for

Where nothing is rounded, each rung spends T / R. Jamieson and Talwalkar 2016, https://arxiv.org/abs/1502.07943
"""

from __future__ import annotations

from dataclasses import dataclass

from lora_bench.errors import LoraBenchError


@dataclass(frozen=True)
class Rung:
    """The trials of a halving that have the same work.

    Args:
        number: From 1 on.
        trials: How many learning rates are tried.
        part: A run has the work of a reported run, divided by this.
    """

    number: int
    trials: int
    part: int


def rungs_of(trials: int, factor: int, number: int) -> tuple[Rung, ...]:
    """The rungs of a halving, the shortest runs first.

    Args:
        trials: Runs with all of the work that all rungs together may spend, at least 1.
        factor: How many times the work of a rung's runs those of the next have, and of how many trials one goes on; at least 2.
        number: Of rungs, at least 2.

    Raises:
        LoraBenchError: If the last rung has nothing to choose from, or no more is tried than without halving.
    """
    if trials < 2 * number:
        fewer = f"rungs: {trials // 2}, or " if trials >= 4 else ""
        raise LoraBenchError(
            f"{number} rungs spend the work of {trials} trials, and leave the last one less than two learning rates to choose "
            f"from: take {fewer}trials: {2 * number}"
        )
    parts = [factor**step for step in range(number)]
    most = trials * parts[-1]
    # Nothing rounded down, each rung spends the same: this many begin at least, and a few more where rounding leaves room.
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
