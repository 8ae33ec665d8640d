"""The HTML page of a report: one file that needs nothing else and requests nothing.

It shows the very blocks that the Markdown report shows, so the two cannot say different things. Text within a block has a few
marks of Markdown, and HTML in it is text. So no string of a record can become an element. Figures are images, in which a
browser runs nothing. The page's policy forbids every style and script but its own, and every request.
"""

import base64
import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from lora_bench.report.blocks import (
    Block,
    Commands,
    Figure,
    Fold,
    Heading,
    Lead,
    SectionAnswer,
    TextList,
    TextTable,
    anchor,
    to_markdown,
)
from lora_bench.report.text import plain, unmarked

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

ASSETS = Path(__file__).parent / "assets"

# A cell with more characters is prose: it wraps, and is set to the left in a column of numbers too.
LONG, LONG_AMONG_NUMBERS = 48, 32

# The links that our renderers write: to a section of the page, to our documentation, and to pages beside this one.
BESIDE = re.compile(r"[\w.~%-]+(/items)?\.md")
LINK = re.compile(rf"#[a-z0-9-]+|/docs/[a-z]+\.md(#[a-z0-9-]+)?|{BESIDE.pattern}")

_MARKS = ("newline", "escape", "backticks", "emphasis", "link", "entity")

# The name of the strength in a page's head, and the number of letters among which the facts of a head stand.
STRENGTH = "lora-bench-strength"
HEAD_LETTERS = 30_000


@dataclass(frozen=True, kw_only=True)
class PageFacts:
    """Facts in the head of a page: the headline, with what makes it doubtful first, and how sure that is.

    The page loads itself again after *reload_seconds*; 0 for never.
    """

    description: str = ""
    strength: str = ""
    reload_seconds: int = 0


def render_page(blocks: Sequence[Block], figures: Mapping[str, bytes], facts: PageFacts | None = None) -> str:
    """Return the page that shows *blocks*, a title first, with the SVG of all of its figures by path."""
    page = _Page(figures)
    sections = (at for at, block in enumerate(blocks) if isinstance(block, Heading) and block.level == 2)
    start = next(sections, len(blocks))
    first, body = page.show(blocks[:start]), page.show(blocks[start:])
    shown = f'<section class="answer">\n{first}</section>\n{body}'
    return frame(page.title, shown, facts or PageFacts())


def page_files(name: str, blocks: Sequence[Block]) -> dict[str, bytes]:
    """Return a page that has a Lead and no figures as Markdown and HTML, by file name."""
    lead = next(block.text for block in blocks if isinstance(block, Lead))
    page = render_page(blocks, {}, PageFacts(description=unmarked(lead)))
    return {f"{name}.md": to_markdown(blocks).encode("utf-8"), f"{name}.html": page.encode("utf-8")}


