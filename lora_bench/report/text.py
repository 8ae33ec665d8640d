"""The words and numbers of a report: units made readable, and strings from records made harmless.

A record may come from any source. Its names, reasons and warnings are shown as plain text. `plain` makes one line of
them, without control characters and without a user's folders. `inert` keeps that line from being a link, markup, a
table cell or a mention on a page.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from lora_bench.util.redaction import visible, without_secrets

if TYPE_CHECKING:
    from lora_bench.stats import Interval

NumberT = TypeVar("NumberT", int, float)

MISSING = "–"
# Characters of a sentence of prose.
MOST_PROSE = 600
MIB = 2**20
GIB = 2**30

_PATH_END = r"[^\s'\"`<>|*?,;:()\[\]{}]*"
_QUOTED_PATH = re.compile(r"(['\"])(?:/|[A-Za-z]:[\\/])[^'\"]*[\\/]([^'\"\\/]+)[\\/]?\1")
_PATH = re.compile(rf"(?<![\w./:~…-])(?:(?:file://|~)/|/(?=[\w.~-]+/)|[A-Za-z]:[\\/]){_PATH_END}")
_MARKUP = re.compile(r"([\\`*_\[\]|~$#])")
_BLOCK_START = re.compile(r"^([-+=:]|\d+[.)](?=\s|$))")
_INERT_CODE = re.compile(r"\\`((?:[\w.:/+=,%-]|\\_)+)\\`", re.ASCII)
_IDENTIFIER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/+=,%-]*")


def plain(text: str, limit: int = 300) -> str:
    """Return one line of *text* with at most *limit* characters: invisible characters removed, paths cut to their end."""
    text = " ".join(visible(without_secrets(text)).split())
    text = _QUOTED_PATH.sub(lambda match: f"{match[1]}…/{match[2]}{match[1]}", text)
    text = _PATH.sub(_without_folders, text)
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _without_folders(match: re.Match[str]) -> str:
    *folders, last = re.split(r"[\\/]", match[0].rstrip("\\/"))
    # The end of a home folder's path is a person's name.
    return "…" if folders[-1] in ("home", "Users") else f"…/{last}"


def inert(text: str, limit: int = 300) -> str:
    """*text* as a piece of GitHub Markdown that shows it and does nothing else, in a table cell too.

    GitHub makes links of mentions, issue numbers and addresses after a page is rendered, when a backslash is gone
    already; an invisible space keeps these apart.
    """
    text = plain(text, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _MARKUP.sub(r"\\\1", text)
    text = _BLOCK_START.sub(lambda match: f"{match[1][:-1]}\\{match[1][-1]}", text)
    text = text.replace("@", "@&#8203;").replace("://", ":&#8203;//")
    text = re.sub(r"\\#(?=\d)", r"\\#&#8203;", text)
    return re.sub(r"(?i)\bwww\.", lambda match: f"{match[0]}&#8203;", text)


def code(text: str) -> str:
    """*text* as code where it is an identifier, and as inert text where it is anything else."""
    line = plain(text)
    return f"`{line}`" if _IDENTIFIER.fullmatch(line) and "://" not in line else inert(text)


def prose(text: str) -> str:
    """Sentences as inert text, in which identifiers between backticks are code."""
    return _INERT_CODE.sub(lambda match: f"`{match[1]}`".replace("\\_", "_"), inert(text, MOST_PROSE))


def unmarked(markdown: str) -> str:
    """Return a piece of our Markdown as a terminal shows it: without bold, code, links and escapes."""
    text = re.sub(r"\[([^\]]*)\]\([#/][^)]*\)", r"\1", markdown.replace("**", "")).replace("&#8203;", "")
    text = re.sub(r"(?<!\\)`", "", text)
    text = re.sub(r"\\([\\`*_\[\]|~$#+=:.)-])", r"\1", text)
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def fenced(lines: Iterable[str]) -> list[str]:
    """Return a block of shell lines, with a fence longer than any run of backticks in it."""
    body = [plain(line, limit=1000) for line in lines]
    longest = max((len(run) for line in body for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}sh", *body, fence]


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int = 1) -> list[str]:
    """Return a Markdown table whose columns from *numbers_from* on are set to the right. Cells must be inert."""
    rules = [":--" if index < numbers_from else "--:" for index in range(len(header))]
    lines = [header, rules, *rows]
    assert all(len(line) == len(header) for line in lines), "every row of a table has a cell in every column"
    return ["| " + " | ".join(line) + " |" for line in lines]


def listed(items: Sequence[str]) -> str:
    """Items as a sentence has them: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def span(values: Iterable[NumberT], form: Callable[[NumberT], str] = str) -> str:
    """Return the smallest and the largest of some values, such as "2 to 5"; one where they read the same."""
    known = sorted(values)
    return " to ".join(dict.fromkeys(map(form, (known[0], known[-1])))) if known else MISSING


