"""CONTRIBUTING says how to add things: on a copy of the package, these steps change no other file, and what they add works."""

import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lora_bench.records.store import read_records
from tests.project import WORDS, write_data, write_model, write_tokenizer

ROOT = Path(__file__).parents[1]
COPIED = ("docs", "lora_bench", "tasks", "tests")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "golden", "*.pyc")


@pytest.fixture
def copy_of_package(tmp_path: Path) -> Path:
    """A copy of the package with its tasks, tests and pages."""
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / "copy" / name, ignore=LEFT_OUT)
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "copy")
    return tmp_path / "copy"


def steps(what: str, name: str = "") -> set[str]:
    """The files that CONTRIBUTING says to touch to add something of a name: the first that each numbered step names."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = page.split(f"## Add {what}\n")[1].split("\n## ")[0]
    numbered = re.findall(r"^\d+\. (.*?)(?=^\d+\. |\n\n|\Z)", section, re.MULTILINE | re.DOTALL)
    return {re.search(r"`(\w+/\S+\.\w+)`", step)[1].replace("NAME", name) for step in numbered}


def python(copy: Path, *arguments: str) -> str:
    """What Python prints that finds the copy in place of the package."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def put(copy: Path, file: str, text: str) -> None:
    """Write one file of an addition, which must be new."""
    assert not (copy / file).exists()
    (copy / file).write_text(text, encoding="utf-8")


def edit(copy: Path, file: str, before: str, after: str) -> None:
    """Change the one place of a file that reads *before*."""
    text = (copy / file).read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{file} has {before!r} {text.count(before)} times"
    (copy / file).write_text(text.replace(before, after), encoding="utf-8")


def changed(copy: Path) -> set[str]:
    """The files of the copy that are not as they are in the package."""
    files = {path.relative_to(copy) for name in COPIED for path in (copy / name).rglob("*") if path.is_file()}
    return {
        str(file)
        for file in files
        if file.suffix != ".pyc"
        and not ((ROOT / file).is_file() and filecmp.cmp(ROOT / file, copy / file, shallow=False))
    }


def run(copy: Path, folder: Path, suite: str, *options: str) -> Path:
    """Run a suite with the copy, on a tiny RoBERTa where the folder has no base; the folder of its records and report."""
    if not (folder / "base").exists():
        write_model(folder / "base")
    (folder / "suite.yaml").write_text(suite, encoding="utf-8")
    options = ("--runs", str(folder / "runs"), "--workers", "0", *options)
    python(copy, "-m", "lora_bench.cli", "run", str(folder / "suite.yaml"), *options)
    (runs,) = (path for path in (folder / "runs").iterdir() if path.is_dir())
    return runs


METHOD = '''\
"""LayerNorm tuning: only the gains and offsets of LayerNorms are trained.

    y = g * (x - mean) / deviation + o

with g and o free, in every layer. It has no size.

Qi et al. 2022, https://arxiv.org/abs/2211.04345
"""

from typing import ClassVar

from lora_bench.documents import Strict
from lora_bench.methods.contract import register


@register
class LayerNormTuning(Strict):
    """The LayerNorms of the base model are trained."""

    name: ClassVar[str] = "layer_norm_tuning"
    size: ClassVar[str | None] = None
    learning_rate: ClassVar[float] = 1e-3

    def apply(self, model, *, head):
        """Return *model* with only its LayerNorms and the head trainable."""
        from peft import get_peft_model

        from lora_bench.tuners import SelectedConfig

        norms = SelectedConfig(weights=r".*\\b(LayerNorm|ln_\\w+)\\.(weight|bias)", modules_to_save=head)
        return get_peft_model(model, norms)
'''

METHOD_TEST = '''\
"""LayerNorm tuning trains a gain and an offset for each LayerNorm."""

from lora_bench.methods import known_methods
from lora_bench.testing import check_method, tiny_model

LayerNormTuning = known_methods()["layer_norm_tuning"]


def test_contract():
    check_method(LayerNormTuning(), families=["roberta", "deberta-v2", "gpt2"])


def test_roberta_has_a_layer_norm_after_its_embeddings_and_two_in_each_layer():
    model = LayerNormTuning().apply(tiny_model("roberta")[0], head=["classifier"])
    freed = [weight for name, weight in model.named_parameters() if weight.requires_grad and "classifier" not in name]
    assert sum(weight.numel() for weight in freed) == (1 + 2 * 2) * 2 * 32
'''

