"""Code that comes with a model or a metric runs where a suite names it and the user's command allows it at its hash."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.metrics import metric
from lora_bench.models.loading import load_model, load_tokenizer
from lora_bench.models.registry import find_model
from lora_bench.suite.load_suite import load_suite
from tests.hub import add_model, add_space, serve
from tests.project import SUITE, write_model, write_project
from tests.security.bombs import code_bomb

COMMIT = "0123456789" * 4
CUSTOM = {
    "AutoConfig": "mine.MineConfig",
    "AutoModelForSequenceClassification": "mine.MineForSequenceClassification",
}
CLASSES = """
from transformers import RobertaConfig, RobertaForSequenceClassification

class MineConfig(RobertaConfig):
    model_type = "mine"

class MineForSequenceClassification(RobertaForSequenceClassification):
    config_class = MineConfig
"""
METRIC = """
import datasets
import evaluate

class Mine(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"mine": float(predictions == references)}
"""


@pytest.fixture
def sign(tmp_path):
    return tmp_path / "it-ran"


def with_code(folder, sign, *, model_type, auto_map=CUSTOM, tokenizer=None):
    """A tiny model whose config names classes in a file beside it."""
    write_model(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": model_type, "auto_map": auto_map}))
    (folder / "mine.py").write_text(code_bomb(sign) + CLASSES)
    if tokenizer is not None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoTokenizer": tokenizer}}))
    return folder


def test_a_model_that_needs_code_of_its_own_is_refused_with_what_to_do(tmp_path, sign):
    with_code(tmp_path / "base", sign, model_type="mine")
    with pytest.raises(LoraBenchError, match=r"code of its own \(mine\.MineConfig.*trust_remote_code: true"):
        find_model("base", base=tmp_path)
    assert not sign.exists()


def test_a_model_that_transformers_has_is_loaded_by_its_class_whatever_code_lies_beside_it(tmp_path, sign):
    with_code(tmp_path / "base", sign, model_type="roberta", tokenizer=["mine.Tokenizer", None])
    found = find_model("base", base=tmp_path)
    model, _ = load_model(found, kind="classification", labels=2)
    assert type(model).__module__.startswith("transformers.models.roberta")
    load_tokenizer(found)
    assert not sign.exists()


def test_a_folder_is_not_trusted_since_no_commit_pins_it(tmp_path, sign):
    with_code(tmp_path / "base", sign, model_type="mine")
    with pytest.raises(LoraBenchError, match="is a folder, whose code no commit pins"):
        find_model("base", base=tmp_path, revision=COMMIT, trust_remote_code=True)
    assert not sign.exists()


def test_kernels_that_a_config_names_on_the_hub_are_refused(tmp_path):
    folder = write_model(tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    for changed in (
        {"attn_implementation": "evil/kernel"},
        {"text_config": {"_attn_implementation": {"": "evil/kernel"}}},
    ):
        (folder / "config.json").write_text(json.dumps({**config, **changed}))
        with pytest.raises(LoraBenchError, match="asks for code from 'evil/kernel'"):
            find_model("base", base=tmp_path)


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:12], COMMIT.upper().replace("0", "A")])
def test_a_suite_that_trusts_code_names_a_whole_commit(tmp_path, revision):
    entry = f"{{model: owner/name, trust_remote_code: true{'' if revision is None else f', revision: {revision!r}'}}}"
    suite = write_project(tmp_path, SUITE.replace("[base]", f"[{entry}]"))
    with pytest.raises(BadInput, match=r"models\[0\].*trust_remote_code needs a revision of all 40 digits"):
        load_suite(suite)


@pytest.mark.parametrize(
    "options",
    [
        "{tokenizer_kwargs: {trust_remote_code: true}, tokenizer_name_or_path: evil/model}",
        "{prompt_tuning_init_state_dict_path: evil.bin}",
        "{adapters: {a: evil/adapter}}",
        "{corda_config: {cache_file: evil.pt}}",
        "{lora_ga_config: {cache_file: evil.pt}}",
    ],
)
def test_options_that_would_have_peft_read_code_or_pickles_are_refused(tmp_path, options):
    method = f"[{{method: peft, type: PROMPT_TUNING, options: {options}}}]"
    suite = write_project(tmp_path, SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", method))
    with pytest.raises(BadInput, match="options may not have"):
        load_suite(suite)


@pytest.mark.parametrize("name", ["hub:rouge", "hub:owner/name", f"hub:rouge@{COMMIT[:8]}", "hub:rouge@main:rouge1"])
def test_a_metric_of_the_hub_is_pinned_or_not_run(tmp_path, name):
    with pytest.raises(LoraBenchError, match="is a script that would run on this machine: pin it as hub:"):
        metric(name)
    suite = write_project(tmp_path, SUITE.replace("    label: queue\n", f"    label: queue\n    metric: '{name}'\n"))
    with pytest.raises(BadInput, match=r"tasks\[0\]\.metric.*pin it as hub:"):
        load_suite(suite)


def test_a_folder_in_the_working_folder_does_not_take_the_place_of_a_pinned_metric(tmp_path, monkeypatch, sign):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.py").write_text(code_bomb(sign) + METRIC)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(LoraBenchError):
        metric(f"hub:mine@{COMMIT}")
    assert not sign.exists()


IN_A_PROCESS = """\
import json, os, sys
from pathlib import Path
from lora_bench.cli import main
from lora_bench.metrics import metric
sign, steps = Path(sys.argv[1]), json.loads(sys.argv[2])
found = []
for kind, given in steps:
    if sign.exists():
        sign.rmdir()
    if kind == "plan":
        code = main(["plan", *given])
    else:
        try:
            code = metric(given).compute(predictions=[1], references=[1])
        except Exception as error:
            code = str(error)
    found.append([code, sign.exists()])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def from_the_hub(tmp_path_factory):
    """What became of suites and metrics whose repositories have code: for each the answer, and whether the code ran."""
    here = tmp_path_factory.mktemp("code")
    sign, hub = here / "it-ran", here / "hub"
    model = add_model(hub, "owner/mine", with_code(here / "mine", sign, model_type="mine"))
    elsewhere = {name: f"owner/other--{value}" for name, value in CUSTOM.items()}
    add_model(hub, "owner/other", {"mine.py": code_bomb(sign) + CLASSES, "config.json": "{}"})
    lured = add_model(hub, "owner/lured", with_code(here / "lured", sign, model_type="mine", auto_map=elsewhere))
    script = add_space(hub, "evaluate-metric/mine", {"mine.py": code_bomb(sign) + METRIC})
    steps = {}
    trusting = f"{{model: owner/mine, revision: {model}, trust_remote_code: true}}"
    allow = ["--allow-code", f"owner/mine@{model}"]
    for name, entry, allowed in (
        ("not trusted", f"{{model: owner/mine, revision: {model}}}", []),
        ("trusted by the suite alone", trusting, []),
        ("allowed at another commit", trusting, ["--allow-code", f"owner/mine@{COMMIT}"]),
        ("allowed without a commit", trusting, ["--allow-code", "owner/mine"]),
        ("allowed", trusting, allow),
        (
            "of another repository",
            f"{{model: owner/lured, revision: {lured}, trust_remote_code: true}}",
            ["--allow-code", f"owner/lured@{lured}"],
        ),
    ):
        suite = SUITE.replace("[base]", f"[{entry}]").replace(
            "[full, lora, bottleneck_adapter, prefix_tuning]", "[full]"
        )
        steps[name] = ("plan", [str(write_project(here / name.replace(" ", "-"), suite)), *allowed])
    steps["metric"] = ("metric", f"hub:mine@{script}")
    steps["metric of another commit"] = ("metric", f"hub:mine@{COMMIT}")
    with serve(hub) as server:
        environment = {name: value for name, value in os.environ.items() if not re.match("HF_|.*proxy", name, re.I)}
        environment |= {
            "HF_ENDPOINT": server.endpoint,
            "HF_HOME": str(here / "home"),
            "LORA_BENCH_CACHE": str(here / "cache"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        command = [sys.executable, "-c", IN_A_PROCESS, str(sign), json.dumps(list(steps.values()))]
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    return dict(zip(steps, answers, strict=True)), done.stderr


@pytest.mark.slow
def test_the_code_of_a_model_on_the_hub_runs_when_the_command_allows_its_commit_and_only_then(from_the_hub):
    answers, said = from_the_hub
    for name in ("not trusted", "trusted by the suite alone", "allowed at another commit", "allowed without a commit"):
        assert answers[name] == [2, False], said
    assert "the suite would run code of owner/mine on this machine" in said
    assert "the code of owner/mine has changed since you allowed it" in said
    assert "the code of owner/mine is given without a hash" in said
    assert answers["allowed"] == [0, True], said
    assert answers["of another repository"] == [2, False], said
    assert "code of another repository (owner/other--mine.MineConfig), which the suite's revision does not pin" in said


@pytest.mark.slow
def test_a_metric_at_a_commit_is_the_script_of_that_commit(from_the_hub):
    answers, said = from_the_hub
    (values, ran) = answers["metric"]
    assert ran and values["mine"] == 1.0, said
    reason, ran = answers["metric of another commit"]
    assert not ran and "has no revision" in reason
