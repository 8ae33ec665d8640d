"""The papers' spelling of E2E: its rules, and every text of their files."""

import csv
import gzip

import pytest

from lora_bench.kinds.support.linearise import as_tokens
from lora_bench.tasks import load_data, load_task
from lora_bench.tasks.folders import find_folder, in_folder
from tests.shared import shared


@pytest.mark.parametrize(
    ("raw", "spelt"),
    [
        ("It's a kid-friendly pub.", "It 's a kid - friendly pub ."),
        ("The pub isn't cheap, you'll see; don't go!", "The pub is n't cheap , you 'll see ; do n't go !"),
        ("Prices of £20-25, 5 out of 5.  Café.", "Prices of £ 20 - 25 , 5 out of 5 . Café ."),
        ("Known as 'average' and “cheap”.", "Known as ' average ' and “ cheap ” ."),
        ("a 3-star pub at £20-£25", "a 3-star pub at £ 20-£25"),
        ("J. R. rated it...but left", "J. R. rated it ... but left"),
        ("", ""),
    ],
)
def test_signs_and_contractions_stand_alone(raw, spelt):
    assert as_tokens(raw) == spelt


@pytest.mark.parametrize(
    ("raw", "papers", "count", "other"),
    [("testset_w_refs.csv", "lora_repo_test.txt.gz", 4693, 0), ("devset.csv", "lora_repo_valid.txt.gz", 4672, 70)],
)
def test_the_papers_files_are_met(raw, papers, count, other):
    folder = shared("data", "e2e")
    with (folder / raw).open(encoding="utf-8-sig", newline="") as file:
        ours = [as_tokens(row["ref"]) for row in csv.DictReader(file)]
    lines = gzip.decompress((folder / papers).read_bytes()).decode("utf-8").splitlines()
    theirs = [line.split("||")[1].strip() for line in lines]
    assert len(ours) == len(theirs) == count
    assert sum(mine != their for mine, their in zip(ours, theirs, strict=True)) == other


@pytest.mark.slow
def test_the_task_of_the_papers_differs_from_e2e_in_its_texts_alone():
    raw, papers = load_task("e2e"), load_task("e2e_tokens")
    folder = find_folder(papers, shared("data"))
    data = load_data(in_folder(papers, folder), folder)
    plain = load_data(in_folder(raw, folder), folder)
    assert data.splits["test"].texts == plain.splits["test"].texts
    assert data.splits["test"].labels[0][0] == "A coffee shop in the city centre area called Blue Spice ."
    for split, examples in data.splits.items():
        assert examples.labels == [tuple(map(as_tokens, texts)) for texts in plain.splits[split].labels]
