"""A published table from download to verdict, through a server that speaks the hub's protocol, with stand-in weights."""

import io
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lora_bench.cli import main
from lora_bench.cli.parser import build_parser
from lora_bench.errors import LoraBenchError
from lora_bench.published.reproduce import reproduction, table_suite, verdicts
from lora_bench.records.kept_adapter import find_adapter
from lora_bench.records.spec import Start
from lora_bench.records.store import read_records
from lora_bench.suite.load_suite import check_pickles
from lora_bench.tasks import definition, hub_sha256
from tests.hub import add_dataset, add_model, serve
from tests.project import BAD, GOOD, WORDS, write_model

ROOT = Path(__file__).parents[2]
ROBERTA = "FacebookAI/roberta-base"
GLUE_COMMIT = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
LABELS = {
    "mnli": ["entailment", "neutral", "contradiction"],
    "mrpc": ["not_equivalent", "equivalent"],
    "rte": ["entailment", "not_entailment"],
}
TEXTS = {
    "mnli": ("premise", "hypothesis"),
    "mrpc": ("sentence1", "sentence2"),
    "rte": ("sentence1", "sentence2"),
}


def test_a_base_model_is_taken_at_the_revision_that_is_asked_for():
    pinned, other = "82d8d18a7b88346261ba15d8b1044900a452cf90", "1" * 40
    (own,) = reproduction("adalora-table1").models
    assert own.revision == pinned  # the main branch has its weights in a pickle alone
    made = reproduction("adalora-table1", tasks=("rte",), revision=other)
    assert [entry.revision for entry in made.models] == [other]
    assert made.command == ("reproduce", "adalora-table1", "--revision", other, "--tasks", "rte")
    with pytest.raises(LoraBenchError, match=r"--revision is of one base model.*name one with --model"):
        reproduction("lora-table2", revision=other)
    asked = ["reproduce", "lora-table2", "--model", "org/own", "--revision", other, "--allow-pickle", "org/own"]
    arguments = build_parser().parse_args(asked)
    made = reproduction("lora-table2", model=arguments.model, revision=arguments.revision)
    assert [(entry.model, entry.revision) for entry in made.models] == [("org/own", other)]
    assert check_pickles(arguments.allow_pickle, made.models) == {"org/own"}


def parquet(task, rows, seed):
    """Made rows in the layout of GLUE on the hub: two texts, a label with names, a number."""
    import datasets

    draw = random.Random(seed)
    columns = {TEXTS[task][0]: [], TEXTS[task][1]: [], "label": [], "idx": list(range(rows))}
    for _ in range(rows):
        label = draw.randrange(len(LABELS[task]))
        columns[TEXTS[task][0]].append(" ".join(draw.choices(WORDS, k=4)))
        columns[TEXTS[task][1]].append(" ".join([*draw.choices(WORDS, k=3), [*GOOD, *BAD][label * 2]]))
        columns["label"].append(label)
    features = datasets.Features(
        {name: datasets.Value("string") for name in TEXTS[task]}
        | {"label": datasets.ClassLabel(names=LABELS[task]), "idx": datasets.Value("int32")}
    )
    buffer = io.BytesIO()
    datasets.Dataset.from_dict(columns, features=features).to_parquet(buffer)
    return buffer.getvalue()


def glue():
    """Three tasks of GLUE as a repository of the hub."""
    splits = {
        "mnli": ["train", "validation_matched", "validation_mismatched"],
        "mrpc": ["train", "validation"],
        "rte": ["train", "validation"],
    }
    files, configs = {}, ["---", "configs:"]
    for task, names in splits.items():
        configs += [f"- config_name: {task}", "  data_files:"]
        for index, split in enumerate(names):
            path = f"{task}/{split}-00000-of-00001.parquet"
            files[path] = parquet(task, 48, index)
            configs += [f"  - split: {split}", f"    path: {task}/{split}-*"]
    return {**files, "README.md": "\n".join([*configs, "---", ""])}


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """The folder in which `lora-bench reproduce lora-table2` was run, its output, and its records."""
    folder = tmp_path_factory.mktemp("reproduce")
    write_model(folder / "weights")
    files = {path.name: path.read_bytes() for path in (folder / "weights").iterdir()}
    add_model(folder / "hub", ROBERTA, files, also="roberta-base")
    commit = add_dataset(folder / "hub", "nyu-mll/glue", glue())
    tasks = folder / "tasks"
    tasks.mkdir()
    for name in ("mnli", "mrpc", "rte"):
        # The server's commit is another than the hub's, and the diagnostic set is not on it.
        text = (table_suite("lora-table2")[1].tasks[0][1] / f"{name}.yaml").read_text(encoding="utf-8")
        (tasks / f"{name}.yaml").write_text(text.replace(GLUE_COMMIT, commit), encoding="utf-8")
    with serve(folder / "hub") as hub:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "LORA_BENCH_"))}
        environment |= {
            "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1",
            "LORA_BENCH_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        command = [sys.executable, "-W", "ignore", "-m", "lora_bench.cli", "reproduce", "lora-table2", "--model",
                   "roberta-base", "--tasks", "mrpc,rte", "--methods", "lora", "--seeds", "3"]  # fmt: skip
        plan = subprocess.run([*command, "--plan"], cwd=folder, env=environment, capture_output=True, text=True)
        assert hub.requests == []  # a plan downloads nothing
        done = subprocess.run(
            [*command, "--workers", "0"], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
        )
    return folder, plan, done, environment


