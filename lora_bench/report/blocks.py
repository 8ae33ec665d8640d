"""The blocks that a report is made of. Sections make them; Markdown, the page and the terminal show them.

A string is a paragraph. Strings in blocks are inline text with a few marks: **bold**, *emphasis*, `code` and [words](target),
and backslashes before characters that would be marks. `text.inert`, `text.code` and `text.prose` write strings from records
so; no renderer looks into a string for anything but these marks.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from lora_bench.report import text

# Columns of a table that fit the width of a page on GitHub.
MOST_COLUMNS = 8

_SUMMARY = re.compile(r"[\w ,]+")


@dataclass(frozen=True)
class Heading:
    """A heading: level 1 for the title of a page, 2 for a section. The contents of a page name a *listed* section."""

    level: int
    text: str
    listed: bool = True


@dataclass(frozen=True)
class Lead:
    """A paragraph with an answer, in bold."""

    text: str


@dataclass(frozen=True)
class SectionAnswer:
    """A paragraph with the answer of a section, which the first screen may repeat as a lead."""

    text: str


@dataclass(frozen=True)
class TextList:
    """A list; an item that is a list itself belongs to the one before it."""

    items: Sequence["str | TextList"]
    numbered: bool = False


@dataclass(frozen=True)
class TextTable:
    """A table whose rows are named by their first cell; columns from *numbers_from* on are set to the right.

    Bold marks what verdicts show, unless *bold_is_shown* is false, as where it is a choice or a diagonal.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers_from: int = 1
    bold_is_shown: bool = True


@dataclass(frozen=True)
class Figure:
    """The SVG at a path from the page, with words in its place, which have no marks, and inline text below it."""

    alt: str
    path: str
    caption: str


@dataclass(frozen=True)
class Fold:
    """Blocks that a page folds away behind *summary*, which has words and numbers alone and so no string of a record."""

    summary: str
    blocks: Sequence["Block"]

    def __post_init__(self) -> None:
        assert _SUMMARY.fullmatch(self.summary), "a summary has no markup"


@dataclass(frozen=True)
class Commands:
    """Shell commands."""

    lines: Sequence[str]


Block = str | Heading | Lead | SectionAnswer | TextList | TextTable | Figure | Fold | Commands


def wide_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], names: int, *, bold_is_shown: bool = True
) -> list[Block]:
    """Return tables, one below the other, of a table with many columns; its first *names* columns stand in each."""
    room = MOST_COLUMNS - names
    return [
        TextTable(
            [*header[:names], *header[start : start + room]],
            [[*row[:names], *row[start : start + room]] for row in rows],
            numbers_from=names,
            bold_is_shown=bold_is_shown,
        )
        for start in range(names, len(header), room)
    ]


def known_columns(
    header: Sequence[str], rows: Sequence[Sequence[str]], optional: Collection[str]
) -> tuple[list[str], list[list[str]]]:
    """Return a header and rows without those *optional* columns that have no value in any row."""
    kept = [at for at, name in enumerate(header) if name not in optional or {row[at] for row in rows} - {text.MISSING}]
    return [header[at] for at in kept], [[row[at] for at in kept] for row in rows]


def anchor(title: str) -> str:
    """Return the address of a heading within a page, as GitHub makes it from words without marks."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def answers(blocks: Iterable[Block]) -> list[str]:
    """Return the answers of sections."""
    return [block.text for block in blocks if isinstance(block, SectionAnswer)]


def to_markdown(blocks: Iterable[Block]) -> str:
    """Return blocks as GitHub Markdown."""
    return "\n".join(f"{line}\n" for line in ("\n".join(_lines(block)) for block in blocks))


def _lines(block: Block) -> Iterator[str]:
    match block:
        case str() | SectionAnswer():
            yield block if isinstance(block, str) else block.text
        case Heading():
            yield f"{'#' * block.level} {block.text}"
        case Lead():
            yield f"**{block.text}**"
        case TextList():
            yield from _items(block)
        case TextTable():
            yield from text.table(block.header, block.rows, block.numbers_from)
        case Figure():
            yield from (f"![{block.alt}]({quote(block.path)})", "", block.caption)
        case Fold():
            yield from (f"<details><summary>{block.summary}</summary>", "")
            yield from (to_markdown(block.blocks), "</details>")
        case Commands():
            yield from text.fenced(block.lines)


def _items(block: TextList, indent: str = "") -> Iterator[str]:
    for number, item in enumerate(block.items, start=1):
        if isinstance(item, TextList):
            yield from _items(item, indent + "  ")
        else:
            yield f"{indent}{f'{number}.' if block.numbered else '-'} {item}"
