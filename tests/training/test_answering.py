"""Answers in a text from a suite to its report: four methods, windows, questions without an answer, probes and kept weights."""

import csv
import itertools
import json
import random
import re

import pytest
import torch

from lora_bench import cli
from lora_bench.execute.run_suite import run_suite
from lora_bench.kinds.exercises.answering import LONGEST_ANSWER, NOWHERE, encode_windows, likeliest_span
from lora_bench.methods import known_methods
from lora_bench.models.loading import load_model
from lora_bench.models.registry import find_model
from lora_bench.pack.group_runs import company_of
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.store import answers_in, read_records
from lora_bench.report import Report
from lora_bench.report.model.seed_scores import scored
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks import Split
from lora_bench.training.measure.counters import count_parameters
from lora_bench.util.seeding import distinct_rows
from tests.project import BAD, GOOD, WORDS, write_model
from tests.shared import shared
from tests.tiny import VOCABULARY
from tests.training.test_tagging import FAMILIES, METHODS, SLOTS, write_reader

SUITE = """\
suite: opinions
tasks:
  - task: opinions
    kind: spans
    data: {train: train.jsonl, selection: selection.jsonl, test: test.jsonl}
    text: [question, text]
    label: answers
    metrics: [squad_exact_match]
models: [base]
methods:
  - {method: full, learning_rate: 1e-2}
  - {method: lora, targets: [all], learning_rate: 5e-3}
  - {method: bottleneck_adapter, learning_rate: 2e-2}
  - {method: prefix_tuning, learning_rate: 2e-2}
seeds: [0, 1]
budget: {train_examples: 480}
training: {batch_size: 16, max_length: 24, base_dropout: 0.0, head_dropout: 0.0}
"""
OPTIONAL = SUITE.replace("    metrics:", "    unanswerable: true\n    metrics:")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def asked(draw, *, answerable=True, words=(4, 9)):
    """A question for the opinion in a text: two words, with `very` before it, or none."""
    before = draw.choices([word for word in WORDS if word != "very"], k=draw.randint(*words))
    place = draw.randrange(len(before) + 1)
    opinion = ["very", draw.choice(GOOD + BAD)] if answerable or draw.random() < 0.6 else []
    text = " ".join([*before[:place], *opinion, *before[place:]])
    answer = " ".join(opinion)
    starts = {"text": [answer], "answer_start": [text.index(answer)]} if answer else {"text": [], "answer_start": []}
    return {"question": "the film was", "text": text, "answers": starts}


def write_project(folder, suite=SUITE, family="roberta", **options):
    folder.mkdir()
    write_model(folder / "base", family)
    draw = random.Random(0)
    for name, count in (("train", 240), ("selection", 40), ("test", 60)):
        rows = [json.dumps(asked(draw, **options)) for _ in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    (folder / "opinions.yaml").write_text(suite)
    return folder / "opinions.yaml"


def only_full(suite, *, examples):
    """A suite of one run: full fine-tuning on so many examples."""
    suite = re.sub(r"  - \{method: (lora|bottleneck|prefix).*\n", "", suite.replace("[0, 1]", "[0]"))
    return suite.replace("train_examples: 480", f"train_examples: {examples}")


@pytest.mark.parametrize(("family", "name"), itertools.product(FAMILIES, METHODS))
def test_gradients_reach_every_trained_weight_and_the_head_is_trained_whole(tmp_path, family, name):
    base = find_model(str(write_model(tmp_path / "base", family)), base=tmp_path)
    model, head = load_model(base, kind="spans", labels=0)
    assert type(model).__name__.endswith("ForQuestionAnswering") and head == ["qa_outputs"]
    total = sum(weight.numel() for weight in model.parameters())
    adapted = known_methods()[name]().apply(model, head=list(head))
    counts = count_parameters(adapted, head=head, total=total)
    assert counts.head == 2 * 32 + 2 and counts.adapter > 0
    trained = {key: weight for key, weight in adapted.named_parameters() if weight.requires_grad}
    ids = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    places = {"start_positions": torch.tensor([3, 0]), "end_positions": torch.tensor([5, 0])}
    optimiser = torch.optim.SGD(trained.values(), lr=0.1)
    before = {key: weight.detach().clone() for key, weight in trained.items()}
    for _ in range(3):
        optimiser.zero_grad()
        found = adapted(input_ids=ids, attention_mask=torch.ones_like(ids), **places)
        assert found.start_logits.shape == found.end_logits.shape == (2, 9)
        found.loss.backward()
        optimiser.step()
    still = [key for key, weight in trained.items() if torch.equal(weight, before[key])]
    assert all("bias" in key or "pooler" in key for key in still), still


def test_the_likeliest_answer_is_that_of_all_pairs_in_order_and_of_bounded_length():
    window = {"begins": [NOWHERE, NOWHERE, *range(40), NOWHERE], "ends": [NOWHERE, NOWHERE, *range(1, 41), NOWHERE]}
    logits = torch.zeros(43, 2)
    logits[0] = 99.0  # outside of the text
    logits[10, 0], logits[5, 1], logits[12, 1] = 3.0, 9.0, 2.0  # the end before the start does not count
    assert likeliest_span(logits, window) == (9.0, [0, 4])
    logits[5, 1] = 1.0
    assert likeliest_span(logits, window) == (5.0, [8, 11])
    logits[10 + LONGEST_ANSWER, 1] = 50.0  # one token too far from the likeliest start
    assert likeliest_span(logits, window) == (50.0, [9, 39])
    assert likeliest_span(logits[:2], {"begins": [NOWHERE] * 2, "ends": [NOWHERE] * 2}) == (-torch.inf, [])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["roberta", "gpt2"])
