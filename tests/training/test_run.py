"""One run, from a run spec to a record, with real models and real files."""

import contextlib
import hashlib
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lora_bench.execute.run_suite import run_suite
from lora_bench.kinds.exercises.base_exercise import Replies
from lora_bench.kinds.support.row_values import normal
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.store import RunFolder
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks import load_data
from lora_bench.training import callbacks as loop
from lora_bench.training import prepare, run, scoring
from lora_bench.training import process_cache as warm
from lora_bench.training.checkpoint import latest_checkpoint
from lora_bench.training.measure.counters import PeakMemory
from lora_bench.training.run import run_job
from lora_bench.training.scoring import keep_probabilities
from lora_bench.util.item_groups import groups_of_text
from tests.project import SUITE, write_project


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    loop.request_stop(None)


def jobs(tmp_path, suite=SUITE, family="roberta", runs="runs"):
    path = write_project(tmp_path / "project", suite, family)
    return {cell.job.spec.method.label: cell.job for cell in make_plan(load_suite(path), tmp_path / runs).cells}


SAME = {"speed", "memory", "started_at", "attempts", "resumed", "environment"}


def answer(record):
    """What a record says that must not depend on when and where it ran."""
    return record.model_dump(exclude=SAME)


@pytest.mark.parametrize("family", ["roberta", "deberta-v2", "gpt2"])
def test_a_record_says_all_that_was_asked(tmp_path, family):
    for label, job in jobs(tmp_path, family=family).items():
        record = run_job(job)
        assert record.status == "ok", f"{label}: {record.reason}"
        assert record.run_id == job.spec.run_id == job.folder.path.name
        assert set(record.scores) == {"accuracy"}
        assert (record.speed.warmup_steps, record.speed.timed_steps) == (3, 0)
        assert record.speed.train_real_tokens > 0
        assert record.memory.gradient_bytes == 4 * record.parameters.trained
        # AdamW keeps two moments and a step count for each trained tensor.
        assert record.memory.optimizer_bytes >= 8 * record.parameters.trained
        assert sum(record.data.examples.values()) == 400 and record.predictions.count == record.data.examples["test"]
        predictions = json.loads((job.folder.path / record.predictions.file).read_text())
        hits = [one == other for one, other in zip(predictions["predictions"], predictions["references"], strict=True)]
        assert record.scores["accuracy"] == pytest.approx(sum(hits) / len(hits))
        kept = (job.folder.path / record.probabilities.file).read_bytes()
        assert hashlib.sha256(kept).hexdigest() == record.probabilities.sha256
        rows = json.loads(kept)["probabilities"]
        assert len(rows) == record.predictions.count
        for row, answer in zip(rows, predictions["predictions"], strict=True):
            assert sum(row) == pytest.approx(1, abs=1e-4 * len(row)) and row[answer] == max(row)


def test_rows_that_belong_together_are_recorded_beside_answers_that_do_not_change(tmp_path):
    suite = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[full]")
    (alone,) = jobs(tmp_path / "alone", suite).values()
    path = write_project(tmp_path / "copies", suite, "roberta")
    rows = (path.parent / "tickets.csv").read_text().splitlines()
    (path.parent / "tickets.csv").write_text("\n".join([*rows, *rows[1:201]]) + "\n")
    (copies,) = (cell.job for cell in make_plan(load_suite(path), tmp_path / "runs").cells)
    first, second = run_job(alone), run_job(copies)
    assert first.predictions.groups is None and second.status == "ok"
    groups = groups_of_text(second.predictions.groups, second.predictions.count)
    texts = [normal(text) for text in load_data(copies.task, path.parent).splits["test"].texts]
    assert len(set(zip(groups, texts, strict=True))) == len(set(texts)) == len(set(groups)) < len(texts)
    answers = [json.loads((job.folder.path / "predictions.json").read_text()) for job in (alone, copies)]
    assert answers[0].keys() == answers[1].keys() == {"ids_sha256", "predictions", "references"}


