"""From a finished suite to the winner's weights: found, shown with the lines that load them, merged, and shared."""

import json
import shutil

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification

from lora_bench.cli import main
from lora_bench.errors import LoraBenchError
from lora_bench.execute.run_suite import run_suite
from lora_bench.training.winner import find_winner, merge_winner, share_winner
from tests.project import SUITE, write_project

KEPT = SUITE.replace("seeds: [0]", "seeds: [0, 1]") + "keep_weights: last\n"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))


def finished(tmp_path, monkeypatch, suite=KEPT, methods="[full, lora, bitfit, prefix_tuning]", family="roberta"):
    """The runs of a suite, done in the folder of its project."""
    suite = suite.replace("[full, lora, bottleneck_adapter, prefix_tuning]", methods)
    path = write_project(tmp_path / "project", suite, family)
    monkeypatch.chdir(path.parent)
    outcome = run_suite(path.name, runs="runs", workers=0)
    assert {record.status for record in outcome.records} == {"ok"}
    return path.parent / "runs" / "tickets", outcome.records


def test_the_winner_is_the_best_seed_of_a_method(tmp_path, monkeypatch, capsys):
    runs, records = finished(tmp_path, monkeypatch, methods="[full, lora]")
    of_lora = [record for record in records if record.spec.method.label == "lora"]
    winner = find_winner(runs, "lora")
    assert winner.record.score == max(record.score for record in of_lora)
    assert winner.folder == runs / winner.record.run_id / "weights"
    assert main(["use", str(runs), "lora"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == str(winner.folder)
    assert f"expect the mean over {winner.row.score.n} seeds, {winner.row.score.mean:.4f} (95 % by " in said[1]
    names: dict = {}
    exec("\n".join(said[said.index("") :]), names)
    assert names["model"].config.id2label == {0: "complaint", 1: "praise"}


def test_of_two_settings_of_a_suite_the_newest_is_taken_and_said(tmp_path, monkeypatch, capsys):
    runs, first = finished(tmp_path, monkeypatch, methods="[lora]")
    suite = tmp_path / "project" / "tickets.yaml"
    suite.write_text(suite.read_text().replace("train_examples: 48", "train_examples: 64"))
    second = run_suite("tickets.yaml", runs="runs", workers=0).records
    assert not {record.run_id for record in first} & {record.run_id for record in second}
    assert find_winner(runs, "lora").record.run_id in {record.run_id for record in second}
    assert main(["use", str(runs), "lora"]) == 0
    assert "these runs have 2 settings; the newest is taken, with train_examples 64, not 48" in capsys.readouterr().out


def test_where_runs_learned_nothing_one_is_taken_and_the_doubt_said(tmp_path, monkeypatch, capsys):
    runs, _ = finished(tmp_path, monkeypatch, methods="[full, lora]")
    assert (main(["choose", str(runs)]), main(["use", str(runs)])) == (0, 0)
    said = capsys.readouterr().out.splitlines()
    doubt = "No result: too many runs did no better than a constant answer; train longer. Until then, of these methods:"
    assert said[0] == doubt and f"{doubt} {find_winner(runs).row.label}." in said


@pytest.mark.parametrize(
    "family", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("roberta", "deberta-v2")), "gpt2"]
)
def test_a_merged_model_is_a_plain_folder_with_the_same_answers(tmp_path, monkeypatch, family):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    runs, _ = finished(tmp_path, monkeypatch, KEPT.replace("[0, 1]", "[0]"), "[lora, bitfit]", family)
    for method in ("lora", "bitfit"):
        winner, out = find_winner(runs, method), tmp_path / f"merged-{method}"
        merge_winner(winner, out)
        assert not (out / "adapter_config.json").exists() and str(tmp_path) not in (out / "config.json").read_text()
        names: dict = {}
        exec("\n".join(winner.lines), names)
        tokenizer = AutoTokenizer.from_pretrained(out)
        batch = tokenizer(
            ["the film was lovely", "dull"], padding=True, return_tensors="pt", return_token_type_ids=False
        )
        merged = AutoModelForSequenceClassification.from_pretrained(out).eval()
        with torch.no_grad():
            difference = (merged(**batch).logits - names["model"].eval()(**batch).logits).abs().max()
        assert difference < 1e-5
        assert pipeline("text-classification", model=str(out))("dull")[0]["label"] in ("praise", "complaint")


