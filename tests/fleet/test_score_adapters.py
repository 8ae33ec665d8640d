"""Adapters of one base scored side by side: each as its own run scored it, and bad ones a line each."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lora_bench.cli import main
from lora_bench.exchange.scores import judge
from lora_bench.execute.run_suite import run_suite
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks import load_data
from lora_bench.tuners import mix_adapters
from tests.project import SUITE, write_project

METHODS = "[full, lora, bottleneck_adapter, prefix_tuning, bitfit]"
ROOT = Path(__file__).parents[2]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project whose suite has run with each method, its weights disturbed, and the records by the method's label."""
    folder = tmp_path_factory.mktemp("fleet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORA_BENCH_CACHE", str(folder / "cache"))
        suite = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", METHODS)
        path = write_project(folder / "project", suite + "keep_weights: last\n", "roberta")
        patch.chdir(path.parent)
        outcome = run_suite(path.name, runs="runs", workers=0)
        records = {record.spec.method.label: record for record in outcome.records}
        assert {record.status for record in records.values()} == {"ok"}
        torch.manual_seed(0)
        for file in Path("runs").rglob("weights/*.safetensors"):  # a few steps leave all methods with equal answers
            weights = {name: weight + torch.randn_like(weight) * 0.5 for name, weight in load_file(file).items()}
            save_file(weights, file, metadata={"format": "pt"})
        base = AutoModelForSequenceClassification.from_pretrained("base", num_labels=2)
        torch.manual_seed(1)
        for name in ("red", "blue"):
            adapted = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=3, target_modules=["query"]))
            with torch.no_grad():
                for path_of, weight in adapted.named_parameters():
                    if "lora_B" in path_of or "modules_to_save" in path_of:
                        weight.normal_(std=0.5)
            adapted.save_pretrained(f"elsewhere/{name}")
            base = adapted.unload()
    return path.parent, records


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    """A copy of the project, as the working folder."""
    shutil.copytree(made[0], tmp_path / "project")
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def held_out():
    ((task, base),) = load_suite("tickets.yaml").tasks
    return load_data(task, base).splits["test"]


def rows_of(path):
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def scored(capsys, *words):
    """The exit code, the lines of the table by the adapter, and the lines of what could not be scored."""
    capsys.readouterr()
    code = main(["score", *words, "--task", "tickets.yaml", "--quiet"])
    out, err = capsys.readouterr()
    table = [line.split("  ") for line in out.splitlines() if "  " in line.strip() and "─" not in line][1:]
    return code, {cells[0].strip(): cells for cells in table}, err.splitlines()


def test_every_method_has_the_answers_that_predict_gives_with_its_weights_alone(project, made, capsys):
    code, table, faults = scored(capsys, "runs/tickets", "--out", "scores.csv")
    assert (code, faults, len(table)) == (0, [], len(made[1]))
    by_method = {}
    for row in rows_of("scores.csv"):
        assert (row["task"], row["seed"]) == ("tickets", "0")
        by_method.setdefault(row["method"], {})[row["item"]] = float(row["accuracy"])
    split, given = held_out(), rows_of("tickets.csv")
    asked = [given[int(item) - 1] for item in split.ids]
    Path("asked.csv").write_text("subject\n" + "\n".join(row["subject"] for row in asked))
    for label, record in made[1].items():
        assert main(["predict", f"runs/tickets/{record.run_id}", "asked.csv", "--out", f"{label}.csv"]) == 0
        right = [
            float(row["queue"] == own["predicted"]) for row, own in zip(asked, rows_of(f"{label}.csv"), strict=True)
        ]
        assert by_method[label] == dict(zip(split.ids, right, strict=True))
    assert len({tuple(answers.values()) for answers in by_method.values()}) >= 3
    means = [sum(by_method[name.removesuffix(" (seed 0)")].values()) for name in table]
    assert means == sorted(means, reverse=True)


def test_judge_reads_what_score_writes(project, capsys):
    for suffix in ("csv", "jsonl"):
        assert scored(capsys, "runs/tickets", "elsewhere", "--out", f"scores.{suffix}")[0] == 0
        found = judge(f"scores.{suffix}")
        assert "item: column `item`" in found.said and found.answer


def test_adapters_made_elsewhere_answer_as_peft_loads_each_alone_and_as_a_mixed_batch(project, capsys):
    assert scored(capsys, "elsewhere", "--base", "base", "--out", "scores.csv")[0] == 0
    split, tokenizer = held_out(), AutoTokenizer.from_pretrained("base")
    batch = tokenizer([text for (text,) in split.texts], padding=True, return_tensors="pt")
    base = AutoModelForSequenceClassification.from_pretrained("base", num_labels=2)
    model = PeftModel.from_pretrained(base, "elsewhere/red", adapter_name="red").eval()
    model.load_adapter("elsewhere/blue", "blue")
    with torch.no_grad():
        names = ["red", "blue"] * len(split.ids)
        both = {name: torch.repeat_interleave(values, 2, dim=0) for name, values in batch.items()}
        mixed = mix_adapters(model)(**both, adapter_names=names).logits
    rows = rows_of("scores.csv")
    for place, name in enumerate(("red", "blue")):
        answers = mixed[place::2].argmax(-1).tolist()
        right = [float(answer == label) for answer, label in zip(answers, split.labels, strict=True)]
        assert [float(row["accuracy"]) for row in rows if row["method"] == name] == right