@pytest.mark.slow
def test_the_plan_says_every_recipe_before_anything_is_run(reproduced):
    _, plan, *_ = reproduced
    assert plan.returncode == 0, plan.stderr
    lines = [" ".join(line.split()) for line in plan.stdout.splitlines()]
    # RTE: 80 epochs of the release's 2,490 examples, 5e-4, from MNLI's weights; 2 matrices of 8 x 768 on 24 projections.
    assert any(re.match(r"rte FacebookAI/\S+ lora 5e-4 199,200 examples 256 779 ", line) for line in lines)
    assert any("start mnli" in line for line in lines)
    assert any(line.startswith(f"lora 8 {24 * 2 * 8 * 768:,} ") for line in lines)
    assert "not downloaded: data of mnli, mrpc, rte; rows are the release's, and times are not known" in lines
    assert "6 runs wait for the runs of mnli, from which they start" in lines
    said = " ".join(lines)
    assert "lora: rank 8, scaling 2.0, dropout 0.0, targets query and value, initialisation kaiming" in said
    assert "alpha 16" in said


@pytest.mark.slow
def test_it_ends_in_a_verdict_for_every_cell(reproduced):
    folder, _, done, _ = reproduced
    assert done.returncode == 0, done.stderr + done.stdout
    report = (folder / "runs" / "lora-table2" / "report.md").read_text(encoding="utf-8")
    assert "## Published: GLUE, RoBERTa-base" in report
    table, _ = table_suite("lora-table2")
    records = read_records(folder / "runs" / "lora-table2")
    assert {(record.spec.task.name, record.status) for record in records} == {
        ("mnli", "ok"), ("mrpc", "ok"), ("rte", "ok"),
    }  # fmt: skip
    found = {verdict.cell.key: verdict for verdict in verdicts(table, records)}
    assert len(found) == len(table.cells)
    (rte,) = (
        verdict for key, verdict in found.items()
        if key[1:] == (ROBERTA, "rte", "accuracy") and verdict.cell.method == "lora"
    )  # fmt: skip
    # The recipe is the table's; the weights are no RoBERTa-base's and the data is no RTE, which their numbers tell.
    assert rte.verdict == "not comparable"
    fields = {one.field: (one.asked, one.run) for one in rte.differs}
    assert fields.keys() == {"adapter parameters", "task.data_sha256", "data.examples.train", "data.examples.test"}
    assert (fields["data.examples.train"], fields["data.examples.test"]) == ((2_490, 48), (277, 48))
    assert rte.cell.value == 0.866 and rte.measured.n == 3
    others = [verdict for key, verdict in found.items() if key[1] != ROBERTA]
    assert {verdict.verdict for verdict in others} == {"not run"}


@pytest.mark.slow
def test_the_runs_do_what_the_paper_did(reproduced):
    folder, *_ = reproduced
    records = read_records(folder / "runs" / "lora-table2")
    mnli = [record for record in records if record.spec.task.name == "mnli"]
    best = max(mnli, key=lambda record: (record.score, -record.spec.seed))
    for record in records:
        assert record.spec.protocol == "paper" and record.spec.rules.aggregation == "median"
        assert record.spec.method.options["rank"] == 8
        scores = [point.scores["accuracy"] for point in record.curve if point.scores]
        assert record.score == max(scores)
        start = record.spec.start
        assert start is None if record in mnli else start.run_id == best.run_id
    assert "mismatched/accuracy" in best.scores


