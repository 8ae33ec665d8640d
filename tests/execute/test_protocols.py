"""Protocols, recipes, trials and starts: what a suite says about them is what its runs do, and their records carry it."""

import csv
import math

import pytest
import torch
import transformers
from safetensors.torch import load_file

from lora_bench.errors import BadInput
from lora_bench.execute.run_suite import run_suite, runs_folder
from lora_bench.models.loading import load_model
from lora_bench.models.registry import find_model
from lora_bench.plan.make_plan import make_plan
from lora_bench.plan.selection import start_records, trials_among
from lora_bench.records.protocol import PROTOCOLS, STRICT
from lora_bench.records.store import RunFolder
from lora_bench.suite.load_suite import load_suite
from lora_bench.training import lessons, prepare
from lora_bench.training import process_cache as warm
from tests.project import SUITE, write_project
from tests.sample_records import record

LORA = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[{method: lora, learning_rate: 1e-2}]")


@pytest.fixture(autouse=True)
def _shared_cache(tmp_path, monkeypatch, shared_cache):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(shared_cache))


def plan_of(tmp_path, suite):
    return make_plan(load_suite(write_project(tmp_path / "project", suite)), tmp_path / "runs")


def specs_of(tmp_path, suite):
    return {cell.job.spec.method.label: cell.job.spec for cell in plan_of(tmp_path, suite).cells}


