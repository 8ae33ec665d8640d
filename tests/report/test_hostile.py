"""No string of a record is anything but text, whatever a report is written as."""

import csv
import functools
import io
import json
import re
from collections import Counter
from urllib.parse import unquote

import html5lib
import pandas
from markdown_it import MarkdownIt
from rich.console import Console

from lora_bench.exchange import data_files
from lora_bench.exchange.table_files import to_csv
from lora_bench.published.table_section import published_section
from lora_bench.published.table_terminal import cells_listing
from lora_bench.report import Report, render_files
from lora_bench.report.blocks import to_markdown
from lora_bench.report.frames.record_frame import to_frame
from lora_bench.report.html import ASSETS, render_page
from lora_bench.report.markdown import page_of
from lora_bench.report.probes.claims import claims_section
from lora_bench.report.probes.probe_section import probes_page
from lora_bench.report.sections.compare_runs import two_sets_page
from lora_bench.report.terminal import terminal_answer
from lora_bench.util.redaction import visible
from tests.report.hostile import (
    HOSTILE,
    WORDS,
    anywhere,
    hostile_claims,
    hostile_probes,
    hostile_published,
    hostile_records,
    hostile_sets,
    in_markdown,
    in_spreadsheets,
)

XHTML = "{http://www.w3.org/1999/xhtml}"
BARE = b'<svg xmlns="http://www.w3.org/2000/svg" width="9pt" height="9pt" viewBox="0 0 9 9"></svg>'

# What GitHub makes links of once a page is rendered: mentions, numbers of issues, addresses.
LINKED = re.compile(r"@\w|#\d|\w://\w|\bwww\.\w", re.IGNORECASE)

# What hides in a text or turns it around.
UNSEEN = {"\x00", "\x07", "\x1b", "\x9b", "\u202e", "\u2066"}


@functools.cache
def pages(text):
    """Every kind of page, by name, as blocks."""
    probes = hostile_probes(text)
    return {
        "records": page_of(Report(hostile_records(text), sections=[published_section(*hostile_published(text))])),
        "probes": [*probes_page(probes), *claims_section(hostile_claims(text), probes)],
        "two sets": two_sets_page(hostile_sets(text)),
    }


def on_a_page(blocks):
    """Blocks as a browser builds their page, with empty figures."""
    paths = re.findall(r"^!\[[^\]]*\]\(([^)]+)\)$", to_markdown(blocks), re.MULTILINE)
    return html5lib.parse(render_page(blocks, {unquote(path): BARE for path in paths}))


def elements(tree):
    """Every element of a page as a browser builds it, but for the `code` around a name that is an identifier."""
    found = [element for element in tree.iter() if isinstance(element.tag, str)]
    return [element for element in found if element.tag != f"{XHTML}code"]


def shape(tree):
    """How often a page has each element with its attributes; a cell's class says only how long it is."""
    kinds = ((element.tag.removeprefix(XHTML), set(element.attrib)) for element in elements(tree))
    return Counter((tag, *sorted(names - {"class"} if tag in ("td", "th") else names)) for tag, names in kinds)


