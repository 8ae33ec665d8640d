"""The answer of a report by itself: as text, and as a piece of HTML for a notebook."""

from __future__ import annotations

from urllib.parse import quote

from lora_bench.report.figures.differences import caption, draw_differences
from lora_bench.report.html import render_card
from lora_bench.report.model.report_model import ReportModel
from lora_bench.report.sections.first_screen import PICTURE, PICTURE_TEXT, picture_contrasts, small_table
from lora_bench.report.sections.headline import headline_lines, headline_of
from lora_bench.report.sections.summary import next_step
from lora_bench.report.text import unmarked


def answer_text(model: ReportModel) -> str:
    """The headline as paragraphs of plain text."""
    return "\n".join(map(unmarked, headline_lines(headline_of(model.seen, model.records), alone=True)))


def answer_card(model: ReportModel) -> str:
    """The headline, the picture, the small table and the next step, as HTML that needs nothing else and runs no script."""
    headline = headline_of(model.seen, model.records)
    contrasts = picture_contrasts(model.seen)
    picture = [f"![{PICTURE_TEXT}]({quote(PICTURE)})", "", caption(contrasts)] if contrasts else []
    parts = [headline_lines(headline, alone=True), picture, small_table(model.seen), next_step(headline.next)]
    figures = {PICTURE: draw_differences(contrasts, model.seen.reference)} if contrasts else {}
    return render_card("\n\n".join("\n".join(part) for part in parts if part) + "\n", figures)