def test_probabilities_are_rounded_and_too_many_are_not_kept(tmp_path, monkeypatch):
    (job,) = jobs(tmp_path, SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[full]")).values()
    # odds of 1 to 3, and of 1 to 1
    replies = Replies([1, 0], torch.tensor([[0.0, math.log(3)], [5.0, 5.0]]))
    assert keep_probabilities(job, replies) is not None
    kept = json.loads((job.folder.path / "probabilities.json").read_text())
    assert kept == {"probabilities": [[0.25, 0.75], [0.5, 0.5]]}
    monkeypatch.setattr(scoring, "MOST_PROBABILITIES", 3)
    assert keep_probabilities(job, replies) is None and keep_probabilities(job, Replies(["a text"])) is None


def test_a_further_run_of_a_process_reads_no_tokenizer_and_no_data_again(tmp_path, monkeypatch):
    read = []
    for name in ("load_tokenizer", "load_data", "load_model"):
        load = getattr(warm, name)
        monkeypatch.setattr(warm, name, lambda *given, n=name, f=load, **named: read.append(n) or f(*given, **named))
    ready = jobs(
        tmp_path, SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora, bottleneck_adapter]")
    )
    run_job(ready["lora"])
    assert sorted(read) == ["load_data", "load_model", "load_tokenizer"]
    run_job(ready["bottleneck_adapter"])
    assert len(read) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="a card holds no base model between runs")
def test_a_base_model_that_an_earlier_run_left_in_memory_counts_as_memory_of_the_run(tmp_path, monkeypatch):
    warm.WARM.keep_base_for(None)
    monkeypatch.setattr(PeakMemory, "now", lambda self: 10**9)
    ready = jobs(tmp_path)
    records = [run_job(ready[label]) for label in ("lora", "bottleneck_adapter", "full", "prefix_tuning")]
    assert {record.memory.kind for record in records} == {"resident"}
    base = 4 * records[2].parameters.total
    # `full` trains a base model of its own, and leaves none behind.
    assert [10**9 - record.memory.start_bytes for record in records] == [0, base, 0, 0]


def test_the_same_spec_gives_the_same_answer(tmp_path):
    first = {label: run_job(job) for label, job in jobs(tmp_path, runs="first").items()}
    again = {label: run_job(job) for label, job in jobs(tmp_path, runs="again").items()}
    for label, record in first.items():
        assert answer(record) == answer(again[label])


def test_a_task_that_can_be_learned_is_learned(tmp_path):
    suite = SUITE.replace("train_examples: 48", "train_examples: 1_600").replace(
        "[full, lora, bottleneck_adapter, prefix_tuning]", "[{method: full, learning_rate: 3e-3}]"
    )
    record = run_job(jobs(tmp_path, suite)["full"])
    assert record.score > 0.95 > record.data.majority_score


@pytest.mark.parametrize(
    ("label", "training"),
    [
        ("full", ""),
        ("lora", ""),
        ("bottleneck_adapter", ""),
        ("prefix_tuning", ""),
        ("lora", "order: grouped, last_layer: read_position"),
        ("lora", "base_precision: bfloat16"),
        ("full", "base_precision: bfloat16"),
    ],
)
def test_a_run_that_is_stopped_and_goes_on_equals_one_that_was_not(tmp_path, label, training):
    suite = SUITE.replace("train_examples: 48", "train_examples: 160") + "selection_every: 4\nkeep_weights: best\n"
    suite += f"training: {{{training}}}\n"
    whole = run_job(jobs(tmp_path, suite, runs="whole")[label])
    job = jobs(tmp_path, suite, runs="stopped")[label]

    def stop_after_five(step, steps, loss):
        if step == 5:
            loop.request_stop("SIGTERM")

    stopped = run_job(job, stop_after_five)
    assert stopped.status == "interrupted" and "after step 5" in stopped.reason
    assert job.folder.record() is None and latest_checkpoint(job.folder.checkpoints).step == 5
    loop.request_stop(None)
    resumed = run_job(job)
    assert resumed.resumed and resumed.attempts == 2 and not whole.resumed
    assert answer(resumed) == answer(whole)
    # Both know when each score was taken, the resumed one with the time before.
    for record in (whole, resumed):
        seconds = record.speed.score_seconds
        assert len(seconds) == sum(point.scores is not None for point in record.curve) > 1
        assert sorted(set(seconds)) == [*seconds] and seconds[-1] <= record.speed.train_seconds + 0.001


