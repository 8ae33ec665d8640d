"""Weights that a run keeps load anywhere: by the lines of their card, with plain PEFT where PEFT has the method."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import scipy.stats
from huggingface_hub import ModelCard
from huggingface_hub.utils import HFValidationError, validate_repo_id
from peft import get_peft_model

from lora_bench.models.registry import find_model
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.spec import ModelSpec
from lora_bench.suite.load_suite import load_suite
from lora_bench.training.model_card import loadable_name, public_name
from lora_bench.training.run import run_job
from lora_bench.tuners import PrefixConfig
from tests.project import SUITE, write_data, write_project
from tests.tiny import tiny_roberta

METHODS = (
    "[full, {method: full, top_layers: 1, label: top}, lora, {method: lora, use_dora: true, label: dora}, bitfit, "
    "bottleneck_adapter, prefix_tuning, prefix_layer, prefix_embedding, "
    "{method: peft, type: IA3, label: ia3, options: {target_modules: TARGETS, feedforward_modules: []}}]"
)
TARGETS = {"roberta": "[query]", "deberta-v2": "[query_proj]", "gpt2": "[c_attn]"}
# One process runs the lines of every card: those that do not name lora_bench first, while it cannot be imported.
RUN_CARDS = """
import json, os, sys
os.chdir(sys.argv[1])
folders = {folder: open(folder + "/README.md").read().split("```python")[1].split("```")[0] for folder in sys.argv[2:]}
sys.modules["lora_bench"] = None
alone = [folder for folder in folders if "lora_bench" not in folders[folder]]
found = {}
for folder in sorted(folders, key=lambda folder: folder not in alone):
    if folder not in alone:
        sys.modules.pop("lora_bench", None)
    names = {}
    exec(folders[folder].replace("THIS FOLDER", folder), names)
    model, tokenizer = names["model"].eval(), names["tokenizer"]
    texts = json.load(open(folder + "/../texts.json"))
    batch = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    logits = model(**batch).logits
    names = [model.config.id2label[index] for index in sorted(model.config.id2label)]
    found[folder] = [logits.argmax(-1).tolist(), names, folder in alone]
print(json.dumps(found))
"""


@pytest.fixture(autouse=True)
def _shared_cache(tmp_path, monkeypatch, shared_cache):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(shared_cache))


def kept(path, runs):
    """The runs of a suite: each job with its record, by the method's label."""
    done = {}
    for cell in make_plan(load_suite(path), runs).cells:
        if cell.fit.reason is None:
            record = run_job(cell.job)
            assert record.status in ("ok", "unsupported"), record.reason
            if record.status == "ok":
                done[record.spec.method.label] = (cell.job, record)
    return done


def run_cards(folder, done):
    """What the models answer that the lines of the cards make: by label, the answers, the labels, and without lora_bench."""
    from lora_bench.tasks import load_data

    for job, _ in done.values():
        texts = [text for (text,) in load_data(job.task, job.task_base).splits["test"].texts]
        (job.folder.path / "texts.json").write_text(json.dumps(texts))
    weights = {label: str(job.folder.weights) for label, (job, _) in done.items()}
    command = [sys.executable, "-c", RUN_CARDS, str(folder), *weights.values()]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    return {label: found[folder] for label, folder in weights.items()}


@pytest.mark.parametrize(
    "family", ["roberta", *(pytest.param(name, marks=pytest.mark.slow) for name in ("deberta-v2", "gpt2"))]
)
def test_the_lines_of_a_card_load_the_weights_on_the_base_models_folder(tmp_path, family):
    suite = SUITE.replace(
        "[full, lora, bottleneck_adapter, prefix_tuning]", METHODS.replace("TARGETS", TARGETS[family])
    )
    project = write_project(tmp_path / "project", suite + "keep_weights: last\n", family).parent
    done = kept(project / "tickets.yaml", tmp_path / "runs")
    assert len(done) >= 9
    for label, (answers, names, alone) in run_cards(project, done).items():
        job, record = done[label]
        assert answers == json.loads((job.folder.path / record.predictions.file).read_text())["predictions"], label
        assert names == ["complaint", "praise"]
        # GPT-2's one weight for query, key and value takes a LoRA that PEFT lacks.
        assert alone == (label in ("full", "ia3") or (label in ("lora", "dora") and family != "gpt2")), label


