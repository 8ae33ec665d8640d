"""The reader's next step: the command that decides more, or that uses the result."""

import math
import re

from lora_bench.report.model.comparison import work_of
from lora_bench.report.model.overview import Overview
from lora_bench.report.model.report import Decision
from lora_bench.report.model.rows import folds_of
from lora_bench.report.sections.chosen_rates import tried_rates
from lora_bench.report.sections.tuning import rates_compared
from lora_bench.report.sections.verdicts import MANY
from lora_bench.report.text import code, listed, plain, plural
from lora_bench.stats.verdict import RECOMMENDATION_PAIRS

# What of a command can stand between backticks.
_WORD = re.compile(r"[\w./:=,+%…-]+")


def next_lines(seen: Overview, decision: Decision) -> list[str]:
    """Return the next steps as inline text: to use the pick, and to make the answer stronger or the pick's weights."""
    taken, pick = decision.taken, decision.taken if decision.all_shown else None
    steps = []
    keys = [f"a larger {code(work_key(seen))}, so that runs learn"] if seen.learned_little else []
    if labels := sorted({one.label for one in tried_rates(seen.comparison) if one.end}):
        keys.append(f"a wider range of `learning_rate` for {listed([code(label) for label in labels])}")
    ends = {} if seen.judged is None or seen.learned_little or rates_compared(seen.comparison) else seen.judged.ends
    # So many of their runs learned nothing that more seeds would repeat it.
    failing = [code(label) for label, one in ends.items() if one.fallen > 1 and one.fallen >= MANY * one.runs]
    if failing:
        keys.append(f"another `learning_rate` for {listed(failing)}, of which runs learned nothing")
    few = max(contrast.verdict.pairs for contrast in seen.contrasts) < RECOMMENDATION_PAIRS
    folds = _folds(seen)
    total = RECOMMENDATION_PAIRS if pick is not None and few and folds is None else seeds_to_decide(seen)
    if seen.learned_little or failing or (pick is not None and not few):
        total = None
    if taken is not None and all(place.row.checkpoint_bytes is not None for place in taken.places):
        suite, label = seen.comparison.suites[0], taken.label
        steps.append(f"`lora-bench use runs/{_plain(suite)} {_plain(label)}` loads {code(label)}")
    elif pick is not None and not keys and total is None:
        keys.append("`keep_weights: last` to keep trained weights (all runs train again)")
    elif pick is None and not keys and total is None:
        trials = " or more `tuning: seeds`" if any(one.verdict.choice_sd for one in seen.contrasts) else ""
        items = [one.verdict.needed_items for one in seen.contrasts if one.verdict.needed_items is not None]
        more = f"some {min(items):,}" if items else "more"
        to = f"{more} test items" if folds is None else "more rows"
        why = "no number of seeds up to 1,000 is likely to decide" if folds is None else "every row is tested"
        keys.append(f"`tasks` to one with {to}{trials}, since {why}")
    command = suite_command(seen)
    if command is not None and (keys or total is not None):
        seeds = "" if total is None else f" --seeds {total}"
        what = _open_to(seen, total) or (" of a recommendation" if pick is not None and few else "")
        if seen.judged is not None and seen.judged.analysis.seeds is not None:
            what += " and judges anew, at half of the error level"
        steps.append(_changed(f"{command}{seeds}", ", and ".join(keys), what))
    return steps


def work_key(seen: Overview) -> str:
    """Return the key of the budget that makes runs longer."""
    work = work_of(seen.comparison.results[0].spec.training)
    return work[0] if work is not None else "train_examples"


def _open_to(seen: Overview, total: int | None) -> str:
    """Return what so many seeds would likely decide, where each method has one comparison."""
    if total is None or len({contrast.label for contrast in seen.contrasts}) < len(seen.contrasts):
        return ""
    open_ones = [contrast for contrast in seen.contrasts if contrast.verdict.verdict == "inconclusive"]
    needed = [(code(contrast.label), contrast.verdict.needed) for contrast in open_ones]
    found = [label for label, seeds in needed if seeds is not None and seeds.seeds <= total]
    return f" that would likely decide about {listed(found)}" if found and len(found) < len(open_ones) else ""


