"""A shape is a config.json alone: of a folder, or of a model on the hub at a revision."""

import json
import os
import subprocess
import sys

import pytest

from lora_bench.cli import main
from lora_bench.errors import LoraBenchError
from lora_bench.models.registry import find_model
from lora_bench.models.shapes import known_shapes
from tests.hub import add_model, serve
from tests.project import SUITE, write_project
from tests.tiny import tiny_gpt2

ONE = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_config(folder, **more):
    folder.mkdir()
    config = {**json.loads((known_shapes()["gpt2"] / "config.json").read_text()), **more}
    (folder / "config.json").write_text(json.dumps(config))


def test_a_folder_with_a_config_alone_is_the_model_that_it_describes(here):
    write_config(here / "own")
    found, known = find_model("shape:own", base=here), find_model("shape:gpt2", base=here)
    assert (found.has_weights, found.shown, found.model_type) == (False, "own (random weights)", "gpt2")
    assert found.sha256 == known.sha256
    # Weights and other files beside it change nothing: they are not read.
    (here / "own" / "model.safetensors").write_text("damaged")
    assert find_model("shape:own", base=here) == found
    write_config(here / "wider", n_embd=780)
    assert find_model("shape:wider", base=here).sha256 != known.sha256


def test_a_shape_is_planned_and_not_trained(here, capsys):
    write_project(here, ONE.replace("models: [base]", "models: ['shape:base']"))
    for weights in (here / "base").glob("*.safetensors"):
        weights.unlink()
    assert main(["plan", "tickets.yaml"]) == 0
    assert "base (random weights)" in capsys.readouterr().out
    for command in (["run", "tickets.yaml"], ["plan", "tickets.yaml", "--prepare"]):
        assert main(command) == 2
        assert "'shape:base' is a shape without weights, which cannot be trained" in capsys.readouterr().err
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("shape:gpt3", "unknown shape 'shape:gpt3'; did you mean 'shape:gpt2'?"),
        ("shape:./none", "unknown shape"),
        ("shape:../x", "unknown shape"),
        ("shape:owner/name", "model 'owner/name' is missing or incomplete in the cache, and HF_HUB_OFFLINE forbids"),
        ("shape:owner/name@v1", "model 'owner/name' is missing or incomplete in the cache"),
        ("shape:coded", "comes with code of its own"),
        ("shape:packed", "has quantised weights, which no method here trains"),
        ("shape:odd", "model_type 'none', which transformers"),
    ],
)
def test_what_is_no_shape_is_refused_in_a_line(here, name, words):
    write_config(here / "coded", model_type="x", auto_map={"AutoConfig": "code.Config"})
    write_config(here / "packed", quantization_config={"quant_method": "awq", "bits": 4})
    write_config(here / "odd", model_type="none")
    with pytest.raises(LoraBenchError) as caught:
        find_model(name, base=here)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_of_a_model_on_the_hub_the_config_alone_is_downloaded(tmp_path):
    with serve(tmp_path / "hub") as hub:
        folder = tmp_path / "model"
        tiny_gpt2().save_pretrained(folder)
        commit = add_model(tmp_path / "hub", "owner/name", folder)
        code = (
            "from pathlib import Path; from lora_bench.models.registry import find_model\n"
            f"found = find_model('shape:owner/name@{commit}', base=Path())\n"
            "print(found.revision, found.model_type, found.has_weights, *sorted(p.name for p in found.folder.iterdir()))"
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        own = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run([sys.executable, "-c", code], env=kept | own, capture_output=True, text=True)
        assert done.stdout.split() == [commit, "gpt2", "False", "config.json"], done.stderr
        assert not [line for line in hub.requests if "safetensors" in line]
