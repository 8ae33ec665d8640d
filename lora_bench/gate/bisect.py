"""Binary search over environments for the package version or commit that made a series fail.

Every try runs the failing cell with the night's own seeds and compares it with the same accepted nights, so only the
environment differs. An environment that cannot be built, or in which the cell gives no answer, is skipped.
"""

import math
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora_bench.errors import LoraBenchError
from lora_bench.gate.night_answer import Answer, Kind, SeriesAnswer
from lora_bench.report.text import plain, plural

Tried = Literal["good", "bad", "skip"]

# Making an environment, installing into it, and the imports of a process, beside the runs themselves.
OVERHEAD_SECONDS = 60.0

_VERSION = r"[A-Za-z0-9][A-Za-z0-9.+!_-]*"
_VERSIONS = re.compile(rf"(?P<package>[A-Za-z0-9][A-Za-z0-9._-]*)=(?P<versions>{_VERSION}(?:,{_VERSION})+)")
_COMMITS = re.compile(r"(?P<good>[A-Za-z0-9][\w./~^-]*?)\.\.(?P<bad>[A-Za-z0-9][\w./~^-]*)")
SAID: dict[Tried, str] = {"good": "good", "bad": "bad", "skip": "not to be tried"}


@dataclass(frozen=True)
class Candidates:
    """Candidates of a search, from the good end to the bad one.

    They are versions of a *package*, or without one commits of the repository in the working folder.
    """

    package: str | None
    names: tuple[str, ...]


def candidates(range_text: str, folder: Path) -> Candidates:
    """Parse `--bisect`: `PACKAGE=OLD,…,NEW`, or `GOOD..BAD` for commits that git knows of the repository with *folder*."""
    versions = _VERSIONS.fullmatch(range_text)
    if versions is not None:
        names = tuple(versions["versions"].split(","))
        if len(set(names)) < len(names):
            raise LoraBenchError(f"--bisect {range_text} names a version twice")
        return Candidates(versions["package"], names)
    commits = _COMMITS.fullmatch(range_text)
    if commits is None:
        raise LoraBenchError(
            f"--bisect takes PACKAGE=OLD,...,NEW such as transformers=5.22.0,5.23.0,5.24.0, or GOOD..BAD for commits, "
            f"got {range_text!r}"
        )
    good = git(folder, "rev-parse", "--verify", "--end-of-options", f"{commits['good']}^{{commit}}").strip()
    bad = git(folder, "rev-parse", "--verify", "--end-of-options", f"{commits['bad']}^{{commit}}").strip()
    listed = git(folder, "rev-list", "--reverse", "--first-parent", f"{good}..{bad}", "--").split()
    if not listed:
        raise LoraBenchError(f"there is no commit in {range_text}; name the good one first")
    if git(folder, "rev-list", "--max-count=1", good, f"^{bad}", "--"):
        raise LoraBenchError(f"{commits['good']} is not among what {commits['bad']} was made from; name one that is")
    return Candidates(None, (good, *listed))


def git(folder: Path, *arguments: str) -> str:
    """Return what git prints in a folder. Raise LoraBenchError with what it says if it fails."""
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoraBenchError(f"git {arguments[0]} failed: {plain(done.stderr)}")
    return done.stdout


def most_tries(count: int) -> int:
    """Return the most environments that a search tries if it skips none: both ends, then halves between them."""
    return min(count, 2 + math.ceil(math.log2(max(1, count - 1))))


