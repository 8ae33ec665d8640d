"""A suite is read strictly: every mistake with file, line, key and the nearest valid name, all at once, nothing written."""

import pytest

from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.load_suite import load_suite, with_seeds
from lora_bench.tasks import load_task
from tests.project import SUITE, write_project


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch, shared_cache):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(shared_cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


def faults(tmp_path, text):
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        load_suite("s.yaml")
    return str(caught.value).splitlines()


def test_ten_lines_are_a_suite(tmp_path):
    assert len(SUITE.splitlines()) == 10
    suite = load_suite(write_project(tmp_path, SUITE))
    assert suite.name == "tickets" and [entry.label for entry in suite.methods] == [
        "full",
        "lora",
        "bottleneck_adapter",
        "prefix_tuning",
    ]


LIKE = """\
suite: s
tasks: [TASK]
models: [base]
methods: [full]
seeds: [0]
budget: {train_examples: 48}
"""


def test_a_task_like_another_has_its_data_and_other_shares(tmp_path):
    given = "{task: more, like: rte, split: {selection: 0.1, more_test: 0.4}, metric: f1}"
    suite = load_suite(write_project(tmp_path, LIKE.replace("TASK", given)))
    ((more, _),), rte = suite.tasks, load_task("rte")
    assert (more.task, more.split.more_test, more.metric) == ("more", 0.4, "f1")
    assert (more.data, more.text, more.label, more.labels, more.local) == (
        rte.data,
        rte.text,
        rte.label,
        rte.labels,
        rte.local,
    )


def test_a_suite_keeps_the_splits_of_an_earlier_version_of_a_task(tmp_path):
    given = "{task: tweets, like: tweets, version: 1, split: {train: 0.8, selection: 0.1, test: 0.1}}"
    ((tweets, _),) = load_suite(write_project(tmp_path, LIKE.replace("TASK", given))).tasks
    assert (tweets.version, tweets.split.test) == (1, 0.1)
    assert tweets.data == load_task("tweets").data and load_task("tweets").version > 1


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("{task: more, like: rtee}", "tasks[0].like: unknown task 'rtee'; did you mean 'rte'?"),
        ("{like: rte}", "tasks[0].task: must be another name than 'rte'"),
        ("{task: more, like: rte, splt: 1}", "tasks[0].splt: unknown key; did you mean 'split'?"),
    ],
)
def test_a_task_like_another_is_checked_as_one_written_out(tmp_path, given, fault):
    (said,) = faults(tmp_path, LIKE.replace("TASK", given))
    assert fault in said


def test_rates_that_another_suite_tuned_are_one_a_method(tmp_path):
    tuned = SUITE.replace("budget: {", "budget: {trials: 3, tuned_in: search, ")
    budget = load_suite(write_project(tmp_path, tuned)).content.budget
    assert (budget.trials, budget.tuned_in) == (3, "search")
    found = faults(tmp_path, tuned.replace("[full,", "[{method: full, learning_rate: [1e-4, 1e-3]},"))
    assert any("are in search, so that one rate is given here, but full has 2 learning rates" in one for one in found)


def test_one_number_for_seeds_is_answered_with_both_lists_that_it_could_mean(tmp_path):
    found = faults(tmp_path, SUITE.replace("seeds: [0]", "seeds: 3"))
    assert found == ["s.yaml:9: seeds: must be a list: for the seed 3 write [3], and for 3 seeds [0, 1, 2]"]
    (said,) = faults(tmp_path, SUITE + "tuning: {seeds: 2}\n")
    assert said.endswith("tuning.seeds: must be a list: for the seed 2 write [2], and for 2 seeds [100, 101]")
    (said,) = faults(tmp_path, SUITE + "tuning: {seeds: 100}\n")
    assert said.endswith("for the seed 100 write [100]")


def test_more_seeds_are_the_suites_and_the_next_ones(tmp_path):
    suite = load_suite(write_project(tmp_path, SUITE.replace("[0]", "[1, 5]")))
    assert with_seeds(suite, 4).content.seeds == (1, 5, 0, 2)
    assert with_seeds(suite, 1).content.seeds == (1,)
    assert with_seeds(suite, 4).command == ("run", "tickets.yaml", "--seeds", "4")
    tuned = SUITE.replace("[full,", "[{method: full, learning_rate: [1e-4, 1e-3]},") + "tuning: {seeds: [2, 3]}\n"
    assert with_seeds(load_suite(write_project(tmp_path, tuned)), 4).content.seeds == (0, 1, 4, 5)
    runs = {cell.job.spec.run_id: cell.job.command for cell in make_plan(suite, tmp_path / "runs").cells}
    more = {cell.job.spec.run_id: cell.job.command for cell in make_plan(with_seeds(suite, 3), tmp_path / "runs").cells}
    # What is there already stays as it is; what is added is made again by its command.
    assert len(runs) == 8 and len(more) == 12 and runs.keys() < more.keys()
    assert all("--seeds 3 --only" in more[run_id] for run_id in more.keys() - runs.keys())