def test_the_curve_of_a_resumed_run_is_whole_where_a_point_is_a_mean_of_several_steps(tmp_path):
    suite = SUITE.replace("train_examples: 48", "train_examples: 2_400")
    whole = run_job(jobs(tmp_path, suite, runs="whole")["lora"])
    assert [point.step for point in whole.curve] == list(range(3, 151, 3))
    job = jobs(tmp_path, suite, runs="stopped")["lora"]
    run_job(job, lambda step, steps, loss: loop.request_stop("SIGTERM") if step == 100 else None)
    loop.request_stop(None)
    resumed = run_job(job)
    assert resumed.resumed and answer(resumed) == answer(whole)


@pytest.mark.parametrize("order", ["shuffled", "grouped"])
def test_accumulating_gradients_changes_no_loss(tmp_path, order):
    """Four quarters of a batch, added up, are the batch; dropout, drawn for each quarter, is switched off."""
    plain = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[full]").replace("48", "80")
    curves = []
    for number, extra in enumerate(("", "training_arguments: {gradient_accumulation_steps: 4}\n")):
        path = write_project(tmp_path / f"project{number}", f"{plain}training: {{order: {order}}}\n{extra}")
        config = path.parent / "base" / "config.json"
        settings = json.loads(config.read_text()) | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config.write_text(json.dumps(settings))
        (cell,) = make_plan(load_suite(path), tmp_path / f"runs{number}").cells
        curves.append([point.loss for point in run_job(cell.job).curve])
    assert curves[0] == pytest.approx(curves[1], abs=2e-5)


def test_neither_an_evaluation_nor_a_checkpoint_counts_as_training(tmp_path, monkeypatch):
    suite = SUITE.replace("train_examples: 48", "train_examples: 160") + "selection_every: 2\n"
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    plain_save, plain_clock, saves = loop.save_checkpoint, time.perf_counter, []

    def save(*arguments, **options):
        saves.append(1)
        plain_save(*arguments, **options)

    monkeypatch.setattr(loop, "save_checkpoint", save)
    # Each checkpoint takes ten hours by the clock, which no step does.
    monkeypatch.setattr(time, "perf_counter", lambda: plain_clock() + 36_000.0 * len(saves))
    record = run_job(jobs(tmp_path, suite)["lora"])
    assert saves and record.speed.step_seconds_median < 36_000 and record.speed.train_seconds < 36_000


@pytest.mark.slow
def test_the_first_run_of_a_process_does_not_pay_for_what_later_ones_have(tmp_path):
    suite = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]").replace("[0]", "[0, 1, 2]")
    path = write_project(tmp_path / "project", suite)
    code = (
        "import sys; from lora_bench.execute.run_suite import run_suite; from pathlib import Path\n"
        "for r in run_suite(sys.argv[1], runs=sys.argv[2], workers=0).records: print(r.memory.train_peak_bytes)"
    )
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "runs")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    peaks = [int(line) for line in done.stdout.split()]
    assert max(peaks) - min(peaks) < 30 * 2**20, peaks


def test_data_that_changes_after_the_plan_is_not_run_under_the_old_hash(tmp_path):
    job = jobs(tmp_path)["lora"]
    data = tmp_path / "project" / "tickets.csv"
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:200]))
    record = run_job(job)
    assert record.status == "failed" and "the data changed after the suite was planned" in record.reason


def test_a_checkpoints_own_classifier_is_drawn_anew(tmp_path):
    from tests.tiny import tiny_roberta

    path = write_project(tmp_path / "project")
    for labels in (2, 3):
        tiny_roberta(num_labels=labels).save_pretrained(tmp_path / "project" / "base")
        cells = {
            cell.job.spec.method.label: cell for cell in make_plan(load_suite(path), tmp_path / f"runs{labels}").cells
        }
        assert cells["lora"].fit.parameters.head == 32 * 32 + 32 + 2 * 32 + 2
        assert run_job(cells["lora"].job).status == "ok"