def with_two_tasks(tmp_path, suite):
    """The project with a second task, whose labels are three."""
    path = write_project(tmp_path / "project", suite)
    with (path.parent / "urgency.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "urgency"])
        words = {"low": "lovely", "middle": "quite", "high": "awful"}
        writer.writerows([f"the film was {words[label]} and very {n % 7}", label] for n in range(90) for label in words)
    return path


TWO_TASKS = """\
suite: pair
tasks:
  - {task: urgency, data: urgency.csv, text: subject, label: urgency}
  - {task: tickets, data: tickets.csv, text: subject, label: queue}
models: [base]
methods: [{method: lora, learning_rate: 1e-2}, {method: full, learning_rate: 1e-3}]
seeds: [0, 1]
budget: {train_examples: 48}
recipes:
  - {tasks: tickets, start: urgency}
"""


def test_the_strict_protocol_is_the_default_and_leaves_ids_alone(tmp_path):
    named = specs_of(tmp_path / "a", LORA)["lora"]
    explicit = specs_of(tmp_path / "b", LORA + "protocol: {protocol: strict, aggregation: mean}\n")["lora"]
    assert named.rules == STRICT and named.run_id == explicit.run_id
    assert (
        specs_of(tmp_path / "c", LORA + "protocol: {protocol: strict, checkpoint: best}\n")["lora"].run_id
        != named.run_id
    )


def test_the_paper_protocol_trains_on_everything_and_evaluates_after_each_epoch(tmp_path):
    path = write_project(tmp_path / "project", LORA)
    lines = (path.parent / "tickets.csv").read_text().splitlines()
    (path.parent / "train.csv").write_text("\n".join(lines[:301]) + "\n")
    (path.parent / "test.csv").write_text("\n".join([lines[0], *lines[301:]]) + "\n")
    suite = LORA.replace("data: tickets.csv", "data: {train: train.csv, test: test.csv}")
    path.write_text(suite + "protocol: paper\n")
    (cell,) = make_plan(load_suite(path), tmp_path / "runs").cells
    assert cell.job.spec.selection_every == math.ceil(300 / 16) and cell.job.spec.rules == PROTOCOLS["paper"]
    path.write_text((suite + "protocol: paper\n").replace("train_examples: 48", "epochs: 3"))
    (made,) = run_suite(path, runs=tmp_path / "runs", workers=0).records
    assert made.status == "ok" and made.data.examples == {"train": 300, "test": 100}
    scores = [point.scores["accuracy"] for point in made.curve if point.scores]
    # After each epoch, and after the last step, which ends the third one.
    assert len(scores) == 3 and made.score == max(scores)


def test_the_same_data_under_the_strict_protocol_sets_a_selection_split_aside(tmp_path):
    path = write_project(tmp_path / "project", LORA)
    lines = (path.parent / "tickets.csv").read_text().splitlines()
    (path.parent / "train.csv").write_text("\n".join(lines[:301]) + "\n")
    (path.parent / "test.csv").write_text("\n".join([lines[0], *lines[301:]]) + "\n")
    path.write_text(LORA.replace("data: tickets.csv", "data: {train: train.csv, test: test.csv}"))
    (made,) = run_suite(path, runs=tmp_path / "runs", workers=0).records
    examples = made.data.examples
    assert examples["test"] == 100 and examples["train"] + examples["selection"] == 300 and examples["selection"] > 0


def test_a_recipe_changes_the_cells_it_names_and_no_others(tmp_path):
    suite = SUITE + (
        "training: {batch_size: 8}\n"
        "recipes:\n"
        "  - {methods: [lora, full], batch_size: 4, learning_rate: 5e-4, warmup_steps: 2, weight_decay: 0.1}\n"
        "  - {methods: lora, train_examples: 20, label_smoothing: 0.1, base_dropout: 0.0}\n"
    )
    specs = {label: spec.training for label, spec in specs_of(tmp_path, suite).items()}
    assert {label: spec.batch_size for label, spec in specs.items()} == {
        "full": 4, "lora": 4, "bottleneck_adapter": 8, "prefix_tuning": 8,
    }  # fmt: skip
    assert (specs["lora"].train_examples, specs["lora"].steps) == (20, 5)
    assert (specs["full"].train_examples, specs["full"].steps) == (48, 12)
    assert (specs["full"].learning_rate, specs["full"].warmup_steps, specs["full"].weight_decay) == (5e-4, 2, 0.1)
    assert (specs["lora"].label_smoothing, specs["lora"].base_dropout) == (0.1, 0.0)
    assert (specs["full"].label_smoothing, specs["full"].base_dropout) == (0.0, None)


@pytest.mark.parametrize(
    ("rest", "refused"),
    [
        ("training: {masks: keyed}\ntraining_arguments: {activation_checkpointing: true}", True),
        ("training: {masks: keyed}\nrecipes: [{training_arguments: {gradient_checkpointing: true}}]", True),
        ("training_arguments: {gradient_checkpointing: true}\nrecipes: [{methods: lora, masks: keyed}]", True),
        ("training: {gradient_checkpointing: true, masks: keyed}", True),
        (
            "training: {masks: keyed}\nrecipes: [{masks: torch, training_arguments: {gradient_checkpointing: true}}]",
            False,
        ),
        ("training_arguments: {activation_checkpointing: true}", False),
    ],
)
def test_masks_of_a_first_pass_are_refused_where_there_is_a_second(tmp_path, rest, refused):
    if not refused:
        assert len(plan_of(tmp_path, f"{LORA}{rest}\n").cells) == 1
        return
    with pytest.raises(BadInput, match=r"masks.*'keyed' are of one pass.*make its parts a second time; take 'torch'"):
        plan_of(tmp_path, f"{LORA}{rest}\n")


def test_labels_that_are_numbers_are_not_smoothed(tmp_path):
    training = "training: {label_smoothing: 0.1}\n"
    assert specs_of(tmp_path / "a", LORA + training)["lora"].training.label_smoothing == 0.1
    path = write_project(
        tmp_path / "project", LORA.replace("label: queue", "label: queue\n    kind: regression") + training
    )
    text = (path.parent / "tickets.csv").read_text().replace(",praise", ",1.0").replace(",complaint", ",-1.0")
    (path.parent / "tickets.csv").write_text(text)
    (made,) = run_suite(path, runs=tmp_path / "runs", workers=0).records
    assert (made.status, made.spec.training.label_smoothing) == ("ok", 0.0), made.reason


def test_smoothed_labels_that_would_drop_a_methods_own_loss_are_refused(tmp_path):
    def planned(weight):
        options = f"init_r: 3, target_r: 2, orth_reg_weight: {weight}"
        method = (
            f"{{method: peft, type: ADALORA, targets: [query, value], options: {{{options}}}, learning_rate: 1e-2}}"
        )
        suite = LORA.replace("{method: lora, learning_rate: 1e-2}", method)
        return plan_of(tmp_path, suite + "training: {label_smoothing: 0.1}\n")

    with pytest.raises(BadInput, match=r"label_smoothing 0\.1 takes the place of .* AdaLoRA's orthogonality penalty"):
        planned(0.1)
    assert planned(0.0).cells


def test_dropout_of_base_and_head_are_set_apart(tmp_path):
    write_project(tmp_path)
    base = find_model("base", base=tmp_path)
    model, _ = load_model(base, kind="classification", labels=2, base_dropout=0.25, head_dropout=0.5)
    rates = {name: module.p for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}
    assert rates.pop("classifier.dropout") == 0.5
    assert rates and set(rates.values()) == {0.25}


def test_the_heads_dropout_acts_once_on_deberta(tmp_path):
    config = transformers.DebertaV2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=50,
        pooler_hidden_size=16, pooler_dropout=0.0,
    )  # fmt: skip
    transformers.DebertaV2ForSequenceClassification(config).save_pretrained(tmp_path / "base")
    base = find_model("base", base=tmp_path)
    model, _ = load_model(base, kind="classification", labels=2, head_dropout=0.15)
    assert (model.dropout.p, model.pooler.dropout.p) == (0.15, 0.0)