def test_so_many_seeds_come_before_the_first_look_where_seeds_are_added_until_decided(tmp_path):
    text = SUITE.replace("[0]", "{until: decided, at_least: 4, at_most: 8}")
    suite = load_suite(write_project(tmp_path, text))
    for number, looks in ((6, (6, 8)), (10, (10,))):
        assert with_seeds(suite, number).content.seeds.looks[0] == number
        assert with_seeds(suite, number).analysis.seeds.at_most == looks[-1]
    with pytest.raises(LoraBenchError, match="begin with 3 or more"):
        with_seeds(suite, 2)
    tuned = text.replace("[full,", "[{method: full, learning_rate: [1e-4, 1e-3]},") + "tuning: {seeds: [9]}\n"
    with pytest.raises(LoraBenchError, match="seed 9 is one of the suite's trials"):
        with_seeds(load_suite(write_project(tmp_path, tuned)), 10)


def test_a_file_for_a_task_is_answered_with_the_task_of_it(tmp_path):
    suite = "tasks: [tickets.csv]\n" + SUITE.replace("tasks:\n", "").replace(
        SUITE[SUITE.index("  - task") : SUITE.index("models")], ""
    )
    unseen = "write {task: tickets, data: tickets.csv, text: COLUMN, label: COLUMN}"
    (said,) = faults(tmp_path, suite)
    assert "s.yaml:1: tasks[0]: 'tickets.csv' is a file, and a task also says its columns: " + unseen in said
    write_project(tmp_path)
    (said,) = faults(tmp_path, suite)
    written = "{task: tickets, data: tickets.csv, text: subject, label: queue, metric: accuracy}"
    assert said.endswith(f"write {written}")
    assert load_suite(write_project(tmp_path, suite.replace("tickets.csv", written))).name == "tickets"


def test_files_of_splits_beside_the_tasks_are_answered_with_their_place(tmp_path):
    (said,) = faults(tmp_path, SUITE + "data: {train: a.csv, validation: b.csv, test: c.csv}\n")
    files = "{train: a.csv, validation: b.csv, test: c.csv}"
    assert said.startswith("s.yaml:11: data: names the files of splits, which stand in their task: write ")
    assert said.endswith(f"tasks: [{{task: NAME, data: {files}, text: COLUMN, label: COLUMN}}]")


def test_all_mistakes_come_at_once(tmp_path):
    text = (
        "suite: my suite\n"
        "tasks: [movie_review]\n"
        "modles: [gpt2-mini]\n"
        "methods:\n"
        "  - lroa\n"
        "  - method: lora\n"
        "    rnak: 4\n"
        "  - method: prefix_tuning\n"
        "    num_virtual_tokens: 0\n"
        "    learning_rate: [1e-3, -1]\n"
        "seeds: [0, 'one']\n"
        "budget: {train_examples: 10, epochs: 1}\n"
    )
    found = faults(tmp_path, text)
    expected = [
        ("s.yaml:1: suite:", "pattern"),
        ("s.yaml:2: tasks[0]:", "did you mean 'movie_reviews'?"),
        ("s.yaml:3: modles:", "did you mean 'models'?"),
        ("s.yaml:5: methods[0]:", "unknown method 'lroa'; did you mean 'lora'?"),
        ("s.yaml:7: methods[1].rnak:", "unknown key; did you mean 'rank'?"),
        ("s.yaml:9: methods[2].num_virtual_tokens:", "greater than or equal to 1"),
        ("s.yaml:10: methods[2].learning_rate:", "positive number"),
        ("s.yaml:11: seeds[1]:", "must be integer"),
        ("s.yaml:12: budget:", "exactly one of train_examples, epochs"),
        ("s.yaml:1: models:", "is missing"),
    ]
    for place, words in expected:
        assert any(line.startswith(place) and words in line for line in found), (place, words, found)


def changed(keys):
    """The suite of ten lines with other top keys in place of its own or beside them."""
    names = [line.partition(":")[0] for line in keys.splitlines()]
    kept = [line for line in SUITE.splitlines() if line.partition(":")[0] not in names]
    return "\n".join([*kept, keys]) + "\n"


