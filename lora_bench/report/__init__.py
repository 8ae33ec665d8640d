"""Reports: records as Markdown, a page, figures, a table for the terminal and a data frame.

Everything here is made of records alone and needs no torch, so a report renders on any machine; pandas, matplotlib and
markdown-it are imported by the functions that use them. A report is `<name>.md` with its figures in the folder `<name>`
beside it, and `<name>.html`, the same with its figures inside; in `runs/<suite>/` as in `reports/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from lora_bench.errors import LoraBenchError
from lora_bench.records.probe_record import ProbeRecord
from lora_bench.records.record import Record
from lora_bench.records.store import write_atomic
from lora_bench.records.weight_analysis import WeightAnalysis
from lora_bench.report.figures.draw import draw, plan_figures
from lora_bench.report.frames.record_frame import to_frame
from lora_bench.report.html import render_page
from lora_bench.report.markdown import render_markdown
from lora_bench.report.model.comparison import Comparison, compare
from lora_bench.report.model.report_model import ReportModel, report_model
from lora_bench.report.model.seed_scores import AnswersOf, no_answers
from lora_bench.report.probes.probe_section import probe_lines, render_probes
from lora_bench.report.sections.class_tables import ITEMS_PAGE
from lora_bench.report.sections.first_screen import draw_pictures
from lora_bench.report.sections.forgetting import forgetting_figures
from lora_bench.report.sections.items_page import TextsOf, items_page, no_texts
from lora_bench.report.sections.weight_changes import PAGE, weight_figures, weight_lines, weight_page
from lora_bench.report.terminal import terminal_answer, terminal_table

__all__ = [
    "Comparison",
    "ReportModel",
    "check_report",
    "compare",
    "render_files",
    "render_markdown",
    "report_model",
    "terminal_answer",
    "terminal_table",
    "to_frame",
    "write_report",
    "write_weight_page",
]

_ITEMS_HTML = ITEMS_PAGE.replace(".md", ".html")


def render_files(
    records: Sequence[Record],
    name: str = "report",
    sections: Sequence[Sequence[str]] = (),
    probes: Sequence[ProbeRecord] = (),
    data: Mapping[str, bytes] | None = None,
    answers: AnswersOf = no_answers,
    model: ReportModel | None = None,
    texts: TextsOf = no_texts,
    analysis: WeightAnalysis | None = None,
) -> dict[str, bytes]:
    """A report as the content of its files, by path relative to the report's folder: `<name>.md`, `<name>.html` and more.

    Args:
        records: What it is of.
        name: Of the page.
        sections: Further sections, as lines of Markdown, after the scores.
        probes: What was measured alone; a report may be of these and nothing else.
        data: Files that lie beside the figures, by name: `lora_bench.exchange.data_files` makes them.
        answers: Gives the predictions of a run, where they are stored: `lora_bench.records.store.answers_in`.
        model: Of these records, probes and answers, where it is at hand.
        texts: Gives the texts of test items, where they may be shown.
        analysis: Of the weights that these runs kept.

    Raises:
        LoraBenchError: If there are no records, or two different ones with the same run id.
    """
    figures: dict[str, bytes] = {}
    items = None
    narrow: dict[str, bytes] = {}
    if probes and not records:
        markdown = render_probes(probes)
    else:
        model = model or report_model(records, probes, answers)
        weights = [] if analysis is None else weight_lines(analysis, name, {record.run_id for record in records})
        markdown = render_markdown(records, name, [*sections, probe_lines(probes), weights], model=model)
        items = items_page(model, texts)
        wide, narrow = draw_pictures(model.seen)
        drawn = {plan.file: draw(plan) for plan in plan_figures(model.comparison, records)}
        drawn |= forgetting_figures(model.comparison)
        maps = {} if analysis is None else weight_figures(analysis)
        figures = {f"{name}/{file}": svg for file, svg in {**wide, **drawn, **maps}.items()}
    page = render_page(markdown, {**figures, **{f"{name}/{file}": svg for file, svg in narrow.items()}})
    tables = {f"{name}/{file}": content for file, content in (data or {}).items()}
    pages = {f"{name}.md": markdown, f"{name}.html": page}
    if items is not None:
        pages |= {f"{name}/{ITEMS_PAGE}": items, f"{name}/{_ITEMS_HTML}": render_page(items, {})}
    return {**{path: content.encode("utf-8") for path, content in pages.items()}, **figures, **tables}


def write_report(
    records: Sequence[Record],
    folder: Path,
    name: str = "report",
    sections: Sequence[Sequence[str]] = (),
    probes: Sequence[ProbeRecord] = (),
    data: Mapping[str, bytes] | None = None,
    answers: AnswersOf = no_answers,
    model: ReportModel | None = None,
    texts: TextsOf = no_texts,
    analysis: WeightAnalysis | None = None,
) -> list[Path]:
    """Write a report into *folder*, replacing one of the same name with its figures; the files written.

    Raises:
        LoraBenchError: If there are no records, or two different ones with the same run id.
    """
    files = render_files(records, name, sections, probes, data, answers, model, texts, analysis)
    return _write_page(files, folder, name)


def write_weight_page(analysis: WeightAnalysis, folder: Path) -> list[Path]:
    """Write `analysis.md` and `analysis.html` into *folder*, replacing earlier ones with their figures; the files written."""
    return _write_page(weight_page(analysis), folder, PAGE)


def _write_page(files: Mapping[str, bytes], folder: Path, name: str) -> list[Path]:
    """Write the files of a page, and remove figures that only its earlier version shows."""
    if (folder / name).is_symlink():
        raise LoraBenchError(
            f"{folder / name} is a link; remove it, since a report's figures may not be written elsewhere"
        )
    before = _figures_of(folder / f"{name}.md", name)
    written = []
    for path, content in files.items():
        write_atomic(folder / path, content)
        written.append(folder / path)
    for path in before - files.keys():
        (folder / path).unlink(missing_ok=True)
    return written


def _figures_of(page: Path, name: str) -> set[str]:
    """The figures of an earlier report, and its page of items: those that its page shows."""
    if not page.is_file():
        return set()
    written = page.read_text(encoding="utf-8")
    shown = re.findall(r"^!\[[^\]]*\]\(([^()/\s]+)/([^()/\s]+\.svg)\)$", written, re.MULTILINE)
    found = {
        f"{name}/{unquote(file)}" for folder, file in shown if unquote(folder) == name and "/" not in unquote(file)
    }
    items = {ITEMS_PAGE, _ITEMS_HTML} if f"]({quote(f'{name}/{ITEMS_PAGE}')})" in written else set()
    return found | {f"{name}/{file}" for file in items}


def check_report(
    records: Sequence[Record],
    folder: Path,
    name: str = "report",
    sections: Sequence[Sequence[str]] = (),
    probes: Sequence[ProbeRecord] = (),
    data: Mapping[str, bytes] | None = None,
    answers: AnswersOf = no_answers,
    model: ReportModel | None = None,
    analysis: WeightAnalysis | None = None,
) -> list[str]:
    """List the differences, byte for byte, between the report in *folder* and a fresh rendering of its records.

    Pages are left out: they are made of the Markdown and the figures, and are not committed.
    """
    expected = render_files(records, name, sections, probes, data, answers, model, analysis=analysis)
    differences = []
    for path, content in expected.items():
        file = folder / path
        if path.endswith(".html"):
            continue
        if not file.is_file():
            differences.append(f"{path} is missing")
        elif (found := file.read_bytes()) != content:
            differences.append(f"{path} differs from its records from line {_first_difference(found, content)} on")
    made = [*(folder / name).glob("*.svg"), *(folder / name).glob(ITEMS_PAGE)]
    left_over = sorted(f"{name}/{file.name}" for file in made)
    differences += [f"{path} is not part of the report any more" for path in left_over if path not in expected]
    return differences


def _first_difference(found: bytes, expected: bytes) -> int:
    """The first line, counted from 1, in which two files differ."""
    pairs = zip(found.splitlines(), expected.splitlines(), strict=False)
    same = next((index for index, (one, other) in enumerate(pairs) if one != other), None)
    return 1 + (min(len(found.splitlines()), len(expected.splitlines())) if same is None else same)
