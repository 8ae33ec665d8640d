"""docs/findings.md: sections have the same parts, few words, and each of our figures stands in a report that they link."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "findings.md"
TEXT = PAGE.read_text(encoding="utf-8")
LABELS = [r"Asked", r"Papers?", r"Here", r"So"]
START, *REST = TEXT.split("\n## ")
SECTIONS = dict(section.split("\n", 1) for section in REST)


def bullets(section):
    """The bullets of a section, by their label."""
    found = re.findall(r"^\* \*\*(.+?):\*\*\s+(.+?)(?=^\* |\Z)", SECTIONS[section], re.MULTILINE | re.DOTALL)
    return {label: " ".join(words.split()) for label, words in found}


def missing(ours, linked):
    """The figures of a text that stand in none of the reports that another one links."""
    pages = re.findall(r"\]\((\.\./reports/[\w-]+\.md)\)", linked)
    assert pages
    reports = "\n".join((PAGE.parent / path).read_text(encoding="utf-8") for path in pages)
    figures = re.findall(r"(?<![\w.])\d*\.\d+(?![\w.]*\d)", re.sub(r"\]\((?:\.\./|https?:).+?\)", "]", ours))
    return [one for one in figures if not re.search(rf"(?<![\d.]){re.escape(one)}(?!\d)", reports)]


def test_the_page_is_short_and_has_at_most_five_pictures():
    assert len(TEXT.split()) <= 2000
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", TEXT)
    assert 1 <= len(pictures) <= 5 and all((PAGE.parent / picture).is_file() for picture in pictures)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_asks_quotes_answers_and_advises(section):
    for wanted, label in zip(LABELS, bullets(section), strict=True):
        assert re.fullmatch(wanted, label)


@pytest.mark.parametrize("section", SECTIONS)
def test_our_figures_stand_in_the_reports_that_are_linked(section):
    # All but the papers' figures: the heading, a table before the bullets, and the bullets.
    ours = re.sub(r"^\* \*\*Papers?:.+?(?=^\* )", "", SECTIONS[section], flags=re.MULTILINE | re.DOTALL)
    assert not missing(f"{section}\n{ours}", SECTIONS[section])


def test_the_figures_before_the_sections_stand_in_the_reports_that_are_linked_there():
    assert not missing(START, START)
