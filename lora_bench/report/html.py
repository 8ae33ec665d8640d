"""The HTML page of a report: one file that needs nothing else and requests nothing.

It is made from the very text of the Markdown report, so the two cannot say different things. Only the Markdown that our
renderers write is understood, and HTML in it is text: the one construct that Markdown lacks, a part that folds away, is a
rule of our own for the lines that `text.folded` writes. So no string of a record can become an element. Figures are images,
in which a browser runs nothing. The page's policy forbids every style and script but its own, and every request.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from lora_bench.report.figures.embed import data_address
from lora_bench.report.text import FOLD, FOLD_END

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.token import Token

ASSETS = Path(__file__).parent / "assets"

# A cell with more characters is prose: it wraps, and is set to the left in a column of numbers too.
LONG, LONG_AMONG_NUMBERS = 48, 32

# The links that our renderers write: to a section of the page, to our documentation, and to pages beside this one.
BESIDE = re.compile(r"[\w.~%-]+(/items)?\.md")
LINK = re.compile(rf"#[a-z0-9-]+|/docs/[a-z]+\.md(#[a-z0-9-]+)?|{BESIDE.pattern}")

_RULES = (
    "heading", "fence", "list", "table",
    "newline", "escape", "backticks", "emphasis", "link", "image", "entity",
)  # fmt: skip


@dataclass(frozen=True)
class Heading:
    """A heading of the page: 1 is its title."""

    level: int
    identifier: str
    text: str


def render_page(markdown: str, figures: Mapping[str, bytes]) -> str:
    """The page that shows *markdown*.

    Args:
        markdown: A report as our renderers write it: it begins with its only heading of the first level.
        figures: The SVG of every figure that it links to, by path.

    Raises:
        KeyError: If it links to a figure that is not given.
    """
    parser = _parser(figures)
    tokens = parser.parse(markdown)
    headings = _name_headings(tokens)
    tokens = _arranged(tokens)
    below = next(
        (index for index, token in enumerate(tokens) if token.type == "heading_open" and token.tag == "h2"), len(tokens)
    )
    first, body = (parser.renderer.render(part, parser.options, {}) for part in (tokens[:below], tokens[below:]))
    style = (ASSETS / "page.css").read_text(encoding="utf-8")
    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    shown = f'<section class="answer">\n{first}</section>\n{_contents(headings)}{body}'
    return frame(headings[0].text, shown, style, script, _answer(tokens[:below]))


def frame(title: str, shown: str, style: str, script: str = "", said: Mapping[str, str] | None = None) -> str:
    """A whole page around a piece of HTML.

    Args:
        title: Of the page, as text.
        shown: What it shows, as HTML.
        style: Its only style.
        script: Its only script; "" for none.
        said: Facts for its head, by name.
    """
    facts = "".join(f'<meta name="{name}" content="{escape(value)}">\n' for name, value in (said or {}).items())
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(style, script)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="format-detection" content="telephone=no">
{facts}<title>{escape(title, quote=False)}</title>
<style>{style}</style>
</head>
<body>
<main>
{shown}</main>
{f"<script>{script}</script>" if script else ""}
</body>
</html>
"""


# The facts of a page's head stand among so many letters.
HEAD_LETTERS = 30_000


def _answer(tokens: Sequence[Token]) -> dict[str, str]:
    """The facts of a page's head: its headline with what stands before it, and the strength of that."""
    answer: list[str] = []
    strength = ""
    led = False
    for token, following in itertools.pairwise(tokens):
        if token.type != "paragraph_open" or _is_image(following):
            continue
        said = _text(following)
        if following.children and following.children[0].type == "em_open":
            continue  # the purpose of the suite
        if not led:
            answer.append(said)
            led = token.attrs.get("class") == "lead"
        elif "Strength: " in said and not strength:
            strength = said[said.index("Strength: ") :].removesuffix(" How this is decided.")
    return {"description": " ".join(answer if led else answer[:1])[:2_000], "lora-bench-strength": strength[:1_000]}


def render_card(markdown: str, figures: Mapping[str, bytes]) -> str:
    """A piece of HTML that shows *markdown* in a page of others, such as a notebook.

    Colours follow the page around it; figures keep their white ground, since that page's theme is not known.

    Args:
        markdown: As our renderers write it.
        figures: The SVG of every figure that it links to, by path.
    """
    parser = _parser(figures, alone=True)
    shown = parser.renderer.render(_arranged(parser.parse(markdown)), parser.options, {})
    style = (ASSETS / "card.css").read_text(encoding="utf-8")
    return f'<div class="lora-bench-answer">\n<style>\n{style}</style>\n{shown}</div>\n'