@pytest.mark.parametrize(
    ("given", "place", "instead", "words"),
    [
        ("methods: [{method: lora, lr: 1e-3}]", "methods[0].lr", "methods: [{method: lora, learning_rate: 1e-3}]",
         "`learning_rate`"),
        ("lr: 1e-3", "lr", None, "`learning_rate`"),
        ("budget: {epochs: 1, early_stopping: 3}", "budget.early_stopping",
         "budget: {epochs: {until: plateau, at_most: 20}}\nselection_every: 50", "`selection_every: 50`"),
        ("training: {early_stopping: true}", "training.early_stopping", None, "`budget: {epochs: {until: plateau"),
        ("training: {bf16: true}", "training.bf16", "training: {precision: bfloat16}", "`training: {precision: bfloat16}`"),
        ("training: {fp16: true}", "training.fp16", "training: {base_precision: float16}", "base_precision: float16}`"),
        ("training: {torch_dtype: float16}", "training.torch_dtype", "training: {base_precision: float16}", "stores the"),
        ("training: {optimizer: adamw_8bit}", "training.optimizer",
         "training_arguments: {optim: adamw_8bit}", "`training_arguments: {optim: paged_adamw_8bit}`"),
        ("gradient_checkpointing: true", "gradient_checkpointing",
         "training: {gradient_checkpointing: true}", "`training: {gradient_checkpointing: true}`"),
        ("class_weights: balanced", "class_weights", "training: {class_weights: balanced}", "rarity of their class"),
    ],
)  # fmt: skip
def test_a_key_of_another_library_leads_to_the_one_that_does_the_same(tmp_path, given, place, instead, words):
    (line,) = [line for line in faults(tmp_path, changed(given)) if f" {place}: " in line]
    assert "unknown key; " in line and "did you mean" not in line and words in line
    if instead is not None:
        load_suite(write_project(tmp_path, changed(instead)))


def test_splits_that_should_be_stratified_are_answered(tmp_path):
    (line,) = faults(tmp_path, SUITE.replace("label: queue", "label: queue\n    split: {stratify: queue}"))
    assert "split.stratify: must be boolean, got 'queue' (str)" in line
    (line,) = faults(tmp_path, SUITE.replace("label: queue", "label: queue\n    stratify: true"))
    assert "stratify: unknown key; `split: {stratify: true}` of a task" in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("methods: [lora, lora]", "'lora' is listed twice; give each its own label"),
        ("seeds: [1, 1]", "a seed is listed twice"),
        ("keep_weights: best", "'best' needs selection_every"),
        ("training_arguments: {learning_rate: 0.1}", "is decided by the suite's own keys: use methods[].learning_rate"),
        ("training_arguments: {gradient_accumulation_steps: 3}", "must divide training.batch_size (16), got 3"),
        ("methods: [{method: lora, learning_rate: [1e-3, 1e-2]}]", "several learning rates make a search"),
        ("methods: [{method: lora, learning_rate: {bas: 1e-3}}]", "not a model of this suite; did you mean 'base'?"),
        ("budget: {train_examples: 10, trials: 3}", "is 3, but lora has 1 learning rates"),
        ("budget: {train_examples: 10, tuned_in: search}", "s.yaml:10: budget.tuned_in: names the suite that tried"),
        (
            "budget: {train_examples: 10, trials: 2, tuned_in: search}\ntuning: {seeds: [7]}",
            "budget.tuned_in: names the suite that tried",
        ),
        ("protocol: papre", "unknown protocol 'papre'; did you mean 'paper'?"),
        ("methods: [peft]", "method 'peft' needs type"),
        ("methods: [{method: peft, type: IA3, option: {}}]", "did you mean 'options'"),
        ("methods: [{method: lora, learning_rte: 1e-3}]", "unknown key; did you mean 'learning_rate'?"),
        ("seeds: [-1]", "greater than or equal to 0"),
        ("training: {schedule: linaer}", "'linear'"),
        ("budget: {epochs: 1e400}", "cannot be read as"),
        ("training_arguments: {dataloader_drop_last: true}", "is decided by the suite's own keys"),
        ("budget: {train_examples: ten}", "must be integer, got 'ten'"),
        (
            "budget: {train_tokens: 10, caps: {train_tokens: 5}}",
            "s.yaml:10: budget.caps.train_tokens: is what stops a run",
        ),
        (
            "budget: {epochs: 1, adapter_parameters: 9, stored_parameters: 9}",
            "at most one of adapter_parameters and stored",
        ),
        (
            "budget: {epochs: 1, stored_parameters: [9, 9]}",
            "s.yaml:10: budget.stored_parameters: a target is listed twice",
        ),
        ("budget: {epochs: 1, adapter_parameters: []}", "s.yaml:10: budget.adapter_parameters"),
        (
            "budget: {epochs: 1, peak_memory_bytes: 9}\ntraining_arguments: {gradient_accumulation_steps: 2}",
            "s.yaml:11: training_arguments.gradient_accumulation_steps: is decided by budget.peak_memory_bytes",
        ),
        ("budget: {train_tokens: 10, caps: {train_token: 5}}", "unknown key; did you mean 'train_tokens'?"),
        (
            "budget: {train_tokens: 10, caps: {train_examples: 5, epochs: 1}}",
            "at most one of train_examples and epochs",
        ),
        ("recipes: [{train_tokens: 10, epochs: 1}]", "give at most one of epochs and train_tokens"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(tmp_path, change, message):
    key = change.split(":")[0]
    lines = [line for line in SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]").splitlines()]
    kept = [line for line in lines if not line.startswith(f"{key}:")]
    assert any(message in line for line in faults(tmp_path, "\n".join([*kept, change]) + "\n"))


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (
            "{warmup_steps: 5}",
            "s.yaml:11: training.warmup_steps: counts steps, and a budget of train_tokens is used up by",
        ),
        ("{schedule: inverse_sqrt}", "s.yaml:11: training.schedule: 'inverse_sqrt' falls with the number of steps"),
    ],
)
def test_a_schedule_that_counts_steps_cannot_follow_a_share(tmp_path, training, message):
    text = SUITE.replace("train_examples: 48", "train_tokens: 900") + f"training: {training}\n"
    assert any(line.startswith(message) for line in faults(tmp_path, text))
    of_tokens = SUITE + f"training: {training}\nrecipes: [{{methods: lora, train_tokens: 900}}]\n"
    found = plan_faults(tmp_path, of_tokens)
    assert "tickets.yaml:12: recipes: lora on base for tickets: " + message.split(".")[-1].split(":")[0] in found


