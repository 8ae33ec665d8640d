"""The headline of runs on which no verdict is drawn: searches, protocols that choose on the test split, lone methods."""

from __future__ import annotations

from collections.abc import Sequence

from lora_bench.report.model.comparison import Comparison, Setting
from lora_bench.report.model.rows import Row, fallen_runs
from lora_bench.report.sections.chosen_rates import chosen_rates, searches
from lora_bench.report.sections.method_tables import range_words
from lora_bench.report.text import code, inert, listed, plural, plural_span

_TOO_HIGH = (
    "Such scores come out too high, more for some methods than for others. They serve to repeat a paper's numbers."
)

Said = tuple[str, list[str], list[str]]


def why_not_judged(comparison: Comparison) -> Said:
    """Return the lead, further sentences and next steps of a report without verdicts."""
    rows = [row for setting in comparison.settings for row in setting.rows]
    if not any(row.score is not None for row in rows):
        failed = f"{plural(sum(len(row.failures) for row in rows), 'run')} failed; the reasons are under [Failures](#failures)."
        said = [failed] if any(row.failures for row in rows) else []
        return "No run has a score, so there is nothing to compare.", said, []
    results = [setting for setting in comparison.results if not setting.search]
    if not results:
        return _search(comparison)
    chosen = [
        setting for setting in results if setting.spec.rules is not None and setting.spec.rules.choose_on != "selection"
    ]
    if len(chosen) == len(results):
        name = listed([*dict.fromkeys(code(setting.spec.protocol) for setting in chosen if setting.spec.protocol)])
        lead = f"No method is ranked: the protocol {name} chooses on the split that it reports.".replace("  ", " ")
        return lead, [_TOO_HIGH], []
    labels = dict.fromkeys(row.label for setting in results for row in setting.rows)
    if len(labels) == 1:
        lead = f"Only {code(next(iter(labels)))} was run, so there is nothing to compare it with."
        return lead, _sources(comparison), []
    seeds = max(row.score.n for row in rows if row.score is not None)
    lead = (
        f"No method is ranked: {plural(len(labels), 'method')} ran, and no two share a reference, base model and seed."
    )
    return lead, [*_sources(comparison), *([] if seeds > 1 else ["One seed a mean tells nothing of chance."])], []


def _sources(comparison: Comparison) -> list[str]:
    sources = dict.fromkeys(setting.spec.source for setting in comparison.results if setting.spec.source)
    named = listed([inert(source) for source in sources])
    return [f"No suite planned these runs (source: {named})."] if sources else []


def _search(comparison: Comparison) -> Said:
    found = chosen_rates(comparison)
    number, tied = sum(one.best is not None for one in found), sum(one.tied for one in found)
    at_edge = sum(one.end != "" for one in found)
    further = [
        f"It gives {plural(number, 'best rate')}, one for each method and base model; all scores are under [Scores](#scores)."
    ]
    if tied:
        further.append(f"In {tied} of {len(found)} searches rates tie, so nothing is chosen there.")
    if at_edge:
        word = "is" if at_edge == 1 else "are"
        further.append(f"{at_edge} of them {word} the smallest or largest rate tried: a better one may be outside.")
    all_searches = searches(comparison)
    further += _at_floor([row for setting in all_searches for row in setting.rows], all_searches[0])
    following = "write the best rates into a suite as `learning_rate` and run it on seeds that the search has not used"
    return "This is a search: it chooses learning rates and ranks no method.", further, [following]


def search_strength(comparison: Comparison) -> str | None:
    """Return how sure the choices of a search are, and what they are about; None where there are results, or no scores."""
    found = chosen_rates(comparison)
    seeds = [one.best.score.n for one in found if one.best is not None and one.best.score is not None]
    if not seeds or any(not setting.search for setting in comparison.results):
        return None
    said = (
        f"Strength: **search** ({plural_span(seeds, 'seed')} a rate): rates with scores near the best may be as good."
    )
    return f"{said} {range_words([(one.setting, one.table) for one in found])}"


def _at_floor(rows: Sequence[Row], setting: Setting) -> list[str]:
    """Count the runs that learned nothing."""
    better = setting.spec.task.higher_is_better is not False
    rows = [*{row.run_ids: row for row in rows}.values()]
    runs = sum(len(row.scores) for row in rows if row.least_learned is not None)
    floor = sum(fallen_runs(row, better, row.least_learned) for row in rows)
    return [f"{floor} of {plural(runs, 'run')} did no better than a constant answer."] if floor else []
