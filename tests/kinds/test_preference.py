"""Preference from its rows to scores: of two answers to a prompt one is better, and a model learns to rank it first."""

import csv
import gzip
import json
import math
import random
import re

import pytest
import torch

from lora_bench import cli
from lora_bench.documents import Document
from lora_bench.errors import BadInput
from lora_bench.execute.run_suite import run_suite
from lora_bench.kinds.exercises import exercise
from lora_bench.kinds.exercises.preferring import log_likelihoods, preference_loss
from lora_bench.metrics import metric
from lora_bench.models.loading import load_tokenizer
from lora_bench.pack.group_runs import company_of
from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks import Split, definition, load_data, task_from_document
from tests.chats import write_chat_model
from tests.project import BAD, GOOD, WORDS, write_model
from tests.shared import shared

SUITE = """\
suite: pairs
tasks: [{task: mine, kind: preference, data: pairs.jsonl, prompt: asked, chosen: better, rejected: worse}]
models: [base]
methods:
  - {method: full, learning_rate: 2e-3}
  - {method: lora, targets: [all], learning_rate: 2e-2}
  - {method: bottleneck_adapter, learning_rate: 2e-2}
  - {method: prefix_tuning, learning_rate: 5e-2}
seeds: [0]
budget: {train_examples: 240}
training: {batch_size: 8, max_length: 24, base_dropout: 0.0}
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def pair(draw):
    """A prompt with two answers, of which the better one has a kind word and the other an unkind one."""
    asked, *answers = (" ".join(draw.choices(WORDS, k=count)) for count in (4, 2, 2))
    return {"asked": asked, "better": f"{answers[0]} {draw.choice(GOOD)}", "worse": f"{answers[1]} {draw.choice(BAD)}"}


def write_project(folder, suite=SUITE):
    folder.mkdir()
    write_chat_model(folder / "base", "gpt2", None)
    draw = random.Random(0)
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(pair(draw)) for _ in range(160)))
    (folder / "pairs.yaml").write_text(suite)
    return folder / "pairs.yaml"


def only(method, suite=SUITE):
    return re.sub(rf"  - {{method: (?!{method}).*\n", "", suite)


def finished(path, runs):
    records = run_suite(path, runs=runs, workers=0).records
    assert {record.status for record in records} == {"ok"}, [record.reason for record in records]
    return records


def answers_of(runs, record):
    return json.loads((runs / "pairs" / record.run_id / "predictions.json").read_text())


# --- rows ------------------------------------------------------------------------------------------------------------


def declared(**keys):
    data = {"train": "a.jsonl", "selection": "b.jsonl", "test": "c.jsonl"}
    return task_from_document(Document("task.yaml", {"task": "mine", "kind": "preference", "data": data, **keys}))


def examples(folder, rows, **keys):
    """The test split of a task over the same rows three times."""
    for name in ("a", "b", "c"):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return load_data(declared(**keys), folder).splits["test"]


ROWS = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "d", "chosen": " e ", "rejected": "f"}]


def said(role, content):
    return [{"role": role, "content": content}]


def test_rows_have_a_prompt_and_two_answers(tmp_path):
    assert examples(tmp_path, ROWS).texts == [("a", "b", "c"), ("d", "e", "f")]
    named = [{"q": row["prompt"], "x": row["chosen"], "y": row["rejected"]} for row in ROWS]
    assert examples(tmp_path, named, prompt="q", chosen="x", rejected="y").texts == [("a", "b", "c"), ("d", "e", "f")]


def test_a_chat_has_messages_or_a_template(tmp_path):
    asked = '[{"role":"user","content":"a"}]'
    row = {"prompt": said("user", "a"), "chosen": said("assistant", "b"), "rejected": "c"}
    assert examples(tmp_path, [row]).texts == [(asked, "b", "c")]
    assert examples(tmp_path, [{**row, "prompt": asked}]).texts == [(asked, "b", "c")]
    assert examples(tmp_path, ROWS[:1], chat_template="{{ messages }}").texts == [(asked, "b", "c")]


@pytest.mark.parametrize(
    ("change", "keys", "message"),
    [
        ({}, {"chosen": "chosn"}, "has no column 'chosn'; did you mean 'chosen'? (columns: prompt, chosen, rejected)"),
        ({"rejected": "b"}, {}, "has a chosen answer that equals its rejected one in 'chosen' and 'rejected' in 1 row"),
        ({"chosen": " "}, {}, "has no text in column 'chosen' in 1 row (line 1); `unlabelled_rows: leave_out` leaves"),
        ({"prompt": None}, {}, "has no text in column 'prompt' in 1 row (line 1)"),
        ({"chosen": 3}, {}, "has a value in column 'chosen' that is no text but int in 1 row (line 1)"),
        (
            {"chosen": [*said("user", "a"), *said("assistant", "b")]},
            {},
            "has several messages in column 'chosen', where those before the answer belong to the prompt, in 1 row",
        ),
        ({"prompt": said("user", "a"), "rejected": 3}, {}, "has no list of messages but int in prompt and rejected in 1 row"),
        ({}, {"rejected": "chosen"}, "chosen: must be another column than those of prompt and rejected, got"),
        ({}, {"text": "prompt"}, "text: must go: the columns of preference are `prompt`, `chosen` and `rejected`"),
        ({}, {"label": "rejected"}, "label: must go: the better answer of preference is `chosen`"),
        ({}, {"beta": 0.0}, "must be greater than 0, got 0.0"),
        ({}, {"metric": "accuracy"}, "'accuracy' is for classification, and the task's kind is preference"),
        ({}, {"kind": "generation", "text": "prompt", "label": "chosen", "beta": 0.2}, "beta: is only for preference"),
    ],
)  # fmt: skip
def test_a_mistake_is_said(tmp_path, change, keys, message):
    with pytest.raises(BadInput) as caught:
        examples(tmp_path, [{**ROWS[0], **change}, ROWS[1]], **keys)
    assert message in str(caught.value)


def test_pairs_without_a_preference_are_left_out(tmp_path):
    rows = [ROWS[0], {**ROWS[1], "rejected": "e"}, {**ROWS[1], "chosen": None}]
    assert examples(tmp_path, rows, unlabelled_rows="leave_out").texts == [("a", "b", "c")]


def test_pairs_of_a_prompt_stay_in_one_split(tmp_path):
    rows = [{"prompt": f"a {number // 4}", "chosen": f"b {number}", "rejected": "c"} for number in range(160)]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    splits = load_data(declared(data="all.jsonl"), tmp_path).splits
    prompts = [{text[0] for text in split.texts} for split in splits.values()]
    assert sum(map(len, prompts)) == 40 and all(prompts)
    assert [splits["test"].groups.count(number) for number in set(splits["test"].groups)] == [4] * len(prompts[2])


def test_beta_is_a_part_of_the_task_of_this_kind_alone():
    assert definition(declared())["beta"] == 0.1 and definition(declared(beta=0.5))["beta"] == 0.5
    other = declared(kind="generation", text="prompt", label="chosen")
    assert not {"prompt", "chosen", "rejected", "beta"} & definition(other).keys()


# --- scores and loss -------------------------------------------------------------------------------------------------

# Chosen and rejected answer, then both under the starting model: gains of 1 and 0, of 1 and 2, of 0 and 0.
PAIRS = [[-3.0, -5.0, -4.0, -5.0], [-3.0, -1.0, -4.0, -3.0], [-2.0, -3.0, -2.0, -3.0]]


@pytest.mark.parametrize(
    ("name", "value"), [("ranked_right", 1 / 3), ("chosen_log_likelihood", -8 / 3), ("rejected_log_likelihood", -3.0)]
)
def test_scores_are_means_over_pairs(name, value):
    found = metric(name).compute(predictions=PAIRS, references=[[0]] * 3)
    assert found == {name: pytest.approx(value)}


def test_the_loss_is_the_mean_of_log_1_plus_e_to_minus_beta_times_the_difference():
    gained = torch.tensor([1.0, 0.0, 1.0, 3.0])
    by_hand = (math.log(1 + math.exp(-0.5 * 1)) + math.log(1 + math.exp(0.5 * 2))) / 2
    assert preference_loss(gained, 0.5).item() == pytest.approx(by_hand)


def test_a_log_likelihood_is_a_sum_over_labelled_tokens():
    # One virtual token in front. The logits at each token tell the next: ln 3 and 0 give 3/4 and 1/4.
    towards_0 = [math.log(3), 0.0]
    logits = torch.tensor([[towards_0] * 4, [towards_0] * 4])
    labels = torch.tensor([[-100, 0, 1], [-100, -100, 0]])
    found = log_likelihoods(logits, labels)
    torch.testing.assert_close(found, torch.tensor([math.log(3 / 4) + math.log(1 / 4), math.log(3 / 4)]))


def test_a_batch_has_two_rows_for_each_pair(tmp_path):
    path = write_project(tmp_path / "project", only("lora"))
    (cell,) = make_plan(load_suite(path), tmp_path / "runs").cells
    tokenizer = load_tokenizer(cell.job.base_model)
    made = exercise(cell.job.task, tokenizer, cell.job.spec)
    split = Split(["1", "2"], [("the film", "was great", "awful"), ("a", "b c d", "e")], [(0,), (0,)])
    lessons, cut = made.lessons(split)
    batch = made.collate([row for unit in made.units(lessons) for row in unit])
    end, (great, awful) = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(["great", "awful"])
    assert (len(made.units(lessons)), cut, batch["input_ids"].shape) == (2, 0.0, (4, 6))
    # the film </s> was great </s>, and the film </s> awful </s>
    assert batch["labels"][0].tolist()[-2:] == [great, end] and batch["labels"][1].tolist()[3:] == [awful, end, -100]
    assert batch["attention_mask"].sum(-1).tolist() == [6, 5, 6, 4]


def test_only_the_last_answer_of_a_chat_is_ranked(tmp_path):
    row = {
        "prompt": [*said("user", "the film"), *said("assistant", "was great"), *said("user", "a plot")],
        "chosen": "is fine", "rejected": "is dull",
    }  # fmt: skip
    path = write_project(tmp_path / "project", only("lora").replace("data:", "chat_template: chat.jinja, data:"))
    (path.parent / "chat.jinja").write_text(
        "{% for message in messages %}{{ message['content'] }}{{ eos_token }}{% endfor %}"
    )
    (cell,) = make_plan(load_suite(path), tmp_path / "runs").cells
    tokenizer = load_tokenizer(cell.job.base_model)
    lessons, _ = exercise(cell.job.task, tokenizer, cell.job.spec).lessons(examples(tmp_path, [row]))
    learned = [tokenizer.decode([one for one in row["labels"] if one >= 0]) for row in lessons]
    assert learned == ["is fine</s>", "is dull</s>"] or learned == ["is fine </s>", "is dull </s>"]


# --- runs ------------------------------------------------------------------------------------------------------------


def test_four_methods_learn_to_rank(tmp_path):
    path = write_project(tmp_path / "project")
    records = finished(path, tmp_path / "runs")
    scores = {record.spec.method.name: record.scores for record in records}
    assert all(one["ranked_right"] > 0.8 for one in scores.values()), scores
    assert {name for one in scores.values() for name in one} == {
        "ranked_right", "chosen_log_likelihood", "rejected_log_likelihood",
    }  # fmt: skip
    # Full fine-tuning and fresh adapters begin as the base model, where every pair has the loss ln 2; a prefix is drawn.
    first = {record.spec.method.name: record.curve[0].loss for record in records}
    assert all(first[name] == pytest.approx(math.log(2), abs=1e-5) for name in ("full", "lora", "bottleneck_adapter"))
    # The base model is the same for all, and for `full` it is the one before training.
    kept = [answers_of(tmp_path / "runs", record) for record in records]
    starts = [[answer[2:] for answer in one["predictions"]] for one in kept]
    assert all(one == starts[0] for one in starts)
    for record, one in zip(records, kept, strict=True):
        right = [float(a - c > b - d) for a, b, c, d in one["predictions"]]
        assert one["item_scores"]["ranked_right"] == right
        assert record.scores["ranked_right"] == pytest.approx(sum(right) / len(right))
    assert cli.main(["report", str(tmp_path / "runs")]) == 0


def test_an_untrained_model_ranks_no_pair(tmp_path):
    path = write_project(tmp_path / "project", only("lora").replace("learning_rate: 2e-2", "learning_rate: 1e-30"))
    (record,) = finished(path, tmp_path / "runs")
    assert record.scores["ranked_right"] == 0.0
    assert all(answer[:2] == answer[2:] for answer in answers_of(tmp_path / "runs", record)["predictions"])


def test_runs_repeat_and_budgets_count_pairs_tokens_and_flops(tmp_path):
    suite = only("lora").replace("train_examples: 240", "epochs: 2")
    path = write_project(tmp_path / "project", suite)
    (record,) = finished(path, tmp_path / "runs")
    (again,) = finished(path, tmp_path / "again")
    assert answers_of(tmp_path / "runs", record) == answers_of(tmp_path / "again", again)
    assert record.speed.train_examples == 2 * record.data.examples["train"]
    # A prompt of 4 tokens and its end twice, and two answers of 3 tokens and their ends.
    assert record.speed.train_real_tokens == record.speed.train_examples * 2 * (5 + 4)
    path.write_text(suite.replace("epochs: 2", "train_flops: 1e8").replace("[all]", "[query]"))
    (record,) = finished(path, tmp_path / "flops")
    assert 1e8 <= record.speed.train_flops < 2e8 and record.speed.train_examples % 8 == 0
    path.write_text(suite.replace("epochs: 2", "train_examples: {until: plateau, at_most: 480, patience: 1}"))
    (record,) = finished(path, tmp_path / "plateau")
    assert any("ranked_right" in (point.scores or {}) for point in record.curve)


def test_a_start_from_another_run_is_the_starting_model(tmp_path):
    suite = only("(full|lora)").replace(
        "tasks: [",
        "tasks: [{task: sft, kind: generation, data: pairs.jsonl, text: asked, label: better, metric: loss}, ",
    )
    path = write_project(tmp_path / "project", f"{suite}keep_weights: last\nrecipes: [{{tasks: mine, start: sft}}]\n")
    records = [record for record in finished(path, tmp_path / "runs") if record.spec.task.name == "mine"]
    assert [record.curve[0].loss for record in records] == [pytest.approx(math.log(2), abs=1e-5)] * 2
    full, lora = ([answer[2:] for answer in answers_of(tmp_path / "runs", one)["predictions"]] for one in records)
    path.write_text(only("lora"))
    (fresh,) = finished(path, tmp_path / "fresh")
    base = [answer[2:] for answer in answers_of(tmp_path / "fresh", fresh)["predictions"]]
    assert full != lora and base not in (full, lora)
    # Fine-tuning on the better answers made these likelier.
    assert sum(one[0] for one in lora) > sum(one[0] for one in base)


def test_models_ranks_and_methods_that_do_not_fit_are_refused_in_words(tmp_path):
    path = write_project(tmp_path / "project", only("lora"))
    write_model(path.parent / "encoder")
    write_model(path.parent / "t5", "t5")
    path.write_text(only("lora").replace("[base]", "[base, encoder, t5]"))
    plan = make_plan(load_suite(path), tmp_path / "runs")
    reasons = [cell.fit.reason for cell in plan.cells]
    assert reasons[0] is None and company_of(plan.cells[0].job) is None
    assert "roberta is an encoder and writes no text" in reasons[1]
    assert "pairs of answers are for a causal model, and t5 reads its input by an encoder" in reasons[2]
    assert any("one forward pass more, outside every budget" in caution for caution in plan.cautions)
    path.write_text(only("lora").replace("max_length: 24", "max_length: 24, processes: 2"))
    (cell,) = make_plan(load_suite(path), tmp_path / "runs").cells
    assert "preference needs those of an example in one: use processes: 1" in cell.fit.reason
    adalora = "  - {method: peft, type: ADALORA, learning_rate: 1e-3}\n"
    path.write_text(only("none").replace("methods:\n", f"methods:\n{adalora}"))
    with pytest.raises(BadInput, match="the loss of preference takes the place of the model's own loss"):
        make_plan(load_suite(path), tmp_path / "runs")


def test_a_chat_without_a_template_is_refused_before_any_work(tmp_path):
    path = write_project(tmp_path / "project", only("lora"))
    rows = [{"asked": said("user", f"a {number}"), "better": "b", "worse": "c"} for number in range(60)]
    (path.parent / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(BadInput, match="its tokenizer has no chat template; give the task `chat_template: FILE`"):
        make_plan(load_suite(path), tmp_path / "runs")


def test_kept_weights_load_and_rank_no_new_pairs(tmp_path, capsys):
    path = write_project(tmp_path / "project", f"{only('lora')}keep_weights: last\n")
    (record,) = finished(path, tmp_path / "runs")
    card = (tmp_path / "runs" / "pairs" / record.run_id / "weights" / "README.md").read_text()
    assert "AutoPeftModelForCausalLM" in card and "pad_token_id" not in card
    arguments = [str(tmp_path / "runs" / "pairs"), str(path.parent / "pairs.jsonl"), "lora"]
    arguments += ["--base", str(path.parent / "base"), "--out", str(tmp_path / "out.jsonl")]
    assert cli.main(["predict", *arguments]) == 2
    assert "pairs are ranked in the run that trains on them" in capsys.readouterr().err


@pytest.mark.slow
def test_the_small_gpt2_learns_that_a_sentence_is_better_than_its_words_backwards(tmp_path):
    """E2E (Novikova et al. 2017, CC BY-SA 4.0): references, and the same words in reverse as the rejected answers."""
    with gzip.open(shared("data", "e2e", "trainset.csv.gz"), "rt", encoding="utf-8") as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(8000), strict=False)][::20]
    base = shared("models", "gpt2-mini")
    found = [
        {"prompt": row["mr"], "chosen": row["ref"], "rejected": " ".join(reversed(row["ref"].split()))} for row in rows
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, found)))
    suite = only("lora").replace(", prompt: asked, chosen: better, rejected: worse", "").replace("[base]", f"[{base}]")
    suite = suite.replace("targets: [all], learning_rate: 2e-2", "learning_rate: 1e-3").replace(
        "max_length: 24", "max_length: 96"
    )
    (tmp_path / "pairs.yaml").write_text(suite.replace("train_examples: 240", "train_examples: 160"))
    (record,) = finished(tmp_path / "pairs.yaml", tmp_path / "runs")
    # Half is chance. The base model finds the reversed words far less likely, which no score of it shows.
    assert record.scores["ranked_right"] > 0.9
    assert record.scores["chosen_log_likelihood"] > record.scores["rejected_log_likelihood"]


def test_a_plan_counts_a_prompt_with_each_of_its_answers_and_the_pass_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr("lora_bench.plan.cost_estimate.flops_per_thread", lambda: 1e8)
    plan = make_plan(load_suite(write_project(tmp_path / "project")), tmp_path / "runs", with_data=True)
    full = plan.cells[0]
    rows = {name: split.examples for name, split in plan.data[0].splits.items()}
    # Two rows of four words and three, at 1.3 tokens a word, each with two tokens more.
    tokens = 2 * ((4 + 3) * 1.3 + 2)
    # A step takes as long as 270 more.
    trained = 3 * (240 * tokens + 270 * 240 / full.job.spec.training.batch_size)
    read = tokens * (rows["train"] + 2 * rows["test"]) + trained
    assert full.estimate.seconds == pytest.approx(2 * full.fit.shape.multiplied * read / 1e8, rel=1e-6)