def frame(title: str, shown: str, facts: PageFacts | None = None) -> str:
    """Return a whole page around *shown*, a piece of HTML; one with *facts* has the script for its tables."""
    style = (ASSETS / "page.css").read_text(encoding="utf-8")
    script = "" if facts is None else (ASSETS / "page.js").read_text(encoding="utf-8")
    named = {} if facts is None else {"description": facts.description[:2_000], STRENGTH: facts.strength[:1_000]}
    head = "".join(f'<meta name="{name}" content="{escape(value)}">\n' for name, value in named.items())
    if facts is not None and facts.reload_seconds:
        head += f'<meta http-equiv="refresh" content="{facts.reload_seconds}">\n'
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(style, script)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="format-detection" content="telephone=no">
{head}<title>{escape(title, quote=False)}</title>
<style>{style}</style>
</head>
<body>
<main>
{shown}</main>
{f"<script>{script}</script>" if script else ""}
</body>
</html>
"""


def render_card(blocks: Sequence[Block], figures: Mapping[str, bytes]) -> str:
    """Return a piece of HTML that shows *blocks* in a page of others, such as a notebook.

    Colours follow the page around it; figures keep their white ground, since that page's theme is not known.
    """
    style = (ASSETS / "card.css").read_text(encoding="utf-8")
    shown = _Page(figures, alone=True).show(blocks)
    return f'<div class="lora-bench-answer">\n<style>\n{style}</style>\n{shown}</div>\n'


def _policy(style: str, script: str) -> str:
    """Return the content security policy of a page: it allows its own style, script and figures, and nothing else."""
    hashes = (base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (style, script))
    style_hash, script_hash = (f"'sha256-{digest}'" for digest in hashes)
    allowed = f"style-src {style_hash}; script-src {script_hash}; img-src data:"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


class _Page:
    """Writes blocks as HTML, and keeps its headings by address; a card, *alone*, has no links, and figures in one colour."""

    def __init__(self, figures: Mapping[str, bytes], *, alone: bool = False) -> None:
        self._headings: dict[str, str] = {}
        self._figures = figures
        self._alone = alone
        self._inline = inline_parser(links=not alone)

    @property
    def title(self) -> str:
        return next(iter(self._headings.values()))

    def show(self, blocks: Iterable[Block]) -> str:
        return "".join(f"{self._block(block)}\n" for block in blocks)

    def _block(self, block: Block) -> str:
        match block:
            case str() | SectionAnswer():
                return f"<p>{self._text(block if isinstance(block, str) else block.text)}</p>"
            case Lead():
                return f'<p class="lead"><strong>{self._text(block.text)}</strong></p>'
            case Heading():
                return self._heading(block)
            case TextList():
                return self._items(block)
            case TextTable():
                return self._wide(self._table(block), next(reversed(self._headings.values()), ""))
            case Figure():
                caption = f"<figcaption>{self._text(block.caption)}</figcaption>"
                return f"<figure>\n{self._wide(self._image(block), block.alt)}\n{caption}\n</figure>"
            case Fold():
                return f"<details><summary>{block.summary}</summary>\n{self.show(block.blocks)}</details>"
            case Commands():
                lines = "\n".join(escape(plain(line, limit=1000), quote=False) for line in block.lines)
                return f'<pre><code class="language-sh">{lines}\n</code></pre>'

    def _text(self, marked: str) -> str:
        return str(self._inline.renderInline(marked))

    def _heading(self, heading: Heading) -> str:
        (inline,) = self._inline.parseInline(heading.text)
        words = "".join(child.content for child in inline.children or []).replace("\N{ZERO WIDTH SPACE}", "")
        slug = re.sub(r"[^a-z0-9]+", "-", anchor(words)).strip("-")[:60] or "section"
        numbered = (slug if number == 1 else f"{slug}-{number}" for number in itertools.count(1))
        identifier = next(name for name in numbered if name not in self._headings)
        self._headings[identifier] = words
        return f'<h{heading.level} id="{identifier}">{self._text(heading.text)}</h{heading.level}>'

    def _items(self, block: TextList) -> str:
        tag = "ol" if block.numbered else "ul"
        parts: list[str] = []
        for item in block.items:
            if isinstance(item, TextList):
                parts[-1] = f"{parts[-1].removesuffix('</li>')}\n{self._items(item)}\n</li>"
            else:
                parts.append(f"<li>{self._text(item)}</li>")
        return "\n".join([f"<{tag}>", *parts, f"</{tag}>"])

    def _wide(self, shown: str, label: str) -> str:
        """Put what may be wider than the page into a box that scrolls, by keys too."""
        return f'<div class="wide" tabindex="0" role="group" aria-label="{escape(label)}">\n{shown}\n</div>'

    def _image(self, figure: Figure) -> str:
        address = data_address(self._figures[figure.path], dark=not self._alone)
        image = f'<img src="{address}" alt="{escape(figure.alt)}">'
        narrow = self._figures.get(figure.path.removesuffix(".svg") + "-narrow.svg")
        if narrow is None:
            return image
        # A list of addresses ends at spaces.
        address = data_address(narrow).replace(" ", "%20")
        return f'<picture><source media="(max-width: 40rem)" srcset="{address}">{image}</picture>'

    def _table(self, table: TextTable) -> str:
        lines = ["<table>", "<thead>", *self._row(table.header, table.numbers_from, head=True), "</thead>"]
        if table.rows:
            rows = (self._row(row, table.numbers_from) for row in table.rows)
            lines += ["<tbody>", *itertools.chain.from_iterable(rows), "</tbody>"]
        return "\n".join([*lines, "</table>"])

    def _row(self, cells: Sequence[str], numbers_from: int, *, head: bool = False) -> list[str]:
        parts = [self._cell(cell, number=at >= numbers_from, head=head, first=at == 0) for at, cell in enumerate(cells)]
        return ["<tr>", *parts, "</tr>"]

    def _cell(self, cell: str, *, number: bool, head: bool, first: bool) -> str:
        """Return a cell with its scope and its class; a style of its own would be against the page's policy."""
        named = bool((head or first) and cell)
        attributes = f' scope="{"col" if head else "row"}"' if named else ""
        if not head and len(cell) > (LONG_AMONG_NUMBERS if number else LONG):
            attributes += ' class="long"'
        elif number:
            attributes += ' class="number"'
        tag = "th" if named else "td"
        return f"<{tag}{attributes}>{self._text(cell)}</{tag}>"