@pytest.mark.slow
def test_another_protocol_makes_no_cell_comparable(reproduced):
    table, _ = table_suite("lora-table2")
    made = reproduction("lora-table2", model="roberta-base", tasks=["rte"], methods=["lora"], protocol="strict")
    assert made.rules.aggregation == "mean" and made.command[4:6] == ("--protocol", "strict")
    records = [record for record in read_records(reproduced[0] / "runs" / "lora-table2")]
    strict = [
        record.model_copy(update={"spec": record.spec.model_copy(update={"rules": made.rules})}) for record in records
    ]
    judged = [verdict for verdict in verdicts(table, strict) if verdict.measured is not None]
    assert judged and {verdict.verdict for verdict in judged} == {"not comparable"}
    assert all("rules.aggregation" in {one.field for one in verdict.differs} for verdict in judged)


@pytest.mark.slow
def test_a_task_that_was_changed_is_not_comparable(reproduced):
    table, _ = table_suite("lora-table2")
    changed = []
    for record in read_records(reproduced[0] / "runs" / "lora-table2"):
        task = record.spec.task
        task = task.model_copy(update={"definition": {**task.definition, "text": task.definition["text"][:1]}})
        changed.append(record.model_copy(update={"spec": record.spec.model_copy(update={"task": task})}))
    judged = [verdict for verdict in verdicts(table, changed) if verdict.measured is not None]
    assert judged and {verdict.verdict for verdict in judged} == {"not comparable"}
    assert all("task.definition.text" in {one.field for one in verdict.differs} for verdict in judged)


@pytest.mark.slow
def test_the_released_data_is_no_difference(reproduced):
    table, suite = table_suite("lora-table2")
    right = []
    for record in read_records(reproduced[0] / "runs" / "lora-table2"):
        task = next(task for task, _ in suite.tasks if task.task == record.spec.task.name)
        known = {"definition": definition(task), "data_sha256": hub_sha256(task.data, GLUE_COMMIT)}
        spec = record.spec.model_copy(update={"task": record.spec.task.model_copy(update=known)})
        data = record.data.model_copy(update={"examples": task.release.examples})
        right.append(record.model_copy(update={"spec": spec, "data": data}))
    judged = {verdict.cell.task: verdict for verdict in verdicts(table, right) if verdict.measured is not None}
    # All that is left: the weights, and that 48 rows take other steps than 2,490.
    lengths = {"training.steps", "training.train_examples", "training.warmup_steps", "selection_every"}
    assert {one.field for one in judged["rte"].differs} - lengths == {"adapter parameters"}


@pytest.mark.slow
def test_an_adapter_takes_the_place_of_the_runs_of_mnli(reproduced):
    folder, *_, environment = reproduced
    of_mnli = next(one for one in read_records(folder / "runs" / "lora-table2") if one.spec.task.name == "mnli")
    adapter = folder / "runs" / "lora-table2" / of_mnli.run_id / "weights"
    (folder / "mnli-adapter").symlink_to(adapter)
    command = [sys.executable, "-W", "ignore", "-m", "lora_bench.cli", "reproduce", "lora-table2", "--model",
               "roberta-base", "--tasks", "rte", "--methods", "lora", "--seeds", "3", "--runs", "others",
               "--start-from", "mnli-adapter", "--workers", "0"]  # fmt: skip
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=offline, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr + done.stdout
    table, _ = table_suite("lora-table2")
    records = read_records(folder / "others" / "lora-table2")
    sha256 = find_adapter(adapter).sha256
    assert [(record.spec.task.name, record.status) for record in records] == [("rte", "ok")] * 3
    assert {record.spec.start for record in records} == {Start(task="mnli", run_id=None, adapter_sha256=sha256)}
    assert all("--start-from mnli-adapter" in record.command for record in records)
    (rte,) = (verdict for verdict in verdicts(table, records) if verdict.measured is not None)
    assert rte.verdict == "not comparable"
    (start,) = (one for one in rte.differs if one.field == "start")
    assert (start.asked, start.run) == ("mnli", f"an adapter for mnli, sha256 {sha256}")


@pytest.mark.slow
def test_a_start_from_an_adapter_needs_one_row_that_starts_from_another_task(reproduced):
    folder, *_ = reproduced
    adapter = next((folder / "runs" / "lora-table2").glob("*/weights"))
    made = reproduction("lora-table2", model="roberta-base", tasks=["rte"], start_from=adapter)
    assert [task.task for task, _ in made.tasks] == ["rte"]
    for asked, message in (
        ({"tasks": ["sst2"]}, "none of these rows starts"),
        ({}, "lora on FacebookAI/roberta-base, lora on FacebookAI/roberta-large, lora_r16 on microsoft"),
        ({"start_from": adapter.parent}, f"did you mean {adapter}?"),
        ({"start_from": folder}, "has no adapter_model.safetensors"),
    ):
        with pytest.raises(LoraBenchError) as caught:
            reproduction("lora-table2", **{"start_from": adapter, **asked})
        assert message in str(caught.value)