def test_an_unknown_suite_is_answered_with_the_nearest_name():
    with pytest.raises(LoraBenchError, match="unknown suite 'quikstart'; did you mean 'quickstart'"):
        load_suite("quikstart")


def plan_faults(tmp_path, suite):
    path = write_project(tmp_path, suite)
    with pytest.raises(BadInput) as caught:
        make_plan(load_suite(path), tmp_path / "runs")
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("tickets.csv", "ticket.csv"), "ticket.csv"),
        (("text: subject", "text: subjct"), "did you mean 'subject'"),
        (("label: queue", "label: queue\n    labels: [praise, complain]"), "complaint"),
        (("models: [base]", "models: [bse]"), "models[0]: model 'bse' is "),
        (("48}", "48, adapter_parameters: 3}"), "no size meets 3 adapter parameters"),
        (("seeds: [0]", "seeds: [0]\ntraining_arguments: {adam_bta2: 0.9}"), "did you mean 'adam_beta2'?"),
        (("seeds: [0]", "seeds: [0]\ntraining_arguments: {adam_beta2: abc}"), "adam_beta2: must be float, got 'abc'"),
        (("seeds: [0]", "seeds: [0]\ntraining_arguments: {optim: adamw_foo}"), "adamw_foo"),
        (("[full,", "[{method: lora, label: twin},"), "are the same runs under two names"),
    ],
)
def test_what_only_data_models_and_counting_can_tell_is_told_before_any_work(tmp_path, change, message):
    assert message in plan_faults(tmp_path, SUITE.replace(*change))
    assert not (tmp_path / "runs").exists()


def test_a_method_that_misses_the_budget_is_a_row_where_others_meet_it(tmp_path):
    # Prefixes come in steps of 2 layers * 2 * 32 = 128, lora's too; a bottleneck adapter has 4 * (65 b + 32).
    suite = SUITE.replace("48}", "48, adapter_parameters: 1_280, tolerance: 0.01}")
    plan = make_plan(load_suite(write_project(tmp_path, suite)), tmp_path / "runs")
    reasons = {cell.job.spec.method.label: cell.reason for cell in plan.cells}
    assert reasons["lora"] is reasons["prefix_tuning"] is reasons["full"] is None
    assert "the nearest is size 4 with 1,168" in reasons["bottleneck_adapter"]