def test_four_methods_learn_to_answer_and_the_report_pairs_the_questions(tmp_path, family):
    path = write_project(tmp_path / "project", SUITE.replace("train_examples: 480", "train_examples: 1_600"), family)
    assert cli.main(["run", str(path), "--runs", str(tmp_path / "runs"), "--workers", "0", "--quiet"]) == 0
    folder = tmp_path / "runs" / "opinions"
    records = read_records(folder)
    assert [record.status for record in records] == ["ok"] * 8, [record.reason for record in records]
    for record in records:
        assert set(record.scores) == {"squad_f1", "squad_exact_match"}
        assert record.data.majority_score == 0.0 and record.packed_with == ()
    assert min(record.score for record in records if record.spec.method.name == "full") > 0.5
    read = answers_in(folder, records)
    model = Report(records, answers=read)
    assert model.judged is not None and len(model.judged.held) == 3
    for held in model.judged.held:
        items = scored(held.row, held.setting, read).items
        assert held.with_items and items.items == 60
        by_seed = {record.spec.seed: record.score for record in records if record.spec.method.label == held.row.label}
        assert items.scores() == pytest.approx([by_seed[seed] for seed in items.seeds], abs=1e-5)
    written = [json.loads(line) for line in (path.parent / "test.jsonl").read_text().splitlines()]
    kept = read(records[0].run_id)
    texts = [row["text"][first:behind] for row, ((first, behind),) in zip(written, kept.references, strict=True)]
    assert texts == [row["answers"]["text"][0] for row in written]
    # What is kept has numbers alone, and no text of the data.
    raw = (folder / records[0].run_id / "predictions.json").read_text()
    assert not any(word in raw for word in [*GOOD, *BAD, "very"])


def test_questions_without_an_answer_are_answered_by_the_null_score(tmp_path):
    path = write_project(tmp_path / "project", only_full(OPTIONAL, examples="1_600"), answerable=False)
    records = run_suite(path, runs=tmp_path / "runs", workers=0).records
    (full,) = records
    written = [json.loads(line) for line in (path.parent / "test.jsonl").read_text().splitlines()]
    without = [not row["answers"]["text"] for row in written]
    assert full.data.majority_score == pytest.approx(sum(without) / 60) and 10 < sum(without) < 40
    said = answers_in(tmp_path / "runs" / "opinions", records)(full.run_id).predictions
    assert full.scores["squad_f1"] > 0.7
    assert sum((not span) == none for span, none in zip(said, without, strict=True)) > 45


