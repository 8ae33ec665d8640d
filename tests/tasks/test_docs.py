"""The page of tasks and metrics says what is there, its counts are those of the files, and its examples work."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import datasets
import pytest

from lora_bench.documents import read_yaml
from lora_bench.metrics import known_metrics
from lora_bench.tasks import Task, load_data, load_task, split_scores, task_from_document
from lora_bench.util.paths import task_files
from tests.shared import shared
from tests.tasks.test_generation import local_data
from tests.tasks.test_glue import LABELLED

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)


def counts() -> dict[str, dict[str, str]]:
    """The counts that the page is made with."""
    spec = importlib.util.spec_from_file_location("task_counts", ROOT / "docs" / "task_counts.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, dict[str, str]] = module.COUNTS
    return found


def test_the_page_is_what_the_tasks_and_the_metrics_say():
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate_tasks.py"), "--check"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_task_and_metric_has_a_card():
    cards = re.findall(r"^### (\w+)$", PAGE, flags=re.MULTILINE)
    assert sorted(cards) == sorted([*task_files(), *known_metrics()])


def test_the_counts_of_glue_are_the_official_ones():
    """Which the real files are held to in test_tasks_glue."""
    for name, (train, dev) in LABELLED.items():
        assert counts()[name] == {"train": f"{train:,}", "test": f"{dev:,}"}


def test_the_release_of_a_task_has_the_counts_of_the_page():
    released = {name: task.release for name in task_files() if (task := load_task(name)).release is not None}
    assert len(released) == 16
    for name, release in released.items():
        # "4,693 (630)" is 4,693 texts for 630 inputs; a record counts the inputs.
        page = {split: re.findall(r"[\d,]+", count)[-1].replace(",", "") for split, count in counts()[name].items()}
        assert {split: str(count) for split, count in release.examples.items()}.items() <= page.items()


@pytest.mark.parametrize(("name", "folder"), [("e2e", "e2e"), ("webnlg", "webnlg2017")])
def test_the_counts_of_generation_are_those_of_the_real_files(name, folder, tmp_path):
    source = shared("data", folder)
    if name == "webnlg":
        with tarfile.open(source / "webnlg_challenge_2017.tar.gz") as archive:
            archive.extractall(tmp_path, filter="data")
        source = tmp_path
    data = local_data(name, source)
    found = {
        split: f"{sum(map(len, examples.labels)):,}" + ("" if split == "train" else f" ({len(examples.ids):,})")
        for split, examples in data.splits.items()
    }
    test = data.splits["test"]
    for subset, places in test.subsets.items():
        found[subset] = f"{sum(len(test.labels[place]) for place in places):,} ({len(places):,})"
    assert counts()[name] == found
    assert data.sha256 in load_task(name).release.sha256


@pytest.fixture
def tasks(tmp_path) -> dict[str, Task]:
    """The tasks of the page's examples, by name."""
    found = {}
    for text in EXAMPLES:
        file = tmp_path / "task.yaml"
        file.write_text(text, encoding="utf-8")
        (tmp_path / "chat.jinja").write_text("{{ messages }}", encoding="utf-8")
        task = task_from_document(read_yaml(file), base=tmp_path)
        found[task.task] = task
    return found


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_the_examples_are_of_each_kind_and_each_source(tasks):
    assert {name: task.kind for name, task in tasks.items()} == {
        "tickets": "classification",
        "duplicates": "classification",
        "stars": "regression",
        "topics": "multilabel",
        "facts": "generation",
        "entities": "tokens",
        "helpdesk": "chat",
        "questions": "spans",
        "stories": "multiple_choice",
        "helpful": "preference",
        "emotion": "classification",
    }
    assert tasks["emotion"].data.hub == "dair-ai/emotion"
    assert tasks["facts"].all_metrics == ("bleu", "chrf", "hub:./coverage")


def test_one_csv_file_is_dealt_out(tasks, tmp_path):
    rows = [f"subject {number},{'praise' if number % 2 else 'complaint'}" for number in range(200)]
    (tmp_path / "tickets.csv").write_text("\n".join(["subject,queue", *rows]), encoding="utf-8")
    data = load_data(tasks["tickets"], tmp_path)
    assert data.labels == ("complaint", "praise")
    assert sum(len(split.ids) for split in data.splits.values()) == 200


def test_pairs_in_json_lines_have_the_f1_of_the_second_class(tasks, tmp_path):
    rows = [{"question": "one", "other_question": str(n), "same": "same" if n else "different"} for n in range(3)]
    for name in ("train", "dev", "test"):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    test = load_data(tasks["duplicates"], tmp_path).splits["test"]
    assert test.texts[2] == ("one", "2")
    # of two that are the same one is found, and nothing else: precision 1, recall 1/2
    assert split_scores(tasks["duplicates"], test, [0, 1, 0])["f1"] == pytest.approx(2 / 3)


def test_rows_of_a_parquet_file_stay_together_by_author(tasks, tmp_path):
    rows = [{"review": f"review {n}", "stars": n % 5 / 2, "author": f"author {n % 50}"} for n in range(500)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "stars.parquet")
    splits = load_data(tasks["stars"], tmp_path).splits
    authors = {name: {int(text.split()[1]) % 50 for (text,) in split.texts} for name, split in splits.items()}
    assert sum(map(len, authors.values())) == len(set.union(*authors.values())) == 50


def test_a_row_has_several_labels_or_none(tasks, tmp_path):
    rows = [{"title": "one", "topics": ["sport", "science"]}, {"title": "two", "topics": []}]
    for name in ("train", "dev", "test"):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    assert load_data(tasks["topics"], tmp_path).splits["test"].labels == [(0, 2), ()]


def test_an_input_may_have_one_text_or_several(tasks, tmp_path):
    rows = [{"facts": f"fact {n}", "sentences": ["one", "two"] if n % 2 else "three"} for n in range(60)]
    for name in ("train", "test"):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    splits = load_data(tasks["facts"], tmp_path).splits
    assert splits["test"].labels[:2] == [("three",), ("one", "two")]
    assert {len(texts) for texts in splits["train"].labels} == {1}