def test_a_stand_in_is_named_in_every_cell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "mine")
    made = reproduction("lora-table2", model="./mine", role="roberta-large", tasks=["rte"])
    assert [entry.model for entry in made.models] == [str(tmp_path / "mine")]
    # RoBERTa-large's methods and recipes, with the task that it starts from.
    assert {entry.label for entry in made.methods} >= {"lora", "lora_restricted", "adapter_p_3M"}
    assert [task.task for task, _ in made.tasks] == ["mnli", "rte"]
    lora = next(entry for entry in made.methods if entry.label == "lora")
    recipe = made.recipe("rte", str(tmp_path / "mine"), lora)
    assert (recipe.rates, recipe.budget.epochs, recipe.start) == ((4e-4,), 20, "mnli")


@pytest.mark.parametrize("work", [{"epochs": 0.5}, {"train_examples": 64}])
def test_a_smoke_test_takes_its_work_in_every_recipe_and_says_so(work):
    made = reproduction("lora-table2", model="roberta-base", tasks=["rte"], methods=["lora"], **work)
    (lora,) = made.methods
    for task in ("mnli", "rte"):
        budget = made.recipe(task, ROBERTA, lora).budget
        assert {name: getattr(budget, name) for name in ("epochs", "train_examples")} == {
            "epochs": None, "train_examples": None, **work
        }  # fmt: skip
    assert made.recipe("rte", ROBERTA, lora).rates == (5e-4,)
    (option,) = (word for word in made.command if word.startswith(("--epochs", "--train")))
    assert option == f"--{next(iter(work)).replace('_', '-')}"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"name": "lora-tabel2"}, "did you mean 'lora-table2'?"),
        ({"name": "lora-table4"}, "cannot be reproduced here"),
        ({"name": "lora-table2", "tasks": ["rta"]}, "did you mean 'rte'?"),
        ({"name": "lora-table2", "methods": ["lroa"]}, "did you mean 'lora'?"),
        ({"name": "lora-table2", "protocol": "papre"}, "did you mean 'paper'?"),
        ({"name": "lora-table2", "model": "./x", "role": "roberta-bse"}, "roberta-base"),
        ({"name": "lora-table2", "epochs": 1.0, "train_examples": 9}, "at most one of --epochs and --train-examples"),
        ({"name": "lora-table2", "epochs": -1.0}, "--epochs must be above 0, got -1"),
        ({"name": "lora-table2", "epochs": float("nan")}, "--epochs must be above 0, got nan"),
        ({"name": "lora-table2", "role": "roberta-base"}, "name that one with --model"),
    ],
)
def test_mistakes_name_the_nearest_choice(asked, message):
    with pytest.raises(LoraBenchError) as caught:
        reproduction(asked.pop("name"), **asked)
    assert message in str(caught.value)


@pytest.mark.slow
def test_the_records_tell_the_command_that_makes_them_again(reproduced):
    folder, *_ = reproduced
    record = json.loads(next((folder / "runs" / "lora-table2").glob("*/record.json")).read_text())
    assert record["command"] == (
        "lora-bench reproduce lora-table2 --model roberta-base --seeds 3 --tasks mrpc,rte --methods lora "
        f"--only {record['run_id']}"
    )


# --- answers in a text -----------------------------------------------------------------------------------------------