def test_a_long_text_is_read_to_its_end(tmp_path):
    """Texts of several windows: as many answers as questions, wherever they stand."""
    path = write_project(tmp_path / "project", only_full(SUITE, examples="1_600"), words=(30, 40))
    records = run_suite(path, runs=tmp_path / "runs", workers=0).records
    (full,) = records
    said = answers_in(tmp_path / "runs" / "opinions", records)(full.run_id)
    assert len(said.predictions) == full.predictions.count == 60
    assert full.scores["squad_f1"] > 0.5 and full.data.truncated_share == {"train": 0.0, "test": 0.0}
    right = [
        first for (first, _), ((start, _),) in zip(said.predictions, said.references, strict=True) if first == start
    ]
    assert max(right) > 100  # beyond the first window of some 19 words


@pytest.mark.slow
def test_runs_are_done_alone_and_have_budgets_and_flops(tmp_path):
    suite = SUITE.replace("train_examples: 480", "train_flops: 2e8").replace("[0, 1]", "[0]")
    suite = suite.replace("budget: {", "budget: {adapter_parameters: 1_000, tolerance: 0.5, ")
    path = write_project(tmp_path / "project", suite + "selection_every: 3\n")
    plan = make_plan(load_suite(path), tmp_path / "runs")
    assert {company_of(cell.job) for cell in plan.cells} == {None}
    records = run_suite(path, runs=tmp_path / "runs", workers=0).records
    assert {record.status for record in records} == {"ok"}, [record.reason for record in records]


WINDOWS = (1, 1, 2, 2, 3, 3, 3, 3)


def write_three_lengths(folder, suite):
    """A project of eight training questions, whose texts fill so many windows as `WINDOWS` says."""
    path = write_project(folder, suite)
    # A window of 24 tokens has 3 special ones, the question (3) and 18 of the text. The next repeats 8: 10 are new.
    answers = {"text": ["film"], "answer_start": [0]}
    rows = [
        {"question": "the film was", "text": " ".join(["film"] * (8 + 10 * count)), "answers": answers}
        for count in WINDOWS
    ]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


def test_epochs_and_batches_count_questions_in_plan_and_run(tmp_path):
    """An epoch is 8 questions (1 + 1 + 2 + 2 + 3 * 4 = 18 windows), in 4 steps of 2 questions."""
    suite = (
        only_full(SUITE, examples=1)
        .replace("train_examples: 1}", "epochs: 2}")
        .replace("batch_size: 16", "batch_size: 2")
    )
    path = write_three_lengths(tmp_path / "project", suite)
    (cell,) = make_plan(load_suite(path), tmp_path / "runs").cells
    assert (cell.job.spec.training.train_examples, cell.job.spec.training.steps) == (16, 8)
    (record,) = run_suite(path, runs=tmp_path / "runs", workers=0).records
    assert record.status == "ok", record.reason
    assert record.speed.train_examples == 16
    assert record.speed.train_real_tokens == 2 * 18 * 24


def test_distinct_rows_are_questions(tmp_path):
    suite = (
        only_full(SUITE, examples=1)
        .replace("train_examples: 1}", "epochs: 3}")
        .replace("batch_size: 16", "batch_size: 2")
    )
    path = write_three_lengths(tmp_path / "project", suite + "distinct_examples: 4\n")
    (cell,) = make_plan(load_suite(path), tmp_path / "runs").cells
    assert (cell.job.spec.training.train_examples, cell.job.spec.training.steps) == (12, 6)
    (record,) = run_suite(path, runs=tmp_path / "runs", workers=0).records
    assert (record.status, record.speed.train_examples) == ("ok", 12)
    assert record.speed.train_real_tokens == 3 * 24 * sum(WINDOWS[row] for row in distinct_rows(0, 8, 4))