METHOD_SUITE = """\
suite: tickets
tasks: [{task: tickets, data: tickets.csv, text: subject, label: queue}]
models: [base]
methods: [layer_norm_tuning]
seeds: [0]
budget: {train_examples: 48}
"""


def test_a_method(copy_of_package, tmp_path):
    put(copy_of_package, "lora_bench/methods/layer_norm_tuning.py", METHOD)
    put(copy_of_package, "tests/methods/test_layer_norm_tuning.py", METHOD_TEST)
    added = steps("a method", "layer_norm_tuning")
    assert changed(copy_of_package) == added and len(added) == 2

    python(copy_of_package, "docs/generate.py", "methods")
    assert changed(copy_of_package) == {*added, "docs/methods.md"}
    assert "## layer_norm_tuning\n" in (copy_of_package / "docs" / "methods.md").read_text(encoding="utf-8")
    checks = ("tests/methods/test_layer_norm_tuning.py", "tests/methods/test_contract.py")
    python(copy_of_package, "-m", "pytest", "-q", "-k", "layer_norm_tuning", *checks)

    write_data(tmp_path / "tickets.csv", rows=120)
    (record,) = read_records(run(copy_of_package, tmp_path, METHOD_SUITE))
    assert (record.status, record.spec.method.name) == ("ok", "layer_norm_tuning"), record.reason
    assert record.parameters.adapter == (1 + 2 * 2) * 2 * 32


FAMILY = """\
ERNIE = Family(
    name="ernie",
    model_types=("ernie",),
    layer=_ENCODER_LAYER,
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    feed_forward_in="intermediate.dense",
    feed_forward_out="output.dense",
    self_attention="attention.self",
    bottleneck_sites={
        "houlsby": Site(modules=("attention.output.dropout", "output.dropout"), placement="after"),
        "pfeiffer": Site(modules=("output",), placement="between_norms"),
        "lin": Site(modules=("output",), placement="after"),
    },
    heads=("classifier", "qa_outputs"),
    shown="ERNIE",
    classes="Ernie",
    tiny=TINY_ENCODER,
)

ENCODERS: tuple[Family, ...] = (ERNIE, """

FAMILY_ROW = """\
    "ernie": {**NO_CACHE, "parallel": "ernie has no parallel adapter"},
    "t5":"""

FAMILY_SUITE = METHOD_SUITE.replace("[layer_norm_tuning]", "[full, lora, bottleneck_adapter, bitfit]")


@pytest.mark.slow
def test_a_family(copy_of_package, tmp_path):
    literal, row = "lora_bench/families/encoders.py", "tests/methods/test_other_families.py"
    edit(copy_of_package, literal, "ENCODERS: tuple[Family, ...] = (", FAMILY)
    edit(copy_of_package, row, '    "t5":', FAMILY_ROW)
    assert changed(copy_of_package) == steps("a model family") == {literal, row}
    checks = (row, "tests/test_families.py", "tests/tuners/test_trial.py")
    python(copy_of_package, "-m", "pytest", "-q", "-k", "ernie or every_family", *checks)

    base = tmp_path / "base"
    save = f"tiny_model('ernie')[0].base_model.save_pretrained({str(base)!r})"
    python(copy_of_package, "-c", f"from lora_bench.testing import tiny_model; {save}")
    write_tokenizer(base)
    write_data(tmp_path / "tickets.csv", rows=120)
    runs = run(copy_of_package, tmp_path, FAMILY_SUITE)
    records = {record.spec.method.name: record for record in read_records(runs)}
    assert {record.status for record in records.values()} == {"ok"}
    assert {record.spec.model.model_type for record in records.values()} == {"ernie"}
    # Two matrices of rank 8 for query and value in each of two layers of width 32.
    assert records["lora"].parameters.adapter == 2 * 2 * 2 * 8 * 32


SETTING_SUITE = METHOD_SUITE.replace("layer_norm_tuning", "lora") + "training: {masks: keyed}\n"

