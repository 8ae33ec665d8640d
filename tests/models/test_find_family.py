"""The family of a base model: known, worked out, given in a suite, or from an installed package."""

import dataclasses
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
import yaml
from transformers import RoFormerConfig, RoFormerForSequenceClassification

import lora_bench.families as families
from lora_bench.cli import main
from lora_bench.errors import BadInput, UnsupportedPair
from lora_bench.families import family_of, forget, given_keys
from lora_bench.plan.fit_minutes import Design
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.store import read_records
from lora_bench.suite.load_suite import load_suite
from lora_bench.testing import tiny_model
from tests.project import write_data, write_tokenizer

SUITE = """\
suite: tickets
tasks:
  - {task: tickets, data: tickets.csv, text: subject, label: queue}
models: MODELS
methods: [full, lora, bottleneck_adapter]
seeds: [0]
budget: {train_examples: 48}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with data, and tiny base models like DistilBERT, Qwen 2 and a type that no family names."""
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "project"
    folder.mkdir()
    write_data(folder / "tickets.csv", 120)
    torch.manual_seed(0)
    config = RoFormerConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=64, pad_token_id=1
    )  # fmt: skip
    models = {
        "distil": tiny_model("distilbert")[0],
        "qwen": tiny_model("qwen2")[0],
        "unnamed": RoFormerForSequenceClassification(config),
    }
    for name, model in models.items():
        model.base_model.save_pretrained(folder / name)
        write_tokenizer(folder / name)
    monkeypatch.chdir(folder)
    yield folder
    forget("roformer")


def run(models, name="runs"):
    """The records of the suite on these models, by model and method."""
    Path("suite.yaml").write_text(SUITE.replace("MODELS", models), encoding="utf-8")
    assert main(["run", "suite.yaml", "--runs", name, "--workers", "0", "--quiet"]) == 0
    return {(one.spec.model.name, one.spec.method.name): one for one in read_records(Path(name) / "tickets")}


def test_a_suite_runs_on_folders_like_qwen_and_distilbert(project):
    records = run("[distil, qwen]")
    assert {record.status for record in records.values()} == {"ok"} and len(records) == 6
    assert {record.spec.model.family for record in records.values()} == {None}
    # Two matrices of rank 8 for query and value in each of two layers; Qwen's values are 16 wide.
    assert records["distil", "lora"].parameters.adapter == 2 * 2 * 8 * (32 + 32)
    assert records["qwen", "lora"].parameters.adapter == 2 * 8 * ((32 + 32) + (32 + 16))


@pytest.mark.slow
def test_try_compares_methods_on_a_decoder(project, capsys, monkeypatch):
    monkeypatch.setattr("lora_bench.plan.fit_minutes.DESIGNS", (Design(seeds=1, rates=1, epochs=1),))
    assert main(["try", "tickets.csv", "--model", "qwen", "--minutes", "60", "--no-final"]) == 0
    assert "to take one now: lora-bench choose runs/tickets" in capsys.readouterr().out
    records = read_records(Path("runs/tickets"))
    assert {record.status for record in records} == {"ok"}
    assert {"lora", "full"} < {record.spec.method.name for record in records}


def test_an_unnamed_type_is_worked_out_and_its_names_can_be_given_back(project, capsys):
    worked_out = run("[unnamed]")
    assert {(record.status, record.spec.model.family) for record in worked_out.values()} == {("ok", "inferred")}
    assert worked_out["unnamed", "lora"].parameters.adapter == 2 * 2 * 8 * (32 + 32)
    (warning,) = worked_out["unnamed", "lora"].warnings
    assert "no family names roformer" in warning and "query attention.self.query" in warning

    capsys.readouterr()
    assert main(["list", "family", "unnamed"]) == 0
    written = capsys.readouterr().out
    assert "worked out" in written
    key = yaml.safe_load(written)
    given = run(
        f"[{{model: unnamed, family: {yaml.safe_dump(key['family'], default_flow_style=True, width=9999)}}}]", "again"
    )
    for place, record in given.items():
        assert record.spec.model.family == key["family"] and not record.warnings
        assert record.scores == worked_out[place].scores
        assert record.run_id != worked_out[place].run_id


def test_a_wrong_family_is_refused_where_it_is_given(project):
    wrong = given_keys(dataclasses.replace(family_of("roberta"), model_types=("roformer",), query="attention.self.q"))
    for model, family, message in (
        ("unnamed", wrong, "not every layer of unnamed has the modules of query"),
        ("unnamed", {**wrong, "model_types": ["other"]}, "unnamed is of type roformer"),
        ("unnamed", {**wrong, "num_layers_key": "depth"}, "not every layer|num_layers_key"),
        ("qwen", wrong, "is of the family qwen2 already"),
    ):
        entry = yaml.safe_dump({"model": model, "family": family}, default_flow_style=True, width=9999)
        (project / "suite.yaml").write_text(SUITE.replace("MODELS", f"[{entry.strip()}]"), encoding="utf-8")
        with pytest.raises(BadInput, match=message):
            make_plan(load_suite("suite.yaml"), project / "runs")
    (project / "suite.yaml").write_text(
        SUITE.replace("MODELS", "[{model: unnamed, family: {name: x, layr: y}}]"), encoding="utf-8"
    )
    with pytest.raises(BadInput, match="layr"):
        load_suite("suite.yaml")


def test_an_installed_package_adds_a_family(monkeypatch):
    own = dataclasses.replace(family_of("llama"), name="own", model_types=("own_type",))
    entries = [
        EntryPoint("own", "own_package:OWN", "lora_bench.families"),
        EntryPoint("broken", "no_such_package:OWN", "lora_bench.families"),
    ]
    monkeypatch.setitem(sys.modules, "own_package", type(sys)("own_package"))
    sys.modules["own_package"].OWN = own
    monkeypatch.setattr(families, "entry_points", lambda group: entries)
    families._plugged_in.cache_clear()
    try:
        assert family_of("own_type") is own
        with pytest.raises(UnsupportedPair, match=r"other_type.*broken \(no_such_package:OWN\) cannot be used"):
            family_of("other_type")
    finally:
        families._plugged_in.cache_clear()


def test_listing_a_family_needs_a_model(capsys):
    assert main(["list", "family"]) == 2
    assert "give a MODEL" in capsys.readouterr().err