def write_squad_release(path, *, unanswerable, questions):
    """A file in the layout of SQuAD's release: four questions a paragraph."""
    draw = random.Random(questions)
    paragraphs = []
    for first in range(0, questions, 4):
        context = " ".join([*draw.choices(WORDS, k=6), "very", draw.choice([*GOOD, *BAD]), *draw.choices(WORDS, k=4)])
        said = re.search(r"very \w+ ?", context)[0].rstrip()
        answer = {"text": said, "answer_start": context.index(said)}
        asked = [
            {"id": f"{n}", "question": "the film was", "answers": [] if unanswerable and n % 4 == 3 else [answer]}
            for n in range(first, first + 4)
        ]
        paragraphs.append({"context": context, "qas": asked})
    path.write_text(json.dumps({"version": "made", "data": [{"title": "films", "paragraphs": paragraphs}]}))


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lora_bench.cli.commands.PLAIN_WIDTH", 300)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_adaloras_squad_table_is_planned_with_its_own_counts(own_folder, capsys):
    rows = "adalora_0.08_squad,adalora_0.08_squad_v2,lora_0.65"
    assert main(["reproduce", "adalora-table2", "--methods", rows, "--seeds", "3", "--plan"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    # 10 epochs of 87,599 questions and 12 of 130,319, in batches of 16; LoRA 8 epochs of both.
    for task, row, examples, steps in (
        ("squad", "adalora_0.08_squad", "875,990", "54,750"),
        ("squad_v2", "adalora_0.08_squad_v2", "1,563,828", "97,740"),
        ("squad", "lora_0.65", "700,792", "43,800"),
        ("squad_v2", "lora_0.65", "1,042,552", "65,160"),
    ):
        recipe = rf"{task} microsoft/deberta-v3-base {row} \S+ {examples} examples 16 {steps} "
        assert any(re.match(recipe, line) for line in lines), (row, lines)
    assert any(re.match(rf"lora_0.65 8 {12 * 8 * (4 * 2 * 768 + 2 * (768 + 3072)):,} ", line) for line in lines)
    assert "adalora_0.08_squad on squad: the source does not say epochs, schedule, checkpoint" in lines
    assert "lora_0.65 on squad_v2: the source does not say learning rate, epochs, checkpoint" in lines


def test_the_plan_says_the_options_of_methods_and_what_the_source_does_not(own_folder, capsys):
    rows = "lora,adapter_h_11M,adapter_l_11M"
    assert main(["reproduce", "lora-table3", "--model", "gpt2-medium", "--methods", rows, "--plan"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    # The LoRA paper's table 11: alpha 32 at rank 4, and its dropout of 0.1.
    (lora,) = (line for line in lines if line.startswith("lora: "))
    assert {"rank 4", "alpha 32", "dropout 0.1", "targets query and value"} <= set(
        lora.removeprefix("lora: ").split(", ")
    )
    assert any(
        re.match(r"adapter_h_11M \(bottleneck_adapter\): bottleneck size 112, variant houlsby, ", line)
        for line in lines
    )
    assert "adapter_l_11M on e2e_tokens: the source does not say statistic, checkpoint, bottleneck size" in lines
    assert not any(line.startswith("lora on") for line in lines)


def test_adaloras_squad_table_runs_on_releases_of_squad_and_says_what_differs(own_folder):
    write_model(own_folder / "base", "deberta-v2")
    for name, version, unanswerable in (("squad", "1.1", False), ("squad_v2", "2.0", True)):
        folder = own_folder / "data" / name
        folder.mkdir(parents=True)
        write_squad_release(folder / f"train-v{version}.json", unanswerable=unanswerable, questions=64)
        write_squad_release(folder / f"dev-v{version}.json", unanswerable=unanswerable, questions=16)
    command = [
        "reproduce",
        "adalora-table2",
        "--model",
        "./base",
        "--methods",
        "lora_0.08,adapter_p_0.08",
        "--seeds",
        "3",
    ]
    given = ["--train-examples", "32", "--data-dir", "data", "--workers", "0", "--quiet"]
    assert main([*command, *given]) == 0
    records = read_records(own_folder / "runs" / "adalora-table2")
    assert {(record.spec.task.name, record.status) for record in records} == {("squad", "ok"), ("squad_v2", "ok")}
    assert len(records) == 2 * 2 * 3 and {record.speed.train_examples for record in records} == {32}
    table, _ = table_suite("adalora-table2")
    found = [verdict for verdict in verdicts(table, records) if verdict.measured is not None]
    # Each row has two numbers a task.
    assert len(found) == 2 * 2 * 2 and {verdict.verdict for verdict in found} == {"not comparable"}
    assert {verdict.cell.score for verdict in found} == {"squad_f1", "squad_exact_match"}
    of_v2 = next(one for one in found if one.cell.method == "lora_0.08" and one.cell.task == "squad_v2")
    fields = {one.field: (one.asked, one.run) for one in of_v2.differs}
    assert fields["data.examples.train"] == (130_319, 64) and fields["data.examples.test"] == (11_873, 16)
    assert fields["adapter parameters"][0] == 165_888 and "task.definition.data.hub" not in fields
    report = (own_folder / "runs" / "adalora-table2" / "report.md").read_text(encoding="utf-8")
    assert "## Published: SQuAD v1.1 and v2.0 at matched budgets, DeBERTa-v3-base" in report
    assert "A batch here is 16 questions with all windows of their texts." in report
