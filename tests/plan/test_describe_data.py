"""What a plan says of the data, on files whose counts a reader can check."""

import csv

import pytest

from lora_bench.cli import main
from lora_bench.execute.run_suite import run_suite
from lora_bench.plan import describe_data
from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.load_suite import load_suite
from tests.project import SUITE, write_model, write_project

TASK = """\
  - task: tickets
    data: {train: train.csv, validation: validation.csv, test: test.csv}
    text: subject
    label: queue
"""
ROWS = {
    # "A  Film" is "a film" to a reader.
    "train": [("a film", "praise"), ("A  Film", "complaint"), ("the story was fine", "praise"), ("the end", "praise")],
    "validation": [("a film", "praise"), ("music", "complaint")],
    "test": [("the end", "complaint"), ("music", "complaint"), ("music", "complaint"), ("a plot", "praise")],
}


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch, shared_cache):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(shared_cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


def project(folder, rows=ROWS, further="", family="roberta"):
    task = SUITE[SUITE.index("  - task") : SUITE.index("models")]
    suite = SUITE.replace(task, TASK).replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[full, lora]")
    file = write_project(folder, suite + further, family)
    for name, of_split in rows.items():
        with (folder / f"{name}.csv").open("w", newline="") as opened:
            csv.writer(opened).writerows([("subject", "queue"), *of_split])
    return file


def facts_of(file, folder):
    (facts,) = make_plan(load_suite(file), folder / "runs", with_data=True).data
    return facts


def test_classes_repeats_and_shared_texts_of_each_split(tmp_path):
    splits = facts_of(project(tmp_path), tmp_path).splits
    train, selection, test = (splits[name] for name in ("train", "selection", "test"))
    assert (train.examples, train.classes, train.majority_share) == (4, {"complaint": 1, "praise": 3}, 0.75)
    assert (train.repeated, train.contradicting, train.shared) == (1, 1, {})
    assert (selection.repeated, selection.shared) == (0, {"train": 1})
    assert (test.repeated, test.contradicting, test.shared) == (1, 0, {"train": 1, "selection": 2})


def test_lengths_are_those_that_a_run_counts(tmp_path):
    file = project(tmp_path, further="training: {max_length: 5}\n")
    (lengths,) = facts_of(file, tmp_path).lengths
    # A token a word and two around the text: 4, 4, 6, 4.
    train = lengths.splits["train"]
    assert (lengths.models, lengths.max_length) == (("base",), 5)
    assert (train.encoded, train.median, train.longest, train.cut_share) == (4, 4, 6, 0.25)
    record = run_suite(file, workers=0).records[0]
    cut = {name: split.cut_share for name, split in lengths.splits.items() if name in record.data.truncated_share}
    assert record.data.truncated_share == cut and cut["train"] == 0.25


def test_base_models_that_agree_on_lengths_share_them(tmp_path):
    file = project(tmp_path)
    file.write_text(file.read_text().replace("[base]", "[base, other]"))
    write_model(tmp_path / "other", "gpt2")
    assert [one.models for one in facts_of(file, tmp_path).lengths] == [("base", "other")]


def test_of_a_large_split_a_sample_is_encoded_and_the_longest_text_is_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(describe_data, "SAMPLE", 10)
    rows = [("the film was fine", "praise"), ("the film was poor", "complaint")] * 100
    file = project(tmp_path, {**ROWS, "train": [*rows, (" ".join(["music"] * 40), "praise")]})
    facts = facts_of(file, tmp_path)
    train = facts.lengths[0].splits["train"]
    assert facts.splits["train"].examples == 201
    assert (train.encoded, train.median, train.longest) == (10, 6, 42)
    assert facts_of(file, tmp_path) == facts  # the sample is the same every time
    assert main(["plan", "tickets.yaml"]) == 0
    assert "examples drawn from train" in capsys.readouterr().out


def test_a_plan_that_trains_describes_nothing(tmp_path):
    assert make_plan(load_suite(project(tmp_path)), tmp_path / "runs").data == ()


def test_the_terminal_shows_it(tmp_path, capsys):
    project(tmp_path)
    assert main(["plan", "tickets.yaml"]) == 0
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "train 4 2 classes, 75% praise 1 –" in said
    assert "test 4 2 classes, 75% complaint 1 1" in said
    assert "base train 4 6 none at 128" in said
    assert "classes of train: praise 3, complaint 1" in said
    assert "texts that have several labels, which no model can tell apart: 1 of train" in said


def test_numbers_and_texts_to_write_are_described_too(tmp_path):
    numbers = {name: [(text, str(place / 2)) for place, (text, _) in enumerate(rows)] for name, rows in ROWS.items()}
    file = project(tmp_path, numbers)
    file.write_text(file.read_text().replace("    label: queue\n", "    label: queue\n    kind: regression\n"))
    facts = facts_of(file, tmp_path)
    assert facts.splits["train"].values == (0.0, 0.75, 1.5) and facts.splits["train"].classes == {}
    assert facts.smallest_difference is None

    texts = {name: [(text, "fine") for text, _ in rows] for name, rows in ROWS.items()}
    kind = "    kind: generation\n    metric: exact_match\n"
    further = "training: {max_length: 20}\ndecoding: {max_new_tokens: 17}\n"
    file = project(tmp_path / "written", texts, further, "gpt2")
    file.write_text(file.read_text().replace("    label: queue\n", f"    label: queue\n{kind}"))
    (lengths,) = facts_of(file, tmp_path / "written").lengths
    # Input, end of text, what is written, end of text; a prompt of the test split leaves 17 of 20 tokens to its answer.
    assert (lengths.splits["train"].longest, lengths.splits["train"].cut_share) == (4 + 1 + 1 + 1, 0.0)
    assert (lengths.splits["test"].longest, lengths.splits["test"].cut_share) == (2 + 1, 0.0)
    assert main(["plan", str(file)]) == 0
