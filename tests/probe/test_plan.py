"""What a suite comes to as probes: cells and their order, ids, recipes, and the faults of a file."""

import json
import re
from pathlib import Path

import jsonschema
import pytest

from lora_bench.cli import main
from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.models.registry import find_model
from lora_bench.models.shapes import known_shapes
from lora_bench.plan.probe_plan import plan_probes
from lora_bench.records.probe_record import (
    ProbeSpec,
)
from lora_bench.records.spec import MethodSpec, PlannedModel
from lora_bench.suite.load_suite import load_suite
from lora_bench.suite.probe_suite import CellShape, ProbeSuite, load_probe_suite
from lora_bench.suite.schema import Probe
from tests.cards import pretend
from tests.probe.suites import SUITE, plan, write_suite
from tests.project import SUITE as TICKETS
from tests.project import write_data, write_project


@pytest.fixture(autouse=True)
def _own_place(monkeypatch, shared_cache):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(shared_cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def order(made) -> list[str]:
    return [f"{job.spec.method.label}{'*' if job.twin else ''}{job.repeat}" for job in made.jobs]


# Order.


def test_methods_take_turns_and_every_second_round_goes_backwards(tmp_path):
    made = plan(tmp_path)
    assert order(made) == [
        "full0", "lora0", "full*0",
        "full*1", "lora1", "full1",
        "full2", "lora2", "full*2",
    ]  # fmt: skip
    # Three processes a cell on a CPU, and no two of them have one name.
    assert len({job.run_id for job in made.jobs}) == 9


def test_processes_come_from_the_command_then_the_suite_then_the_device(tmp_path, monkeypatch):
    given = SUITE.replace("seconds: 0.1", "seconds: 0.1, processes: 2")
    assert len(plan(tmp_path, given, processes=1).jobs) == 3
    assert len(plan(tmp_path, given).jobs) == 6
    pretend(monkeypatch, tmp_path, 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    made = plan(tmp_path)
    assert (len(made.jobs), made.jobs[0].spec.device) == (15, "cuda")


def test_one_cell_of_every_model_is_measured_again_unchanged(tmp_path):
    made = plan(tmp_path, SUITE.replace("[base]", "[base, other]"), processes=1, other="gpt2")
    assert [(job.base_model.name, job.spec.method.label) for job in made.jobs if job.twin] == [
        ("base", "full"),
        ("other", "full"),
    ]
    first, again = (job for job in made.jobs if job.spec.probe_id == made.cells[0].spec.probe_id)
    assert first.spec == again.spec and again.run_id == f"{first.run_id}-twin"


def test_the_twin_can_be_named(tmp_path):
    made = plan(tmp_path, SUITE.replace("seconds: 0.1", "seconds: 0.1, twin: lora"), processes=1)
    assert order(made) == ["full0", "lora0", "lora*0"]


def test_the_twin_of_a_model_whose_first_method_does_not_work_is_the_next(tmp_path):
    methods = "[{method: lora, label: pissa, initialisation: pissa}, lora]"
    made = plan(tmp_path, SUITE.replace("[full, lora]", methods), processes=1, base="gpt2")
    assert order(made) == ["lora0", "lora*0"]
    (refused,) = made.refused
    assert (refused.status, refused.spec.method.label) == ("unsupported", "pissa")
    assert "query, key and value in one weight" in refused.reason


# Ids.

SPEC = ProbeSpec(
    model=PlannedModel(name="base", shown="base", sha256="a" * 64, revision=None, model_type="roberta"),
    random_weights=False,
    kind="classification",
    labels=2,
    method=MethodSpec(name="lora", label="lora", size="rank", options={"rank": 4, "scaling": 2.0}, chosen={"rank": 4}),
    batch_size=16,
    length=128,
    precision="float32",
    attention=None,
    threads=2,
    device="cpu",
    latency_shapes=((1, 128),),
    wide_tokens=None,
)


def changed(part: str | None, **values) -> ProbeSpec:
    if part is None:
        return SPEC.model_copy(update=values)
    return SPEC.model_copy(update={part: getattr(SPEC, part).model_copy(update=values)})


def test_an_id_is_the_same_today_and_tomorrow():
    # From the JSON of the spec without label, options, shown and name: another id would lose every record there is.
    assert SPEC.probe_id == "6840db635a2c840b"


@pytest.mark.parametrize(
    "other",
    [
        changed("method", label="mine"),
        changed("method", options={"rank": 4, "scaling": 2.0, "an option of a later version": 0}),
        changed("model", shown="My model"),
        changed("model", name="folder/base"),
    ],
)
def test_names_that_are_shown_do_not_enter_an_id(other):
    assert other != SPEC and other.probe_id == SPEC.probe_id


MEASURED = {
    "random_weights": True, "kind": "regression", "labels": 3, "batch_size": 8, "length": 64, "precision": "bfloat16",
    "attention": "eager", "threads": 1, "device": "cuda", "latency_shapes": ((1, 64),), "wide_tokens": 4096,
    "seconds": 5.0, "spec_version": 2, "base_precision": "bfloat16", "gradient_checkpointing": True,
}  # fmt: skip


def test_everything_that_is_measured_enters_an_id():
    others = [changed(None, **{name: value}) for name, value in MEASURED.items()]
    others += [changed("method", name="peft"), changed("method", size=None), changed("method", chosen={"rank": 8})]
    others += [
        changed("model", sha256="b" * 64),
        changed("model", revision="main"),
        changed("model", model_type="bert"),
        changed("model", family="inferred"),
    ]
    assert len({SPEC.probe_id, *(other.probe_id for other in others)}) == 1 + len(others)
    # A field that is added to the spec has to be put into one of these lists.
    assert set(ProbeSpec.model_fields) == {*MEASURED, "method", "model"}
    assert set(MethodSpec.model_fields) == {"name", "label", "size", "options", "chosen"}
    assert set(PlannedModel.model_fields) == {"name", "shown", "sha256", "revision", "model_type", "family"}


def test_a_cell_that_is_refused_has_an_id_of_its_reason(tmp_path):
    text = SUITE.replace("[full, lora]", "[full, lora]\nbudget: {adapter_parameters: 1}")
    (refused,) = plan(tmp_path, text).refused
    assert "1" in refused.reason
    within = plan(tmp_path, SUITE).cells[1].spec
    assert refused.spec.method.options == within.method.options and refused.probe_id != within.probe_id


# Ordinary suites.


def test_an_ordinary_suite_gives_one_cell_for_its_seeds_and_learning_rates(tmp_path):
    text = TICKETS.replace("[0]", "[0, 1, 2]").replace(
        "[full, lora, bottleneck_adapter, prefix_tuning]",
        "[full, {method: lora, learning_rate: [1e-3, 1e-2]}]\ntuning: {seeds: [9]}\ntraining: {batch_size: 4, max_length: 6}",
    )
    suite = load_suite(write_project(tmp_path, text))
    made = plan_probes(suite, tmp_path / "runs" / "tickets", processes=1, data_dir=tmp_path / "data")
    assert order(made) == ["full0", "lora0", "full*0"]
    spec = made.cells[1].spec
    assert (spec.batch_size, spec.length, spec.labels, spec.kind, spec.threads) == (4, 6, 2, "classification", 1)
    assert made.jobs[0].command == "lora-bench probe tickets.yaml --data-dir data"
    assert not (tmp_path / "runs").exists()


def test_tasks_that_are_alike_in_what_is_measured_are_one_cell(tmp_path):
    text = TICKETS.replace(
        "models:", "  - {task: others, data: others.csv, text: subject, label: queue}\nmodels:"
    ).replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[full]")
    write_data(tmp_path / "others.csv", rows=300)
    made = plan_probes(load_suite(write_project(tmp_path, text)), tmp_path / "runs", processes=1)
    assert order(made) == ["full0", "full*0"]


# Suites of probes.


def test_later_recipes_hold(tmp_path):
    text = SUITE + (
        "recipes:\n  - {methods: lora, length: 4, wide_tokens: 32}\n  - {models: base, methods: [lora], length: 6}\n"
        "  - {methods: lora, wide_tokens: null}\n"
    )
    full, lora = (cell.spec for cell in plan(tmp_path, text).cells)
    assert (full.length, lora.length, lora.wide_tokens, lora.batch_size) == (8, 6, None, 2)


def test_labels_are_for_classifiers_alone(tmp_path):
    three = SUITE.replace("threads: 1", "threads: 1, labels: 3, kind: {}")
    found = [
        plan(tmp_path, three.replace("{}", kind)).cells[0].spec.labels
        for kind in ("classification", "regression", "multilabel")
    ]
    assert found == [3, 1, 3]


def test_a_file_without_any_key_of_training_is_a_suite_of_probes(tmp_path):
    suite = load_probe_suite(write_suite(tmp_path, "suite: costs\nmodels: [base]\nmethods: [full]\n"))
    assert isinstance(suite, ProbeSuite)
    assert (suite.content.cell.batch_size, suite.content.cell.length) == (16, 128)
    with pytest.raises(LoraBenchError, match="suite of probes, for `lora-bench probe"):
        load_suite(write_suite(tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch_size: 2", "batch_siez: 2", "costs.yaml:4: cell.batch_siez: unknown key; did you mean 'batch_size'?"),
        ("length: 8", "length: 0", "costs.yaml:4: cell.length: must be greater than 0, got 0 (int)"),
        ("length: 8", "precision: float16", "costs.yaml:4: cell.precision: must be 'float32' or 'bfloat16', got 'float16'"),
        ("[full, lora]", "[full, lroa]", "costs.yaml:3: methods[1]: unknown method 'lroa'; did you mean 'lora'?"),
        ("[full, lora]", "[full, full]", "costs.yaml:3: methods: 'full' is listed twice; give each its own label"),
        ("[base]", "[base, base]", "costs.yaml:2: models: 'base' is listed twice"),
        ("seconds: 0.1", "seconds: 0", "costs.yaml:5: probe.seconds: must be greater than 0, got 0"),
        ("seconds: 0.1", "attention: fast", "costs.yaml:5: probe.attention: must be 'eager', 'sdpa' or 'flash_attention_2'"),
        ("[[1, 8]]", "[[1]]", "costs.yaml:5: probe.latency[0][1]: is missing"),
        ("seconds: 0.1", "twin: lroa", "costs.yaml:5: probe.twin: 'lroa' is not one of this suite's methods; did you mean"),
        ("seconds: 0.1}", "seconds: 0.1}\nrecipes:\n  - {methods: lara}",
         "costs.yaml:7: recipes[0].methods: 'lara' is not one of this suite's methods; did you mean 'lora'?"),
        ("seconds: 0.1}", "seconds: 0.1}\nrecipes:\n  - {batch_size: null}",
         "costs.yaml:7: recipes[0].batch_size: must be integer, got None (NoneType)"),
        ("[full, lora]", "[full, {method: lora, learning_rate: 1e-3}]",
         "costs.yaml:3: methods[1].learning_rate: is not read in a suite of probes"),
        ("[full, lora]", "[full, {method: lora, tasks: [rte]}]", "costs.yaml:3: methods[1].tasks: is not read in a suite"),
        ("[full, lora]", "[full, {method: lora, models: [bse]}]",
         "costs.yaml:3: methods[1].models: 'bse' is not one of this suite's models; did you mean 'base'?"),
    ],
)  # fmt: skip
def test_a_fault_has_its_file_line_and_key(tmp_path, monkeypatch, old, new, message):
    monkeypatch.chdir(tmp_path)
    write_suite(tmp_path, SUITE.replace(old, new))
    with pytest.raises(BadInput) as error:
        load_probe_suite("costs.yaml")
    assert message in str(error.value)


def test_all_faults_come_at_once(tmp_path):
    with pytest.raises(BadInput) as error:
        load_probe_suite(write_suite(tmp_path, SUITE.replace("lora", "lroa").replace("length: 8", "length: no")))
    assert len(error.value.faults) == 2


def test_a_model_that_is_not_there_is_a_fault_of_its_line(tmp_path):
    with pytest.raises(BadInput, match=r"costs.yaml:2: models\[1\]: unknown shape 'shape:roberta-bse'; did you mean"):
        plan(tmp_path, SUITE.replace("[base]", "[base, 'shape:roberta-bse']"))


def test_one_cell_under_two_names_is_a_fault(tmp_path):
    text = SUITE.replace("[full, lora]", "[lora, {method: lora, label: mine, rank: 8}]")
    with pytest.raises(BadInput, match=r"costs.yaml:3: methods: 'lora' and 'mine' are the same cell under two names"):
        plan(tmp_path, text)


def test_an_ordinary_suite_names_its_twin_among_its_methods(tmp_path):
    path = write_project(tmp_path, TICKETS + "probe: {twin: lroa}\n")
    with pytest.raises(BadInput, match=r"probe.twin: 'lroa' is not one of this suite's methods; did you mean 'lora'"):
        load_suite(path)


def test_the_command_says_a_fault_and_ends_with_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_suite(tmp_path, SUITE.replace("length: 8", "lenght: 8"))
    assert main(["probe", "costs.yaml"]) == 2
    assert "cell.lenght: unknown key; did you mean 'length'?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as wrong:
        main(["probe", "costs.yaml", "--processes", "0"])
    assert wrong.value.code == 2 and "at least 1, got '0'" in capsys.readouterr().err


# The page of the documentation.

PAGE = (Path(__file__).parents[2] / "docs" / "probes.md").read_text(encoding="utf-8")


def test_the_suite_of_the_page_is_valid_and_means_what_it_says(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    path = tmp_path / "costs.yaml"
    path.write_text(example)
    suite = load_probe_suite(path)
    schema = json.loads((Path(__file__).parents[2] / "lora_bench" / "schemas" / "probe-suite.schema.json").read_text())
    jsonschema.validate(suite.document.data, schema)
    assert suite.content.probe.model_fields_set == set(Probe.model_fields)  # every key is shown
    assert suite.content.cell.model_fields_set == set(CellShape.model_fields)
    gpt2, roberta = suite.cell("shape:gpt2", "full")[0], suite.cell("shape:roberta-base", "lora")[0]
    assert (gpt2.kind, gpt2.length, gpt2.batch_size) == ("generation", 512, 8)
    assert (roberta.kind, roberta.length, roberta.batch_size) == ("classification", 128, 16)


def test_the_page_names_every_key_of_a_probe():
    for name in Probe.model_fields:
        assert re.search(rf"[`{{ ]{name}[`:]", PAGE), name


def test_the_page_names_every_shape():
    assert all(f"`{name}`" in PAGE for name in known_shapes())


# Shapes.


@pytest.mark.parametrize("name", sorted(known_shapes()))
def test_every_shape_is_a_model_without_weights(name):
    found = find_model(f"shape:{name}", base=None)
    config = json.loads((found.folder / "config.json").read_text())
    assert (found.has_weights, found.shown) == (False, f"{name} (random weights)")
    assert found.model_type == config["model_type"] and not list(found.folder.glob("*.safetensors"))