def inline_parser(*, links: bool) -> "MarkdownIt":
    """Return a parser of the marks within blocks, and of nothing else; without *links* these are text."""
    from markdown_it import MarkdownIt

    def text(renderer: object, tokens: "Sequence[Token]", index: int, options: object, env: object) -> str:
        # The invisible spaces that keep GitHub from making links are not needed here, and would be copied along.
        return escape(tokens[index].content.replace("\N{ZERO WIDTH SPACE}", ""), quote=False)

    def link_open(renderer: object, tokens: "Sequence[Token]", index: int, options: object, env: object) -> str:
        target = str(tokens[index].attrs["href"])
        if BESIDE.fullmatch(target):
            target = target.removesuffix(".md") + ".html"
        # A page of our documentation has no address here: its name is enough.
        return f'<a href="{escape(target)}">' if is_link(target) else '<span class="docs">'

    def link_close(renderer: object, tokens: "Sequence[Token]", index: int, options: object, env: object) -> str:
        opened = next(token for token in reversed(tokens[:index]) if token.type == "link_open")
        return "</a>" if is_link(str(opened.attrs["href"])) else "</span>"

    def is_link(target: str) -> bool:
        return links and not target.startswith("/docs/")

    parser = MarkdownIt("zero").enable([*_MARKS])
    parser.validateLink = lambda url: LINK.fullmatch(url) is not None  # type: ignore[method-assign]
    for name, rule in (("text", text), ("link_open", link_open), ("link_close", link_close)):
        parser.add_render_rule(name, rule)
    return parser


# The colour that replaces another where the reader prefers dark pages. The first two are the page's own.
DARK = {
    "#ffffff": "#15181c",
    "#000000": "#e4e7eb",
    "#333333": "#d5dae0",
    "#404040": "#c3c9d1",
    "#595959": "#aab2bb",
    "#8c8c8c": "#7f8893",
    "#e6e6e6": "#31373f",
    "#0072b2": "#2b79e2",
    "#d55e00": "#fb8e22",
    "#009e73": "#43c098",
    "#993279": "#c8478e",
    "#6c5828": "#8b7605",
    "#8c87b8": "#b8a0fa",
}

# Everything else that is no letter or digit becomes a percent sign and its bytes, above all `"`, `&`, `#` and line ends. Base64
# would be a sixth longer, and nearly incompressible.
_PLAIN = " !$'()*+,/:;<=>?@[]{|}"


def data_address(svg: bytes, *, dark: bool = True) -> str:
    """Return an address that holds *svg*, with its colours for dark pages unless *dark* is false."""
    if dark:
        # Text without a colour of its own is black, which it inherits.
        rules = [f"svg{{fill:{DARK['#000000']}}}"]
        for light, other in DARK.items():
            rules += [f'[style*="{part}: {light}"]{{{part}:{other}!important}}' for part in ("fill", "stroke")]
        style = f"<style>@media screen and (prefers-color-scheme: dark){{{''.join(rules)}}}</style>"
        drawing, end = svg.rsplit(b"</svg>", 1)
        svg = drawing + style.encode() + b"</svg>" + end
    return f"data:image/svg+xml,{quote(svg, safe=_PLAIN)}"
