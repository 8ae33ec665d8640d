"""The index of a folder of reports: each suite with its answer, how sure it is, and links.

It is made from the heads of the pages themselves, so it costs nothing beside them and needs no records.
"""

import re
from html import escape, unescape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from lora_bench.report.html import HEAD_LETTERS, STRENGTH, frame
from lora_bench.util.atomic_files import write_atomic
from lora_bench.util.regular_files import read_start

NAME = "index.html"

# Reports of a folder of reports, of a folder of runs, and of the series of a suite.
_PLACES = ("*.html", "*/report.html", "*/*/report.html")


class Entry(NamedTuple):
    """A report of the folder: its title, its path from there, its answer and strength, and whether Markdown is beside it."""

    title: str
    address: str
    answer: str
    strength: str
    markdown: bool


def entries(folder: Path) -> list[Entry]:
    """Return the reports of a folder by name, without pages that lora_bench did not write."""
    found = []
    for path in sorted({path for place in _PLACES for path in folder.glob(place)}):
        try:
            head = read_start(path, 4 * HEAD_LETTERS).decode("utf-8", errors="replace")[:HEAD_LETTERS]
        except OSError:
            continue  # not a page of ours: a folder or a pipe
        title = re.search(r"<title>(.*?)</title>", head, re.DOTALL)
        facts = {name: unescape(value) for name, value in re.findall(r'<meta name="([\w-]+)" content="([^"]*)">', head)}
        if title is not None and STRENGTH in facts:
            address, markdown = path.relative_to(folder).as_posix(), path.with_suffix(".md").is_file()
            answer = facts.get("description", "")
            found.append(Entry(unescape(title[1]), address, answer, facts[STRENGTH], markdown))
    return found


def write_index(folder: Path, *, only_refresh: bool = False) -> Path | None:
    """Write the index of a folder, with *only_refresh* if it has one; return its path, or None if there is no report."""
    path, found = folder / NAME, entries(folder)
    if not found or (only_refresh and not path.is_file()):
        return None
    parts = ["<h1>Suites and their answers</h1>"]
    for entry in found:
        address = quote(entry.address)
        title = escape(" / ".join([entry.title, *entry.address.split("/")[1:-1]]), quote=False)
        links = f'<a href="{address}">report</a>'
        if entry.markdown:
            links += f' · <a href="{address.removesuffix(".html")}.md">Markdown</a>'
        parts += [f'<h2><a href="{address}">{title}</a></h2>', f"<p>{escape(entry.answer, quote=False)}</p>"]
        parts += [f"<p>{escape(entry.strength, quote=False)}</p>"] if entry.strength else []
        parts.append(f"<p>{links}</p>")
    write_atomic(path, frame("Suites and their answers", "\n".join(parts) + "\n").encode("utf-8"))
    return path