def blocks_and_inline(markdown):
    """The blocks of a page as GitHub sees them, with raw HTML, and what stands in them."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(markdown)
    return tokens, [child for token in tokens for child in token.children or []]


def structure(markdown):
    """How often Markdown has each kind of block and mark, and its HTML."""
    blocks, inline = blocks_and_inline(markdown)
    marks = ("strong_open", "em_open", "s_open", "image", "link_open", "html_inline")
    counts = Counter(token.type for token in (*blocks, *(token for token in inline if token.type in marks)))
    return counts, sorted(token.content for token in blocks if token.type == "html_block")


@functools.cache
def inert(name):
    """The structure and the shape of a page on which every string is `WORDS`."""
    blocks = pages(WORDS)[name]
    return structure(to_markdown(blocks)), shape(on_a_page(blocks))


@in_markdown
def test_markdown_has_the_structure_of_an_inert_record_and_nothing_to_make_a_link_of(text):
    for name, blocks in pages(text).items():
        markdown = to_markdown(blocks)
        assert structure(markdown) == inert(name)[0]
        _, inline = blocks_and_inline(markdown)
        shown = "\n".join(token.content for token in inline if token.type == "text")
        assert not LINKED.search(shown.replace("\u200b", "|"))
        assert not UNSEEN & set(markdown) and "alice" not in markdown
        # GitHub typesets what stands between dollar signs; the command is in a block of code.
        assert not re.search(r"(?<!\\)\$", re.sub(r"^`{3,}.*?^`{3,}", "", markdown, flags=re.DOTALL | re.MULTILINE))


@in_markdown
def test_a_page_has_the_elements_of_an_inert_one_and_no_other(text):
    for name, blocks in pages(text).items():
        tree = on_a_page(blocks)
        assert shape(tree) == inert(name)[1]
        for element in elements(tree):
            for attribute, value in element.attrib.items():
                assert not attribute.startswith("on") and attribute != "style"
                assert attribute != "src" or (element.tag == f"{XHTML}img" and value.startswith("data:image/svg+xml,"))
                assert attribute != "href" or re.fullmatch("#[a-z0-9-]+", value)
        shown = "".join(tree.find(f"{XHTML}body/{XHTML}main").itertext())
        assert not (UNSEEN | {"\u200b"}) & set(shown) and "alice" not in shown


def test_figures_in_a_page_are_images_and_nothing_else():
    page, inert_page = (
        render_files(Report(hostile_records(text)))["report.html"].decode() for text in (HOSTILE, WORDS)
    )
    tree, inert_tree = html5lib.parse(page), html5lib.parse(inert_page)
    assert shape(tree) == shape(inert_tree) and len([*tree.iter(f"{XHTML}img")]) >= 4
    (script,) = tree.iter(f"{XHTML}script")
    assert script.text == (ASSETS / "page.js").read_text(encoding="utf-8")
    identifiers = [element.get("id") for element in tree.iter() if element.get("id") is not None]
    assert len(identifiers) == len(set(identifiers))
    referred = set(re.findall(r'href="#([^"]*)"', re.sub(r'src="[^"]*"', "", page)))
    assert referred and referred <= set(identifiers)


@in_spreadsheets
def test_no_cell_of_a_table_for_spreadsheets_is_a_formula(text):
    frame = to_frame(hostile_records(text))
    header, *rows = csv.reader(io.StringIO(to_csv(frame).decode()))
    assert {len(row) for row in rows} == {len(header)}
    for cell in (*header, *(cell for row in rows for cell in row)):
        for start in re.split(r"[;\t\r\n]", cell):
            assert not re.match(r"[\s\u200b\ufeff]*[=+\-@＝＋－＠]", start)
    # A CSV file is printed too, so what controls a terminal is not in it.
    assert rows[0][header.index("label")].replace("'", "") == visible(text, lines=True).replace("'", "")


@anywhere
def test_files_with_types_keep_every_string_as_it_is(text):
    files = data_files(Report(hostile_records(text), probes=hostile_probes(text)))
    for table in ("records", "probes"):
        of_parquet = pandas.read_parquet(io.BytesIO(files[f"{table}.parquet"]))["label"]
        of_json = json.loads(files[f"{table}.json"])
        assert of_parquet[0] == of_json[0]["label"] == text


def in_terminal(text, width):
    """The tables that are shown in a terminal, with their colours."""
    table, _ = hostile_published(text)
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system="standard")
    for shown in (terminal_answer(Report(hostile_records(text))), cells_listing(table)):
        console.print(shown)
    return console.file.getvalue()


@anywhere
def test_a_terminal_gets_colours_of_ours_and_text(text):
    colour = re.compile(r"\x1b\[[0-9;]*m")
    shown = in_terminal(text, width=100)
    assert set(colour.findall(shown)) == set(colour.findall(in_terminal(WORDS, width=100)))
    left = colour.sub("", shown)
    assert not UNSEEN & set(left) and "alice" not in left
    assert max(map(len, left.splitlines())) <= 100