@pytest.mark.parametrize("family", ["roberta", "deberta-v2", "gpt2"])
def test_kept_weights_give_the_recorded_predictions_in_a_fresh_model(tmp_path, family):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    suite = SUITE + "keep_weights: last\n"
    for label, job in jobs(tmp_path, suite, family).items():
        record = run_job(job)
        folder = job.folder.path / record.weights.folder
        # PEFT has LoRA itself, but not for the fused query, key and value of GPT-2.
        ours = {"bottleneck_adapter", "prefix_tuning"} | ({"lora"} if family == "gpt2" else set())
        assert ("import lora_bench.tuners" in (folder / "README.md").read_text()) == (label in ours)
        if label == "full":
            model = AutoModelForSequenceClassification.from_pretrained(folder)
            assert model.config.id2label == {0: "complaint", 1: "praise"}
        else:
            base = AutoModelForSequenceClassification.from_pretrained(job.base_model.folder, num_labels=2)
            model = PeftModel.from_pretrained(base, folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model.config.pad_token_id = tokenizer.pad_token_id
        from lora_bench.tasks import load_data

        texts = [text for (text,) in load_data(job.task, job.task_base).splits["test"].texts]
        batch = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            found = model.eval()(**batch).logits.argmax(-1).tolist()
        assert found == json.loads((job.folder.path / "predictions.json").read_text())["predictions"]


def test_a_loss_that_is_not_finite_is_a_row_with_its_step(tmp_path):
    suite = SUITE.replace("[full,", "[{method: full, learning_rate: 1e30},")
    record = run_job(jobs(tmp_path, suite)["full"])
    assert record.status == "diverged" and "step" in record.reason
    assert record.scores is None and record.parameters is not None


def test_a_bug_is_a_row_with_its_reason_and_its_traceback(tmp_path, monkeypatch):
    job = jobs(tmp_path)["lora"]
    monkeypatch.setattr("lora_bench.methods.lora.Lora.apply", lambda *_, **__: 1 / 0)
    record = run_job(job)
    assert (record.status, record.reason) == ("failed", "ZeroDivisionError: division by zero")
    assert "ZeroDivisionError" in (job.folder.path / "traceback.txt").read_text()


def test_running_out_of_memory_is_a_status_of_its_own(tmp_path, monkeypatch):
    def out_of_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    job = jobs(tmp_path)["bottleneck_adapter"]
    monkeypatch.setattr("lora_bench.methods.bottleneck_adapter.BottleneckAdapter.apply", out_of_memory)
    record = run_job(job)
    assert (record.status, record.reason) == (
        "out_of_memory",
        "in loading the base model: CUDA out of memory. Tried to allocate 2 GiB",
    )


def test_a_run_that_somebody_else_ended_meanwhile_writes_over_nothing(tmp_path, monkeypatch):
    """The owner stood still, another process took the run over, and was faster."""
    job = jobs(tmp_path)["lora"]
    theirs = []

    def scored(*arguments):
        theirs.append(job.folder.publish(job.record("failed", "the other one's")))
        (job.folder.path / "predictions.json").write_text("the other one's")
        return scores_of(*arguments)

    scores_of = run.scores_of
    monkeypatch.setattr(run, "scores_of", scored)
    assert [run_job(job)] == theirs == [job.folder.record()]
    assert (job.folder.path / "predictions.json").read_text() == "the other one's"
    assert not job.folder.weights.exists()


def switches() -> dict[str, object]:
    """The precision of float32 products now, by torch's names."""
    places = {"matmul": torch.backends.cuda.matmul, "cudnn": torch.backends.cudnn, "all": torch.backends}
    found = {}
    for name, place in places.items():
        found[name] = getattr(place, "fp32_precision", None)
        with contextlib.suppress(RuntimeError):  # torch refuses the old question after the new switch
            found[f"{name}, legacy"] = getattr(place, "allow_tf32", None)
    return found


@pytest.fixture
def a_card_with_tf32(monkeypatch):
    """Stand-in for a card: transformers and our code take this machine's device for one that has tf32."""
    for module in ("transformers.training_args", "lora_bench.training.trainer"):
        monkeypatch.setattr(f"{module}.is_torch_tf32_available", lambda: True)


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="this torch has other switches")
@pytest.mark.usefixtures("a_card_with_tf32")
@pytest.mark.parametrize(
    "asked",
    [
        "tf32: true",
        pytest.param("torch_compile: true, torch_compile_backend: aot_eager", marks=pytest.mark.slow),
        "tf32: false",
        "",
    ],
)
def test_each_run_has_the_precision_of_products_that_it_asks_for_and_leaves_none(tmp_path, monkeypatch, asked):
    before, seen = switches(), []
    forward = prepare.Ready.trainer

    def watched(ready):
        seen.append(switches())
        torch.backends.cuda.matmul.allow_tf32 = True  # as accelerate does for compiled models on a card
        return forward(ready)

    monkeypatch.setattr(prepare.Ready, "trainer", watched)
    suite = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora, bitfit, prefix_tuning]")
    for job in jobs(tmp_path, f"{suite}training_arguments: {{{asked}}}\n" if asked else suite).values():
        assert run_job(job).status == "ok"
        assert switches() == before
    wanted = {"tf32: false": "ieee", "": "none"}.get(asked, "tf32")
    assert [one["all"] for one in seen] == [wanted] * 3
    assert [one["matmul"] for one in seen] == [wanted] * 3


