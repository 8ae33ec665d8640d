"""The shipped tasks read what the hub has, in the shapes in which it has it: made rows, served by a server on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from tests.hub import add_dataset, serve

REPOSITORY = Path(__file__).parents[2]

LOAD = """\
import json, sys
from pathlib import Path
from lora_bench.tasks import load_data, load_task
found = {}
for name, changed in json.loads(sys.argv[1]).items():
    task = load_task(name)
    task = task.model_copy(update={"data": task.data.model_copy(update=changed)})
    data = load_data(task, Path(), whole_train=True)
    found[name] = {key: [split.texts, split.labels, split.subsets] for key, split in data.splits.items()}
print(json.dumps(found))
"""

TEXT = datasets.Value("string")
TEXTS = datasets.List(TEXT)

E2E = [{"meaning_representation": "name[X], food[Y]", "human_reference": text} for text in ("X has Y.", "Y at X.")]
DART = {
    "tripleset": [["X", "FOOD", "Y"], ["X", "AREA", "Z"]],
    "annotations": {"source": ["a", "b"], "text": ["one", "two"]},
}
DART_SHAPE = {"tripleset": datasets.List(TEXTS), "annotations": {"source": TEXTS, "text": TEXTS}}
WEBNLG = {
    "category": "Comet",
    "modified_triple_sets": {"mtriple_set": [["X | food | Y", "X | area | Z"]]},
    "lex": {"comment": ["good", "toFix", "good"], "text": ["one", "two", "three"]},
}
WEBNLG_SHAPE = {
    "category": TEXT,
    "modified_triple_sets": {"mtriple_set": datasets.List(TEXTS)},
    "lex": {"comment": TEXTS, "text": TEXTS},
}
WIKISQL = {"question": "How many?", "table": {"header": ["A", "B"]}, "sql": {"human_readable": "SELECT A FROM table"}}
WIKISQL_SHAPE = {"question": TEXT, "table": {"header": TEXTS}, "sql": {"human_readable": TEXT}}
SAMSUM = 'id,dialogue,summary\n1,"Ann: Hello\r\nBob: Hi",They say hello.\n2,,Nothing is said.\n'
NLI = datasets.Features(
    {
        "premise": TEXT,
        "hypothesis": TEXT,
        "label": datasets.ClassLabel(names=["entailment", "neutral", "contradiction"]),
    }
)
NLI_SPLITS = ("train", "validation_matched", "validation_mismatched")
NLI_CARD = "---\nconfigs:\n- config_name: mnli\n  data_files:\n" + "".join(
    f"  - split: {split}\n    path: mnli/{split}-*\n" for split in NLI_SPLITS
)


def parquet(folder: Path, rows: list[dict], shape: dict | None = None) -> bytes:
    path = folder / "rows.parquet"
    features = datasets.Features(shape) if shape is not None else None
    datasets.Dataset.from_list(rows, features=features).to_parquet(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, dict[str, list]]:
    """Texts, labels and subsets of every split, by task."""
    folder = tmp_path_factory.mktemp("hub")

    def converted(rows: list[dict], shape: dict | None = None) -> dict[str, bytes]:
        """As the hub's own conversion lays a data set out."""
        return {
            f"default/{split}/0000.parquet": parquet(folder, rows, shape) for split in ("train", "validation", "test")
        }

    pairs = [{"premise": f"premise {n}", "hypothesis": f"hypothesis {n}", "label": n % 3} for n in range(9)]
    glue = {f"mnli/{split}-00000-of-00001.parquet": parquet(folder, pairs, NLI) for split in NLI_SPLITS}
    repositories = {
        "e2e": ("tuetschek/e2e_nlg", converted(E2E)),
        "dart": ("Yale-LILY/dart", converted([DART], DART_SHAPE)),
        "webnlg": ("webnlg-challenge/web_nlg", converted([WEBNLG], WEBNLG_SHAPE)),
        "wikisql": ("Salesforce/wikisql", converted([WIKISQL], WIKISQL_SHAPE)),
        "samsum": ("knkarthick/samsum", {f"{split}.csv": SAMSUM for split in ("train", "validation", "test")}),
        "mnli": ("nyu-mll/glue", {**glue, "README.md": f"{NLI_CARD}---\n"}),
    }
    commits = {name: add_dataset(folder / "hub", *repository) for name, repository in repositories.items()}
    asked = {name: {"revision": commit} for name, commit in commits.items()}
    asked["webnlg"]["name"] = None  # here it is the only configuration
    with serve(folder / "hub") as hub:
        done = subprocess.run(
            [sys.executable, "-c", LOAD, json.dumps(asked)],
            env={
                **os.environ,
                "HF_ENDPOINT": hub.endpoint,
                "HF_HUB_OFFLINE": "0",
                "HF_HOME": str(folder / "cache"),
                "PYTHONPATH": str(REPOSITORY),
            },
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_e2e(found):
    assert found["e2e"]["train"][:2] == [[["name : X | food : Y"]] * 2, [["X has Y."], ["Y at X."]]]
    assert found["e2e"]["test"][:2] == [[["name : X | food : Y"]], [["X has Y.", "Y at X."]]]


def test_dart(found):
    assert found["dart"]["train"][:2] == [[["X : food : Y | X : area : Z"]] * 2, [["one"], ["two"]]]
    assert found["dart"]["test"][:2] == [[["X : food : Y | X : area : Z"]], [["one", "two"]]]


def test_webnlg_takes_good_texts_only_and_knows_what_is_unseen(found):
    assert found["webnlg"]["train"][:2] == [[["X : food : Y | X : area : Z"]] * 2, [["one"], ["three"]]]
    assert found["webnlg"]["test"][1:] == [[["one", "three"]], {"unseen": [0]}]


def test_wikisql_scores_the_dev_split(found):
    assert [*found["wikisql"]] == ["train", "test"]
    assert found["wikisql"]["test"][:2] == [[["A | B\nHow many?"]], [["SELECT A FROM table"]]]


def test_samsum_keeps_its_empty_dialogue(found):
    assert found["samsum"]["train"][0] == [["Ann: Hello\nBob: Hi\n\n"], ["\n\n"]]
    assert found["samsum"]["test"][1] == [["They say hello."], ["Nothing is said."]]


def test_mnli_scores_other_genres(found):
    assert [*found["mnli"]] == ["train", "test", "mismatched"]
    assert found["mnli"]["mismatched"][0][1] == ["premise 1", "hypothesis 1"]
    assert found["mnli"]["mismatched"][1] == [0, 1, 2] * 3