def test_a_kept_adapter_names_no_path_and_everybody_may_read_it(tmp_path):
    suite = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[full, lora]")
    path = write_project(tmp_path / "project", suite + "keep_weights: last\n")
    for job, record in kept(path, tmp_path / "runs").values():
        folder = job.folder.weights
        for file in folder.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o644, file.name
            assert str(tmp_path).encode() not in file.read_bytes(), file.name
        card = ModelCard.load(folder / "README.md").data
        assert (card.base_model, card.pipeline_tag) == ("base", "text-classification")
        assert card.library_name == ("peft" if record.spec.method.name == "lora" else "transformers")
        assert card.tags == ["lora_bench", record.spec.method.name]
        (result,) = card.eval_results
        assert (result.metric_type, result.metric_value) == ("accuracy", record.scores["accuracy"])
        count = record.predictions.count
        said = re.fullmatch(
            rf"accuracy on {count} test examples, 1 seed, 95 % interval over examples ([\d.]+) to ([\d.]+)",
            result.metric_name,
        )
        # Accuracy is a share of independent items: its resamples vary like a binomial.
        low, high = (scipy.stats.binom.ppf(q, count, record.score) / count for q in (0.025, 0.975))
        assert [float(end) for end in said.groups()] == pytest.approx([low, high], abs=2 / count)
        kept_answers = json.loads((job.folder.path / "predictions.json").read_text())
        right, said = kept_answers["references"], kept_answers["predictions"]
        found = {truth for truth, answer in zip(right, said, strict=True) if truth == answer}
        lost = [
            f"{name} ({right.count(place)} test rows)"
            for place, name in enumerate(record.spec.task.labels)
            if place not in found
        ]
        text = (folder / "README.md").read_text(encoding="utf-8")
        assert [line for line in lost if f"redicted: {line}" in text] == lost and ("redicted: " in text) == bool(lost)
        if record.spec.method.name == "lora":
            config = json.loads((folder / "adapter_config.json").read_text())
            assert (config["task_type"], config["base_model_name_or_path"], config["revision"]) == (
                "SEQ_CLS", "./base", None,
            )  # fmt: skip


def test_a_base_model_is_named_as_others_find_it():
    def named(name, revision=None):
        return public_name(ModelSpec(name=name, shown="x", sha256=None, revision=revision, model_type="roberta"))

    assert named("FacebookAI/roberta-base", "0" * 40) == "FacebookAI/roberta-base"
    assert named("minilm-l6-roberta") == "minilm-l6-roberta"
    assert named("/home/me/models/base") == named("../base") == "./base"


def test_a_base_model_of_ours_has_a_name_that_no_hub_can_have():
    """A name that anybody could register would load theirs."""
    model = ModelSpec(name="gpt2-mini", shown="x", sha256=None, revision=None, model_type="gpt2")
    assert loadable_name(model) == "lora_bench:gpt2-mini"
    with pytest.raises(HFValidationError):
        validate_repo_id(loadable_name(model))
    assert find_model(loadable_name(model), base=Path()).name == "gpt2-mini"


def test_an_adapter_of_our_tuners_says_first_what_to_import(tmp_path):
    model = get_peft_model(tiny_roberta(), PrefixConfig(num_virtual_tokens=2))
    model.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    head, _, rest = text.partition("\n---\n")
    assert head.startswith("---") and rest.startswith("## Loading this adapter")
    assert ModelCard.load(tmp_path / "README.md").data.library_name == "peft"


def test_a_kept_whole_model_is_a_pipeline_with_the_right_names(tmp_path):
    from transformers import pipeline

    suite = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[{method: full, learning_rate: 3e-3}]")
    suite = suite.replace("train_examples: 48", "train_examples: 1_600") + "keep_weights: last\n"
    ((job, _),) = kept(write_project(tmp_path / "project", suite), tmp_path / "runs").values()
    ask = pipeline("text-classification", model=str(job.folder.weights))
    assert [found["label"] for found in ask(["the film was lovely", "the plot is dull"])] == ["praise", "complaint"]


@pytest.mark.slow
def test_the_lines_of_a_card_get_the_folder_of_a_model_that_lora_bench_ships(tmp_path):
    suite = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]").replace("[base]", "[gpt2-mini]")
    (tmp_path / "tickets.yaml").write_text(suite + "keep_weights: last\n")
    write_data(tmp_path / "tickets.csv")
    done = kept(tmp_path / "tickets.yaml", tmp_path / "runs")
    ((job, record),) = done.values()
    ((answers, names, _),) = run_cards(tmp_path, done).values()
    assert answers == json.loads((job.folder.path / record.predictions.file).read_text())["predictions"]
    assert names == ["complaint", "praise"]


@pytest.mark.parametrize(
    ("given", "auto"),
    [("kind: regression\n    metric: pearson", "SequenceClassification"), ("kind: generation", "CausalLM")],
)
def test_the_card_of_a_regressor_or_a_writer_loads_one(tmp_path, given, auto):
    suite = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]").replace(
        "    label: queue\n", f"    label: queue\n    {given}\n"
    )
    if auto == "CausalLM":
        suite = suite.replace("metric: pearson", "") + "training: {max_length: 60}\ndecoding: {max_new_tokens: 3}\n"
    path = write_project(tmp_path / "project", suite + "keep_weights: last\n", "gpt2")
    if auto != "CausalLM":
        data = path.parent / "tickets.csv"
        data.write_text(re.sub("complaint", "0.5", re.sub("praise", "1.5", data.read_text())))
    ((job, record),) = kept(path, tmp_path / "runs").values()
    card = (job.folder.weights / "README.md").read_text()
    names: dict = {}
    lines = card.split("```python")[1].split("```")[0].replace("THIS FOLDER", str(job.folder.weights))
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        exec(lines, names)
    finally:
        os.chdir(before)
    assert type(names["model"].get_base_model()).__name__ == (
        "GPT2LMHeadModel" if auto == "CausalLM" else f"GPT2For{auto}"
    )
    assert record.status == "ok" and ("num_labels=1" in card) == (auto != "CausalLM")
    answer = "a text that it writes" if auto == "CausalLM" else "a number, in the unit of the labels of training"
    assert f"Answer: {answer}." in card and "Labels in order" not in card
