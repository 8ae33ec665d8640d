"""A folder of runs from elsewhere: its weights run no code and stop no command, and damage is one sentence."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_bench.cli import main
from lora_bench.execute.run_suite import run_suite
from tests.project import SUITE, write_project
from tests.security.bombs import code_bomb, torch_bomb

KEPT = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[full, lora, prefix_tuning]") + (
    "keep_weights: last\n"
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project whose runs are done."""
    folder = tmp_path_factory.mktemp("project")
    before, cache = Path.cwd(), os.environ.get("LORA_BENCH_CACHE")
    os.environ["LORA_BENCH_CACHE"] = str(folder / "cache")
    os.chdir(folder)
    try:
        outcome = run_suite(write_project(folder, KEPT).name, runs="runs", workers=0)
    finally:
        os.chdir(before)
        os.environ.pop("LORA_BENCH_CACHE") if cache is None else os.environ.update(LORA_BENCH_CACHE=cache)
    return folder, {record.spec.method.label: record.run_id for record in outcome.records}


@pytest.fixture
def received(finished, tmp_path, monkeypatch):
    """A copy of it, and the folders of its weights by method."""
    shutil.copytree(finished[0], tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    return {
        method: tmp_path / "project" / "runs" / "tickets" / run_id / "weights" for method, run_id in finished[1].items()
    }


def changed(name, **values):
    """Change keys of a JSON file of the folder."""

    def change(folder, sign):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def content(name, raw):
    """Put other content in the place of a file."""

    def change(folder, sign):
        (folder / name).write_bytes(raw)

    return change


def without(name):
    return lambda folder, sign: (folder / name).unlink()


def pipe(name):
    def change(folder, sign):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def tokenizer_code(folder, sign):
    (folder / "evil.py").write_text(code_bomb(sign))
    changed("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]}, tokenizer_class="Evil")(
        folder, sign
    )


def pickle_instead(name, pickled):
    def change(folder, sign):
        torch.save(load_file(folder / name), folder / pickled)
        (folder / name).unlink()

    return change


def bomb_instead(name, pickled):
    def change(folder, sign):
        (folder / name).unlink()
        torch_bomb(folder / pickled, sign)

    return change


def cut(name):
    def change(folder, sign):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-100])

    return change


def foreign(name):
    def change(folder, sign):
        weights = {f"x.{key}": value for key, value in load_file(folder / name).items()}
        save_file(weights, folder / name, metadata={"format": "pt"})

    return change


def misshapen(name):
    def change(folder, sign):
        weights = {key: torch.zeros(3, 3) for key in load_file(folder / name)}
        save_file(weights, folder / name, metadata={"format": "pt"})

    return change


CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTERS = {
    "a configuration cut": content(CONFIG, b"{"),
    "a configuration of a list": content(CONFIG, b"[]"),
    "an empty configuration": content(CONFIG, b"{}"),
    "a binary configuration": content(CONFIG, b"\xff\x00\xfe"),
    "a deep configuration": content(CONFIG, b'{"a":' + b"[" * 100_000),
    "a number for the type": changed(CONFIG, peft_type=5),
    "an unknown type": changed(CONFIG, peft_type="EVIL"),
    "targets of a number": changed(CONFIG, target_modules=5),
    "targets that no module has": changed(CONFIG, target_modules=["../../etc"]),
    "a pattern that never ends": changed(CONFIG, target_modules="^(([a-z0-9_.])+)+$X"),
    "a broken pattern": changed(CONFIG, target_modules="(((")
    ,
    "iterations without end": changed(CONFIG, init_lora_weights="pissa_niter_999999"),
    "a rank without end": changed(CONFIG, r=10**9),
    "another rank": changed(CONFIG, r=3),
    "a rank that is a text": changed(CONFIG, r="8"),
    "layers without end": changed(CONFIG, layer_replication=[[0, 10**7]]),
    "a module by name": changed(CONFIG, megatron_config={"a": 1}, megatron_core="evil"),
    "a pickle of a search": changed(CONFIG, corda_config={"cache_file": "evil.pt"}),
    "no weights": without(WEIGHTS),
    "empty weights": content(WEIGHTS, b""),
    "weights cut": cut(WEIGHTS),
    "a header without end": content(WEIGHTS, (2**62).to_bytes(8, "little") + b"{}"),
    "weights of another model": foreign(WEIGHTS),
    "weights of other shapes": misshapen(WEIGHTS),
    "weights in a pickle": pickle_instead(WEIGHTS, "adapter_model.bin"),
    "weights in an evil pickle": bomb_instead(WEIGHTS, "adapter_model.bin"),
}  # fmt: skip
TOKENIZERS = {
    "code of a tokenizer": tokenizer_code,
    "no tokenizer": lambda folder, sign: [path.unlink() for path in folder.glob("tokenizer*")],
    "a tokenizer cut": cut("tokenizer.json"),
}
WHOLE = {
    "a kernel by name": changed("config.json", _attn_implementation="owner/kernel"),
    "code of a model": changed("config.json", model_type="mine", auto_map={"AutoConfig": "evil.Config"}),
    "layers without end": changed("config.json", num_hidden_layers=10**7),
    "a configuration cut": content("config.json", b"{"),
    "no configuration": without("config.json"),
    "weights in a pickle": pickle_instead("model.safetensors", "pytorch_model.bin"),
    "weights in an evil pickle": bomb_instead("model.safetensors", "pytorch_model.bin"),
    "empty weights": content("model.safetensors", b""),
    "weights cut": cut("model.safetensors"),
    "weights of another model": foreign("model.safetensors"),
    "weights of other shapes": misshapen("model.safetensors"),
}
if sys.platform != "win32":
    ADAPTERS |= {f"a pipe as {name}": pipe(name) for name in (CONFIG, WEIGHTS)}
    TOKENIZERS |= {"a pipe as tokenizer.json": pipe("tokenizer.json")}
    WHOLE |= {f"a pipe as {name}": pipe(name) for name in ("config.json", "model.safetensors")}