PLANNED = """
import sys
from pathlib import Path
from lora_bench.pack.group_runs import company_of
from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.load_suite import load_suite
from lora_bench.util.hashing import content_hash

for suite in sys.argv[1:]:
    (cell,) = make_plan(load_suite(suite), Path(suite).parent / "runs").cells
    print(cell.job.run_id, content_hash(company_of(cell.job)), getattr(cell.job.spec.training, "curriculum", None))
"""


@pytest.mark.slow
def test_a_setting_of_the_recipe(copy_of_package, tmp_path):
    """It is a key of a suite and of its recipes, and a part of the spec; at its default no id changes."""
    spec = "lora_bench/records/spec.py"
    edit(
        copy_of_package,
        spec,
        "    masks: Masks =",
        "    curriculum: Literal['none', 'short'] = 'none'\n    masks: Masks =",
    )
    suites = {
        "default": SETTING_SUITE,
        "all": SETTING_SUITE.replace("keyed}", "keyed, curriculum: short}"),
        "some": SETTING_SUITE + "recipes: [{methods: lora, curriculum: short}]\n",
    }
    write_model(tmp_path / "base")
    write_data(tmp_path / "tickets.csv", rows=120)
    for name, suite in suites.items():
        (tmp_path / f"{name}.yaml").write_text(suite, encoding="utf-8")
    paths = [str(tmp_path / f"{name}.yaml") for name in suites]

    before = python(ROOT, "-c", PLANNED, paths[0]).split()
    default, of_all, of_some = (line.split() for line in python(copy_of_package, "-c", PLANNED, *paths).splitlines())
    assert [before[0], "none"] == [default[0], default[2]]
    assert of_all == of_some and of_all[2] == "short"
    assert of_all[0] != default[0] and of_all[1] != default[1]
    assert changed(copy_of_package) == {spec}


JUDGED = """
import sys
from lora_bench.report.model.comparison import compare
from lora_bench.report.model.judged import judge_comparison
from lora_bench.suite.load_suite import load_suite
from tests.sample_records import record

for suite in sys.argv[1:]:
    declared = load_suite(suite).analysis
    records = [
        record(method, task=task, seed=seed, score=0.8 + by * (1 + seed / 10), changes={"analysis": declared})
        for task in ("vader_film", "other")
        for method, by in (("full", 0.0), ("lora", 0.01))
        for seed in range(5)
    ]
    judged = judge_comparison(compare(records), records)
    (held, _), (over_tasks,) = judged.held, judged.over_tasks
    verdict = over_tasks.methods[1].verdict
    print(declared.sha256, judged.declared, held.verdict.margin, verdict.margin, verdict.unless_collapse)
"""

ANALYSIS_SUITE = METHOD_SUITE.replace("[layer_norm_tuning]", "[full, lora]").replace("[0]", "[0, 1, 2, 3, 4]")


def test_a_setting_of_the_analysis(copy_of_package, tmp_path):
    """It is a key of a suite, and records carry it to the judge; at its default no declaration changes."""
    settings, judge = "lora_bench/records/analysis.py", "lora_bench/report/model/over_tasks.py"
    field = "    alpha: float = Field(default=0.05, gt=0, lt=0.5)\n"
    edit(copy_of_package, settings, field, f"{field}    macro_margin: Margin = 0.005\n")
    before = "analysis.margin if isinstance(analysis.margin, float) else HALF_A_POINT"
    edit(copy_of_package, judge, before, "analysis.macro_margin")
    assert changed(copy_of_package) == steps("a setting of the analysis", "over_tasks") == {settings, judge}

    write_model(tmp_path / "base")
    write_data(tmp_path / "tickets.csv", rows=120)
    suites = {"default": "", "given": "analysis: {reference: full, macro_margin: 0.1}\n"}
    for name, declared in suites.items():
        (tmp_path / f"{name}.yaml").write_text(ANALYSIS_SUITE + declared, encoding="utf-8")
    paths = [str(tmp_path / f"{name}.yaml") for name in suites]

    (before,) = python(ROOT, "-c", JUDGED, paths[0]).splitlines()
    default, given = python(copy_of_package, "-c", JUDGED, *paths).splitlines()
    assert default == before and before.split()[1:] == ["before", "0.005", "0.005", "None"]
    # A gain of 1 to 1.4 points matters by default, and is well within 10 points.
    assert given.split()[1:] == ["before", "0.005", "0.1", "equivalent"]
    assert given.split()[0] != default.split()[0]


