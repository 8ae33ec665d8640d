"""The headline of runs on which no verdict is drawn: searches, protocols that choose on the test split, lone methods."""

from __future__ import annotations

from lora_bench.report.model.comparison import Comparison
from lora_bench.report.model.rows import Row
from lora_bench.report.sections.tuning import edges, rungs_of_search, searches
from lora_bench.report.text import code, inert, listed, plural

Said = tuple[str, list[str], list[str]]


def why_not_judged(comparison: Comparison) -> Said:
    """The lead, further sentences and next steps of a report without verdicts."""
    rows = [row for setting in comparison.settings for row in setting.rows]
    if not any(row.score is not None for row in rows):
        return "No run has a score, so there is nothing to compare.", _ended(rows), []
    results = [setting for setting in comparison.results if not setting.search]
    if not results:
        return _search(comparison)
    chosen = [
        setting for setting in results if setting.spec.rules is not None and setting.spec.rules.choose_on != "selection"
    ]
    if len(chosen) == len(results):
        name = listed([*dict.fromkeys(code(setting.spec.protocol) for setting in chosen if setting.spec.protocol)])
        return (
            f"No method is ranked: the protocol {name} chooses on the split that it reports.".replace("  ", " "),
            [
                "Such scores come out too high, more for some methods than for others. They serve to repeat a paper's numbers."
            ],
            [],
        )
    labels = dict.fromkeys(row.label for setting in results for row in setting.rows)
    if len(labels) == 1:
        return (
            f"Only {code(next(iter(labels)))} was run, so there is nothing to compare it with.",
            _sources(comparison),
            [],
        )
    seeds = max(row.score.n for row in rows if row.score is not None)
    lead = (
        f"No method is ranked: {plural(len(labels), 'method')} ran, and no two share a reference, base model and seed."
    )
    return lead, [*_sources(comparison), *([] if seeds > 1 else ["One seed a mean tells nothing of chance."])], []


def _ended(rows: list[Row]) -> list[str]:
    ends = sum(len(row.failures) for row in rows)
    return [f"{plural(ends, 'run')} failed; the reasons are under [Failures](#failures)."] if ends else []


def _sources(comparison: Comparison) -> list[str]:
    sources = dict.fromkeys(setting.spec.source for setting in comparison.results if setting.spec.source)
    return (
        [f"No suite planned these runs (source: {listed([inert(source) for source in sources])})."] if sources else []
    )


def _search(comparison: Comparison) -> Said:
    found = [(setting, rungs_of_search(setting, comparison)) for setting in searches(comparison)]
    last = [(setting, rungs) for setting, rungs in found if setting is rungs[-1]]
    chosen = sum(len({row.label for row in table.rows}) for setting, _ in last for table in setting.tables)
    at_edge = sum(len(edges(setting, rungs)) for setting, rungs in last)
    further = [f"It gives {plural(chosen, 'best rate')}, one for each method and base model: see [Scores](#scores)."]
    if at_edge:
        word = "is" if at_edge == 1 else "are"
        further.append(f"{at_edge} of them {word} the smallest or largest rate tried: a better one may be outside.")
    following = [
        "write the best rates into a suite as `learning_rate` and run it on seeds that the search has not used"
    ]
    return "This is a search: it chooses learning rates and ranks no method.", further, following