def _changed(command: str, keys: str, what: str) -> str:
    """Return the steps to run a suite with other keys, if any; a suite that came with the package is copied first."""
    if not keys:
        return f"`{command}` adds the seeds{what}"
    words = command.split()
    suite = words[2] if len(words) > 2 else ""
    if not re.fullmatch(r"[\w-]+", suite):
        return f"in the suite set {keys}, then run `{command}`"
    again = " ".join([*words[:2], "my-suite.yaml", *words[3:]])
    return f"copy `baselines/{suite}/suite.yaml` to `my-suite.yaml`, set there {keys}, then run `{again}`"


def _plain(name: str) -> str:
    shown = code(name)
    return shown[1:-1] if shown.startswith("`") else "NAME"


def suite_command(seen: Overview) -> str | None:
    """Return the command that made the runs; None where no suite did."""
    found = next((command for command in seen.comparison.commands if command.startswith("lora-bench run ")), None)
    if found is None:
        return None
    words = " ".join(word if _WORD.fullmatch(word) else "NAME" for word in plain(found).split())
    return re.sub(r" --seeds \d+", "", words)


def seeds_to_decide(seen: Overview) -> int | None:
    """Seeds that would likely decide: the median over open comparisons with an estimate, else those of a recommendation."""
    verdicts = [contrast.verdict for contrast in seen.contrasts if contrast.verdict.verdict == "inconclusive"]
    needed = sorted(verdict.needed.seeds for verdict in verdicts if verdict.needed is not None)
    if needed:
        return needed[(len(needed) - 1) // 2]
    most, folds = max(contrast.verdict.pairs for contrast in seen.contrasts), _folds(seen)
    if folds is not None:
        return folds if most < folds else None
    return RECOMMENDATION_PAIRS if most < RECOMMENDATION_PAIRS else None


def more_seeds(seen: Overview) -> list[str]:
    """Return a sentence on how many more seeds would decide, with the time that they take."""
    total = seeds_to_decide(seen)
    have = max(contrast.verdict.pairs for contrast in seen.contrasts)
    folds = _folds(seen)
    if total is None:
        same = all(contrast.verdict.interval is None for contrast in seen.contrasts)
        why = ": all seeds gave the same difference, which tells nothing of others" if same else ""
        alone = f"No number of seeds up to 1,000 is expected to decide{why}."
        return [alone if folds is None else "Every row is tested once, so only more rows would decide more."]
    more, time = plural(total - have, "more seed"), _time(seen, total - have)
    needed = [contrast for contrast in seen.contrasts if contrast.verdict.needed is not None]
    if folds is not None and total == folds:
        return [f"With {more} a method{f', {time},' if time else ''} every row is tested once."]
    if not needed:
        of_all = f"{total} in all{f', {time}' if time else ''}"
        return [f"With {more} a method ({of_all}) a recommendation is possible, if the verdicts then decide."]
    several = f"half of the {len(needed)} that have an estimate" if len(needed) > 1 else "one of them"
    of = "it" if len(seen.contrasts) == 1 else several
    after = f" ({time})" if time else ""
    return [f"About {more} a method{after} would likely decide {of}, if the differences seen are true."]


def _folds(seen: Overview) -> int | None:
    """Return the number of folds of which each seed tests one; None if all seeds of a task test the same rows."""
    found = (folds_of(one.setting.spec.task) for one in seen.contrasts)
    return min((folds for folds in found if folds is not None), default=None)


def _time(seen: Overview, more: int) -> str:
    rows = {place.row.run_ids: place.row for line in seen.lines for place in line.places}
    seconds = math.fsum(
        ((row.train_seconds_total or 0.0) + (row.evaluation_seconds_total or 0.0)) / row.ok
        for row in rows.values()
        if row.ok
    )
    minutes = more * seconds / 60
    if minutes < 0.5:
        return ""
    said = plural(round(minutes), "minute") if minutes < 120 else plural(round(minutes / 60), "hour")
    return f"about {said} of training"