def test_trials_choose_the_rate_that_is_run(tmp_path):
    suite = (
        LORA.replace("learning_rate: 1e-2", "learning_rate: [1e-6, 1e-2]") + "tuning: {seeds: [7, 8], extend: false}\n"
    )
    suite = suite.replace("train_examples: 48", "train_examples: 640")
    path = write_project(tmp_path / "project", suite)
    plan = make_plan(load_suite(path), tmp_path / "runs" / "tickets")
    assert len(plan.cells) == 4 and all(cell.job.trial for cell in plan.cells)
    (waiting,) = plan.waiting
    assert waiting.runs == 1 and "trials" in waiting.reason
    outcome = run_suite(path, runs=tmp_path / "runs", workers=0)
    trials = [made for made in outcome.records if made.spec.score_on == "selection"]
    (result,) = [made for made in outcome.records if made.spec.score_on == "test"]
    assert sorted((made.spec.training.learning_rate, made.spec.seed) for made in trials) == [
        (1e-6, 7), (1e-6, 8), (1e-2, 7), (1e-2, 8),
    ]  # fmt: skip
    means = {
        rate: sum(made.score for made in trials if made.spec.training.learning_rate == rate) for rate in (1e-6, 1e-2)
    }
    assert result.spec.training.learning_rate == max(means, key=means.get) and result.spec.seed == 0
    assert run_suite(path, runs=tmp_path / "runs", workers=0).done == 0
    # Its command makes the result again where no trial was run: the id says which learning rate it was.
    again = run_suite(path, runs=tmp_path / "elsewhere", workers=0, only=[result.run_id])
    assert [(made.run_id, made.scores) for made in again.records] == [(result.run_id, result.scores)]


def test_rates_without_tuning_and_tuning_on_a_reported_seed_are_refused(tmp_path):
    several = LORA.replace("learning_rate: 1e-2", "learning_rate: [1e-3, 1e-2]")
    with pytest.raises(Exception, match="tuning"):
        load_suite(write_project(tmp_path, several))
    with pytest.raises(Exception, match="must not be among the reported seeds, as 0 is"):
        load_suite(write_project(tmp_path, several + "tuning: {seeds: [0]}\n"))


def test_the_best_mean_over_trial_seeds_wins_and_a_rate_with_a_failure_does_not():
    def trial(rate, seed, score, status="ok", **given):
        return record(score=score, seed=seed, learning_rate=rate, status=status, **given)

    def chosen(records):
        return trials_among(records, "all_seeds").chosen

    even = [(1e-3, 1, 0.8), (1e-3, 2, 0.6), (1e-2, 1, 0.9), (1e-2, 2, 0.4)]
    assert chosen([trial(*one) for one in even]) == 1e-3  # means 0.7 and 0.65
    assert chosen([trial(*one, higher_is_better=False) for one in even]) == 1e-2
    lost = [*(trial(*one) for one in even[:2]), trial(1e-2, 1, 0.99), trial(1e-2, 2, None, "diverged")]
    assert chosen(lost) == 1e-3
    assert trials_among([*lost[:3], None], "all_seeds") is None
    assert chosen([trial(1e-2, 1, None, "diverged"), trial(1e-3, 1, None, "failed")]) == 1e-2


def test_the_papers_start_every_seed_from_the_best_run_and_we_from_that_of_the_same_seed():
    runs = [record(score=0.7, seed=0), record(score=0.9, seed=1), record(score=None, seed=2, status="diverged")]
    assert start_records(runs, PROTOCOLS["paper"], [0, 1, 2]) == dict.fromkeys([0, 1, 2], runs[1].run_id)
    assert start_records(runs, STRICT, [0, 1, 2]) == {0: runs[0].run_id, 1: runs[1].run_id}
    assert start_records([*runs, None], STRICT, [0]) is None