def _policy(style: str, script: str) -> str:
    """The content security policy of the page: it allows its own style, script and figures, and nothing else."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    style_hash, script_hash = (f"'sha256-{found}'" for found in hashes)
    allowed = f"style-src {style_hash}; script-src {script_hash}; img-src data:"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def _parser(figures: Mapping[str, bytes], *, alone: bool = False) -> MarkdownIt:
    """A parser of the Markdown that our renderers write, and of nothing else, with our rules for showing some of it.

    Args:
        figures: By path.
        alone: Whether it is for a card: without links, and with figures in their own colours.
    """
    from markdown_it import MarkdownIt

    def text(renderer: object, tokens: Sequence[Token], index: int, options: object, env: object) -> str:
        # The invisible spaces that keep GitHub from making links are not needed here, and would be copied along.
        return escape(tokens[index].content.replace("\N{ZERO WIDTH SPACE}", ""), quote=False)

    def image(renderer: object, tokens: Sequence[Token], index: int, options: object, env: object) -> str:
        path = unquote(str(tokens[index].attrs["src"]))
        address = data_address(figures[path], dark=not alone)
        shown = f'<img src="{address}" alt="{escape(_text(tokens[index]))}">'
        narrow = figures.get(path.removesuffix(".svg") + "-narrow.svg")
        if narrow is None:
            return shown
        # A list of addresses ends at spaces.
        address = data_address(narrow).replace(" ", "%20")
        return f'<picture><source media="(max-width: 40rem)" srcset="{address}">{shown}</picture>'

    def fold_open(renderer: object, tokens: Sequence[Token], index: int, options: object, env: object) -> str:
        return f"<details><summary>{escape(tokens[index].content)}</summary>\n"

    def link_open(renderer: object, tokens: Sequence[Token], index: int, options: object, env: object) -> str:
        target = str(tokens[index].attrs["href"])
        if BESIDE.fullmatch(target):
            target = target.removesuffix(".md") + ".html"
        # A page of our documentation has no address here: its name is enough.
        return f'<a href="{escape(target)}">' if _links(target) else '<span class="docs">'

    def link_close(renderer: object, tokens: Sequence[Token], index: int, options: object, env: object) -> str:
        opened = next(token for token in reversed(tokens[:index]) if token.type == "link_open")
        return "</a>" if _links(str(opened.attrs["href"])) else "</span>"

    def _links(target: str) -> bool:
        return not alone and not target.startswith("/docs/")

    parser = MarkdownIt("zero").enable([*_RULES])
    parser.validateLink = _is_own  # type: ignore[method-assign]
    parser.block.ruler.before("paragraph", "fold", _fold)
    for name, rule in (
        ("text", text), ("image", image), ("fold_open", fold_open), ("link_open", link_open), ("link_close", link_close),
    ):  # fmt: skip
        parser.add_render_rule(name, rule)
    return parser


def _is_own(url: str) -> bool:
    """Tell if our renderers write such a target: a link, or a figure."""
    return LINK.fullmatch(url) is not None or url.endswith(".svg")


def _fold(state: StateBlock, line: int, end: int, silent: bool) -> bool:
    """A rule for the lines that `text.folded` begins and ends with, where nothing is around them."""
    said = state.src[state.bMarks[line] : state.eMarks[line]]
    open_folds = state.env.setdefault("open_folds", 0)
    begins = FOLD.fullmatch(said)
    if state.level != open_folds or not (begins or (said == FOLD_END and open_folds)):
        return False
    if not silent:
        token = state.push("fold_open" if begins else "fold_close", "details", 1 if begins else -1)
        token.content = begins[1] if begins else ""
        token.block = True
        state.env["open_folds"] += 1 if begins else -1
        state.line = line + 1
    return True


def _name_headings(tokens: Sequence[Token]) -> list[Heading]:
    """The headings in their order; each gets an id that no other has."""
    headings: list[Heading] = []
    taken: set[str] = set()
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            text = _text(tokens[index + 1])
            slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "section"
            numbered = (slug if number == 1 else f"{slug}-{number}" for number in itertools.count(1))
            identifier = next(name for name in numbered if name not in taken)
            taken.add(identifier)
            token.attrs["id"] = identifier
            headings.append(Heading(int(token.tag[1]), identifier, text))
    return headings


def _text(token: Token) -> str:
    """The text of an inline token or an image, without its markup."""
    parts = (" " if child.type == "softbreak" else child.content for child in token.children or [])
    return "".join(parts).replace("\N{ZERO WIDTH SPACE}", "")


def _contents(headings: Sequence[Heading]) -> str:
    """Links to the sections of a page that has several, and to the parts of a section that has several."""
    sections: list[tuple[Heading, list[Heading]]] = []
    for heading in headings:
        if heading.level == 2:
            sections.append((heading, []))
        elif heading.level == 3 and sections:
            sections[-1][1].append(heading)
    if len(sections) < 2:
        return ""
    items = [
        f"<li>{_link(section)}{_list(map(_item, parts)) if len(parts) > 1 else ''}</li>" for section, parts in sections
    ]
    return f'<nav aria-label="Contents">\n<details><summary>All sections</summary>{_list(items)}</details>\n</nav>\n'


def _link(heading: Heading) -> str:
    return f'<a href="#{heading.identifier}">{escape(heading.text, quote=False)}</a>'


def _item(heading: Heading) -> str:
    return f"<li>{_link(heading)}</li>"


def _list(items: Iterable[str]) -> str:
    lines = "\n".join(items)
    return f"\n<ul>\n{lines}\n</ul>\n"


def _arranged(tokens: Sequence[Token]) -> list[Token]:
    """Tokens with tables and figures as the page has them."""
    arranged: list[Token] = []
    label = ""
    index = 0
    while index < len(tokens):
        token = tokens[index]
        if token.type == "heading_open":
            label = _text(tokens[index + 1])
        if token.type == "table_open":
            end = next(at for at in range(index, len(tokens)) if tokens[at].type == "table_close") + 1
            arranged += _wide(_table(tokens[index:end]), label)
        elif token.type == "paragraph_open" and _is_image(tokens[index + 1]):
            end = index + 6  # the image is a paragraph, and its caption is the next
            arranged += _figure(tokens[index:end])
        else:
            end = index + 1
            if token.type == "paragraph_open" and _is_lead(tokens[index + 1]):
                token.attrs["class"] = "lead"
            arranged.append(token)
        index = end
    return arranged


def _is_image(token: Token) -> bool:
    return [child.type for child in token.children or []] == ["image"]


def _is_lead(token: Token) -> bool:
    """Tell if a paragraph is in bold from its first word to its last."""
    kinds = [child.type for child in token.children or [] if child.type != "text" or child.content]
    return kinds[:1] == ["strong_open"] and kinds[-1:] == ["strong_close"] and kinds.count("strong_open") == 1


def _wide(tokens: Sequence[Token], label: str) -> list[Token]:
    """Put tokens that may be wider than the page into a box that scrolls, by keys too."""
    attributes: dict[str, str | int | float] = {"class": "wide", "tabindex": "0", "role": "group", "aria-label": label}
    return [_opened("div", attributes), *tokens, _closed("div")]


def _figure(tokens: Sequence[Token]) -> list[Token]:
    image, caption = tokens[1], tokens[4]
    drawing = _wide([image], _text((image.children or [])[0]))
    return [_opened("figure"), *drawing, _opened("figcaption"), caption, _closed("figcaption"), _closed("figure")]


def _table(tokens: Sequence[Token]) -> list[Token]:
    """A table whose lines are named by their first cell; a last line with empty cells is a total below the others."""
    starts = [index for index, token in enumerate(tokens) if token.type == "tr_open"]
    for start in starts:
        for index in itertools.takewhile(lambda at: tokens[at].type != "tr_close", range(start + 1, len(tokens))):
            if tokens[index].type in ("th_open", "td_open"):
                _cell(tokens[index : index + 3], head=start == starts[0], first=index == start + 1)
    last = starts[-1]
    end = next(index for index in range(last, len(tokens)) if tokens[index].type == "tr_close")
    if len(starts) < 3 or all(token.content for token in tokens[last:end] if token.type == "inline"):
        return [*tokens]
    total = [_closed("tbody"), _opened("tfoot"), *tokens[last : end + 1], _closed("tfoot")]
    return [*tokens[:last], *total, *tokens[end + 2 :]]


def _cell(tokens: Sequence[Token], head: bool, first: bool) -> None:
    """Give a cell its scope and its class; a style of its own would be against the page's policy."""
    opened, content, closed = tokens
    number = str(opened.attrs.pop("style", "")).endswith("right")
    if (head or first) and content.content:
        opened.tag = closed.tag = "th"
        opened.attrs["scope"] = "col" if head else "row"
    else:
        opened.tag = closed.tag = "td"
    if not head and len(content.content) > (LONG_AMONG_NUMBERS if number else LONG):
        opened.attrs["class"] = "long"
    elif number:
        opened.attrs["class"] = "number"


def _opened(tag: str, attributes: dict[str, str | int | float] | None = None) -> Token:
    from markdown_it.token import Token

    return Token(f"{tag}_open", tag, 1, attrs=attributes or {}, block=True)


def _closed(tag: str) -> Token:
    from markdown_it.token import Token

    return Token(f"{tag}_close", tag, -1, block=True)
