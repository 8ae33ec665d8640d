"""New rows answered by kept weights: as the test split was, by every kind of task, from runs and from folders of weights."""

import csv
import json
import re
import shutil

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lora_bench.cli import main
from lora_bench.execute.run_suite import run_suite
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks import load_data
from tests.execute import test_multilabel as several
from tests.kinds import test_multiple_choice as choices
from tests.project import SUITE, write_project
from tests.training import test_answering as spans
from tests.training import test_chat_runs as chats
from tests.training import test_tagging as tags
from tests.training import test_writing as texts

KEPT = SUITE + "keep_weights: last\n"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))


def finished(path, monkeypatch):
    """The runs of a suite done in its folder, and its records by the method's label."""
    monkeypatch.chdir(path.parent)
    outcome = run_suite(path.name, runs="runs", workers=0)
    assert {record.status for record in outcome.records} == {"ok"}, [record.reason for record in outcome.records]
    (runs,) = (path.parent / "runs").iterdir()
    return runs, {record.spec.method.label: record for record in outcome.records}


def project(tmp_path, monkeypatch, methods, suite=KEPT, family="roberta"):
    suite = suite.replace("[full, lora, bottleneck_adapter, prefix_tuning]", methods)
    return finished(write_project(tmp_path / "project", suite, family), monkeypatch)


def held_out(path):
    """The ids of the test split of a suite's task: the numbers of its rows in the file."""
    ((task, base),) = load_suite(path).tasks
    return [int(name) - 1 for name in load_data(task, base).splits["test"].ids]


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def kept_beside(runs, record, name):
    return json.loads((runs / record.run_id / f"{name}.json").read_text(encoding="utf-8"))[name]


def refused(words, capsys):
    """One line for a mistake, and exit code 2."""
    capsys.readouterr()
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("family", ["roberta", pytest.param("gpt2", marks=pytest.mark.slow), "deberta-v2"])
def test_the_rows_of_the_test_split_get_the_answers_of_the_record(tmp_path, monkeypatch, family):
    suite = KEPT + "training: {masks: keyed, last_layer: read_position}\n"
    methods = "[full, lora, bottleneck_adapter, prefix_tuning]"
    runs, records = project(tmp_path, monkeypatch, methods, suite, family)
    given = rows_of(runs.parents[1] / "tickets.csv")
    rows = [{"number": str(place), "subject": given[place]["subject"]} for place in held_out("tickets.yaml")]
    write_rows(tmp_path / "new.csv", rows)
    for label, record in records.items():
        out = tmp_path / f"{label}.csv"
        assert main(["predict", str(runs), str(tmp_path / "new.csv"), label, "--out", str(out)]) == 0
        found = rows_of(out)
        assert [{name: row[name] for name in rows[0]} for row in found] == rows
        names = record.spec.task.labels
        assert [names.index(row["predicted"]) for row in found] == kept_beside(runs, record, "predictions")
        shares = [[float(row[f"p({name})"]) for name in names] for row in found]
        assert shares == kept_beside(runs, record, "probabilities"), label


def ratings(folder):
    """A project whose labels are numbers."""
    path = write_project(folder, KEPT.replace("label: queue", "label: queue\n    kind: regression\n    metric: mae"))
    rows = rows_of(folder / "tickets.csv")
    write_rows(folder / "tickets.csv", [row | {"queue": len(row["subject"]) / 10} for row in rows])
    return path


