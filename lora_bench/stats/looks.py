"""Look at scores while seeds are added, and stop once a comparison is decided, with one error level over all looks.

A test repeated after each seed, until it finds a difference, finds one in the end even where there is none. So each look has a
share of alpha, by which its p-values are divided: docs/statistics.md#seeds-until-decided. The last look has three quarters, so
that a suite that goes to its end finds nearly what it would have found without looking. `benchmarks/statistics_sequential.py`
compares this rule with alpha spending (Lan and DeMets 1983, https://doi.org/10.1093/biomet/70.3.659) and with a test that may
stop anywhere (Rouder et al. 2009's Bayes factor as an e-process, https://doi.org/10.3758/PBR.16.2.225).
"""

import math

# Share of alpha at the last look; the others have equal parts of the rest.
LAST = 0.75
# A comparison stops early where its difference looks large, so its plain interval covers the true difference in 92 to 95 % of
# cases only. At this share of alpha it does in 93.5 to 96.5 %.
STOPPED = 0.7


def looks_between(at_least: int, at_most: int) -> tuple[int, ...]:
    """Return the numbers of seeds after which scores are judged, each a third more than the one before."""
    looks = [at_least]
    while looks[-1] < at_most:
        looks.append(min(at_most, math.ceil(looks[-1] * 4 / 3)))
    return tuple(looks)


def share_of(seeds: int, looks: tuple[int, ...]) -> float:
    """Return the share of alpha at the look after this many seeds (one look has all); between looks, the later counts."""
    if len(looks) == 1:
        return 1.0
    return LAST if seeds > looks[-2] else (1 - LAST) / (len(looks) - 1)