def test_what_cannot_be_merged_is_said_and_nothing_is_written(tmp_path, monkeypatch):
    runs, _ = finished(
        tmp_path, monkeypatch, KEPT.replace("[0, 1]", "[0]"), "[full, prefix_tuning, bottleneck_adapter]"
    )
    out = tmp_path / "merged"
    for method, said in (
        ("prefix_tuning", "cannot be merged"),
        ("bottleneck_adapter", "cannot be merged"),
        ("full", "is a whole model already"),
    ):
        with pytest.raises(LoraBenchError, match=said):
            merge_winner(find_winner(runs, method), out)
        assert not out.exists()


@pytest.mark.parametrize("method", ["lora", "prefix_tuning"])
def test_a_shared_winner_loads_without_the_models_of_this_machine(tmp_path, monkeypatch, capsys, method):
    runs, _ = finished(tmp_path, monkeypatch, KEPT.replace("[0, 1]", "[0]"), "[lora, prefix_tuning]")
    ids = torch.tensor([[5, 6, 7, 8]])
    loaded: dict = {}
    exec("\n".join(find_winner(runs, method).lines), loaded)
    (find_winner(runs, method).folder / "notes.txt").write_text("mine")
    assert main(["use", str(runs), method, "--share", str(tmp_path / "shared")]) == 0
    said = capsys.readouterr().out.splitlines()
    shutil.rmtree(tmp_path / "project")
    (tmp_path / "shared").rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    card = (tmp_path / "elsewhere" / "README.md").read_text()
    lines = card.split("```python\n")[1].split("```")[0]
    assert [line.replace("THIS FOLDER", str(tmp_path / "shared")) for line in lines.splitlines()] == said[
        said.index("") + 1 :
    ]
    shared: dict = {}
    exec(lines.replace("THIS FOLDER", "."), shared)
    by_itself = AutoPeftModelForSequenceClassification.from_pretrained("adapter")
    with torch.no_grad():
        own, copied, auto = (model.eval()(ids).logits for model in (loaded["model"], shared["model"], by_itself))
    assert torch.equal(own, copied) and torch.equal(own, auto)
    assert shared["model"].config.id2label == {0: "complaint", 1: "praise"}
    names = {path.name for path in (tmp_path / "elsewhere").iterdir()}
    assert names == {"README.md", "base", "adapter", "lora_bench.json"}
    assert not list((tmp_path / "elsewhere").rglob("notes.txt"))


def test_what_cannot_be_shared_is_said_and_nothing_is_written(tmp_path, monkeypatch):
    runs, _ = finished(tmp_path, monkeypatch, KEPT.replace("[0, 1]", "[0]"), "[full, lora]")
    with pytest.raises(LoraBenchError, match="is a whole model already"):
        share_winner(find_winner(runs, "full"), tmp_path / "shared")
    winner = find_winner(runs, "lora")
    (winner.folder / "adapter_model.safetensors").write_bytes(b"{}")
    with pytest.raises(LoraBenchError):
        share_winner(winner, tmp_path / "shared")
    assert not (tmp_path / "shared").exists()


def test_another_base_model_is_refused(tmp_path, monkeypatch):
    runs, _ = finished(tmp_path, monkeypatch, KEPT.replace("[0, 1]", "[0]"), "[lora]")
    config = tmp_path / "project" / "base" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "layer_norm_eps": 1e-3}))
    with pytest.raises(LoraBenchError, match="is not the base model of run"):
        merge_winner(find_winner(runs), tmp_path / "merged")


def test_runs_that_kept_nothing_say_the_key_and_the_command(tmp_path, monkeypatch, capsys):
    runs, _ = finished(tmp_path, monkeypatch, SUITE, "[lora]")
    assert main(["use", str(runs)]) == 2
    said = capsys.readouterr().err
    assert "`keep_weights: last`" in said and "`lora-bench run tickets.yaml`" in said


def test_an_unknown_method_is_answered_with_the_nearest(tmp_path, monkeypatch):
    runs, _ = finished(tmp_path, monkeypatch, KEPT.replace("[0, 1]", "[0]"), "[lora]")
    with pytest.raises(LoraBenchError, match="unknown method 'lroa'; did you mean 'lora'"):
        find_winner(runs, "lroa")
