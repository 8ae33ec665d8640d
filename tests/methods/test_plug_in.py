"""An installed package adds a method without touching this one, in under 40 lines, and a tuner in under 70."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model

from lora_bench.errors import UnsupportedPair
from tests.project import SUITE, write_project
from tests.tiny import HIDDEN, LAYERS, tiny_batch, tiny_gpt2, tiny_roberta

PLUG_IN = Path(__file__).parent / "plug_in"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder on the path of a new process with what pip would leave there: the module and its metadata."""
    project = tomllib.loads((PLUG_IN / "pyproject.toml").read_text())["project"]
    folder = tmp_path_factory.mktemp("site")
    for module in PLUG_IN.glob("*.py"):
        shutil.copy(module, folder)
    metadata = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    metadata.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {module}" for name, module in entries.items()))
    ]
    metadata.joinpath("entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


def python(code, *folders):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vera", "diag_lora"])
def test_an_installed_plug_in_keeps_the_contract(installed, name):
    done = python(
        "import sys\n"
        "from lora_bench.methods import known_methods\n"
        f"method = known_methods()['{name}']\n"
        "assert 'torch' not in sys.modules\n"
        "from lora_bench.testing import check_method\n"
        "check_method(method(rank=4))\n"
        "print('kept by', method.__module__)\n",
        installed,
        ROOT,
    )
    assert done.stdout == f"kept by {name.removesuffix('_lora')}_plug_in\n", done.stderr


def test_a_tuner_that_peft_lacks_counts_saves_and_names_its_import(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(PLUG_IN)
    from diag_tuner import DiagConfig

    model = get_peft_model(tiny_roberta(), DiagConfig(r=3))
    assert model.get_nb_trainable_parameters()[0] == LAYERS * 2 * (3 * HIDDEN + HIDDEN * 3 + 3)
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if "diag_" in path:
                weight.normal_()
        layer = model.get_base_model().roberta.encoder.layer[1].attention.self.value
        A, B, d = (getattr(layer, f"diag_{name}")["default"] for name in "ABd")
        x = torch.randn(2, HIDDEN)
        assert torch.allclose(layer(x), layer.base_layer(x) + x @ (B @ d.diag() @ A).T, atol=1e-5)
        model.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(tiny_roberta(), tmp_path)
        assert torch.equal(loaded(**tiny_batch()).logits, model.eval()(**tiny_batch()).logits)
    assert "import diag_tuner\n" in (tmp_path / "README.md").read_text()
    with pytest.raises(UnsupportedPair, match="query, key and value in one weight"):
        get_peft_model(tiny_gpt2(), DiagConfig(r=3))


@pytest.mark.slow
def test_weights_of_an_own_tuner_are_used_and_shared(installed, tmp_path):
    suite = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[diag_lora]") + "keep_weights: last\n"
    project = write_project(tmp_path, suite).parent
    command = f"import os\nos.chdir({str(project)!r})\nfrom lora_bench.cli import main\n"
    ran = python(
        f"{command}raise SystemExit(main(['run', 'tickets.yaml', '--workers', '0', '--quiet']))", installed, ROOT
    )
    assert ran.returncode == 0, ran.stderr
    # In another process, in which no run has imported the tuner.
    used = python(
        f"{command}raise SystemExit(main(['use', 'runs/tickets', 'diag_lora', '--share', 'out']))", installed, ROOT
    )
    assert used.returncode == 0, used.stderr
    lines = used.stdout.splitlines()
    assert "import diag_tuner  # registers the method with PEFT" in lines
    loading = "\n".join(
        [f"import os\nos.chdir({str(project)!r})", *lines[lines.index("") :], "print(type(model).__name__)"]
    )
    loaded = python(loading, installed, ROOT)
    assert loaded.stdout.splitlines()[-1] == "PeftModelForSequenceClassification", loaded.stderr


def test_without_the_package_there_is_no_such_method():
    done = python("from lora_bench.methods import known_methods\nprint('vera' in known_methods())", ROOT)
    assert done.stdout == "False\n", done.stderr


def test_they_are_short():
    lines = {module.stem: len(module.read_text().splitlines()) for module in PLUG_IN.glob("*.py")}
    assert lines.pop("diag_tuner") < 70
    assert max(lines.values()) < 40
