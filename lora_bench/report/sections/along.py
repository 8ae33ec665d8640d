"""The section on sweeps: the plateau of each line, and where methods change places."""

from collections.abc import Sequence

from lora_bench.report.blocks import Block, Heading, TextTable
from lora_bench.report.model.plateaus import Crossing, Plateau, SweepFindings
from lora_bench.report.model.sweeps import Sweep
from lora_bench.report.sections.method_tables import model_name
from lora_bench.report.text import MISSING, code, difference, inert, score, swept

_PLATEAU = (
    "The plateau of a line: its values that are not shown to be worse than its best one, over all pairs of values of all "
    "lines of a number, as one family. More seeds may make it narrower. Learning rates that trials chose may differ along a "
    "line."
)
_NO_PLATEAU = f"{MISSING} No plateau: fewer than four seeds in common, or equal scores, so nothing can be shown."
# Numbers of which a user has as much as there is.
_MORE = ("distinct_examples", "work")
_CROSSINGS = (
    "Two methods change places where the order of their means does, at about the value where straight lines between the means "
    "meet on a logarithmic axis. *Shown*: the difference at that value is, over all pairs of methods at all values, as one "
    "family. A change of order is decided if a difference is shown on both sides of it."
)


def along_section(found: SweepFindings) -> list[Block]:
    """Return the section; empty without sweeps. Too few seeds to compare values leave nothing to say but of crossings."""
    blocks: list[Block] = []
    for subject in dict.fromkeys(plateau.sweep.subject for plateau in found.plateaus):
        plateaus = [plateau for plateau in found.plateaus if plateau.sweep.subject == subject]
        crossings = [crossing for crossing in found.crossings if crossing.sweep.subject == subject]
        if not crossings and not any(plateau.compared for plateau in plateaus):
            continue
        blocks += [Heading(3, f"{code(subject[0])}: {inert(subject[1], 60)}"), _plateau_table(plateaus)]
        if not all(plateau.compared for plateau in plateaus):
            blocks.append(_NO_PLATEAU)
        if plateaus[0].sweep.kind in _MORE:
            blocks += _crossings(crossings, plateaus[0].sweep)
    return [Heading(2, "Curves"), _PLATEAU, *blocks] if blocks else []


def _plateau_table(plateaus: Sequence[Plateau]) -> TextTable:
    rows = [
        [
            _where(plateau.sweep),
            code(plateau.line.name),
            _best(plateau),
            score(plateau.best.mean),
            ", ".join(_value(plateau.sweep, point.value) for point in plateau.held) if plateau.compared else MISSING,
            ", ".join(
                f"{_value(plateau.sweep, point.value)} ({difference(point.mean - plateau.best.mean)})"
                for point, _ in plateau.worse
            )
            or MISSING,
        ]
        for plateau in plateaus
    ]
    return TextTable(["base model", "method", "best", "mean", "plateau", "shown to be worse"], rows, numbers_from=2)


def _crossings(crossings: Sequence[Crossing], sweep: Sweep) -> list[Block]:
    if len(sweep.lines) < 2:
        return []
    if not crossings:
        return ["No two methods change places."]
    rows = []
    for crossing in crossings:
        facts = zip(crossing.methods, crossing.between, crossing.verdicts, crossing.shown, strict=True)
        sides = [
            f"{code(method)} at {_value(sweep, value)}: {difference(verdict.difference)}, {'' if shown else 'not '}shown"
            for method, value, verdict, shown in facts
        ]
        decided = {2: "yes", 1: "one side", 0: "no"}[sum(crossing.shown)]
        rows.append([_where(crossing.sweep), *sides, f"{float(f'{crossing.about:.2g}'):,.0f}", decided])
    header = ["base model", "better with less", "better with more", "change places at about", "decided"]
    return [_CROSSINGS, TextTable(header, rows, numbers_from=3)]


def _where(sweep: Sweep) -> str:
    return model_name(sweep.table) + (f", {sweep.apart}" if sweep.apart else "")


def _best(plateau: Plateau) -> str:
    """Return the best value of a line, and whether a better one may lie beyond it; of rows and work more is mostly better."""
    values = [point.value for point in plateau.line.points]
    ends = {} if plateau.sweep.kind in _MORE else {values[0]: ", smallest tried", values[-1]: ", largest tried"}
    return _value(plateau.sweep, plateau.best.value) + (ends.get(plateau.best.value, "") if len(values) > 1 else "")


def _value(sweep: Sweep, value: float) -> str:
    return swept(value, rate=sweep.kind == "learning_rate")