KINDS = {
    "regression": (ratings, "tickets.csv"),
    "multilabel": (lambda folder: several.write(folder, several.SUITE.replace("[0, 1]", "[0]")), "topics.jsonl"),
    "tokens": (lambda folder: tags.write_project(folder, f"{tags.SUITE}keep_weights: last\n"), "test.jsonl"),
    "spans": (lambda folder: spans.write_project(folder, f"{spans.OPTIONAL}keep_weights: last\n"), "test.jsonl"),
    "multiple_choice": (choices.write_project, "test.jsonl"),
    "generation": (lambda folder: texts.write_project(folder, f"{texts.SUITE}keep_weights: last\n"), "test.csv"),
    "chat": (lambda folder: chats.write_project(folder, f"{chats.SUITE}keep_weights: last\n"), "test.jsonl"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_answers_new_rows_as_its_test_split(tmp_path, monkeypatch, kind):
    write, file = KINDS[kind]
    path = write(tmp_path / "project")
    keep = "lora" if kind != "generation" else "full"
    suite = re.sub(
        r"methods: \[full.*\]", f"methods: [{keep}]", path.read_text().replace("seeds: [0, 1]", "seeds: [0]")
    )
    path.write_text(re.sub(rf"  - {{method: (?!{keep}).*\n", "", suite))
    runs, records = finished(path, monkeypatch)
    (record,) = records.values()
    lines = (path.parent / file).read_text(encoding="utf-8").splitlines(keepends=True)
    head = lines[:1] if file.endswith(".csv") else []
    rows = [lines[len(head) + place] for place in held_out(path)]
    new = tmp_path / f"new.{file.partition('.')[2]}"
    new.write_text("".join([*head, *(row.rstrip() + "\n" for row in rows)]), encoding="utf-8")
    assert main(["predict", str(runs), str(new), keep, "--out", "answers.jsonl"]) == 0
    found = [json.loads(line) for line in (path.parent / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    if kind in ("generation", "chat"):
        assert [row["predicted"] for row in found] == kept_beside(runs, record, "completions")
        return
    given = kept_beside(runs, record, "predictions")
    names = record.spec.task.labels
    if kind == "multilabel":
        given = [[names[place] for place in labels] for labels in given]
    elif kind == "multiple_choice":
        given = [names[place] for place in given]
    elif kind == "spans":
        given = [row["text"][slice(*place)] if place else "" for row, place in zip(found, given, strict=True)]
    assert [row["predicted"] for row in found] == given
    assert [name for name in found[0] if name.startswith("p(")] == [
        f"p({name})" for name in names if kind in ("multilabel", "multiple_choice")
    ]


def test_a_question_without_an_answer_is_answered(tmp_path, monkeypatch):
    """A chat that only losses score writes too, and a plain text is a message of the user."""
    suite = f"{chats.ONE}keep_weights: last\n".replace("[perplexity, exact_match]", "[perplexity]")
    suite = suite.replace("train_examples: 64", "train_examples: 960")
    suite = suite.replace("decoding: {max_new_tokens: 6}\n", "")
    runs, _ = finished(chats.write_project(tmp_path / "project", suite), monkeypatch)
    asked = {"role": "user", "content": "the film was"}
    rows = [[asked], [asked, {"role": "assistant", "content": "was end"}], "the film was", "", [], [{"role": 1}]]
    with (tmp_path / "new.jsonl").open("w") as file:
        file.writelines(json.dumps({"messages": row}) + "\n" for row in rows)
    assert main(["predict", str(runs), str(tmp_path / "new.jsonl"), "full", "--out", "answers.jsonl"]) == 0
    said = [json.loads(line)["predicted"] for line in (runs.parents[1] / "answers.jsonl").read_text().splitlines()]
    assert said[0] and said == [said[0], said[0], said[0], None, None, None]


def test_a_run_in_bfloat16_answers_new_rows_as_the_lines_that_load_its_model(tmp_path, monkeypatch):
    path = ratings(tmp_path / "project")
    suite = path.read_text(encoding="utf-8").replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[full]")
    path.write_text(f"{suite}training: {{precision: bfloat16}}\n", encoding="utf-8")
    runs, records = finished(path, monkeypatch)
    weights = runs / records["full"].run_id / "weights"
    assert main(["predict", str(runs), "tickets.csv", "--out", str(tmp_path / "answers.csv")]) == 0
    tokenizer = AutoTokenizer.from_pretrained(weights)
    model = AutoModelForSequenceClassification.from_pretrained(weights).eval()
    for row in rows_of(tmp_path / "answers.csv")[:20]:
        with torch.no_grad():
            expected = model(**tokenizer(row["subject"], return_tensors="pt")).logits.item()
        # bfloat16 has three digits.
        assert float(row["predicted"]) == pytest.approx(expected, abs=1e-5)


def test_a_folder_of_weights_answers_without_its_runs(tmp_path, monkeypatch, capsys):
    runs, records = project(tmp_path, monkeypatch, "[full, lora, prefix_tuning]")
    weights = {label: runs / record.run_id / "weights" for label, record in records.items()}
    assert main(["use", str(runs), "lora", "--merge", str(tmp_path / "merged")]) == 0
    assert main(["use", str(runs), "prefix_tuning", "--share", str(tmp_path / "shared")]) == 0
    shutil.copytree(weights["full"], tmp_path / "full")
    shutil.copytree(weights["lora"], tmp_path / "copied")
    expected = {}
    for label, record in records.items():
        assert main(["predict", str(runs), "tickets.csv", label, "--out", str(tmp_path / f"{label}.csv")]) == 0
        expected[label] = rows_of(tmp_path / f"{label}.csv")
        for place in (runs / record.run_id, weights[label]):
            assert main(["predict", str(place), "tickets.csv", "--out", str(tmp_path / "again.csv")]) == 0
            assert rows_of(tmp_path / "again.csv") == expected[label]
            (tmp_path / "again.csv").unlink()
    for file in [*tmp_path.glob("*/lora_bench.json")]:
        assert str(tmp_path) not in file.read_text(encoding="utf-8")
    base = runs.parents[1] / "base"
    shutil.rmtree(runs)
    for name, label, more in (
        ("full", "full", []),
        ("merged", "lora", []),
        ("shared", "prefix_tuning", []),
        ("copied", "lora", ["--base", str(base)]),
    ):
        out = tmp_path / f"from-{name}.csv"
        assert main(["predict", str(tmp_path / name), "tickets.csv", "--out", str(out), *more]) == 0
        assert [row["predicted"] for row in rows_of(out)] == [row["predicted"] for row in expected[label]], name
    facts = json.loads((tmp_path / "merged" / "lora_bench.json").read_text(encoding="utf-8"))
    for harm in ({"spec": None}, {"threshold": []}, {"spec": {**facts["spec"], "seed": "x"}}, {"spec": 1e300}):
        (tmp_path / "merged" / "lora_bench.json").write_text(json.dumps(facts | harm), encoding="utf-8")
        assert "does not say of which task its weights are" in refused(
            ["predict", str(tmp_path / "merged"), "tickets.csv", "--out", "x.csv"], capsys
        )
    facts["spec"]["task"]["definition"]["kind"] = "unheard"
    (tmp_path / "merged" / "lora_bench.json").write_text(json.dumps(facts), encoding="utf-8")
    assert "lora_bench.json" in refused(["predict", str(tmp_path / "merged"), "tickets.csv", "--out", "x.csv"], capsys)
    (tmp_path / "merged" / "lora_bench.json").unlink()
    assert "has no lora_bench.json, which says of which task its weights are" in refused(
        ["predict", str(tmp_path / "merged"), "tickets.csv", "--out", "x.csv"], capsys
    )


def test_rows_without_a_text_stay_without_an_answer(tmp_path, monkeypatch, capsys):
    runs, _ = project(tmp_path, monkeypatch, "[lora]")
    texts = ["the film was great", "", " ", "the plot is dull"]
    write_rows(tmp_path / "new.csv", [{"subject": text, "queue": "=1+1"} for text in texts])
    capsys.readouterr()
    assert main(["predict", str(runs), str(tmp_path / "new.csv"), "lora"]) == 0
    said = capsys.readouterr()
    assert "has no text in column 'subject' in 2 rows (lines 3, 4)" in said.err
    assert "4 rows in new.predicted.csv" in said.out and "2 of them have no answer" in said.out
    found = rows_of(runs.parents[1] / "new.predicted.csv")
    assert [row["subject"] for row in found] == texts and {row["queue"] for row in found} == {"=1+1"}
    assert [bool(row["predicted"]) for row in found] == [True, False, False, True]
    assert [bool(row["p(praise)"]) for row in found] == [True, False, False, True]


def test_a_table_is_read_by_its_suffix_and_answers_keep_its_values(tmp_path, monkeypatch):
    runs, _ = project(tmp_path, monkeypatch, "[lora]")
    rows = [{"subject": "the film was great", "ids": [1, 2], "note": None}, {"subject": None, "ids": [], "note": 0.5}]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main(["predict", str(runs), str(tmp_path / "new.jsonl"), "lora"]) == 0
    found = [json.loads(line) for line in (runs.parents[1] / "new.predicted.jsonl").read_text().splitlines()]
    assert [{name: row[name] for name in rows[0]} for row in found] == rows
    assert found[0]["predicted"] in ("praise", "complaint") and found[1]["predicted"] is None
    assert main(["predict", str(runs), str(tmp_path / "new.jsonl"), "lora", "--out", "new.tsv"]) == 0
    lines = (runs.parents[1] / "new.tsv").read_text().splitlines()
    assert lines[0].split("\t")[:4] == ["subject", "ids", "note", "predicted"]
    assert lines[2].split("\t") == ["", "[]", "0.5", "", "", ""]


def test_another_separator_and_encoding_are_guessed_and_kept(tmp_path, monkeypatch, capsys):
    runs, _ = project(tmp_path, monkeypatch, "[lora]")
    rows = ["subject;note", "the film was gréat;1,5", "dull;2,5"]
    (tmp_path / "new.csv").write_bytes("\n".join(rows).encode("cp1252"))
    assert main(["predict", str(runs), str(tmp_path / "new.csv"), "lora"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "guessed: the encoding is cp1252, as it is not UTF-8",
        "guessed: values are separated by ';'",
    ]
    lines = (runs.parents[1] / "new.predicted.csv").read_text(encoding="cp1252").splitlines()
    assert [line.split(";")[:2] for line in lines] == [row.split(";") for row in rows]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_answers_are_in_the_encoding_of_the_table(tmp_path, monkeypatch, encoding):
    runs, _ = project(tmp_path, monkeypatch, "[lora]")
    (tmp_path / "new.csv").write_bytes("subject\nthe film was gréat\n".encode(encoding))
    assert main(["predict", str(runs), str(tmp_path / "new.csv"), "lora"]) == 0
    answered = (runs.parents[1] / "new.predicted.csv").read_bytes()
    assert answered.decode(encoding).splitlines()[1].startswith("the film was gréat,")
    assert answered.startswith(b"\xef\xbb\xbf") == (encoding == "utf-8-sig")


def test_answers_that_the_encoding_of_the_table_lacks_are_in_utf_8(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lora_bench.training.predict.PREDICTED", "vorhergesagt→")
    runs, _ = project(tmp_path, monkeypatch, "[lora]")
    (tmp_path / "new.csv").write_bytes("subject\nthe film was gréat\n".encode("cp1252"))
    assert main(["predict", str(runs), str(tmp_path / "new.csv"), "lora", "--out", "new.out.csv"]) == 0
    assert "new.out.csv is in UTF-8, as cp1252 lacks '→'" in capsys.readouterr().err
    answered = (runs.parents[1] / "new.out.csv").read_text(encoding="utf-8-sig")
    assert answered.startswith("subject,vorhergesagt→,")


def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    runs, records = project(tmp_path, monkeypatch, "[lora]")
    write_rows(tmp_path / "other.csv", [{"subjects": "the film was great"}])
    write_rows(tmp_path / "empty.csv", [{"subject": ""}])
    write_rows(tmp_path / "again.csv", [{"subject": "fine", "predicted": "praise"}])
    (tmp_path / "there.csv").write_text("mine")
    predict = ["predict", str(runs)]
    for words, said in (
        ([*predict, str(tmp_path / "nowhere.csv"), "lora"], "there is no such file"),
        ([*predict, str(tmp_path / "other.csv"), "lora"], "has no column 'subject'; did you mean 'subjects'?"),
        ([*predict, str(tmp_path / "empty.csv"), "lora"], "has no text in column 'subject' in 1 row (line 2)"),
        ([*predict, str(tmp_path / "again.csv"), "lora"], "has a column 'predicted', as the answers have"),
        ([*predict, "tickets.csv", "lroa"], "unknown method 'lroa'; did you mean 'lora'?"),
        ([*predict, "tickets.csv", "lora", "--out", str(tmp_path / "there.csv")], "is there already"),
        ([*predict, "tickets.csv", "lora", "--out", "answers.xls"], "end its name in .csv, .tsv, .jsonl"),
        ([*predict, "tickets.csv", "lora", "--out", "new.csv", "--base", "nowhere"], "nowhere"),
        (["predict", str(runs / records["lora"].run_id), "tickets.csv", "lora"], "has the weights of one method"),
        (["predict", str(tmp_path / "no"), "tickets.csv"], "no"),
    ):
        assert said in refused(words, capsys)
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert not [path for path in (runs.parents[1]).iterdir() if path.name.startswith((".", "new", "tickets.pre"))]
