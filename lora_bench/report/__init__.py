"""Reports: records as Markdown, a page, figures, a table for the terminal and a data frame.

Everything here is made of records alone and needs no torch, so a report renders on any machine; pandas, matplotlib and
markdown-it are imported by the functions that use them. A report is `<name>.md` with its figures in the folder `<name>`
beside it, and `<name>.html`, the same with its figures inside; in `runs/<suite>/` as in `reports/`.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from urllib.parse import quote, unquote

from lora_bench.errors import LoraBenchError
from lora_bench.records.store import write_atomic
from lora_bench.report.blocks import to_markdown
from lora_bench.report.figures.draw import draw, plan_figures
from lora_bench.report.figures.plan import Form
from lora_bench.report.frames.record_frame import to_frame
from lora_bench.report.html import PageFacts, render_page
from lora_bench.report.latex import to_latex
from lora_bench.report.markdown import facts_of, page_of, render_markdown
from lora_bench.report.model.comparison import compare
from lora_bench.report.model.report import Report
from lora_bench.report.sections.answer import methods_paragraph, table_note
from lora_bench.report.sections.class_tables import ABOUT, ITEMS_PAGE, items_page
from lora_bench.report.sections.first_screen import draw_pictures
from lora_bench.report.sections.forgetting import forgetting_figures
from lora_bench.report.sections.weight_changes import weight_figures
from lora_bench.report.terminal import terminal_answer
from lora_bench.util.regular_files import read_regular

__all__ = [
    "Report",
    "check_files",
    "check_report",
    "compare",
    "render_files",
    "render_markdown",
    "terminal_answer",
    "to_frame",
    "write_report",
]

_ITEMS_HTML = ITEMS_PAGE.replace(".md", ".html")


def render_files(report: Report) -> dict[str, bytes]:
    """Return the files of a report by path relative to its folder; errors are those of `render_markdown`."""
    name, facts = report.name, replace(facts_of(report), reload_seconds=report.reload_seconds)
    figures, narrow = _figures(report, "svg")
    blocks = page_of(report)
    items = items_page(report)
    shown = {**figures, **narrow}
    pages = {f"{name}.md": to_markdown(blocks), f"{name}.html": render_page(blocks, shown, facts)}
    if items:
        pages |= {
            f"{name}/{ITEMS_PAGE}": to_markdown(items),
            f"{name}/{_ITEMS_HTML}": render_page(items, {}, PageFacts(description=ABOUT)),
        }
    if report.latex:
        judged = report.judged if report.records else None
        methods = methods_paragraph(judged, report.pooled is not None) if judged is not None else ""
        pages[f"{name}.tex"] = to_latex(blocks, name=name, note=table_note(judged), methods=methods)
    tables = {f"{name}/{file}": content for file, content in report.data(report).items()}
    if report.figures == "pdf":
        figures |= {path.replace(".svg", ".pdf"): pdf for path, pdf in _figures(report, "pdf")[0].items()}
    return {**{path: content.encode("utf-8") for path, content in pages.items()}, **figures, **tables}


def _figures(report: Report, form: Form) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return the figures of a report by path, under the names of SVG, and those for telephones."""
    if not report.records:
        return {}, {}
    wide, narrow = draw_pictures(report.overview, form)
    drawn = {plan.file: draw(plan, form) for plan in plan_figures(report.comparison)}
    drawn |= forgetting_figures(report.comparison, form)
    maps = {} if report.analysis is None else weight_figures(report.analysis, form)

    def in_folder(files: dict[str, bytes]) -> dict[str, bytes]:
        return {f"{report.name}/{file}": content for file, content in files.items()}

    return in_folder({**wide, **drawn, **maps}), in_folder(narrow)


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write a report into *folder*, replacing one of the same name with its figures; return the files written.

    Raise LoraBenchError if there are no records, or two different ones with the same run id.
    """
    files, name = render_files(report), report.name
    if (folder / name).is_symlink():
        raise LoraBenchError(
            f"{folder / name} is a link; remove it, since a report's figures may not be written elsewhere"
        )
    before = _figures_of(folder / f"{name}.md", name)
    for path, content in files.items():
        write_atomic(folder / path, content)
    # The PDF of a figure that is written as SVG alone would be of other records.
    stale = {path.replace(".svg", ".pdf") for path in before | files.keys() if path.endswith(".svg")}
    for path in (before | stale) - files.keys():
        (folder / path).unlink(missing_ok=True)
    return [folder / path for path in files]


def _figures_of(page: Path, name: str) -> set[str]:
    """Return the figures that an earlier version of a page shows, and its page of items."""
    if not page.is_file():
        return set()
    written = read_regular(page).decode("utf-8", errors="replace")
    links = [unquote(link) for link in re.findall(r"^!\[[^\]]*\]\(([^()\s]+\.svg)\)$", written, re.MULTILINE)]
    figures = {link for link in links if link.rpartition("/")[0] == name}
    items = {ITEMS_PAGE, _ITEMS_HTML} if f"]({quote(f'{name}/{ITEMS_PAGE}')})" in written else set()
    return figures | {f"{name}/{file}" for file in items}


def check_report(report: Report, folder: Path) -> list[str]:
    """List the differences, byte for byte, between a report in *folder* and a fresh rendering of its records.

    Pages are left out: they are made of the blocks and the figures, and are not committed.
    """
    name = report.name
    expected = render_files(report)
    differences = check_files(expected, folder)
    made = [*(folder / name).glob("*.svg"), *(folder / name).glob(ITEMS_PAGE)]
    left_over = sorted(f"{name}/{file.name}" for file in made)
    differences += [f"{path} is not part of the report any more" for path in left_over if path not in expected]
    return differences


def check_files(expected: Mapping[str, bytes], folder: Path) -> list[str]:
    """List the differences between files in *folder* and their *expected* contents, without pages in HTML."""
    differences = []
    for path, content in expected.items():
        file = folder / path
        if path.endswith(".html"):
            continue
        if not file.is_file():
            differences.append(f"{path} is missing")
        elif (found := read_regular(file)) != content:
            pairs = zip_longest(found.splitlines(keepends=True), content.splitlines(keepends=True))
            line = next(number for number, (one, other) in enumerate(pairs, start=1) if one != other)
            differences.append(f"{path} differs from its records from line {line} on")
    return differences
