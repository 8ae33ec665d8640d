"""The page on support shows what PEFT does today: its sessions run, and its tables have no gap without a reason."""

import doctest
import importlib
import re
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from lora_bench.families import FAMILIES
from lora_bench.kinds import known_kinds

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "support.md").read_text(encoding="utf-8")
TABLES, _, REST = PAGE.partition("## Every method of PEFT")
TYPES, _, SESSIONS = REST.partition("## Where PEFT itself fails")
BEGIN, *DEFECTS = SESSIONS.split("### ")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def session(text):
    (found,) = re.findall(r"```pycon\n(.*?)```", text, flags=re.DOTALL)
    return found


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.partition("\n")[0].replace(" ", "-"))
def test_peft_does_today_what_the_page_shows(defect):
    """If this fails, PEFT has changed: see if it mended the defect, and take that off docs/peft_defects.py."""
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    title = defect.partition("\n")[0]
    test = doctest.DocTestParser().get_doctest(session(BEGIN) + session(defect), {}, title, None, None)
    runner.run(test, out=said.append)
    assert runner.tries > len(doctest.DocTestParser().get_examples(session(BEGIN)))
    assert runner.failures == 0, "".join(said)


def rows(text):
    """The cells of every row of every table, without heads and lines."""
    found = [line.strip("|\n ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [row for row in found if row[0] not in ("model", "type", "---") and not row[0].startswith("---")]


@pytest.mark.parametrize("text", [TABLES, TYPES], ids=["own", "peft"])
def test_every_cell_is_a_yes_or_names_a_reason_that_stands_below(text):
    reasons = {int(number) for number in re.findall(r"^(\d+)\. `", text, flags=re.MULTILINE)}
    named = set()
    for _, *cells in rows(text):
        for cell in cells:
            assert re.fullmatch(r"yes|(no|some): \d+(, \d+)*", cell), cell
            named |= {int(number) for number in re.findall(r"\d+", cell)}
    assert named == reasons == set(range(1, len(reasons) + 1))


def test_every_family_has_a_row_or_a_reason_in_the_table_of_each_kind():
    tables = TABLES.split("\n## ")[1:-1]
    titles = [title.partition("\n")[0] for title in tables]
    kinds = [kind.replace("_", " ") for kind in known_kinds()]
    assert sorted(", ".join(titles).lower().split(", ")) == sorted(kinds) and len(tables) < len(kinds)
    for text in tables:
        with_row = {row[0] for row in rows(text)}
        without = {
            name for names in re.findall(r"^Not on (.*?): ", text, flags=re.MULTILINE) for name in names.split(", ")
        }
        assert with_row | without == {family.shown for family in FAMILIES} | {"BERT"} and not with_row & without


def test_every_method_of_the_installed_peft_has_a_row():
    from peft.utils import PeftType

    if f"peft {version('peft')}," not in PAGE:
        pytest.skip("the page is of another version of peft")
    ours = ("LORA_BENCH", "BOTTLENECK")
    assert [row[0].strip("`") for row in rows(TYPES)] == sorted(
        one.value for one in PeftType if not one.value.startswith(ours)
    )


def test_what_the_page_says_of_a_model_is_what_a_probe_finds(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(DOCS), *sys.path])
    support = importlib.import_module("support")
    found = support.probe(support.Probed("ModernBERT", "tokens"))
    (row,) = (row for row in rows(TABLES.split("\n## ")[2]) if row[0] == "ModernBERT")
    reasons = dict(re.findall(r"^(\d+)\. (.*)$", TABLES, flags=re.MULTILINE))
    said = {reasons[number].partition(": ")[2] for cell in row[1:] for number in re.findall(r"\d+", cell)}
    assert said == {reason for reason in found.values() if reason is not None} and len(said) > 1