@pytest.mark.slow
def test_two_processes_share_the_windows_of_a_batch_and_train_as_one(tmp_path):
    suite = (
        only_full(SUITE, examples=1)
        .replace("train_examples: 1}", "epochs: 1}")
        .replace("batch_size: 16", "batch_size: 4")
    )
    scores = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        path = write_three_lengths(folder, suite.replace("max_length: 24", f"max_length: 24, processes: {processes}"))
        (record,) = run_suite(path, runs=tmp_path / f"runs{processes}", workers=0).records
        assert record.status == "ok", record.reason
        scores.append([point.loss for point in record.curve])
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_the_card_of_kept_weights_loads_a_model_of_answers(tmp_path, monkeypatch):
    path = write_project(tmp_path / "project", SUITE.replace("[0, 1]", "[0]") + "keep_weights: last\n")
    records = run_suite(path, runs=tmp_path / "runs", workers=0).records
    monkeypatch.chdir(path.parent)
    test = [json.loads(line) for line in (path.parent / "test.jsonl").read_text().splitlines()]
    for record in records:
        folder = tmp_path / "runs" / "opinions" / record.run_id
        card = (folder / "weights" / "README.md").read_text()
        assert "pipeline_tag: question-answering" in card
        assert re.search(r"squad_f1 on 60 test examples, 1 seed, 95 % interval over examples", card)
        names: dict = {}
        exec(card.split("```python")[1].split("```")[0].replace("THIS FOLDER", str(folder / "weights")), names)
        model, tokenizer = names["model"].eval(), names["tokenizer"]
        kept = json.loads((folder / "predictions.json").read_text())["predictions"]
        for row, (first, behind) in zip(test[:5], kept, strict=False):
            ((window,), _) = encode_windows(Split(["1"], [(row["question"], row["text"])], []), tokenizer, 24)
            found = model(input_ids=torch.tensor([window["input_ids"]]))
            logits = torch.stack([found.start_logits, found.end_logits], -1)[0]
            assert likeliest_span(logits, window)[1] == [first, behind]


def test_a_mistake_in_a_row_is_said_by_the_plan(tmp_path, capsys):
    path = write_project(tmp_path / "project")
    with (path.parent / "test.jsonl").open("a") as file:
        file.write('\n{"question": "x", "text": "the film", "answers": {"text": ["film"], "answer_start": [3]}}\n')
    assert cli.main(["plan", str(path), "--runs", str(tmp_path / "runs")]) == 2
    assert "'film' does not stand at 3, but at 4, in 1 row (line 61)" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_a_probe_measures_a_model_of_answers(tmp_path):
    suite = SUITE.replace("seeds: [0, 1]", "seeds: [0]") + "probe: {latency: [[1, 8]], seconds: 0.1, processes: 1}\n"
    suite = re.sub(r"  - \{method: (bottleneck|prefix|full).*\n", "", suite)
    path = write_project(tmp_path / "project", suite)
    assert cli.main(["probe", str(path), "--runs", str(tmp_path / "runs"), "--quiet", "--share"]) == 0
    (file, *_) = sorted((tmp_path / "runs" / "opinions").glob("probes/**/*.json"))
    found = json.loads(file.read_text())
    assert (found["spec"]["kind"], found["status"]) == ("spans", "ok")
    assert found["predicted"]["peak_bytes"] > 0 and found["flops"]["step"] > 0
    assert found["inference"]["merged_difference"] is not None


def test_real_questions_are_answered(tmp_path):
    """Questions for a restaurant's name, food or area, answered from people's sentences about it (E2E)."""
    with shared("data", "e2e", "devset.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    random.Random(0).shuffle(rows)
    found = [
        {"question": slot, "text": row["ref"], "answers": value}
        for row in rows
        for slot, value in re.findall(r"(\w+)\[([^]]*)\]", row["mr"])
        if slot in SLOTS and row["ref"].count(value) == 1
    ]
    assert len(found) > 2_000
    folder = tmp_path / "project"
    folder.mkdir()
    write_reader(folder / "base", [*SLOTS, *(word for row in found for word in row["text"].split())])
    for name, part in (("train", found[:1_400]), ("selection", found[1_400:1_500]), ("test", found[1_500:1_700])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    suite = only_full(SUITE, examples="4_800").replace("max_length: 24", "max_length: 48")
    (folder / "opinions.yaml").write_text(suite)
    (record,) = run_suite(folder / "opinions.yaml", runs=tmp_path / "runs", workers=0).records
    assert record.status == "ok", record.reason
    assert record.scores["squad_f1"] > 0.3