def test_the_lines_of_the_page_give_each_row_its_adapter(project):
    shutil.copytree("elsewhere", "adapters")
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/how-to/many-adapters.md").read_text(), flags=re.DOTALL)
    names = {}
    exec(lines, names)
    for row, name in enumerate(("red", "blue")):
        names["model"].set_adapter(name)
        assert (names["model"](**names["batch"]).logits[row] - names["logits"][row]).abs().max() <= 1e-5


def test_labels_in_another_order_are_mapped_by_name_and_others_are_refused(project, made, capsys):
    run = project / "runs/tickets" / made[1]["lora"].run_id
    before = scored(capsys, str(run))[1]["lora (seed 0)"]
    turned = project / "turned"
    shutil.copytree(run / "weights", turned)
    weights = load_file(turned / WEIGHTS)
    for name in weights:
        if "out_proj" in name:
            weights[name] = weights[name].flip(0).contiguous()
    save_file(weights, turned / WEIGHTS)
    facts = json.loads((turned / "lora_bench.json").read_text())
    facts["spec"]["task"]["labels"].reverse()
    (turned / "lora_bench.json").write_text(json.dumps(facts))
    assert scored(capsys, "turned")[1]["lora (seed 0)"] == before
    facts["spec"]["task"]["labels"][0] = "other"
    (turned / "lora_bench.json").write_text(json.dumps(facts))
    code, _, (line,) = scored(capsys, "turned")
    assert code == 2 and "turned answers with the labels other, " in line


def change(folder, **config):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


def without(folder, part):
    weights = load_file(folder / WEIGHTS)
    save_file({name: weight for name, weight in weights.items() if part not in name}, folder / WEIGHTS)


def pickled(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


def with_another(folder):
    save_file({**load_file(folder / WEIGHTS), "base_model.model.more": torch.zeros(2)}, folder / WEIGHTS)


FAULTS = {
    "of another base": (
        lambda folder: change(folder, base_model_name_or_path="their/bert"),
        "their/bert, and base is loaded",
    ),
    "of another rank": (
        lambda folder: change(folder, r=5),
        "says rank 5 in its adapter_config.json, and its weights have rank 3",
    ),
    "with a pickle": (pickled, "weights are read from safetensors only"),
    "without weights": (lambda folder: without(folder, "layer.0"), "lacks base_model.model.roberta.encoder.layer.0"),
    "without a head": (lambda folder: without(folder, "classifier"), "has no head (classifier) among its weights"),
    "with others": (with_another, "also has base_model.model.more"),
    "no JSON": (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json"),
}


def test_each_bad_adapter_is_a_line_and_the_others_are_scored(project, capsys):
    for name, (spoil, _) in FAULTS.items():
        shutil.copytree("elsewhere/red", project / "bad" / name)
        spoil(project / "bad" / name)
    shutil.copytree("elsewhere/red", project / "again" / "red")
    code, table, lines = scored(capsys, "elsewhere", "bad", "again/red", "nowhere", "--out", "scores.csv")
    assert code == 3 and set(table) >= {"red", "blue"}
    for name, (_, said) in FAULTS.items():
        (line,) = [one for one in lines if f"bad/{name} " in one]
        assert said in line
    (same,) = [line for line in lines if "again/red" in line]
    assert "has the name red, as elsewhere/red has" in same
    assert sum("nowhere" in line for line in lines) == 1 and len(lines) == len(FAULTS) + 2
    assert {row["method"] for row in rows_of("scores.csv")} == {"red", "blue"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere"),
        (["elsewhere", "--out", "scores.xlsx"], "end its name in .csv or .jsonl"),
        (["elsewhere", "--base", "none-such"], "none-such"),
    ],
)
def test_nothing_to_score_is_bad_input(project, capsys, words, said):
    code, _, lines = scored(capsys, *words)
    assert code == 2 and said in " ".join(lines)


def test_runs_of_another_split_are_noted(project, capsys):
    (project / "other.yaml").write_text(
        (project / "tickets.yaml")
        .read_text()
        .replace("    label: queue", "    label: queue\n    split: {train: 0.5, selection: 0.2, test: 0.3}")
    )
    capsys.readouterr()
    assert main(["score", "runs/tickets", "--task", "other.yaml"]) == 0
    assert "was trained on another split of tickets" in capsys.readouterr().err