def natural(label: str) -> list[str | int]:
    """Return a key that sorts "r2" before "r16"."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", label)]


# What tells runs of one model apart in its name.
_DATE = re.compile(r" \d{4}-\d\d-\d\dT[\d.:-]+$")


ONCE = "each has one run"


def once_words(labels: Iterable[str]) -> str:
    """Return how often methods with one run a label ran; labels may differ by date alone."""
    names = {*labels}
    methods = {_DATE.sub("", name) for name in names}
    alike = f"each name has one run, and {'they' if len(methods) == 1 else 'some'} differ by date only"
    return alike if len(methods) < len(names) else ONCE


def plural(number: int, noun: str) -> str:
    """Return a count with its noun: "1 seed", "2 seeds", "3 tasks"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def plural_span(numbers: Iterable[int], noun: str) -> str:
    """Return the smallest and the largest of some counts with their noun: "1 seed", "2 to 5 seeds"."""
    known = sorted(set(numbers))
    return plural(known[0], noun) if len(known) == 1 else f"{span(known)} {noun}s"


def json_value(value: object) -> str:
    """Return a value of a spec as one piece of code or text."""
    return code(value if isinstance(value, str) else json.dumps(value, sort_keys=True))


def seed(value: int | None) -> str:
    """Return a seed; that of a run may be unknown."""
    return MISSING if value is None else str(value)


def count(number: int | None) -> str:
    """Return a whole number with thousands apart."""
    return MISSING if number is None else f"{number:,}"


def score(value: float | None) -> str:
    """Return a score with four decimals: one example in ten thousand."""
    return MISSING if value is None else _minus(f"{value:.4f}" if abs(value) < 100 else f"{value:,.2f}")


def difference(value: float | None) -> str:
    """Return a difference of scores with its sign."""
    return MISSING if value is None else _minus(f"{value:+.4f}" if abs(value) < 100 else f"{value:+,.2f}")


def points(share: float) -> str:
    """Return a difference of shares in points of 100 with its sign."""
    return _minus(f"{100 * share:+.1f}")


def amount(value: float, shares: bool) -> str:
    """Return the size of a difference in points of 100, or in the unit of its metric."""
    number = f"{100 * value:g}"
    return f"{number} {'point' if number == '1' else 'points'}" if shares else f"{value:g}"


def probability(value: float | None) -> str:
    """Return a p-value with three decimals."""
    if value is None:
        return MISSING
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def percent(share: float, digits: int = 1) -> str:
    """Return a share in per cent."""
    return f"{share:.{digits}%}".replace("%", " %")


def signed_percent(share: float) -> str:
    """Return a change in per cent, with its sign."""
    return f"{'+' if share >= 0 else '−'}{percent(abs(share))}"


def change(before: float | None, after: float | None) -> str:
    """Return a change in per cent of what was before."""
    return MISSING if not before or after is None else signed_percent(after / before - 1)


def ends(interval: "Interval | None", form: Callable[[float | None], str] = score) -> str:
    """Return the ends of an interval."""
    return MISSING if interval is None else f"{form(interval.low)} to {form(interval.high)}"


def mebibytes(number_of_bytes: float | None) -> str:
    """Bytes as MiB, without the unit."""
    if number_of_bytes is None:
        return MISSING
    value = number_of_bytes / MIB
    return _minus(f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}")


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds, without the unit."""
    return MISSING if seconds is None else rate(seconds * 1000)


def rate(value: float | None) -> str:
    """Return a measured number with about three figures."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cost(value: float | None) -> str:
    """Return a cost of any unit with three digits, or all before the point."""
    return MISSING if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def swept(value: float, *, rate: bool = False) -> str:
    """Return a value of a swept number: a rank, an amount, or a learning *rate*."""
    return learning_rate(value) if rate else f"{value:,.0f}" if value == round(value) else f"{value:g}"


def learning_rate(value: float | None) -> str:
    """Return a learning rate as people write it, such as 3e-4."""
    if value is None:
        return MISSING
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _minus(text: str) -> str:
    return text.replace("-", "−")
