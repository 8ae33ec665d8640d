"""The first screen of a report: the headline, the picture, the small table and the next step.

A further section, such as that of a published table, gives its answer to the headline; that of weights does so where scores
decide nothing. It is also text and a piece of HTML by itself, for a notebook.
"""

from __future__ import annotations

from collections.abc import Sequence

from lora_bench.report.blocks import Block, Figure, Lead
from lora_bench.report.figures import differences
from lora_bench.report.html import render_card
from lora_bench.report.model.judged import Judged
from lora_bench.report.model.overview import Contrast, Overview, contrasts_of
from lora_bench.report.model.report import Report
from lora_bench.report.sections.chosen_rates import rates_table
from lora_bench.report.sections.forgetting import kept_of_base
from lora_bench.report.sections.headline import Headline, headline_blocks, headline_of
from lora_bench.report.sections.summary import next_step, shown_lines, summary_table
from lora_bench.report.text import unmarked

PICTURE, BY_TASK, NARROW = "differences.svg", "differences-by-task.svg", "-narrow.svg"
PICTURE_TEXT, BY_TASK_TEXT = "Difference of each method to the reference", "Differences to the reference on each task"


def first_screen(seen: Overview, headline: Headline, folder: str, answers: Sequence[str]) -> list[Block]:
    """Return the first screen; *answers* of sections stand before the headline."""
    contrasts = picture_contrasts(seen)
    picture = [_picture(PICTURE_TEXT, PICTURE, contrasts, folder)] if contrasts else []
    blocks: list[Block] = [*map(Lead, answers), *kept_of_base(seen.comparison), *headline_blocks(headline)]
    return [*blocks, *picture, *small_table(seen), *next_step(headline.next)]


def small_table(seen: Overview) -> list[Block]:
    """Return the small table: of methods, or of the rates that a search chooses."""
    return summary_table(seen) or rates_table(seen.comparison)


def picture_contrasts(seen: Overview) -> list[Contrast]:
    """Return the comparisons of the picture: those of the methods in the small table, if they have one scale."""
    labels = {line.label for line in shown_lines(seen)}
    found = [contrast for contrast in seen.contrasts if contrast.label in labels]
    return found if differences.can_draw(found) else []


def by_task_contrasts(judged: Judged) -> list[Contrast]:
    """Return the comparisons of each task, where the picture above shows means over tasks."""
    found = contrasts_of(judged, of_tasks=True) if judged.over_tasks else []
    return found if differences.can_draw(found) else []


def by_task_picture(judged: Judged, folder: str) -> list[Block]:
    """Return the picture of each task; nothing where the first screen has it."""
    contrasts = by_task_contrasts(judged)
    return [_picture(BY_TASK_TEXT, BY_TASK, contrasts, folder)] if contrasts else []


def _picture(alt: str, file: str, contrasts: Sequence[Contrast], folder: str) -> Figure:
    return Figure(alt, f"{folder}/{file}", differences.caption(contrasts))


def draw_pictures(seen: Overview) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return the pictures by file name, and those for telephones, which only a page has."""
    wide, narrow = {}, {}
    by_task = by_task_contrasts(seen.judged) if seen.judged is not None else []
    for file, contrasts in ((PICTURE, picture_contrasts(seen)), (BY_TASK, by_task)):
        if contrasts:
            wide[file] = differences.draw_differences(contrasts, seen.reference)
            narrow[file.replace(".svg", NARROW)] = differences.draw_differences(contrasts, seen.reference, narrow=True)
    return wide, narrow


def answer_text(report: Report) -> str:
    """Return the headline as paragraphs of plain text."""
    blocks = headline_blocks(headline_of(report), alone=True)
    return "\n\n".join(unmarked(block.text if isinstance(block, Lead) else str(block)) for block in blocks)


def answer_card(report: Report) -> str:
    """Return the headline, the picture, the small table and the next step, as HTML that runs no script."""
    headline = headline_of(report)
    contrasts = picture_contrasts(report.overview)
    picture = [Figure(PICTURE_TEXT, PICTURE, differences.caption(contrasts))] if contrasts else []
    blocks = [
        *headline_blocks(headline, alone=True),
        *picture,
        *small_table(report.overview),
        *next_step(headline.next),
    ]
    figures = {PICTURE: differences.draw_differences(contrasts, report.overview.reference)} if contrasts else {}
    return render_card(blocks, figures)
