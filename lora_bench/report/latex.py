"""The tables of a report as LaTeX, for a paper: each with a caption, a label and a note on the rules of its comparisons.

They are the very tables of the page. Bold stays only where it marks what is shown. Every character that LaTeX reads as a
command is escaped. pdfLaTeX sets the letters of Latin scripts; those of others take XeLaTeX or LuaLaTeX, and what is no letter,
mark or number, such as an emoji, is named by its code.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lora_bench.report.blocks import Block, Fold, Heading, TextTable
from lora_bench.report.html import LONG, inline_parser

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

# A table with more rows does not fit a page.
MOST_ROWS = 40

_OPENING = {"strong_open": r"\textbf{", "em_open": r"\emph{", "strong_close": "}", "em_close": "}", "softbreak": " "}

# Brackets and stars are no arguments of the commands between rows if they stand in braces.
_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\symbol{34}", "`": r"\symbol{96}", "[": "{[}", "]": "{]}", "*": "{*}",
    "–": r"\textendash{}", "—": r"\textemdash{}", "…": r"\ldots{}", "†": r"\dag{}", "‡": r"\ddag{}", "§": r"\S{}",
    "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "≈": r"$\approx$", "≤": r"$\leq$", "≥": r"$\geq$",
    "→": r"$\rightarrow$", "√": r"$\surd$", "‖": r"$\|$", "°": r"$^\circ$", "Δ": r"$\Delta$", "α": r"$\alpha$",
    "φ": r"$\varphi$", "²": "$^2$", "ⁿ": "$^n$",
}  # fmt: skip


def to_latex(blocks: Sequence[Block], *, name: str, note: str, methods: str = "") -> str:
    """Return the tables of a page as LaTeX, below a paragraph on *methods*.

    Labels begin with the *name* of the report, and the *note* is below each table.
    """
    parser = inline_parser(links=False)
    lines = [
        f"% Tables of the report {_slug(name)}, to copy from or to \\input whole.",
        "% \\usepackage{booktabs,longtable,adjustbox}",
        *(["", rf"\paragraph{{Statistical methods.}} {_text(methods, parser)}"] if methods else []),
    ]
    labels: set[str] = set()
    for title, table in _tables(blocks):
        slug = _slug(f"{name} {' '.join(title)}")[:70].strip("-")
        label = next(one for one in (slug, *(f"{slug}-{n}" for n in range(2, len(labels) + 3))) if one not in labels)
        labels.add(label)
        caption = ": ".join(_text(part, parser) for part in title)
        lines += ["", *_table(table, rf"\caption{{{caption}.}}\label{{tab:{label}}}", _text(note, parser), parser)]
    return "\n".join(lines) + "\n"


def _tables(blocks: Sequence[Block], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], TextTable]]:
    """Yield every table with the headings above it, without the title of the page."""
    title = above
    levels: dict[int, str] = {}
    for block in blocks:
        if isinstance(block, Heading):
            levels = {level: text for level, text in levels.items() if level < block.level} | {block.level: block.text}
            title = tuple(text for level, text in levels.items() if level > 1 or len(levels) == 1)
        elif isinstance(block, Fold):
            yield from _tables(block.blocks, (*title, block.summary))
        elif isinstance(block, TextTable):
            yield title, block


def _table(table: TextTable, caption: str, note: str, parser: "MarkdownIt") -> list[str]:
    long = [max((len(row[at]) for row in table.rows), default=0) > LONG for at in range(len(table.header))]
    columns = "".join(
        r"p{0.25\linewidth}" if wraps else "l" if at < table.numbers_from else "r" for at, wraps in enumerate(long)
    )
    head, *rows = (
        " & ".join(_text(cell, parser, bold=table.bold_is_shown) for cell in row) + r" \\"
        for row in (table.header, *table.rows)
    )
    below = [r"\par\smallskip", rf"\parbox{{\linewidth}}{{\footnotesize {note}}}"] if note else []
    if len(rows) > MOST_ROWS:
        start = [r"{\small", rf"\begin{{longtable}}{{{columns}}}", rf"{caption} \\", r"\toprule", head, r"\midrule"]
        return [*start, r"\endhead", *rows, r"\bottomrule", r"\end{longtable}", *below, "}"]
    start = [r"\begin{table}", r"\centering\small", caption, r"\begin{adjustbox}{max width=\linewidth}"]
    start += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule"]
    return [*start, *rows, r"\bottomrule", r"\end{tabular}", r"\end{adjustbox}", *below, r"\end{table}"]


def _text(marked: str, parser: "MarkdownIt", *, bold: bool = True) -> str:
    """Return inline text with its marks; the targets of links are left out."""
    parts = []
    for token in parser.parseInline(marked)[0].children or []:
        if token.type == "code_inline":
            parts.append(rf"\texttt{{{escaped(token.content)}}}")
        elif token.type == "text":
            parts.append(escaped(token.content))
        elif bold or not token.type.startswith("strong"):
            parts.append(_OPENING.get(token.type, ""))
    return "".join(parts)


def escaped(text: str) -> str:
    """Return a text that LaTeX shows as it is, on one line and without invisible characters."""
    visible = (character for character in re.sub(r"\s+", " ", text) if unicodedata.category(character)[0] != "C")
    # Two hyphens would become a dash.
    return re.sub("-(?=-)", "-{}", "".join(map(_character, visible)))


def _character(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    known = character.isascii() or unicodedata.category(character)[0] in "LMN"
    return character if known else f"U+{ord(character):04X}"


def _slug(text: str) -> str:
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")
