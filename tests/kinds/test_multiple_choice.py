"""Multiple choice from its rows to kept weights: each text has several endings, and one of them is right."""

import json
import random
import re

import pytest
import torch

from lora_bench import cli
from lora_bench.documents import Document
from lora_bench.errors import BadInput, UnsupportedPair
from lora_bench.execute.run_suite import run_suite
from lora_bench.kinds import find_kind
from lora_bench.kinds.exercises import exercise
from lora_bench.methods import known_methods
from lora_bench.models.loading import load_model, load_tokenizer
from lora_bench.models.registry import find_model
from lora_bench.pack.group_runs import company_of
from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks import Split, load_data, task_from_document
from tests.project import BAD, GOOD, WORDS, write_model, write_tokenizer
from tests.tiny import tiny_bert

SUITE = """\
suite: stories
tasks:
  - task: stories
    kind: multiple_choice
    data: {train: train.jsonl, selection: selection.jsonl, test: test.jsonl}
    text: [start, endings]
    label: right
models: [base]
methods:
  - {method: full, learning_rate: 5e-3}
  - {method: lora, targets: [all], learning_rate: 1e-2}
  - {method: bottleneck_adapter, learning_rate: 2e-2}
  - {method: prefix_tuning, learning_rate: 2e-2}
seeds: [0]
keep_weights: last
budget: {train_examples: 480}
training: {batch_size: 16, max_length: 24, base_dropout: 0.0, head_dropout: 0.0}
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def story(draw):
    """A start with three endings, of which the right one has a kind word and the others an unkind one."""
    right = draw.randrange(3)
    endings = [
        " ".join([*draw.choices(WORDS, k=draw.randint(1, 5)), draw.choice(GOOD if place == right else BAD)])
        for place in range(3)
    ]
    return {"start": " ".join(draw.choices(WORDS, k=4)), "endings": endings, "right": right}


def write_project(folder, suite=SUITE, family="roberta"):
    folder.mkdir()
    if family == "bert":
        tiny_bert().base_model.save_pretrained(folder / "base")
        write_tokenizer(folder / "base")
    else:
        write_model(folder / "base", family)
    draw = random.Random(0)
    for name, count in (("train", 240), ("selection", 40), ("test", 60)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(story(draw)) for _ in range(count)))
    (folder / "stories.yaml").write_text(suite)
    return folder / "stories.yaml"


def only(method, suite=SUITE):
    return re.sub(rf"  - {{method: (?!{method}).*\n", "", suite)


# --- rows ------------------------------------------------------------------------------------------------------------


def examples(folder, rows, **keys):
    """The test split and the labels of a task over the same rows three times."""
    for name in ("a", "b", "c"):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"train": "a.jsonl", "selection": "b.jsonl", "test": "c.jsonl"}
    declared = {"task": "mine", "kind": "multiple_choice", "data": data, "label": "right", **keys}
    found = load_data(task_from_document(Document("task.yaml", declared)), folder)
    return found.splits["test"], found.labels


ROWS = [{"start": "a", "endings": ["b", "c"], "right": 1}, {"start": "d", "endings": ["e", "f"], "right": 0}]


def test_endings_are_a_list_or_columns_of_their_own(tmp_path):
    split, labels = examples(tmp_path, ROWS, text=["start", "endings"])
    assert (split.texts, split.labels, labels) == ([("a", "b", "c"), ("d", "e", "f")], [1, 0], ("0", "1"))
    apart = [
        {"start": row["start"], "x": row["endings"][0], "y": row["endings"][1], "right": row["right"]} for row in ROWS
    ]
    assert examples(tmp_path, apart, text=["start", "x", "y"])[0].texts == split.texts
    as_json = [{**row, "endings": json.dumps(row["endings"])} for row in ROWS]
    assert examples(tmp_path, as_json, text=["start", "endings"])[0].texts == split.texts


def test_places_may_have_names(tmp_path):
    named = [{**row, "right": "AB"[row["right"]]} for row in ROWS]
    split, labels = examples(tmp_path, named, text=["start", "endings"], labels=["A", "B"])
    assert (split.labels, labels) == ([1, 0], ("A", "B"))


@pytest.mark.parametrize(
    ("change", "keys", "message"),
    [
        ({"endings": ["b"]}, {}, "fewer than two endings in column 'endings' in 1 row (line 1)"),
        ({"endings": "b"}, {}, "fewer than two endings in column 'endings' in 1 row (line 1)"),
        (
            {"endings": ["b", "c", "d"]},
            {},
            "has 2 endings in column 'endings', and 3 in the first row, in 1 row (line 2)",
        ),
        ({"right": 2}, {}, "that are not among 0, 1: '2'; name those of the endings in their order"),
        ({}, {"labels": ["A", "B", "C"]}, "has 2 endings a row for 3 labels (A, B, C)"),
        ({}, {"text": "start"}, "must be the column of the text and those of its endings"),
        ({}, {"metric": "f1"}, "f1 is that of the second class, and no ending is"),
        ({}, {"metric": "bleu"}, "'bleu' is for generation, and the task's kind is multiple_choice"),
    ],
)
def test_a_mistake_is_said(tmp_path, change, keys, message):
    with pytest.raises(BadInput) as caught:
        examples(tmp_path, [{**ROWS[0], **change}, ROWS[1]], **{"text": ["start", "endings"], **keys})
    assert message in str(caught.value)


def test_the_answer_without_a_look_is_the_most_frequent_place():
    split = Split(["1", "2", "3"], [("a", "b", "c")] * 3, [1, 1, 0])
    assert find_kind("multiple_choice").constant(split, split) == [1, 1, 1]


# --- models ----------------------------------------------------------------------------------------------------------


def test_a_batch_has_a_row_for_each_ending_of_each_text(tmp_path):
    path = write_project(tmp_path / "project", only("full"))
    (cell,) = make_plan(load_suite(path), tmp_path / "runs").cells
    made = exercise(cell.job.task, load_tokenizer(cell.job.base_model), cell.job.spec)
    split = Split(["1", "2"], [("the film", "was great", "was"), ("a", "b c d", "e")], [0, 1])
    lessons, cut = made.lessons(split)
    units = made.units(lessons)
    batch = made.collate([row for unit in units for row in unit])
    # <s> the film </s> was great </s> is the longest pair of 2 texts with 2 endings each
    assert (len(units), cut, batch["input_ids"].shape, batch["labels"].tolist()) == (2, 0.0, (2, 2, 7), [0, 1])
    assert batch["attention_mask"].sum(-1).tolist() == [[7, 6], [7, 5]]
    questions, _ = made.questions(split)
    assert made.collate(questions)["input_ids"].shape == (4, 1, 7)
    logits = torch.tensor([[0.0], [2.0], [3.0], [1.0]])
    assert made.answers_in(logits, questions).answers == [1, 0]


def test_an_ending_has_the_same_logit_alone_and_beside_others(tmp_path):
    base = find_model(str(write_model(tmp_path / "base")), base=tmp_path)
    model = load_model(base, kind="multiple_choice", labels=3)[0].eval()
    ids = torch.randint(3, 20, (2, 3, 6), generator=torch.Generator().manual_seed(0))
    together = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    alone = model(input_ids=ids.reshape(6, 1, 6), attention_mask=torch.ones(6, 1, 6)).logits
    torch.testing.assert_close(together, alone.reshape(2, 3))


def test_a_model_without_such_a_head_is_refused_and_so_is_a_prompt_before_a_text(tmp_path):
    gpt2 = find_model(str(write_model(tmp_path / "gpt2", "gpt2")), base=tmp_path)
    with pytest.raises(UnsupportedPair, match="transformers has no gpt2 of the kind MultipleChoice"):
        load_model(gpt2, kind="multiple_choice", labels=3)
    model, head = load_model(
        find_model(str(write_model(tmp_path / "base")), base=tmp_path), kind="multiple_choice", labels=3
    )
    prompt = known_methods()["peft"](type="PROMPT_TUNING", targets=None, size_option="num_virtual_tokens", size_value=4)
    with pytest.raises(UnsupportedPair, match="PEFT has no PROMPT_TUNING for multiple_choice"):
        prompt.apply(model, head=head)


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["roberta", "deberta-v2", "bert"])
def test_four_methods_learn_to_choose_and_kept_weights_load(tmp_path, family, monkeypatch):
    path = write_project(tmp_path / "project", SUITE, family)
    records = run_suite(path, runs=tmp_path / "runs", workers=0).records
    assert [record.status for record in records] == ["ok"] * 4, [record.reason for record in records]
    assert {record.spec.task.labels for record in records} == {("0", "1", "2")}
    scores = {record.spec.method.name: record.scores["accuracy"] for record in records}
    assert scores["full"] > 0.8 and min(scores.values()) > 0.5  # a third is chance
    monkeypatch.chdir(path.parent)
    test = [json.loads(line) for line in (path.parent / "test.jsonl").read_text().splitlines()]
    for record in records:
        folder = tmp_path / "runs" / "stories" / record.run_id
        card = (folder / "weights" / "README.md").read_text()
        assert "pipeline_tag: multiple-choice" in card
        names: dict = {}
        exec(card.split("```python")[1].split("```")[0].replace("THIS FOLDER", str(folder / "weights")), names)
        kept = json.loads((folder / "predictions.json").read_text())["predictions"]
        for row, answer in zip(test[:5], kept, strict=False):
            batch = names["tokenizer"]([row["start"]] * 3, row["endings"], return_tensors="pt", padding=True)
            found = names["model"].eval()(**{name: tensor[None] for name, tensor in batch.items()})
            assert int(found.logits.argmax()) == answer


def test_runs_are_done_alone_with_budgets_of_questions_tokens_and_flops(tmp_path):
    suite = only("lora").replace("targets: [all], ", "").replace("train_examples: 480", "train_flops: 5e7")
    path = write_project(tmp_path / "project", suite)
    (cell,) = make_plan(load_suite(path), tmp_path / "runs").cells
    assert company_of(cell.job) is None
    (record,) = run_suite(path, runs=tmp_path / "runs", workers=0).records
    assert record.status == "ok", record.reason
    assert 5e7 <= record.speed.train_flops < 10e7  # the last step ends it, and a step has less than the half
    suite = only("full").replace("train_examples: 480", "epochs: 2")
    (record,) = run_suite(write_project(tmp_path / "more", suite), runs=tmp_path / "more" / "runs", workers=0).records
    assert (record.status, record.speed.train_examples) == ("ok", 480), record.reason
    assert (
        record.speed.train_real_tokens > 2 * 240 * 3 * 9
    )  # a row has 3 special tokens, 4 of the start, 2 of an ending


def test_worker_ranks_are_refused_in_words(tmp_path):
    path = write_project(tmp_path / "project", only("full").replace("max_length: 24", "max_length: 24, processes: 2"))
    (cell,) = make_plan(load_suite(path), tmp_path / "runs").cells
    assert "multiple_choice needs those of an example in one: use processes: 1" in cell.fit.reason


@pytest.mark.slow
def test_a_probe_measures_a_step_of_endings(tmp_path):
    suite = only("lora").replace("targets: [all], ", "").replace("keep_weights: last\n", "")
    path = write_project(tmp_path / "project", suite + "probe: {latency: [[1, 8]], seconds: 0.1, processes: 1}\n")
    assert cli.main(["probe", str(path), "--runs", str(tmp_path / "runs"), "--quiet", "--share"]) == 0
    (file, *_) = sorted((tmp_path / "runs" / "stories").glob("probes/**/*.json"))
    found = json.loads(file.read_text())
    assert (found["spec"]["kind"], found["spec"]["labels"], found["status"]) == ("multiple_choice", 3, "ok")
    assert found["predicted"]["peak_bytes"] > 0 and found["flops"]["step"] > 0
    # 16 texts of 24 tokens with 3 endings each
    speed = found["speed"]
    assert speed["real_tokens_per_second"] == pytest.approx(3 * 24 * speed["examples_per_second"])
