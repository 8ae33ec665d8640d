"""The answer of a report by itself: as text, and as a piece of HTML for a notebook."""

from __future__ import annotations

from lora_bench.report.blocks import Figure, Lead
from lora_bench.report.figures.differences import caption, draw_differences
from lora_bench.report.html import render_card
from lora_bench.report.model.report import Report
from lora_bench.report.sections.first_screen import PICTURE, PICTURE_TEXT, picture_contrasts, small_table
from lora_bench.report.sections.headline import headline_blocks, headline_of
from lora_bench.report.sections.summary import next_step
from lora_bench.report.text import unmarked


def answer_text(report: Report) -> str:
    """Return the headline as paragraphs of plain text."""
    blocks = headline_blocks(headline_of(report), alone=True)
    return "\n\n".join(unmarked(block.text if isinstance(block, Lead) else str(block)) for block in blocks)


def answer_card(report: Report) -> str:
    """Return the headline, the picture, the small table and the next step, as HTML that runs no script."""
    headline = headline_of(report)
    contrasts = picture_contrasts(report.overview)
    picture = [Figure(PICTURE_TEXT, PICTURE, caption(contrasts))] if contrasts else []
    blocks = [
        *headline_blocks(headline, alone=True),
        *picture,
        *small_table(report.overview),
        *next_step(headline.next),
    ]
    figures = {PICTURE: draw_differences(contrasts, report.overview.reference)} if contrasts else {}
    return render_card(blocks, figures)
