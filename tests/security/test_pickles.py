"""No pickle is read, wherever it lies, unless the command line names the model; and then nothing but tensors is made of it."""

import dataclasses
import hashlib
import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_bench.cli import main
from lora_bench.errors import LoraBenchError
from lora_bench.methods.lora import Lora
from lora_bench.models.loading import load_model
from lora_bench.models.registry import find_model
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.store import RunFolder
from lora_bench.suite.load_suite import load_suite
from lora_bench.training.run import run_job
from lora_bench.training.warm_start import start_from
from tests.project import SUITE, write_model, write_project
from tests.security.bombs import pickle_bomb, torch_bomb
from tests.tiny import tiny_roberta

ONE = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]").replace("48", "32")


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def sign(tmp_path):
    return tmp_path / "it-ran"


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path / "base")


def pickled(folder):
    """The same model with its weights in a pickle, as transformers wrote them before safetensors."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    return weights


@pytest.mark.parametrize("write", [pickle_bomb, torch_bomb])
def test_the_bombs_of_these_tests_go_off_where_they_are_read(tmp_path, sign, write):
    path = write(tmp_path / "x.bin", sign)
    if write is pickle_bomb:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert sign.is_dir()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "adapter_model.bin"])
def test_a_model_that_has_its_weights_in_a_pickle_alone_is_refused_with_what_to_do(tmp_path, folder, sign, name):
    (folder / "model.safetensors").unlink()
    torch_bomb(folder / name, sign)
    says = rf"{name} can run code when read.*--allow-pickle base"
    with pytest.raises(LoraBenchError, match=says):
        find_model("base", base=tmp_path)
    assert not sign.exists()


def test_pickles_beside_safetensors_are_not_read(tmp_path, folder, sign):
    before = find_model("base", base=tmp_path)
    for name in ("pytorch_model.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        torch_bomb(folder / name, sign)
    found = find_model("base", base=tmp_path, allow_pickle=True)
    assert found == before
    load_model(found, kind="classification", labels=2)
    assert not sign.exists()


@pytest.mark.parametrize("write", [pickle_bomb, torch_bomb])
def test_a_named_pickle_with_anything_but_tensors_is_refused_and_not_run(tmp_path, folder, sign, write):
    (folder / "model.safetensors").unlink()
    write(folder / "pytorch_model.bin", sign)
    with pytest.raises(LoraBenchError, match=r"model 'base': pytorch_model\.bin cannot be read safely"):
        find_model("base", base=tmp_path, allow_pickle=True)
    assert not sign.exists()
    assert not list((tmp_path / "cache").rglob("model.safetensors"))


def test_a_named_pickle_of_tensors_is_the_model_that_it_was_and_its_record_says_so(tmp_path, folder):
    weights = pickled(folder)
    found = find_model("base", base=tmp_path, allow_pickle=True)
    assert found.warnings == ("the weights of base were read from a pickle, allowed by --allow-pickle",)
    kept = load_file(found.folder / "model.safetensors")
    assert kept.keys() == weights.keys()
    assert all(torch.equal(kept[name], weights[name]) for name in weights)
    assert not list(found.folder.glob("*.bin"))
    # The second time nothing is read: a bomb of the same name and content hash could not be there.
    assert find_model("base", base=tmp_path, allow_pickle=True) == found


def test_a_release_of_torch_that_reads_pickles_unsafely_reads_none(tmp_path, folder, monkeypatch):
    pickled(folder)
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    with pytest.raises(LoraBenchError, match=r"torch 2\.9\.1 does not read a pickle safely.*2\.10"):
        find_model("base", base=tmp_path, allow_pickle=True)


def test_the_command_line_names_the_model_and_the_record_names_the_command(tmp_path, monkeypatch, capsys):
    suite = write_project(tmp_path, ONE)
    monkeypatch.chdir(tmp_path)
    pickled(tmp_path / "base")
    assert main(["plan", suite.name]) == 2
    assert "--allow-pickle base" in capsys.readouterr().err
    assert main(["plan", suite.name, "--allow-pickle", "bsae"]) == 2
    assert "unknown model in --allow-pickle 'bsae'; did you mean 'base'?" in capsys.readouterr().err
    assert main(["plan", suite.name, "--allow-pickle", "base"]) == 0
    assert "warning: the weights of base were read from a pickle" in capsys.readouterr().out
    allowed = dataclasses.replace(load_suite(suite), pickles=frozenset({"base"}))
    (cell,) = make_plan(allowed, tmp_path / "runs").cells
    assert cell.job.command.endswith("--allow-pickle base")
    record = cell.job.record("failed", "no reason", warnings=("another",))
    assert record.warnings == (*cell.job.base_model.warnings, "another")


def test_an_adapter_in_the_place_of_a_model_is_refused_before_its_base_or_its_pickle_is_looked_for(
    tmp_path, folder, sign
):
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "evil/model"}')
    torch_bomb(folder / "adapter_model.bin", sign)
    with pytest.raises(LoraBenchError, match=r"'base' is an adapter on another model"):
        find_model("base", base=tmp_path)
    assert not sign.exists()


def test_a_start_without_safetensors_is_refused_though_peft_would_take_its_pickle(tmp_path, sign):
    source = RunFolder(tmp_path / "run")
    adapted = Lora(rank=2).apply(tiny_roberta(), head=["classifier"])
    adapted.save_pretrained(source.weights)
    (source.weights / "adapter_model.safetensors").unlink()
    save_file({"x": torch.zeros(1)}, source.weights / "other.safetensors")
    torch_bomb(source.weights / "adapter_model.bin", sign)
    with pytest.raises(LoraBenchError, match="left no weights"):
        start_from(adapted, source, ["classifier"])
    assert not sign.exists()


@pytest.mark.parametrize("shard", ["w.bin", "../outside/w.safetensors", "absent.safetensors", ["w.bin"], None])
def test_an_index_of_safetensors_that_names_anything_else_is_refused(tmp_path, folder, sign, shard):
    (folder / "model.safetensors").rename(folder / "decoy.safetensors")
    torch_bomb(folder / "w.bin", sign)
    (tmp_path / "outside").mkdir()
    shutil.copy(folder / "decoy.safetensors", tmp_path / "outside" / "w.safetensors")
    content = {"metadata": {}, "weight_map": {"classifier.bias": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    for allowed in (False, True):
        with pytest.raises(LoraBenchError, match=r"model\.safetensors\.index\.json names .*end in \.safetensors"):
            find_model("base", base=tmp_path, allow_pickle=allowed)
    assert not sign.exists()


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": []}', "{}"])
def test_an_index_that_is_none_is_refused(tmp_path, folder, content):
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(LoraBenchError, match=r"index\.json is not an index of weights"):
        find_model("base", base=tmp_path)


def test_a_model_in_several_files_of_safetensors_is_read(tmp_path, folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, held in parts.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    model, _ = load_model(find_model("base", base=tmp_path), kind="classification", labels=2)
    found = model.roberta.state_dict()
    assert len(found) > 30 and all(torch.equal(found[name], weights[name]) for name in found)


@pytest.mark.parametrize("named", ["adapter_model.bin", "other.safetensors"])
def test_a_configuration_that_names_the_file_of_weights_is_refused(tmp_path, folder, sign, named):
    torch_bomb(folder / "adapter_model.bin", sign)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": named}))
    with pytest.raises(LoraBenchError, match="names its file of weights"):
        find_model("base", base=tmp_path)
    assert not sign.exists()


def test_checkpoints_of_others_are_passed_over_and_not_read(tmp_path, sign):
    """The folder of a run in which a foreign Trainer left its checkpoints, and one that has our names and a true manifest."""
    (cell,) = make_plan(load_suite(write_project(tmp_path, ONE)), tmp_path / "runs").cells
    run_folder = cell.job.folder
    for place in (run_folder.path, run_folder.checkpoints, run_folder.weights):
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "pytorch_model.bin"):
            torch_bomb(place / "checkpoint-500" / name, sign)
        (place / "checkpoint-500" / "trainer_state.json").write_text('{"global_step": 500}')
    ours = run_folder.checkpoints / "step-00000500"
    files = {name: torch_bomb(ours / name, sign) for name in ("optimizer.pt", "weights.bin")}
    manifest = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    (ours / "manifest.json").write_text(json.dumps(manifest))
    record = run_job(cell.job)
    assert (record.status, record.resumed) == ("ok", False)
    assert record.speed.train_steps == cell.job.steps
    assert not sign.exists()


def test_what_is_kept_of_a_run_has_no_pickle(tmp_path):
    suite = load_suite(write_project(tmp_path, ONE + "keep_weights: last\n"))
    (cell,) = make_plan(suite, tmp_path / "runs").cells
    assert run_job(cell.job).status == "ok"
    suffixes = {path.suffix for path in cell.job.folder.path.rglob("*") if path.is_file()}
    assert suffixes & {".bin", ".pt", ".pth", ".pkl"} == set() and ".safetensors" in suffixes
    shutil.rmtree(cell.job.folder.path)