def refused(command, capfd, sign):
    """One sentence, exit code 2, no code run."""
    assert main(command) == 2
    said = capfd.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("lora-bench: ")]
    assert len(lines) == 1 and "Traceback" not in said, said
    assert not sign.exists()
    return lines[0]


@pytest.mark.parametrize("change", {**ADAPTERS, **TOKENIZERS}.values(), ids={**ADAPTERS, **TOKENIZERS})
def test_a_harmful_adapter_is_not_merged(received, tmp_path, capfd, change):
    sign, out = tmp_path / "it-ran", tmp_path / "merged"
    change(received["lora"], sign)
    said = refused(["use", "runs/tickets", "lora", "--merge", str(out)], capfd, sign)
    assert received["lora"].parent.name in said
    assert not out.exists() and sorted(path.name for path in tmp_path.iterdir()) in (["project"], ["cache", "project"])


@pytest.mark.parametrize("change", ADAPTERS.values(), ids=ADAPTERS)
def test_a_harmful_adapter_is_not_analysed(received, tmp_path, capfd, change):
    sign = tmp_path / "it-ran"
    change(received["lora"], sign)
    assert received["lora"].parent.name in refused(["analyse", "runs/tickets"], capfd, sign)


@pytest.mark.parametrize("change", WHOLE.values(), ids=WHOLE)
def test_a_harmful_model_is_not_analysed(received, tmp_path, capfd, change):
    sign = tmp_path / "it-ran"
    change(received["full"], sign)
    assert received["full"].parent.name in refused(["analyse", "runs/tickets"], capfd, sign)


HARMFUL = [
    pytest.param(method, change, id=f"{method}-{name}")
    for method, changes in (("lora", ADAPTERS), ("full", WHOLE))
    for name, change in changes.items()
]


@pytest.mark.parametrize(("method", "change"), HARMFUL)
def test_harmful_weights_answer_no_table(received, tmp_path, capfd, method, change):
    sign, out = tmp_path / "it-ran", tmp_path / "answers.csv"
    change(received[method], sign)
    said = refused(["predict", "runs/tickets", "tickets.csv", method, "--out", str(out)], capfd, sign)
    assert received[method].parent.name in said and not out.exists()


def test_what_is_good_is_merged_and_analysed(received, tmp_path, capfd):
    out = tmp_path / "merged"
    assert main(["use", "runs/tickets", "lora", "--merge", str(out)]) == 0
    assert (out / "model.safetensors").is_file() and (out / "tokenizer.json").is_file()
    assert main(["use", "runs/tickets", "lora", "--merge", str(out)]) == 2
    assert main(["analyse", "runs/tickets"]) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes among its files")
@pytest.mark.parametrize("place", ["x/report.html", "x.html", "x/y/report.html"])
def test_odd_files_beside_runs_stop_no_report(received, capfd, place):
    for make in (os.mkfifo, os.mkdir):
        path = received["lora"].parents[2] / place
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
        assert main(["run", "tickets.yaml", "--workers", "0", "--quiet"]) == 0
        path.unlink() if path.is_fifo() else path.rmdir()
