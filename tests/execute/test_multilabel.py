"""A suite of several labels a text, from its YAML to the report and the winner's code, by all four methods."""

import csv
import json
import random
import re
from collections import Counter

import pytest
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lora_bench.cli import main
from lora_bench.execute.run_suite import run_suite
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.store import answers_in
from lora_bench.report import Report, render_markdown
from lora_bench.suite.load_suite import load_suite
from lora_bench.training.winner import find_winner, merge_winner
from tests.project import SPECIAL, WORDS, write_model
from tests.shared import shared

METHODS = "[full, lora, bottleneck_adapter, prefix_tuning]"
SUITE = """\
suite: topics
tasks:
  - task: topics
    kind: multilabel
    data: topics.jsonl
    text: text
    label: topics
    metrics: [multilabel_macro_f1]
models: [base]
methods: METHODS
seeds: [0, 1]
budget: {train_examples: 48}
training: {batch_size: 8, max_length: 24, masks: keyed}
keep_weights: last
"""
TOPICS = ("actor", "music", "plot")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def write(folder, suite=SUITE, methods=METHODS, family="roberta", rows=None):
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / "base", family)
    draw = random.Random(0)
    made = [" ".join(draw.choices(WORDS, k=draw.randint(4, 9))) for _ in range(300)]
    rows = rows or [{"text": text, "topics": [topic for topic in TOPICS if topic in text.split()]} for text in made]
    (folder / "topics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path = folder / "topics.yaml"
    path.write_text(suite.replace("METHODS", methods), encoding="utf-8")
    return path


def beside(runs, record, file):
    return json.loads((runs / "topics" / record.run_id / file).read_text(encoding="utf-8"))


def scores_by_hand(kept, labels):
    """What scikit-learn says of a run's stored predictions."""
    binary = MultiLabelBinarizer(classes=range(labels)).fit([])
    right, said = binary.transform(kept["references"]), binary.transform(kept["predictions"])
    return {
        f"multilabel_{average}_f1": f1_score(right, said, average=average, zero_division=float("nan"))
        for average in ("micro", "macro")
    }


# --- rows of a real set ----------------------------------------------------------------------------------------------


def e2e_rows(most=1_200):
    """Sentences about restaurants (E2E NLG, CC BY-SA 4.0), and which of their facts each was written to state."""
    with shared("data", "e2e", "devset.csv").open(encoding="utf-8", newline="") as file:
        given = list(csv.DictReader(file))
    rows = [
        {"text": row["ref"], "topics": sorted(set(re.findall(r"(\w[\w ]*)\[", row["mr"])) - {"name"})} for row in given
    ]
    return [rows[place * len(rows) // most] for place in range(most)]


def write_word_tokenizer(folder, texts, size=100):
    """A tokenizer of the most frequent words of some texts."""
    words = Counter(word for text in texts for word in re.findall(r"\w+", text.lower()))
    vocabulary = {word: place for place, word in enumerate([*SPECIAL, *(w for w, _ in words.most_common(size - 4))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


@pytest.mark.slow
def test_a_suite_on_the_facts_of_e2e_from_run_to_report(tmp_path, monkeypatch, capsys):
    rows = e2e_rows()
    suite = SUITE.replace("train_examples: 48", "train_examples: 3_840").replace("max_length: 24", "max_length: 40")
    suite = suite.replace("batch_size: 8", "batch_size: 16")
    suite = suite.replace("keyed}", "keyed, last_layer: read_position}")
    methods = METHODS.replace("full", "{method: full, learning_rate: 3e-3}")
    path = write(tmp_path / "project", suite, methods, rows=rows)
    write_word_tokenizer(path.parent / "base", [row["text"] for row in rows])
    monkeypatch.chdir(path.parent)
    runs = path.parent / "runs"
    assert main(["run", "topics.yaml", "--workers", "0", "--quiet"]) == 0
    records = [*run_suite(load_suite(path), runs=runs, workers=0).records]
    assert len(records) == 8 and {record.status for record in records} == {"ok"}
    labels = records[0].spec.task.labels
    assert labels == ("area", "customer rating", "eatType", "familyFriendly", "food", "near", "priceRange")
    for record in records:
        kept, shares = beside(runs, record, "predictions.json"), beside(runs, record, "probabilities.json")
        assert record.scores == pytest.approx(scores_by_hand(kept, len(labels)))
        # What is answered is what is above the threshold; four decimals may hide which side of it a share is.
        for said, of_text in zip(kept["predictions"], shares["probabilities"], strict=True):
            clear = [place for place, share in enumerate(of_text) if abs(share - record.threshold) > 1e-3]
            assert [place for place in said if place in clear] == [p for p in clear if of_text[p] > record.threshold]
    full = [record for record in records if record.spec.method.label == "full"]
    references = beside(runs, full[0], "predictions.json")["references"]
    frequent = [label for label, _ in Counter(label for found in references for label in found).most_common()]
    constant = [
        scores_by_hand({"references": references, "predictions": [frequent[:count]] * len(references)}, len(labels))
        for count in range(1, len(labels) + 1)
    ]
    best = max(scores["multilabel_micro_f1"] for scores in constant)
    # They learn more than which facts are frequent.
    assert full[0].data.majority_score < best < min(record.scores["multilabel_micro_f1"] for record in full)
    page = render_markdown(Report(records, name="topics", answers=answers_in(runs / "topics", records)))
    assert "multilabel_micro_f1" in page.replace("\\_", "_") and "| label | method | items |" in page
    assert all(f"`{label}`" in page for label in ("lora", "bottleneck_adapter", "prefix_tuning"))
    capsys.readouterr()
    winner = find_winner(runs / "topics")
    assert main(["use", str(runs / "topics")]) == 0
    said = capsys.readouterr().out.splitlines()
    names: dict = {}
    exec("\n".join(said[said.index("") :]), names)
    kept = beside(runs, winner.record, "predictions.json")
    texts = texts_of_test(path)
    whole = [place for place, text in enumerate(texts) if len(text.split()) < 25][:40]  # a run cuts longer ones
    answers = [names["labels_of"](texts[place]) for place in whole]
    assert len(whole) == 40
    assert answers == [[labels[label] for label in kept["predictions"][place]] for place in whole]


def texts_of_test(path):
    from lora_bench.tasks import load_data

    ((task, base),) = load_suite(path).tasks
    return [text for (text,) in load_data(task, base).splits["test"].texts]


# --- packs, budgets, protocols and cards -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["roberta", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_packed_runs_leave_the_records_of_isolated_ones(tmp_path, family):
    path = write(tmp_path / "project", family=family)
    done = {
        pack: run_suite(load_suite(path), runs=tmp_path / str(pack), workers=0, pack=pack) for pack in (True, False)
    }
    found = {pack: {record.run_id: record for record in outcome.records} for pack, outcome in done.items()}
    assert found[True].keys() == found[False].keys() and len(found[True]) == 8
    for run_id, record in found[True].items():
        same = found[False][run_id]
        assert (record.status, same.status) == ("ok", "ok"), (record.reason, same.reason)
        assert len(record.packed_with) == (record.spec.method.label != "full") and not same.packed_with
        assert [point.loss for point in record.curve] == pytest.approx([point.loss for point in same.curve], abs=1e-5)
        assert (record.scores, record.threshold) == (same.scores, same.threshold)
        assert beside(tmp_path / "True", record, "predictions.json") == beside(
            tmp_path / "False", same, "predictions.json"
        )


def test_trials_checkpoints_and_a_budget_of_flops_are_those_of_any_task(tmp_path):
    suite = SUITE.replace("{train_examples: 48}", "{train_flops: 5e7, adapter_parameters: 700, tolerance: 0.4}")
    suite = suite.replace("seeds: [0, 1]", "seeds: [0]\ntuning: {seeds: [9], extend: false}\nselection_every: 2")
    path = write(tmp_path / "project", suite, "[{method: lora, learning_rate: [1e-3, 1e-2]}]")
    records = run_suite(load_suite(path), runs=tmp_path / "runs", workers=0).records
    assert len(records) == 3 and {record.status for record in records} == {"ok"}
    trials = [record for record in records if record.spec.score_on == "selection"]
    (run,) = [record for record in records if record.spec.score_on == "test"]
    assert len(trials) == 2 and all(set(record.scores) == set(run.scores) for record in trials)
    assert run.speed.train_flops >= 5e7 and 0 < run.threshold < 1
    assert max(point.step for point in run.curve if point.scores) == run.speed.train_steps


def test_without_a_selection_split_the_threshold_is_a_half(tmp_path):
    path = write(tmp_path / "project", SUITE.replace("suite: topics", "suite: topics\nprotocol: paper"), "[lora]")
    for record in run_suite(load_suite(path), runs=tmp_path / "runs", workers=0).records:
        assert (record.status, record.threshold) == ("ok", 0.5), record.reason
        assert "selection" not in record.data.examples


def test_a_plan_counts_the_labels(tmp_path):
    path = write(tmp_path / "project")
    (facts,) = make_plan(load_suite(path), tmp_path / "runs", with_data=True).data
    rows = [json.loads(line) for line in (path.parent / "topics.jsonl").read_text().splitlines()]
    counted = Counter(topic for row in rows for topic in row["topics"])
    assert {topic: sum(split.classes[topic] for split in facts.splits.values()) for topic in TOPICS} == counted


@pytest.mark.parametrize("family", [pytest.param("roberta", marks=pytest.mark.slow), "gpt2"])
def test_the_winners_code_and_its_merged_model_answer_alike(tmp_path, monkeypatch, family):
    from transformers import AutoConfig

    path = write(tmp_path / "project", SUITE.replace("[0, 1]", "[0]"), "[full, lora]", family)
    monkeypatch.chdir(path.parent)
    (full, lora) = sorted(run_suite(path.name, runs="runs", workers=0).records, key=lambda one: one.spec.method.label)
    texts = texts_of_test(path)
    for record in (full, lora):
        winner, names = find_winner(path.parent / "runs" / "topics", record.spec.method.label), {}
        exec("\n".join(winner.lines), names)
        kept = beside(path.parent / "runs", record, "predictions.json")["predictions"]
        assert [names["labels_of"](text) for text in texts] == [[TOPICS[place] for place in said] for said in kept]
        card = (winner.folder / "README.md").read_text(encoding="utf-8")
        assert f"def labels_of(text, threshold={record.threshold}):" in card
        config = AutoConfig.from_pretrained(winner.folder if winner.tuner is None else path.parent / "base")
        assert winner.tuner is not None or config.problem_type == "multi_label_classification"
    merge_winner(find_winner(path.parent / "runs" / "topics", "lora"), tmp_path / "merged")
    assert AutoConfig.from_pretrained(tmp_path / "merged").problem_type == "multi_label_classification"
    assert f"threshold={lora.threshold}" in (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