@pytest.mark.gpu
def test_on_a_card_the_second_run_of_a_process_has_tf32_as_the_first_does(tmp_path, monkeypatch):
    seen = []
    scored = run.score

    def error(*_):
        """Mean error of a product in float32, some 5e-4 of its size with tf32 and 1e-7 without."""
        torch.manual_seed(0)
        a, b = torch.randn(2, 512, 512, device="cuda")
        exact = a.double() @ b.double()
        seen.append(((a @ b).double() - exact).abs().mean().item() / exact.abs().mean().item())

    monkeypatch.setattr("lora_bench.training.run.score", lambda ready: (error(), scored(ready))[1])
    suite = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora, bitfit]")
    for name, asked in (("with", "true"), ("without", "false")):
        for job in jobs(tmp_path / name, f"{suite}training_arguments: {{tf32: {asked}}}\n").values():
            assert run_job(job).status == "ok"
    assert [one > 1e-5 for one in seen] == [True, True, False, False]


def test_one_run_s_deterministic_algorithms_are_not_the_next_one_s(tmp_path, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    found = {value: jobs(tmp_path / value, deterministic(value))["lora"] for value in ("true", "false")}
    plain = jobs(tmp_path / "plain")["lora"]
    assert found["false"].run_id == plain.run_id != found["true"].run_id
    assert run_job(found["true"]).status == "ok"
    assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert run_job(plain).status == "ok"
    assert not torch.are_deterministic_algorithms_enabled()


def deterministic(value):
    return f"{SUITE}training: {{deterministic: {value}}}\n"


@pytest.mark.gpu
def test_a_deterministic_run_repeats_itself_to_the_bit_on_a_gpu(tmp_path):
    losses = []
    for name in ("one", "other"):
        record = run_job(jobs(tmp_path / name, deterministic("true"))["lora"])
        assert record.status == "ok", record.reason
        losses.append([point.loss for point in record.curve])
    assert losses[0] == losses[1]


def test_a_base_that_a_run_wrote_into_is_read_anew(tmp_path, monkeypatch):
    job = jobs(tmp_path)["lora"]
    monkeypatch.setattr(warm, "WARM", warm.Warm())
    (clean, head), (damaged, _) = warm.WARM.base(job), warm.WARM.base(job)
    wanted = {name: weight.detach().clone() for name, weight in clean.named_parameters()}
    assert clean.roberta.embeddings.word_embeddings.weight.data_ptr() == (
        damaged.roberta.embeddings.word_embeddings.weight.data_ptr()
    )
    with torch.no_grad():
        damaged.roberta.embeddings.word_embeddings.weight[3] += 1.0
    found = dict(warm.WARM.base(job)[0].named_parameters())
    of_base = [name for name in wanted if not name.startswith(tuple(head))]
    assert found.keys() == wanted.keys() and of_base
    assert all(torch.equal(found[name], wanted[name]) for name in of_base)


@pytest.mark.parametrize(
    "faster",
    [
        "{optim: adamw_torch}",  # by lists of weights, in place of fused
        pytest.param("{torch_compile: true, torch_compile_backend: aot_eager}", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("masks", ["torch", "keyed"])
def test_ways_to_make_a_step_faster_take_the_plain_step(tmp_path, masks, faster):
    plain = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[full, lora, prefix_tuning]")
    plain += f"training: {{masks: {masks}, batch_size: 8}}\n"
    found = {}
    for name, suite in {"plain": plain, "faster": f"{plain}training_arguments: {faster}\n"}.items():
        for label, job in jobs(tmp_path / name, suite).items():
            found[name, label] = run_job(job)
            assert found[name, label].status == "ok", found[name, label].reason
    for label in ("full", "lora", "prefix_tuning"):
        one, other = found["plain", label], found["faster", label]
        # A curve's losses are rounded to six decimals: 1e-6 apart before it can be 2e-6 apart after.
        assert [point.loss for point in other.curve] == pytest.approx([point.loss for point in one.curve], abs=2.1e-6)
        assert (other.scores, other.predictions) == (one.scores, one.predictions)
        assert other.run_id != one.run_id


def test_training_arguments_reach_the_trainer(tmp_path):
    from lora_bench.training.trainer import training_arguments

    suite = SUITE + "training_arguments: {adam_beta2: 0.95, gradient_accumulation_steps: 4}\n"
    for job in jobs(tmp_path, suite).values():
        arguments = training_arguments(job.spec, str(tmp_path))
        assert arguments.adam_beta2 == 0.95
        assert arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps == 16


def test_inputs_that_are_cut_are_counted_and_said(tmp_path):
    suite = SUITE + "training: {max_length: 6}\n"
    record = run_job(jobs(tmp_path, suite)["lora"])
    share = record.data.truncated_share["train"]
    assert 0.5 < share < 1
    assert any(f"{share:.1%} of the train inputs are longer than 6 tokens" in warning for warning in record.warnings)


def test_the_id_covers_what_changes_the_answer_and_nothing_that_is_only_shown(tmp_path):
    spec = jobs(tmp_path)["lora"].spec
    shown = spec.model_copy(
        update={
            "method": spec.method.model_copy(update={"label": "mine"}),
            "model": spec.model.model_copy(update={"shown": "x", "name": "y"}),
        }
    )
    assert shown.run_id == spec.run_id
    assert spec.method.chosen == {"rank": 8} and spec.method.options["scaling"] == 2.0
    for changed in (
        {"seed": 1},
        {"series": "monday"},
        {"score_on": "selection"},
        {"training": spec.training.model_copy(update={"threads": 2})},
        {"training": spec.training.model_copy(update={"learning_rate": 1e-5})},
        {"method": spec.method.model_copy(update={"chosen": {"rank": 9}})},
        {"model": spec.model.model_copy(update={"sha256": "0" * 64})},
        {"task": spec.task.model_copy(update={"data_sha256": "0" * 64})},
    ):
        assert spec.model_copy(update=changed).run_id != spec.run_id


def test_records_lie_where_their_id_says(tmp_path):
    path = write_project(
        tmp_path / "project", SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]")
    )
    outcome = run_suite(path, runs=tmp_path / "runs", workers=0)
    (record,) = outcome.records
    assert RunFolder(tmp_path / "runs" / "tickets" / record.run_id).record() == record


def test_a_checkpoint_that_orders_the_same_labels_otherwise_is_said(tmp_path):
    path = write_project(tmp_path / "project")
    config = tmp_path / "project" / "base" / "config.json"
    names = {"id2label": {"0": "PRAISE", "1": "COMPLAINT"}, "label2id": {"PRAISE": 0, "COMPLAINT": 1}}
    config.write_text(json.dumps(json.loads(config.read_text()) | names))
    plan = make_plan(load_suite(path), tmp_path / "runs")
    record = run_job({cell.job.spec.method.label: cell.job for cell in plan.cells}["lora"])
    (said,) = [warning for warning in record.warnings if "orders the labels ['praise', 'complaint']" in warning]
    assert said.endswith('to keep the checkpoint\'s, say `labels: ["praise", "complaint"]` in the task')
    assert said in plan.warnings
