"""From runs that kept their weights to the analysis: what is compared, against dense computations, and the command."""

import json
import shutil

import pytest
import torch

from lora_bench.analyse import analyse_runs
from lora_bench.cli import main
from lora_bench.errors import LoraBenchError
from lora_bench.execute.run_suite import run_suite
from tests.project import SUITE, write_project

METHODS = """\
methods:
  - full
  - bitfit
  - {method: lora, label: narrow, rank: 2}
  - {method: lora, label: wide, rank: 4}
"""
KEPT = (
    SUITE.replace("methods: [full, lora, bottleneck_adapter, prefix_tuning]\n", METHODS).replace("[0]", "[0, 1]")
    + "keep_weights: last\n"
)


def finished(folder, suite):
    """The runs of a suite, done in the folder of its project."""
    path = write_project(folder / "project", suite)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORA_BENCH_CACHE", str(folder / "cache"))
        patch.chdir(path.parent)
        records = run_suite(path.name, runs="runs", workers=0).records
    assert {record.status for record in records} == {"ok"}
    return path.parent / "runs" / "tickets", records


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("kept"), KEPT)


@pytest.fixture
def _here(kept, monkeypatch):
    """The base model is found by its name from the project's folder."""
    monkeypatch.chdir(kept[0].parents[1])


@pytest.mark.usefixtures("_here")
def test_it_equals_a_dense_computation(kept):
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification

    runs, records = kept
    found = analyse_runs(runs)
    (model,) = found.models
    assert set(found.left_out) == {"bitfit"}
    assert {run.group for run in model.runs} == {"full", "narrow", "wide"}
    base = AutoModelForSequenceClassification.from_pretrained("base").state_dict()

    def dense(record, path):
        """ΔW as a whole matrix."""
        folder = runs / record.run_id / "weights"
        if record.spec.method.name == "full":
            return load_file(folder / "model.safetensors")[f"{path}.weight"] - base[f"{path}.weight"]
        weights = load_file(folder / "adapter_model.safetensors")
        A, B = (weights[f"base_model.model.{path}.lora_{name}.weight"] for name in "AB")
        return 2 * B @ A, A

    by_id = {record.run_id: record for record in records}
    path = "roberta.encoder.layer.1.attention.self.value"
    W = base[f"{path}.weight"].double()
    for run in model.runs:
        record = by_id[run.run_id]
        given = dense(record, path)
        delta = (given[0] if isinstance(given, tuple) else given).double()
        (change,) = (one for one in run.changes if (one.layer, one.part) == (1, "value"))
        assert change.delta_norm == pytest.approx(float(torch.linalg.matrix_norm(delta)), rel=1e-4)
        assert change.weight_norm == pytest.approx(float(torch.linalg.matrix_norm(W)), rel=1e-6)
        if record.spec.method.name == "lora":
            r = record.spec.method.options["rank"]
            u, _, vt = torch.linalg.svd(delta)
            assert change.directions == r
            assert change.along_delta == pytest.approx(
                float(torch.linalg.matrix_norm(u[:, :r].T @ W @ vt[:r].T)), rel=1e-4
            )
            values = torch.linalg.svdvals(W)
            assert change.along_weight == pytest.approx(float(values[:r].square().sum().sqrt()), rel=1e-6)
        u0, u1 = (torch.linalg.svd(matrix)[0] for matrix in (W, W + delta))
        assert change.similarities == pytest.approx((u0.T @ u1[:, :10]).abs().amax(0).tolist(), abs=1e-4)

    # φ between the ranks, over different seeds, is the mean of the two pairs and both layers.
    (overlap,) = (
        one
        for one in model.overlaps
        if (one.first, one.second, one.seeds, one.part, one.of) == ("narrow", "wide", "different", "value", "A")
    )
    expected = []
    for layer in (0, 1):
        for first, second in ((0, 1), (1, 0)):
            vectors = []
            for label, seed in (("narrow", first), ("wide", second)):
                (one,) = (r for r in records if (r.spec.method.label, r.spec.seed) == (label, seed))
                A = dense(one, path.replace("layer.1", f"layer.{layer}"))[1].double()
                vectors.append(torch.linalg.svd(A, full_matrices=False)[2].T)
            expected.append((vectors[0].T @ vectors[1]).square().sum().item() / 2)
    assert overlap.pairs == 2 and overlap.similarity[-1][-1] == pytest.approx(sum(expected) / 4, abs=1e-5)


@pytest.mark.usefixtures("_here")
def test_ranks_and_seeds_are_compared_and_methods_are_not(kept):
    (model,) = analyse_runs(kept[0]).models
    pairs = {(one.first, one.second, one.seeds) for one in model.overlaps}
    assert pairs == {
        ("full", "full", "different"),
        ("narrow", "narrow", "different"),
        ("wide", "wide", "different"),
        ("narrow", "wide", "different"),
        ("narrow", "wide", "same"),
    }
    assert {one.of for one in model.overlaps if one.first == "full"} == {"delta"}


def test_the_command_gives_the_answer_and_the_report_gains_a_section(kept, tmp_path, monkeypatch, capsys):
    runs, _ = kept
    monkeypatch.chdir(tmp_path)  # where the base model's name leads nowhere
    assert main(["analyse", str(runs)]) == 2
    assert main(["analyse", str(runs), "--base", str(runs.parents[1] / "base")]) == 0
    assert "of their norm" in capsys.readouterr().out
    assert json.loads((runs / "analysis.json").read_text())["models"]
    assert main(["report", str(runs)]) == 0
    assert "## Weight changes" in (runs / "report.md").read_text()
    assert main(["report", str(runs), "--check"]) == 0


def test_runs_without_weights_say_the_key(kept, tmp_path):
    runs, records = kept
    folder = tmp_path / records[0].run_id
    folder.mkdir()
    (folder / "record.json").write_bytes((runs / records[0].run_id / "record.json").read_bytes())
    with pytest.raises(LoraBenchError, match="keep_weights: last"):
        analyse_runs(tmp_path)


@pytest.mark.usefixtures("_here")
def test_methods_that_change_no_weight_are_no_analysis(kept, tmp_path):
    runs, records = kept
    for record in records:
        if record.spec.method.label == "bitfit":
            shutil.copytree(runs / record.run_id, tmp_path / record.run_id)
    with pytest.raises(LoraBenchError, match="bitfit: it changes no weight matrix"):
        analyse_runs(tmp_path)
