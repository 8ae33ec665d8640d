"""Checks that need no statistics: runs that crash or are missing, pairs that stopped working, counts that changed.

Counts do not depend on the machine, so they are compared with the last accepted night on any machine. Peak memory is compared
only within a series, with the greatest value of its accepted nights.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from operator import attrgetter

from lora_bench.gate.night_answer import Finding, Kind
from lora_bench.gate.series import Night, NightCell, NightRun, with_name
from lora_bench.records.record import Status
from lora_bench.report.text import count, plain, plural

PEAK_TOLERANCE = 0.01
CRASHES: tuple[Status, ...] = ("failed", "timeout", "out_of_memory", "interrupted")

COUNTS: tuple[tuple[Kind, str, str], ...] = (
    ("parameters", "total", "weights in all"),
    ("parameters", "adapter", "adapter parameters"),
    ("parameters", "head", "parameters of the head"),
    ("parameters", "trained", "trained parameters"),
    ("parameters", "stored", "stored parameters"),
    ("checkpoint_bytes", "checkpoint_bytes", "bytes of a checkpoint"),
    ("flops", "step_flops", "FLOPs of a step"),
)


def exact_findings(cell: NightCell, last: Night | None, history: Sequence[NightCell]) -> Iterator[Finding]:
    """Yield the findings on a cell that need no statistics.

    *history* has the same series in the accepted nights since its last acknowledged change.
    """
    runs = plural(len(cell.runs), "run")
    if crashed := cell.with_status(*CRASHES):
        said = f"{len(crashed)} of {runs} gave no score: {reasons(crashed)}"
        yield Finding(kind="crash", status="failed", text=said)
    if unscored := [run for run in cell.with_status("ok") if run.score is None]:
        said = f"{len(unscored)} of {runs} ended without a score: the metric could not be computed"
        yield Finding(kind="score", status="undecided", text=said)
    known = with_name(last, cell.name) if last is not None else []
    if (unsupported := cell.with_status("unsupported")) and not all(one.with_status("unsupported") for one in known):
        said = f"the pair does not work any more: {reasons(unsupported)}"
        yield Finding(kind="unsupported", status="regression", text=said)
    yield from _counts(cell, known)
    yield from _peak(cell, history)


def diverged_more(cell: NightCell, history: Sequence[NightCell]) -> str | None:
    """Describe that more runs diverged than in any accepted night; None if not, or if there is no such night."""
    diverged = cell.with_status("diverged")
    most = max((len(night.with_status("diverged")) for night in history), default=None)
    if most is None or len(diverged) <= most:
        return None
    return (
        f"{len(diverged)} of {plural(len(cell.runs), 'run')} diverged ({reasons(diverged)}), "
        f"and {most or 'none'} in any accepted night"
    )


def missing_cells(tonight: Night, last: Night | None) -> list[tuple[NightCell, str]]:
    """Return each cell that lacks runs of the last accepted night, by seed, and a text on them; other seeds replace none."""
    found = []
    for name in dict.fromkeys(cell.name for cell in last.cells) if last is not None else ():
        assert last is not None
        expected = with_name(last, name)
        wanted, there = _seeds(expected), _seeds(with_name(tonight, name))
        if missing := wanted - there:
            left = wanted.total() - missing.total()
            said = f"{left or 'none'} of {plural(wanted.total(), 'run')} that {last.label} has are there"
            if other := there - wanted:
                said = f"{said}, and other seeds ({', '.join(map(str, other))}) are no substitute"
            found.append((expected[0], said))
    return found


def _seeds(cells: Sequence[NightCell]) -> Counter[int | None]:
    return Counter(run.seed for cell in cells for run in cell.runs)


def _counts(cell: NightCell, known: Sequence[NightCell]) -> Iterator[Finding]:
    # On any machine counts follow from these conditions.
    bound = attrgetter("precision", "data", "base_model", "recipe")
    before = next((one for one in known if bound(one.conditions) == bound(cell.conditions)), None)
    if before is None:
        return
    for kind, field, words in COUNTS:
        was, now = getattr(before.counts, field), getattr(cell.counts, field)
        if was is not None and now is not None and was != now:
            yield Finding(kind=kind, status="regression", text=f"{words}: {count(was)} before, {count(now)} now")
        elif was is not None and now is None and not cell.with_status(*CRASHES, "unsupported", "diverged"):
            yield Finding(kind=kind, status="failed", text=f"{words}: {count(was)} before, not counted now")


def _peak(cell: NightCell, history: Sequence[NightCell]) -> Iterator[Finding]:
    before = [night.counts.peak_allocated_bytes for night in history]
    greatest = max((peak for peak in before if peak is not None), default=None)
    now = cell.counts.peak_allocated_bytes
    if greatest is not None and now is not None and now > greatest * (1 + PEAK_TOLERANCE):
        said = f"peak allocated: {count(now)} bytes, {now / greatest - 1:.1%} above the greatest of the accepted nights"
        yield Finding(kind="peak", status="regression", text=said)


def reasons(runs: Sequence[NightRun]) -> str:
    """Join the reasons why runs have no score, each once, into one line."""
    return plain("; ".join(dict.fromkeys(f"{run.status}: {run.reason}" if run.reason else run.status for run in runs)))