def test_stored_parameters_are_what_is_saved_of_a_method_with_its_head(tmp_path):
    methods = "[full, lora, {method: prefix_tuning, reparameterised: true, reparameterisation_width: 16}]"
    suite = SUITE.replace("48}", "48, stored_parameters: 3_426}").replace(
        "[full, lora, bottleneck_adapter, prefix_tuning]", methods
    )
    cells = make_plan(load_suite(write_project(tmp_path, suite)), tmp_path / "runs").cells
    counts = {cell.job.spec.method.label: cell.fit.parameters for cell in cells}
    # The head has 32 * 32 + 32 + 2 * 32 + 2 = 1,122; 2,304 more are rank 9 of lora, and a prefix of 18 tokens.
    assert (counts["lora"].stored, counts["lora"].adapter) == (1_122 + 2_304, 2_304)
    assert counts["prefix_tuning"].stored == 1_122 + 2_304
    assert [cell.fit.size for cell in cells] == [None, 9, 18]
    # What computes the prefix is trained and thrown away: 18 * 32 embeddings, and 32 -> 16 -> 2 * 2 * 32 with biases.
    assert counts["prefix_tuning"].adapter == 18 * 32 + (32 * 16 + 16) + (16 * 128 + 128)


def test_a_method_that_stores_another_number_says_the_nearest(tmp_path):
    suite = SUITE.replace("48}", "48, stored_parameters: 2_402, tolerance: 0.01}")
    plan = make_plan(load_suite(write_project(tmp_path, suite)), tmp_path / "runs")
    reasons = {cell.job.spec.method.label: cell.reason for cell in plan.cells}
    assert reasons["lora"] is reasons["full"] is None
    # 1,122 of the head, and 4 * (65 * 4 + 32).
    expected = "no size meets 2,402 stored parameters within 1%: the nearest is size 4 with 2,290"
    assert reasons["bottleneck_adapter"] == expected


def test_sizes_are_fitted_and_counted_exactly(tmp_path):
    suite = SUITE.replace("48}", "50, adapter_parameters: 2_304}")
    plan = make_plan(load_suite(write_project(tmp_path, suite)), tmp_path / "runs")
    found = {cell.job.spec.method.label: (cell.fit.size, cell.fit.parameters.adapter) for cell in plan.cells}
    # lora: 2 layers * 2 * (32 r + 32 r) = 256 r; prefix: 2 * 2 * 32 P = 128 P; adapters: 4 (65 b + 32).
    assert found["lora"] == (9, 2_304)
    assert found["prefix_tuning"] == (18, 2_304)
    assert found["bottleneck_adapter"] == (8, 2_208)
    assert found["full"][0] is None
    steps = {(cell.job.spec.training.steps, cell.job.spec.training.warmup_steps) for cell in plan.cells}
    assert steps == {(4, 0)}  # 50 examples in batches of 16; a tenth of 4 steps is none


def test_a_model_without_a_tokenizer_is_refused_before_any_work(tmp_path):
    path = write_project(tmp_path)
    for file in (tmp_path / "base").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(BadInput, match=r"models\[0\]: model 'base' has no tokenizer"):
        make_plan(load_suite(path), tmp_path / "runs")


@pytest.mark.parametrize(
    ("file", "words"), [("config.json", "cannot be read"), ("model.safetensors", "model.safetensors is not a complete")]
)
def test_a_broken_model_folder_is_bad_input_and_no_traceback(tmp_path, file, words):
    path = write_project(tmp_path)
    (tmp_path / "base" / file).write_text("{broken")
    with pytest.raises(LoraBenchError, match=words):
        make_plan(load_suite(path), tmp_path / "runs")


def test_a_model_whose_family_cannot_be_told_is_a_row_where_a_method_needs_to_know_it(tmp_path):
    from transformers import FalconConfig, FalconModel

    path = write_project(tmp_path, SUITE.replace("[base]", "[base, falcon]"))
    config = FalconConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        multi_query=True,
    )
    FalconModel(config).save_pretrained(tmp_path / "falcon")
    for file in (tmp_path / "base").glob("tokenizer*"):
        (tmp_path / "falcon" / file.name).write_bytes(file.read_bytes())
    plan = make_plan(load_suite(path), tmp_path / "runs")
    reasons = {(cell.job.spec.model.name, cell.job.spec.method.label): cell.reason for cell in plan.cells}
    assert reasons["falcon", "full"] is reasons["base", "lora"] is None
    for method in ("lora", "bottleneck_adapter", "prefix_tuning"):
        assert "no family names falcon" in reasons["falcon", method]