TASK = """\
task: moods
about: Is a ticket praise or a complaint?
kind: classification
data:
  hub: somebody/moods
  revision: 0123456789abcdef0123456789abcdef01234567
  splits: {train: train, test: test}
local: {folders: [moods], train: train.csv, test: test.csv}
text: subject
label: queue
labels: [complaint, praise]
metric: accuracy
metrics: [f1]
licence: CC0
citation: Made for a test.
"""

TASK_SUITE = """\
suite: moods
tasks: [moods]
models: [base]
methods: [lora]
seeds: [0]
budget: {train_examples: 48}
"""


@pytest.mark.slow
def test_a_task(copy_of_package, tmp_path):
    put(copy_of_package, "tasks/moods.yaml", TASK)
    assert changed(copy_of_package) == steps("a task", "moods") == {"tasks/moods.yaml"}

    python(copy_of_package, "docs/generate_tasks.py")
    assert changed(copy_of_package) == {"tasks/moods.yaml", "docs/tasks.md"}
    checks = ("tests/tasks/test_declaration.py", "tests/tasks/test_tasks.py", "tests/tasks/test_glue.py")
    python(copy_of_package, "-m", "pytest", "-q", "-k", "moods or ships_names", *checks)

    (tmp_path / "data" / "moods").mkdir(parents=True)
    for split in ("train", "test"):
        write_data(tmp_path / "data" / "moods" / f"{split}.csv", rows=60)
    (record,) = read_records(run(copy_of_package, tmp_path, TASK_SUITE, "--data-dir", str(tmp_path / "data")))
    assert record.status == "ok", record.reason
    assert set(record.scores) == {"accuracy", "f1"} and record.spec.task.name == "moods"


METRIC = '''\
"""Balanced accuracy: the share of right predictions, each class counting alike."""

from __future__ import annotations

from collections.abc import Sequence

from lora_bench.metrics.support.metric_facts import HALF_A_POINT, Metric


def balanced_accuracy(predictions: Sequence[int], references: Sequence[int]) -> float:
    """The mean over classes of the share of right predictions, in [0, 1]."""
    from sklearn.metrics import balanced_accuracy_score

    return float(balanced_accuracy_score(references, predictions))


METRIC = Metric(balanced_accuracy, kind="classification", margin=HALF_A_POINT)
'''

METRIC_TEST = '''\
"""Balanced accuracy counts each class alike."""

from lora_bench.metrics import metric


def test_each_class_counts_alike():
    # class 0: 3 of 3 right, class 1: 0 of 1
    found = metric("balanced_accuracy").compute(references=[0, 0, 0, 1], predictions=[0, 0, 0, 0])
    assert found == {"balanced_accuracy": 1 / 2}
'''

METRIC_SUITE = """\
suite: tickets
tasks:
  - {task: tickets, data: tickets.csv, text: subject, label: queue, metric: balanced_accuracy}
models: [base]
methods: [full, lora]
seeds: [0]
budget: {train_examples: 48}
"""


@pytest.mark.slow
def test_a_metric(copy_of_package, tmp_path):
    put(copy_of_package, "lora_bench/metrics/balanced_accuracy.py", METRIC)
    put(copy_of_package, "tests/metrics/test_balanced_accuracy.py", METRIC_TEST)
    added = steps("a metric", "balanced_accuracy")
    assert changed(copy_of_package) == added and len(added) == 2

    python(copy_of_package, "docs/generate_tasks.py")
    assert changed(copy_of_package) == {*added, "docs/tasks.md"}
    python(copy_of_package, "-m", "pytest", "-q", "tests/metrics/test_balanced_accuracy.py")

    write_data(tmp_path / "tickets.csv", rows=120)
    runs = run(copy_of_package, tmp_path, METRIC_SUITE)
    records = read_records(runs)
    assert [record.status for record in records] == ["ok", "ok"]
    assert all(set(record.scores) == {"balanced_accuracy"} for record in records)
    assert r"balanced\_accuracy, mean ± SD" in (runs / "report.md").read_text(encoding="utf-8")