def test_starting_from_another_run_leaves_the_base_that_is_kept_as_it_was(tmp_path, monkeypatch):
    """BitFit trains biases of the base, and those that another run left are written into a run's own."""
    methods = "methods: [{method: lora, learning_rate: 1e-2}, {method: full, learning_rate: 1e-3}]"
    path = with_two_tasks(tmp_path, TWO_TASKS.replace(methods, "methods: [{method: bitfit, learning_rate: 1e-1}]"))
    kept = warm.Warm()
    for module in (prepare, lessons):
        monkeypatch.setattr(module, "WARM", kept)
    loads, load_for = [], warm.load_for
    monkeypatch.setattr(warm, "load_for", lambda job: loads.append(job.spec.task.name) or load_for(job))
    assert {made.status for made in run_suite(path, runs=tmp_path / "runs", workers=0).records} == {"ok"}
    assert loads == ["urgency", "tickets"]


@pytest.mark.parametrize("label", ["lora", "full"])
def test_a_run_starts_from_the_weights_of_another_task_with_a_head_of_its_own(tmp_path, label):
    path = with_two_tasks(tmp_path, TWO_TASKS)
    still = TWO_TASKS.replace("learning_rate: 1e-2", "learning_rate: 1e-12").replace(
        "learning_rate: 1e-3", "learning_rate: 1e-12"
    )
    path.write_text(
        TWO_TASKS.replace("{tasks: tickets, start: urgency}", "{tasks: tickets, start: urgency, learning_rate: 1e-12}")
        + "keep_weights: last\n"
    )
    assert still != TWO_TASKS
    outcome = run_suite(path, runs=tmp_path / "runs", workers=0)
    by = {(made.spec.task.name, made.spec.method.label, made.spec.seed): made for made in outcome.records}
    assert len(by) == 8 and {made.status for made in by.values()} == {"ok"}
    folder = runs_folder(load_suite(path), tmp_path / "runs")
    for seed in (0, 1):
        source, started = by["urgency", label, seed], by["tickets", label, seed]
        assert started.spec.start.run_id == source.run_id and source.spec.start is None
        before, after = (
            load_file(next(RunFolder(folder / made.run_id).weights.glob("*model.safetensors")))
            for made in (source, started)
        )
        body = [name for name in before if "classifier" not in name]
        # With a learning rate of 1e-12 nothing moves, so the body is the source's and the head has two rows, not three.
        assert body and all(torch.allclose(before[name], after[name], atol=1e-6) for name in body)
        head = next(name for name in after if name.endswith("classifier.out_proj.weight"))
        assert (before[head].shape[0], after[head].shape[0]) == (3, 2)


def test_a_run_whose_source_gave_no_score_is_a_row_with_the_reason(tmp_path):
    path = with_two_tasks(tmp_path, TWO_TASKS)
    path.write_text(
        TWO_TASKS.replace(
            "[{method: lora, learning_rate: 1e-2}, {method: full, learning_rate: 1e-3}]",
            "[{method: full, learning_rate: 1e-3}]",
        ).replace("recipes:\n", "recipes:\n  - {tasks: urgency, learning_rate: 1e30, max_grad_norm: 0}\n")
    )
    outcome = run_suite(path, runs=tmp_path / "runs", workers=0)
    statuses = {(made.spec.task.name, made.spec.seed): (made.status, made.reason) for made in outcome.records}
    assert statuses["urgency", 0][0] == "diverged"
    assert statuses["tickets", 0] == ("failed", "the run of urgency from which it starts gave no score")
    assert len(statuses) == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("recipes: [{tasks: tickts, epochs: 1}]", "'tickts' is not one of this suite's tasks; did you mean 'tickets'?"),
        ("recipes: [{methods: lroa, epochs: 1}]", "did you mean 'lora'?"),
        ("recipes: [{epochs: 1, train_examples: 5}]", "give at most one of train_examples and epochs"),
        ("recipes: [{start: tickets}]", "needs `tasks` that do not contain the task to start from"),
        ("recipes: [{batch_size: 0}]", "greater than 0"),
        ("recipes: [{training_arguments: {seed: 3}}]", "is decided by the suite's own keys: use seeds"),
        ("protocol: {protocol: strict, chekpoint: best}", "did you mean 'checkpoint'?"),
        ("data: {ticket: here}", "'ticket' is not one of this suite's tasks; did you mean 'tickets'?"),
        ("decoding: {beams: 0}", "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_mistakes_are_said_with_the_nearest_choice(tmp_path, line, message):
    with pytest.raises(Exception) as caught:
        load_suite(write_project(tmp_path, f"{SUITE}{line}\n"))
    assert message in str(caught.value)
