"""BLEU, NIST, ROUGE-L and CIDEr are those of E2E's official scorer (its Perl part for BLEU and NIST).

The numbers come from github.com/tuetschek/e2e-metrics at 1b9c4d8. Its ten-line example is not ours to ship: name the
folder that holds it (`example-inputs` of a checkout) in LORA_BENCH_E2E_EXAMPLE. The ten lines below are ours, and are
scored everywhere.
"""

import csv
import os
import random
from pathlib import Path

import pytest

from lora_bench.metrics import metric, unavailable

SHARED = Path(os.environ.get("LORA_BENCH_SHARED") or Path(__file__).parents[3] / "shared")
TEST_SET = SHARED / "data" / "e2e" / "testset_w_refs.csv"

# Prices, thousands, brackets, quotation marks, an apostrophe, hyphens, an ampersand, one word alone; one to three references.
LINES = [
    (
        "The ferry leaves at 7.30 from the old pier.",
        ["The ferry leaves the old pier at 7.30.", "At 7.30 a ferry leaves from the old pier."],
    ),
    (
        "A room costs £45, breakfast included.",
        ["A room with breakfast costs £45.", "Rooms cost £45, breakfast included.", "You pay £45 for a room."],
    ),
    (
        "It isn't far: ten minutes on foot.",
        ["It is not far, ten minutes on foot.", "It isn't far; you walk ten minutes."],
    ),
    ('The guide says "never on Mondays".', ["According to the guide it is closed on Mondays."]),
    (
        "Well-kept gardens surround the house!",
        [
            "The house has well-kept gardens.",
            "Well-kept gardens are all around the house.",
            "Gardens, well kept, surround the house.",
        ],
    ),
    (
        "North Bridge is 1,200 m long.",
        ["The North Bridge is 1,200 metres long.", "North Bridge has a length of 1,200 m."],
    ),
    (
        "Children under 6 travel free.",
        ["Children under 6 travel free of charge.", "Under 6, children travel free."],
    ),
    (
        "The museum is near the museum.",
        ["The museum is near the harbour.", "You find the museum near the harbour, by the market."],
    ),
    ("Tea", ["They serve tea and cake.", "Tea and cake are served."]),
    (
        "A Café (SMALL) is open all year & all day.",
        ["A small café is open all year, all day.", "There is a café that is open the whole year."],
    ),
]

# The Perl puts A to Z in lower case and leaves É, Ö, Σ and their like as they are.
CAPITALS = [
    ("The CAFÉ ÉLAN serves ÖL.", ["The café élan serves öl.", "The CAFÉ ÉLAN has ÖL."]),
    ("Élan is a Café in ÅRHUS & Ærø.", ["Élan is a Café in Århus and Ærø.", "élan is a café in ÅRHUS."]),
    ("ŁÓDŹ has 1,200 Straßen – NAÏVE, isn't it?", ["Łódź has 1,200 straßen – naïve, isn't it?"]),
    ("ΣΊΣΥΦΟΣ rolls İstanbul's stone.", ["Σίσυφος rolls İstanbul's stone.", "ΣΊΣΥΦΟΣ rolls a stone."]),
]


def value(name: str, predictions: list[str], references: list[list[str]]) -> float:
    if (reason := unavailable(name)) is not None:
        pytest.skip(reason)
    return metric(name).compute(predictions=predictions, references=references)[name]


@pytest.mark.parametrize(
    ("name", "expected"), [("bleu", 0.4652), ("nist", 5.6267), ("rouge_l", 0.7076), ("cider", 3.5171)]
)
def test_ten_lines_of_ours_as_the_official_scorer_scores_them(name, expected):
    predictions, references = zip(*LINES, strict=True)
    assert value(name, list(predictions), list(references)) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("name", "expected"), [("bleu", 0.5754), ("nist", 4.5611)])
def test_capitals_outside_ascii_as_the_official_scorer_takes_them(name, expected):
    predictions, references = zip(*CAPITALS, strict=True)
    assert value(name, list(predictions), list(references)) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("name", "expected"), [("bleu", 0.7203), ("nist", 7.8212), ("rouge_l", 0.7910), ("cider", 2.3039)]
)
def test_the_ten_line_example(name, expected):
    folder = os.environ.get("LORA_BENCH_E2E_EXAMPLE")
    if not folder:
        pytest.skip("LORA_BENCH_E2E_EXAMPLE does not name the scorer's example-inputs")
    predictions = Path(folder, "baseline-output.txt").read_text(encoding="utf-8").splitlines()
    blocks = Path(folder, "devel-conc.txt").read_text(encoding="utf-8").strip().split("\n\n")
    references = [block.splitlines() for block in blocks]
    assert (len(predictions), len(references)) == (10, 10)
    assert value(name, predictions, references) == pytest.approx(expected, abs=5e-5)


@pytest.fixture(scope="module")
def several() -> list[list[str]]:
    """The human references of each of the test set's inputs that has more than one."""
    if not TEST_SET.exists():
        pytest.skip(f"E2E's test set is not at hand ({TEST_SET.name} under LORA_BENCH_SHARED)")
    references: dict[str, list[str]] = {}
    with TEST_SET.open(encoding="utf-8-sig", newline="") as lines:
        for row in csv.DictReader(lines):
            references.setdefault(row["mr"], []).append(row["ref"])
    found = [each for each in references.values() if len(each) > 1]
    assert (len(references), len(found)) == (630, 616)
    return found


@pytest.mark.parametrize(("name", "expected"), [("bleu", 0.6046), ("nist", 8.9029)])
def test_the_first_human_reference_against_the_others(name, expected, several):
    assert value(name, [each[0] for each in several], [each[1:] for each in several]) == pytest.approx(
        expected, abs=5e-5
    )


@pytest.mark.parametrize(("name", "expected"), [("bleu", 0.5759), ("nist", 8.5938)])
def test_one_human_reference_drawn_from_each_against_the_others(name, expected, several):
    draw = random.Random(0)
    drawn = [draw.randrange(len(each)) for each in several]
    predictions = [each[index] for each, index in zip(several, drawn, strict=True)]
    others = [each[:index] + each[index + 1 :] for each, index in zip(several, drawn, strict=True)]
    assert value(name, predictions, others) == pytest.approx(expected, abs=5e-5)