KIND_SUITE = """\
suite: stories
tasks:
  - {task: stories, kind: multiple_choice, data: stories.jsonl, text: [start, first, second], label: right}
models: [base]
methods: [full, lora]
seeds: [0]
budget: {train_examples: 48}
"""

KINDS = "from lora_bench.kinds import known_kinds; print(*known_kinds())"


@pytest.mark.slow
def test_a_kind_of_task(copy_of_package, tmp_path):
    """Without its files no other module knows multiple choice, and with them it is learned."""
    files = {file.replace("EXERCISE", "choosing") for file in steps("a kind of task", "multiple_choice")}
    assert len(files) == 3
    for file in files:
        (copy_of_package / file).unlink()
    modules = [*(copy_of_package / "lora_bench").rglob("*.py")]
    assert [path for path in modules if re.search(r"(?i)multiple.?choice", path.read_text(encoding="utf-8"))] == []
    assert "multiple_choice" not in python(copy_of_package, "-c", KINDS).split()

    for file in files:
        put(copy_of_package, file, (ROOT / file).read_text(encoding="utf-8"))
    assert changed(copy_of_package) == set()
    assert "multiple_choice" in python(copy_of_package, "-c", KINDS).split()
    python(copy_of_package, "-m", "pytest", "-q", "-k", "endings or batch", "tests/kinds/test_multiple_choice.py")

    rows = [{"start": "the film was", "first": "great", "second": "poor", "right": place % 2} for place in range(120)]
    rows = [{**row, "first": row["second"], "second": row["first"]} if row["right"] else row for row in rows]
    rows = [
        {**row, "start": f"{row['start']} {WORDS[place % 15]} {WORDS[place // 15]}"} for place, row in enumerate(rows)
    ]
    (tmp_path / "stories.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    records = read_records(run(copy_of_package, tmp_path, KIND_SUITE))
    assert [record.status for record in records] == ["ok", "ok"], [record.reason for record in records]
    assert {record.spec.task.labels for record in records} == {("0", "1")}


AXIS = """\
    "train_steps": WorkAxis(
        said="{:,.0f} steps",
        column="optimiser steps",
        wanted="optimiser steps of every run",
        used="train_steps",
        of_batch=lambda batch, flops: 1,
        of_example=lambda example: 1.0,
        whole=True,
    ),
}
AXES:"""

AXIS_SUITE = METRIC_SUITE.replace("balanced_accuracy", "accuracy").replace("train_examples: 48", "train_steps: 2")


@pytest.mark.slow
def test_a_budget_axis(copy_of_package, tmp_path):
    budget, spec, page = "lora_bench/records/budget.py", "lora_bench/records/spec.py", "docs/budgets.md"
    edit(copy_of_package, budget, '"train_seconds"]', '"train_seconds", "train_steps"]')
    edit(copy_of_package, budget, "}\nAXES:", AXIS)
    field = "    train_seconds: float | None = Field(default=None, gt=0)\n"
    edit(copy_of_package, budget, field, f"{field}    train_steps: int | None = Field(default=None, gt=0)\n")
    field = "    train_seconds: float | None = None\n"
    edit(copy_of_package, spec, field, f"{field}    train_steps: int | None = None\n")
    edit(copy_of_package, page, "train_flops, train_seconds", "train_flops, train_seconds, `train_steps`")
    assert changed(copy_of_package) == steps("a budget axis") == {budget, spec, page}
    python(copy_of_package, "-m", "pytest", "-q", "tests/records/test_budget.py")

    write_data(tmp_path / "tickets.csv", rows=120)
    runs = run(copy_of_package, tmp_path, AXIS_SUITE)
    records = [json.loads(file.read_text(encoding="utf-8")) for file in runs.glob("*/record.json")]
    assert [(record["status"], record["speed"]["train_steps"]) for record in records] == [("ok", 2), ("ok", 2)]
    assert "optimiser steps of every run" in (runs / "report.md").read_text(encoding="utf-8")