def cost_lines(candidates: Candidates, series: SeriesAnswer) -> list[str]:
    """Estimate the cost of a search before it starts."""
    tries = most_tries(len(candidates.names))
    what = f"versions of {candidates.package}" if candidates.package is not None else "commits"
    known = series.seconds is not None
    minutes = tries * ((series.seconds or 0.0) + OVERHEAD_SECONDS) / 60
    runs = (
        f"its {plural(len(series.run_ids), 'run')} took {series.seconds:,.0f} s"
        if known
        else "how long its runs take is not known"
    )
    return [
        f"cell: {plain(' · '.join(series.name.words))} [{series.series}]",
        f"{len(candidates.names)} {what}: at most {tries} environments, more where some cannot be tried, in each of which the "
        f"cell is run ({runs})",
        f"about {minutes:,.0f} min{'' if known else ' and the runs'}, and what has to be downloaded",
    ]


@dataclass(frozen=True)
class Found:
    """Result of a search: the last good candidate, the first bad one, and those skipped between them."""

    good: int
    bad: int
    skipped: tuple[int, ...]


def search(count: int, try_: Callable[[int], Tried]) -> Found:
    """Find the first bad of two candidates or more. Raise LoraBenchError unless the first is good and the last bad."""
    for index, wanted in ((count - 1, "bad"), (0, "good")):
        result = try_(index)
        if result != wanted:
            end = "last" if index else "first"
            raise LoraBenchError(f"the {end} of them is to be {wanted}, and it is {SAID[result]}; give other ends")
    good, bad = 0, count - 1
    skipped: set[int] = set()
    while left := [index for index in range(good + 1, bad) if index not in skipped]:
        middle = (good + bad) / 2
        index = min(left, key=lambda place: (abs(place - middle), place))
        result = try_(index)
        if result == "skip":
            skipped.add(index)
        elif result == "bad":
            bad = index
        else:
            good = index
    return Found(good, bad, tuple(sorted(index for index in skipped if good < index < bad)))


def failing_cell(answer: Answer, series: str | None) -> SeriesAnswer:
    """Return the cell to search for: the named one, or the worst. Raise LoraBenchError if nothing is wrong with it."""
    failing = [one for one in answer.series if _wrong(one) and series in (None, one.series)]
    if not failing and series is not None:
        raise LoraBenchError(
            f"nothing is wrong with a series {series!r} in {answer.label}; `lora-bench check` lists them"
        )
    if not failing:
        raise LoraBenchError(f"nothing is wrong in {answer.label}, so there is nothing to search for")
    if not failing[0].run_ids:
        raise LoraBenchError(
            f"{plain(' · '.join(failing[0].name.words))} has no runs in {answer.label} that could be done again"
        )
    if failing[0].name.task is None:
        raise LoraBenchError(
            "the cell is one of probes, which have no seeds to be run again with; name another with --cell"
        )
    return failing[0]


def _wrong(series: SeriesAnswer) -> frozenset[Kind]:
    """Return the kinds of findings in a series that a search can look for."""
    statuses = ("regression", "failed")
    return frozenset(finding.kind for finding in series.findings if finding.status in statuses or finding.suspect)


def tried(series: SeriesAnswer | None, looked_for: SeriesAnswer) -> Tried:
    """Classify a try: bad if the cell has the failure that is searched for, good if it has none."""
    if series is None:
        return "skip"
    wrong = _wrong(series)
    # With the seeds of the night a drift or a flaky level shows as the level of that night.
    wanted = _wrong(looked_for) or frozenset({"level"})
    if wrong & wanted:
        return "bad"
    # Runs that crashed before and now give scores are good without a history; judging a score needs one.
    undecided = not wanted <= {"crash", "unsupported"} and any(finding.kind == "history" for finding in series.findings)
    return "skip" if wrong or undecided or series.observed is None else "good"


def found_lines(ends: Found, of: Candidates) -> list[str]:
    """Describe the result of a search for a terminal."""
    what = f"{of.package} " if of.package is not None else "commit "
    lines = [f"last good: {what}{of.names[ends.good]}", f"first bad: {what}{of.names[ends.bad]}"]
    if ends.skipped:
        names = ", ".join(of.names[index] for index in ends.skipped)
        lines.append(f"could not be tried, so the first bad one may be among them: {names}")
    return lines
