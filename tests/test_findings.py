"""docs/findings.md: each section has the same parts, and each of our figures stands in a report that it links."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "findings.md"
LABELS = [r"Asked", r"Papers?", r"Here", r"Why they may differ", r"So"]
SECTIONS = dict(section.split("\n", 1) for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:])


def bullets(section):
    """The bullets of a section, by their label."""
    found = re.findall(r"^\* \*\*(.+?):\*\* (.+?)(?=^\* |\Z)", SECTIONS[section], re.MULTILINE | re.DOTALL)
    return {label: " ".join(words.split()) for label, words in found}


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_asks_quotes_answers_and_doubts_with_one_picture(section):
    for wanted, label in zip(LABELS, bullets(section), strict=True):
        assert re.fullmatch(wanted, label)
    (picture,) = re.findall(r"!\[.+?\]\((.+?)\)", SECTIONS[section])
    assert (PAGE.parent / picture).is_file()


@pytest.mark.parametrize("section", SECTIONS)
def test_our_figures_stand_in_the_reports_that_are_linked(section):
    said = bullets(section)
    pages = re.findall(r"\]\((\.\./reports/[\w-]+\.md)\)", SECTIONS[section])
    assert pages
    reports = "\n".join((PAGE.parent / path).read_text(encoding="utf-8") for path in pages)
    for label in ("Here", "Why they may differ", "So"):
        figures = re.findall(r"(?<![\w.])\d*\.\d+(?![\w.]*\d)", re.sub(r"\]\(.+?\)", "]", said[label]))
        missing = [one for one in figures if not re.search(rf"(?<![\d.]){re.escape(one)}(?!\d)", reports)]
        assert not missing, f"{label}: {', '.join(missing)} in none of {', '.join(pages)}"
