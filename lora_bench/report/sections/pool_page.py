"""The page of a pool: the question, the answer, every claim, and the part of each suite."""

from lora_bench.report.blocks import (
    Block,
    Commands,
    Fold,
    Heading,
    Lead,
    TextList,
    TextTable,
    known_columns,
    to_markdown,
)
from lora_bench.report.model.pool import PooledClaim, SuitePool
from lora_bench.report.text import MISSING, code, inert, listed, plural, probability
from lora_bench.stats.power import ALPHA

# Claims that the first paragraph names.
MOST_NAMED = 5


def pool_page(pool: SuitePool, command: str) -> str:
    """Return the page of a pool as Markdown, with the command that makes it again."""
    shown = [claim for claim in pool.claims if claim.shown]
    blocks: list[Block] = [
        Heading(1, f"Pool of {plural(len(pool.suites), 'suite')}"),
        "*Which of two methods scores higher, on tasks and base models like these, by all runs at once?*",
        Lead(_answer(shown, len(pool.claims))),
    ]
    if pool.claims:
        blocks += [
            f"Range: {plural(pool.runs, 'run')} on {listed([code(task) for task in pool.tasks])}, with "
            f"{listed([inert(model) for model in pool.models])}. Each run counts once. Rates are those of the suites, tuned or "
            "given.",
            Heading(2, "Differences"),
            f"First less second {_legend(ALPHA, models=True)}",
            _table(pool),
        ]
    if pool.one_task:
        blocks.append(
            f"{plural(pool.one_task, 'pair')} of methods met on one task only: their suites' reports compare them."
        )
    blocks += [
        Heading(2, "What each suite adds"),
        "*Shared*: results that stand in other suites here too. *Pairs*: pairs of runs that no suite above it has. *Moves*: "
        "the largest change of a difference if the suite is left out; none where no row has other suites.",
        TextTable(
            ["suite", "results", "shared", "tasks × base models", "pairs", "moves"],
            [
                [code(one.suite), *(f"{n:,}" for n in (one.runs, one.shared, one.places, one.pairs)), _size(one.moved)]
                for one in pool.suites
            ],
        ),
    ]
    if pool.left_out:
        blocks.append(Fold("Left out", [TextList([inert(one) for one in pool.left_out])]))
    blocks += [
        "How it is computed: [docs/statistics.md](/docs/statistics.md#several-suites).",
        Heading(2, "Make it again"),
        Commands([command]),
    ]
    return to_markdown(blocks)


def pooled_section(pool: SuitePool | None) -> list[Block]:
    """Return the section of a report of scores alone: each method less the reference on new tasks."""
    if pool is None:
        return []
    return [
        Heading(2, "On new tasks"),
        new_tasks(pool),
        f"First less second {_legend(pool.claims[0].alpha, models=len(pool.models) > 1)}",
        _table(pool),
        *([Fold("Left out", [TextList([inert(one) for one in pool.left_out])])] if pool.left_out else []),
    ]


def _table(pool: SuitePool) -> TextTable:
    header = ["first", "second", "base model", "pairs of runs", "difference", "interval", "p", "tasks"]
    shown, rows = known_columns(header, [_row(claim) for claim in pool.claims], {"base model"})
    return TextTable(shown, rows, numbers_from=shown.index("pairs of runs"))


def _legend(alpha: float, *, models: bool) -> str:
    of_models = ", and on *all* also new base models" if models else ""
    return (
        "in points of 100: the mean over tasks, which weigh alike. *Interval*: covers new tasks, seeds "
        f"and test items{of_models}; with {100 * (1 - alpha):g} % all intervals hold together. "
        "*p*: of no difference, after Holm's procedure over all rows. *Tasks*: the least and the greatest difference, and "
        "the spread (SD) of the true ones, without the noise of seeds and items."
    )


def new_tasks(pool: SuitePool) -> str:
    """Return what the tasks of a report show of others like them."""
    shown = [claim for claim in pool.claims if claim.shown]
    answer = _answer(shown, len(pool.claims))
    more = (
        f" {plural(pool.one_task, 'further comparison')} had runs that differ on one task alone."
        if pool.one_task
        else ""
    )
    return f"For new tasks like these {len(pool.tasks)}: {answer[0].lower()}{answer[1:]}{more}"


def _answer(shown: list[PooledClaim], claims: int) -> str:
    if not claims:
        return "Nothing can be pooled: no two methods were compared on two tasks or more."
    if not shown:
        return (
            f"No difference is shown: none of {plural(claims, 'comparison')} stands out from the spread between tasks."
        )
    named = []
    for claim in sorted(shown, key=lambda claim: claim.p_value or 0.0)[:MOST_NAMED]:
        ahead, behind = (claim.first, claim.second) if claim.found.estimate.value > 0 else (claim.second, claim.first)
        where = " on all base models" if claim.model is None else f" on {inert(claim.model)}" if claim.model else ""
        named.append(f"{code(ahead)} beats {code(behind)} by {abs(claim.found.estimate.value):.1f} points{where}")
    more = f"; {len(shown) - len(named)} more below" if len(shown) > len(named) else ""
    return f"Shown, {len(shown)} of {plural(claims, 'comparison')}: {'; '.join(named)}{more}."


def _row(claim: PooledClaim) -> list[str]:
    found, interval = claim.found, claim.interval
    least, *_, most = sorted((value, task) for task, value in found.tasks.items())
    value = _points(found.estimate.value)
    return [
        code(claim.first),
        code(claim.second),
        f"all {claim.models}" if claim.model is None else inert(claim.model) or MISSING,
        f"{claim.pairs:,}",
        f"**{value}**" if claim.shown else value,
        MISSING if interval is None else f"{_points(interval.low)} to {_points(interval.high)}",
        probability(claim.p_value),
        f"{_points(least[0])} ({code(least[1])}) to {_points(most[0])} ({code(most[1])}), SD {_size(found.task_sd)}",
    ]


def _size(points: float | None) -> str:
    return MISSING if points is None else f"{points:.1f}"


def _points(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")
