"""BenchmarkCallback in other people's Trainer scripts: the record says what can be counted by hand, and null elsewhere."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, VeraConfig, get_peft_model
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from lora_bench import BenchmarkCallback
from lora_bench.methods import known_methods
from lora_bench.plugin.infer_spec import method_of, parameters_of
from lora_bench.plugin.token_counter import TokenCounter
from lora_bench.plugin.trainer_log import curve_of, evaluations
from lora_bench.records.store import RunFolder, read_record, read_records
from lora_bench.report import Report, compare, render_files, to_frame
from tests.sample_records import record
from tests.tiny import HEAD_MODULES, MODELS, PAD, tiny_batch, tiny_gpt2, tiny_roberta

LENGTHS = (9, 6, 7, 9, 4, 8, 5, 3, 9, 9, 8, 7)
TOKENS = sum(LENGTHS)  # 84
ROOT = Path(__file__).parents[2]


def rows(lengths=LENGTHS):
    """Examples of these lengths, padded to the longest."""
    batch = tiny_batch(lengths, labels=True)
    return [{key: values[row] for key, values in batch.items()} for row in range(len(lengths))]


def accuracy(predicted):
    return {"accuracy": float((predicted.predictions.argmax(-1) == predicted.label_ids).mean())}


def lora(**options):
    given = {"r": 2, "lora_alpha": 6, "target_modules": ["query", "value"], "modules_to_save": ["classifier"]}
    return get_peft_model(tiny_roberta(), LoraConfig(**{**given, **options}))


def trainer_of(folder, model, *callbacks, data=None, **arguments):
    given = {
        "num_train_epochs": 3, "per_device_train_batch_size": 4, "report_to": "none", "save_strategy": "no",
        "logging_steps": 1, "use_cpu": True,
    }  # fmt: skip
    settings = TrainingArguments(folder / "trainer", disable_tqdm=True, **{**given, **arguments})
    return Trainer(
        model, args=settings, train_dataset=data or rows(), eval_dataset=rows(), compute_metrics=accuracy,
        callbacks=list(callbacks),
    )  # fmt: skip


def only_record(folder):
    (one,) = read_records(folder)
    return one


def test_one_line_gives_the_record_of_a_run(tmp_path):
    trainer = trainer_of(tmp_path, lora(), BenchmarkCallback(tmp_path / "mine"), eval_strategy="epoch")
    trainer.train()
    found = only_record(tmp_path / "mine")
    assert (found.status, found.suite, found.spec.task.name) == ("ok", "mine", "mine")
    assert found.run_id == found.spec.run_id
    assert (tmp_path / "mine" / found.run_id / "record.json").is_file()
    # A: 2 x 32 and B: 32 x 2 of query and value in two layers; the classifier is 32 x 32 + 32 and 3 x 32 + 3.
    assert found.parameters.adapter == 2 * 2 * (2 * 32 + 32 * 2)
    assert found.parameters.head == 32 * 32 + 32 + 3 * 32 + 3
    assert found.parameters.trained == found.parameters.stored == found.parameters.adapter + found.parameters.head
    assert found.parameters.total == sum(weight.numel() for weight in tiny_roberta().parameters())
    # Twelve rows three times, four a step.
    assert (found.speed.train_steps, found.speed.train_examples) == (9, 36)
    assert found.speed.train_real_tokens == 3 * TOKENS
    assert (found.speed.warmup_steps, found.speed.timed_steps) == (3, 6)
    assert found.memory.gradient_bytes == 4 * found.parameters.trained
    assert found.memory.optimizer_bytes >= 8 * found.parameters.trained
    assert found.data.examples == {"train": 12, "evaluation": 12}
    assert [point.step for point in found.curve if point.scores] == [3, 6, 9]
    assert found.scores == found.curve[-1].scores and set(found.scores) == {"accuracy", "loss"}
    assert found.score == found.scores["accuracy"] and found.spec.task.higher_is_better is True


def test_the_spec_says_what_the_script_says_and_null_elsewhere(tmp_path):
    arguments = {
        "learning_rate": 3e-4, "warmup_steps": 2, "lr_scheduler_type": "cosine", "weight_decay": 0.1, "seed": 7,
        "gradient_accumulation_steps": 3, "per_device_train_batch_size": 2, "max_steps": 4, "adam_beta2": 0.95,
    }  # fmt: skip
    trainer_of(tmp_path, lora(use_rslora=True), BenchmarkCallback(tmp_path / "mine"), **arguments).train()
    spec = only_record(tmp_path / "mine").spec
    training = spec.training
    assert (training.learning_rate, training.warmup_steps, training.schedule) == (3e-4, 2, "cosine")
    assert (training.batch_size, training.steps, training.train_examples) == (6, 4, 24)
    assert training.arguments == {"adam_beta2": 0.95, "gradient_accumulation_steps": 3}
    assert training.threads == torch.get_num_threads() and training.precision == "float32"
    assert spec.seed == 7 and spec.source == "own script"
    assert (spec.method.name, spec.method.size) == ("lora", "rank")
    assert spec.method.options == {
        "rank": 2, "scaling": 6.0, "dropout": 0.0, "use_rslora": True, "target_modules": ["query", "value"],
    }  # fmt: skip
    unknown = (spec.task.data_sha256, spec.task.definition, spec.task.labels, spec.model.sha256, spec.model.revision)
    assert unknown == (None,) * 5
    assert (spec.protocol, spec.rules, spec.score_on, training.max_length) == (None,) * 4
    # Nothing was evaluated, so nobody knows what the run is about.
    assert (spec.task.metric, spec.task.higher_is_better) == (None, None)


def test_nothing_of_the_training_is_another_one_with_the_callback(tmp_path):
    def weights(*callbacks):
        trainer = trainer_of(tmp_path, tiny_roberta(), *callbacks, eval_strategy="epoch", save_strategy="epoch")
        trainer.train()
        return trainer.model.state_dict(), [entry.get("loss") for entry in trainer.state.log_history if "loss" in entry]

    (without, losses), (beside, same_losses) = weights(), weights(BenchmarkCallback(tmp_path / "mine"))
    assert losses == same_losses
    assert all(torch.equal(without[name], beside[name]) for name in without)


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_every_row_and_token_counts_however_a_batch_is_split(tmp_path, accumulation):
    callback = BenchmarkCallback(tmp_path / "mine", warmup_steps=1)
    trainer_of(
        tmp_path, tiny_roberta(), callback, per_device_train_batch_size=5, gradient_accumulation_steps=accumulation
    ).train()
    speed = only_record(tmp_path / "mine").speed
    assert (speed.train_examples, speed.train_real_tokens) == (36, 3 * TOKENS)
    assert speed.train_steps == 3 * -(-3 // accumulation)  # batches of 5, 5 and 2 rows
    whole = sum(callback.clock.seconds()[1:])
    first = 5 * accumulation if accumulation < 3 else 12
    assert speed.examples_per_second == pytest.approx((36 - first) / whole)


def test_tokens_that_are_packed_without_padding_or_mask_all_count(tmp_path):
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.lm = tiny_gpt2()

        def forward(self, input_ids, labels, position_ids=None):
            return self.lm(input_ids=input_ids, labels=labels, position_ids=position_ids)

    generator = torch.Generator().manual_seed(0)
    data = [{"input_ids": torch.randint(3, 100, (20,), generator=generator)} for _ in range(8)]
    data = [{**one, "labels": one["input_ids"], "position_ids": torch.arange(20) % 7} for one in data]
    callback = BenchmarkCallback(tmp_path / "mine")
    settings = TrainingArguments(
        tmp_path / "out", use_cpu=True, max_steps=2, per_device_train_batch_size=4, report_to="none",
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    Trainer(Packed(), args=settings, train_dataset=data, callbacks=[callback]).train()
    found = only_record(tmp_path / "mine")
    assert (found.speed.train_examples, found.speed.train_real_tokens) == (8, 160)
    # A model of torch alone does not say where its head begins.
    assert (found.parameters.adapter, found.parameters.head) == (None, None)
    assert found.spec.method.name == "full" and found.spec.model.model_type is None


def test_passes_that_do_not_train_do_not_count():
    model = tiny_roberta()
    counter = TokenCounter(model, torch.device("cpu"))
    batch = tiny_batch((5, 3))
    with torch.no_grad():
        model.train()(**batch)
    model.eval()(**batch)
    assert counter.now().tolist() == [0] * 4
    model.train()(**batch)
    model(batch["input_ids"])  # without a mask the model takes all ten positions for real ones
    counter.stop()
    model(**batch)
    assert counter.now().tolist() == [4, 5 + 3 + 10, 0, 0]


def test_a_batch_without_tokens_makes_their_number_unknown():
    model = nn.Linear(3, 1)
    counter = TokenCounter(model, torch.device("cpu"))
    model(torch.ones(4, 3))
    assert counter.now().tolist()[0] == 4
    model = _Pixels()
    counter = TokenCounter(model, torch.device("cpu"))
    model(pixel_values=torch.ones(6, 3))
    assert counter.now().tolist() == [6, 18, 0, 1]


def test_a_batch_that_cannot_be_counted_trains_all_the_same(tmp_path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("Expected all tensors to be on the same device")

    monkeypatch.setattr(TokenCounter, "_count", refuse)
    monkeypatch.setattr("lora_bench.plugin.benchmark_callback.parameters_of", refuse)
    callback = BenchmarkCallback(tmp_path / "mine")
    trainer_of(tmp_path, lora(), callback).train()
    found = only_record(tmp_path / "mine")
    assert found.status == "ok"
    assert found.speed.train_examples is found.speed.train_real_tokens is found.parameters.trained is None
    said = "RuntimeError: Expected all tensors to be on the same device"
    assert f"examples and tokens cannot be counted: {said}" in found.warnings
    assert f"numbers of weights cannot be measured: {said}" in found.warnings


MALLOC_ASYNC = """
import sys
from pathlib import Path
from lora_bench import BenchmarkCallback
from tests.plugin.test_benchmark_callback import lora, trainer_of
folder = Path(sys.argv[1])
trainer_of(folder, lora(), BenchmarkCallback(folder / "mine"), use_cpu=False).train()
"""


@pytest.mark.gpu
def test_cudas_own_allocator_ends_no_training(tmp_path):
    environment = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"}
    subprocess.run([sys.executable, "-c", MALLOC_ASYNC, str(tmp_path)], check=True, env=environment)
    found = only_record(tmp_path / "mine")
    assert (found.status, found.memory.start_bytes) == ("ok", None)
    assert any("the memory in use beside the model cannot be measured" in said for said in found.warnings)


def test_how_many_examples_were_flattened_into_a_row_is_not_known(tmp_path):
    class Flatten:
        """Two rows of 20 tokens as one of 40, as TRL's padding-free batches are."""

        def __call__(self, examples):
            ids = torch.cat([one["input_ids"] for one in examples])[None]
            return {"input_ids": ids, "labels": ids, "position_ids": (torch.arange(ids.numel()) % 20)[None]}

    generator = torch.Generator().manual_seed(0)
    data = [{"input_ids": torch.randint(3, 100, (20,), generator=generator)} for _ in range(8)]
    settings = TrainingArguments(
        tmp_path / "out", use_cpu=True, max_steps=4, per_device_train_batch_size=2, report_to="none",
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    callbacks = [BenchmarkCallback(tmp_path / "mine")]
    Trainer(tiny_gpt2(), args=settings, train_dataset=data, data_collator=Flatten(), callbacks=callbacks).train()
    speed = only_record(tmp_path / "mine").speed
    assert (speed.train_examples, speed.examples_per_second, speed.train_real_tokens) == (None, None, 160)
    assert speed.real_tokens_per_second > 0


class _Pixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, pixel_values):
        return self.layer(pixel_values)


@pytest.mark.parametrize("family", ["roberta", "deberta-v3", "gpt2", "gpt2-lm"])
@pytest.mark.parametrize("name", ["full", "lora", "bottleneck_adapter", "prefix_tuning"])
def test_our_methods_are_named_and_counted_as_the_harness_does(name, family):
    if (name, family) == ("prefix_tuning", "deberta-v3"):
        pytest.skip("prefixes have no position, which this family's attention needs")
    from lora_bench.training.measure.counters import count_parameters

    model, head = MODELS[family](), HEAD_MODULES[family]
    total = sum(weight.numel() for weight in model.parameters())
    method = known_methods()[name]()
    adapted = method.apply(model, head=head)
    found = method_of(adapted, None)
    assert (found.name, found.size) == (name, method.size)
    if method.size is not None:
        assert found.options[method.size] == getattr(method, method.size)
    warnings = []
    assert dict(parameters_of(adapted, warnings)) == dict(count_parameters(adapted, head=head, total=total))
    assert warnings == []


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (IA3Config(target_modules=["key", "value"], feedforward_modules=[]), {"target_modules": ["key", "value"]}),
        (VeraConfig(r=3, target_modules=["query"]), {"r": 3, "target_modules": ["query"]}),
    ],
)
def test_any_other_peft_method_keeps_its_type_and_what_it_was_given(config, told):
    model = tiny_roberta()
    total = sum(weight.numel() for weight in model.parameters())
    adapted = get_peft_model(model, config)
    method = method_of(adapted, None)
    peft_type = config.peft_type.value
    assert (method.name, method.label, method.size) == ("peft", peft_type.lower(), None)
    assert method.options["type"] == peft_type and method.options["options"].items() >= told.items()
    assert parameters_of(adapted, []).total == total


def test_a_model_that_is_frozen_in_part_is_not_called_full():
    model = tiny_roberta()
    model.roberta.embeddings.requires_grad_(False)
    assert method_of(model, None).name == "partly_frozen"
    assert method_of(model, "top").label == "top"


def test_what_the_author_says_stands_in_the_record(tmp_path):
    callback = BenchmarkCallback(
        tmp_path / "mine", suite="first tries", task="tickets", label="ours", metric="eval_loss",
        higher_is_better=False, exclusive=True,
    )  # fmt: skip
    trainer_of(tmp_path, lora(), callback, eval_strategy="epoch").train()
    found = only_record(tmp_path / "mine")
    assert (found.suite, found.spec.task.name, found.spec.method.label) == ("first tries", "tickets", "ours")
    assert (found.spec.task.metric, found.spec.task.higher_is_better) == ("loss", False)
    assert found.score == found.scores["loss"]
    assert found.memory.exclusive is True and found.speed.exclusive is True


def test_a_later_evaluation_and_a_prediction_bring_their_scores(tmp_path):
    trainer = trainer_of(tmp_path, lora(), BenchmarkCallback(tmp_path / "mine"))
    trainer.train()
    first = only_record(tmp_path / "mine")
    assert first.scores is None and first.score is None
    metrics = trainer.evaluate()
    second = only_record(tmp_path / "mine")
    assert second.run_id == first.run_id
    assert second.scores == {"accuracy": metrics["eval_accuracy"], "loss": pytest.approx(metrics["eval_loss"])}
    assert second.speed.evaluation_seconds == metrics["eval_runtime"] and second.memory.evaluation_bytes
    assert second.speed.train_seconds == first.speed.train_seconds
    tested = trainer.predict(rows((9, 4))).metrics
    third = only_record(tmp_path / "mine")
    assert third.scores["test_accuracy"] == tested["test_accuracy"] and third.scores["accuracy"] == second.score
    assert third.attempts == 1 and not (tmp_path / "mine" / third.run_id / "attempts").exists()


def test_the_scores_are_those_of_the_weights_that_are_kept(tmp_path):
    class Scores:
        """Accuracies of five evaluations, of which the second is the best."""

        def __init__(self):
            self.left = [0.2, 0.9, 0.4, 0.3, 0.1]

        def __call__(self, predicted):
            return {"accuracy": self.left.pop(0)}

    trainer = trainer_of(
        tmp_path, lora(), BenchmarkCallback(tmp_path / "mine"), EarlyStoppingCallback(2), num_train_epochs=5,
        eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True, metric_for_best_model="accuracy",
    )  # fmt: skip
    trainer.compute_metrics = Scores()
    trainer.train()
    found = only_record(tmp_path / "mine")
    assert found.score == 0.9 and found.spec.task.metric == "accuracy"
    # Two evaluations without a better one after the second: four epochs of three steps.
    assert (found.speed.train_steps, found.spec.training.steps) == (12, 15)
    assert found.speed.train_examples == 48 and found.speed.train_real_tokens == 4 * TOKENS
    assert "training stopped after step 12 of 15" in found.warnings
    assert found.memory.save_bytes and found.memory.evaluation_bytes


def test_entropy_is_a_diagnostic_and_no_score(tmp_path):
    """TRL's SFTTrainer logs it before its accuracy, the mean over tokens."""
    logged = {"entropy": 1.5, "mean_token_accuracy": 0.25}
    trainer = trainer_of(tmp_path, lora(), BenchmarkCallback(tmp_path / "mine"), eval_strategy="epoch")
    trainer.compute_metrics = lambda predicted: dict(logged)
    trainer.train()
    found = only_record(tmp_path / "mine")
    assert (found.spec.task.metric, found.score, found.spec.task.higher_is_better) == (
        "mean_token_accuracy",
        0.25,
        True,
    )
    assert found.scores["entropy"] == 1.5
    del logged["mean_token_accuracy"]
    alone = trainer_of(tmp_path, lora(), BenchmarkCallback(tmp_path / "other"), eval_strategy="epoch")
    alone.compute_metrics = lambda predicted: dict(logged)
    alone.train()
    assert only_record(tmp_path / "other").spec.task.metric is None


def test_every_one_of_several_evaluation_sets_counts(tmp_path):
    trainer = trainer_of(tmp_path, lora(), BenchmarkCallback(tmp_path / "mine"), eval_strategy="epoch")
    trainer.eval_dataset = {"short": rows((3, 4)), "long": rows((9, 8, 9, 8, 9))}
    trainer.train()
    found = only_record(tmp_path / "mine")
    assert found.data.examples == {"train": 12, "evaluation_short": 2, "evaluation_long": 5}
    assert set(found.scores) == {"short_accuracy", "short_loss", "long_accuracy", "long_loss"}
    assert (found.spec.task.metric, found.spec.task.higher_is_better) == ("short_accuracy", True)
    took = [entry for entry in trainer.state.log_history if entry["step"] == 9]
    seconds = sum(entry.get("eval_short_runtime", 0) + entry.get("eval_long_runtime", 0) for entry in took)
    assert found.speed.evaluation_seconds == pytest.approx(seconds)


def test_of_a_stream_the_examples_are_those_that_were_seen(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(rows((9,) * 37))

    # 37 examples in steps of four: nine full ones and one of a single example, twice.
    trainer_of(tmp_path, lora(), BenchmarkCallback(tmp_path / "mine"), data=Stream(), max_steps=20).train()
    found = only_record(tmp_path / "mine")
    assert found.spec.training.steps == 20
    assert found.spec.training.train_examples == found.speed.train_examples == 2 * 37
    assert found.data.examples == {} and found.run_id == found.spec.run_id
    assert "report.md" in render_files(Report([found]))


def test_a_stream_that_lacked_memory_is_no_row_beside_the_run_that_finished(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(rows())

    def train():
        callback = BenchmarkCallback(tmp_path / "mine")
        trainer = trainer_of(tmp_path, lora(), callback, data=Stream(), max_steps=4)
        return trainer, callback

    trainer, callback = train()
    trainer.add_callback(Fail(2, torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(torch.OutOfMemoryError):
        try:
            trainer.train()
        finally:
            callback.close()
    assert only_record(tmp_path / "mine").status == "out_of_memory"
    train()[0].train()
    assert only_record(tmp_path / "mine").status == "ok"


def test_scores_that_are_older_than_the_weights_are_said_to_be(tmp_path):
    class Once(TrainerCallback):
        def on_step_end(self, args, state, control, **inside):
            control.should_evaluate = state.global_step == 8

    trainer_of(tmp_path, lora(), Once(), BenchmarkCallback(tmp_path / "mine")).train()
    assert "the scores are of the weights after step 8 of 9" in only_record(tmp_path / "mine").warnings


def test_a_metric_that_no_evaluation_gives_is_said_and_no_other_takes_its_place(tmp_path):
    trainer_of(tmp_path, lora(), BenchmarkCallback(tmp_path / "mine", metric="f1"), eval_strategy="epoch").train()
    found = only_record(tmp_path / "mine")
    assert found.score is None and found.spec.task.metric == "f1"
    assert "no evaluation gave the score f1; known scores are accuracy, loss" in found.warnings


def test_a_resumed_run_has_the_work_of_all_its_parts(tmp_path):
    class Stop(TrainerCallback):
        def on_save(self, args, state, control, **inside):
            control.should_training_stop = True

    whole = trainer_of(tmp_path / "whole", lora(), BenchmarkCallback(tmp_path / "mine"))
    whole.train()
    saving = {"save_strategy": "steps", "save_steps": 4}
    trainer_of(tmp_path / "parts", lora(), BenchmarkCallback(tmp_path / "first"), Stop(), **saving).train()
    first = only_record(tmp_path / "first")
    assert first.speed.train_steps == 4 and not first.resumed
    rest = trainer_of(tmp_path / "parts", lora(), BenchmarkCallback(tmp_path / "second"), **saving)
    rest.train(resume_from_checkpoint=True)
    found, uncut = only_record(tmp_path / "second"), only_record(tmp_path / "mine")
    assert found.resumed and not uncut.resumed
    assert (found.speed.train_steps, found.speed.train_examples) == (9, 36)
    assert found.speed.train_real_tokens == uncut.speed.train_real_tokens == 3 * TOKENS
    assert (found.speed.warmup_steps, found.speed.timed_steps) == (3, 2)
    assert found.speed.train_seconds > first.speed.train_seconds
    assert [point.step for point in found.curve] == list(range(1, 10))


def test_what_nobody_noted_before_a_checkpoint_is_not_made_up(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 4, "max_steps": 4}
    trainer_of(tmp_path, lora(), **saving).train()
    rest = trainer_of(tmp_path, lora(), BenchmarkCallback(tmp_path / "mine"), **{**saving, "max_steps": 9})
    rest.train(resume_from_checkpoint=True)
    speed = only_record(tmp_path / "mine").speed
    assert (speed.train_seconds, speed.train_examples, speed.train_real_tokens) == (None, None, None)
    assert speed.train_steps == 9 and speed.timed_steps == 2 and speed.real_tokens_per_second > 0


def test_a_trainer_that_restores_its_callbacks_leaves_this_one_as_it_is(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 4, "restore_callback_states_from_checkpoint": True}
    trainer_of(tmp_path, lora(), BenchmarkCallback(tmp_path / "mine", task="toy"), max_steps=4, **saving).train()
    rest = trainer_of(tmp_path, lora(), BenchmarkCallback(tmp_path / "mine", task="toy"), max_steps=9, **saving)
    rest.train(resume_from_checkpoint=True)
    found = next(one for one in read_records(tmp_path / "mine") if one.resumed)
    assert found.spec.task.name == "toy" and found.speed.train_real_tokens == 3 * TOKENS


def test_the_numbers_reach_every_tracker_through_the_trainers_own_logs(tmp_path):
    class Tracker(TrainerCallback):
        """Stands where TensorBoard, W&B and MLflow stand: before the callbacks of the script."""

        def __init__(self):
            self.logs, self.ended = [], False

        def on_log(self, args, state, control, logs=None, **inside):
            assert not self.ended, "trackers close their files when training ends"
            self.logs.append(dict(logs))

        def on_train_end(self, *_, **__):
            self.ended = True

    tracker = Tracker()
    trainer = trainer_of(tmp_path, lora(), tracker, BenchmarkCallback(tmp_path / "mine"))
    trainer.train()
    (ours,) = [logs for logs in tracker.logs if any(name.startswith("benchmark_") for name in logs)]
    found = only_record(tmp_path / "mine")
    assert ours["benchmark_step_seconds_median"] == found.speed.step_seconds_median
    assert ours["benchmark_real_tokens_per_second"] == found.speed.real_tokens_per_second
    assert ours["benchmark_trained_parameters"] == found.parameters.trained
    assert all(isinstance(value, int | float) for value in ours.values())
    assert {**ours, "step": 9} in trainer.state.log_history


def test_two_trainings_of_one_process_are_two_records(tmp_path):
    callback = BenchmarkCallback(tmp_path / "mine")
    trainer = trainer_of(tmp_path, lora(), callback)
    trainer.train()
    trainer.args.learning_rate = 1e-3
    trainer.train()
    first, second = read_records(tmp_path / "mine")
    assert {first.spec.training.learning_rate, second.spec.training.learning_rate} == {5e-5, 1e-3}
    assert first.speed.train_real_tokens == second.speed.train_real_tokens == 3 * TOKENS


def test_the_same_run_again_takes_the_place_of_the_first_which_is_kept(tmp_path):
    for _ in range(2):
        trainer_of(tmp_path, lora(), BenchmarkCallback(tmp_path / "mine")).train()
    found = only_record(tmp_path / "mine")
    assert found.attempts == 2
    kept = read_record(tmp_path / "mine" / found.run_id / "attempts" / "1.json")
    assert kept.attempts == 1 and kept.run_id == found.run_id


def test_a_loss_that_is_no_number_is_a_run_that_diverged(tmp_path):
    trainer = trainer_of(
        tmp_path, tiny_roberta(), BenchmarkCallback(tmp_path / "mine"), learning_rate=1e30, logging_nan_inf_filter=False,
        eval_strategy="epoch", max_grad_norm=0.0,
    )  # fmt: skip
    trainer.train()
    found = only_record(tmp_path / "mine")
    assert found.status == "diverged" and "training loss is nan" in found.reason and found.scores is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "the gradients are nan"),
        ({"logging_steps": 500}, "the gradients are nan"),  # logged at the end alone
        ({"logging_strategy": "no"}, "trained weights are not finite after step 9"),
        ({"load_best_model_at_end": True, "save_strategy": "epoch", "eval_strategy": "epoch"}, "the gradients are nan"),
    ],
)
def test_a_loss_that_the_trainer_filters_is_seen_all_the_same(tmp_path, arguments, said):
    # By default the Trainer logs a loss that is NaN as the mean of those before it, and of the first as 0.
    callback = BenchmarkCallback(tmp_path / "mine")
    trainer = trainer_of(tmp_path, tiny_roberta(), callback, learning_rate=1e30, max_grad_norm=0.0, **arguments)
    trainer.train()
    found = only_record(tmp_path / "mine")
    assert found.status == "diverged" and found.scores is None
    assert said in found.reason or "trained weights are not finite" in found.reason
    assert all(point.loss != 0.0 for point in found.curve)


def test_a_training_whose_weights_stay_finite_did_not_diverge(tmp_path):
    trainer_of(tmp_path, lora(), BenchmarkCallback(tmp_path / "mine"), learning_rate=1e-2).train()
    assert only_record(tmp_path / "mine").status == "ok"


def test_a_folder_that_cannot_be_written_to_loses_no_training(tmp_path, caplog, monkeypatch):
    trainer = trainer_of(tmp_path, lora(), BenchmarkCallback(tmp_path / "mine"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "publish", full)
    trainer.train()
    assert trainer.state.global_step == 9
    assert "could not write its record" in caplog.text and "No space left" in caplog.text


class Fail(TrainerCallback):
    """Ends training with an exception after this step."""

    def __init__(self, step, error):
        self.step, self.error = step, error

    def on_step_end(self, args, state, control, **inside):
        if state.global_step == self.step:
            raise self.error


RESUMED = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from lora_bench import BenchmarkCallback
from tests.plugin.test_benchmark_callback import Fail, lora, trainer_of

here = Path({here!r})
first = BenchmarkCallback(here / "mine")
try:
    trainer_of(here, lora(), first, Fail(5, ValueError("away")), save_strategy="steps", save_steps=4).train()
except ValueError:
    pass
second = trainer_of(here, lora(), BenchmarkCallback(here / "mine"), save_strategy="steps", save_steps=4)
second.train(resume_from_checkpoint=True)
second.evaluate()
{last}
"""


@pytest.mark.slow
@pytest.mark.parametrize("last", ["", "first.close()"])
def test_a_run_that_a_new_trainer_resumed_in_the_same_process_keeps_its_record(tmp_path, last):
    script = tmp_path / "script.py"
    script.write_text(RESUMED.format(root=str(ROOT), here=str(tmp_path), last=last))
    subprocess.run([sys.executable, str(script)], check=True, capture_output=True)
    found = only_record(tmp_path / "mine")
    assert (found.status, found.resumed, found.speed.train_steps) == ("ok", True, 9)
    assert "accuracy" in found.scores
    (attempt,) = attempts(tmp_path / "mine")
    assert attempt.status == "interrupted" and attempt.run_id == found.run_id


def test_of_two_trainers_of_one_run_that_are_alive_at_once_both_leave_what_they_found(tmp_path):
    one, other = (trainer_of(tmp_path, lora(), BenchmarkCallback(tmp_path / "mine")) for _ in range(2))
    one.train()
    other.train()
    one.evaluate()  # brings the record of the first back, with its new score
    found = only_record(tmp_path / "mine")
    assert found.scores is not None and "accuracy" in found.scores
    assert [kept.scores for kept in attempts(tmp_path / "mine")] == [None, None]


def attempts(folder):
    return [read_record(path) for path in sorted(Path(folder).glob("*/attempts/*.json"))]


def test_an_exception_leaves_an_attempt_with_its_reason_and_no_record(tmp_path):
    callback = BenchmarkCallback(tmp_path / "mine")
    try:
        trainer_of(tmp_path, lora(), callback, Fail(5, ValueError(f"bad row in {Path.home()}/data"))).train()
    except ValueError:
        callback.close()
    (attempt,) = attempts(tmp_path / "mine")
    assert attempt.status == "interrupted"
    assert attempt.reason == "ValueError: bad row in ~/data (after step 5 of 9)"
    assert (attempt.speed.train_steps, attempt.speed.train_examples) == (5, 20)
    assert [point.step for point in attempt.curve] == [1, 2, 3, 4]
    assert not list((tmp_path / "mine").glob("*/record.json"))
    trainer_of(tmp_path, lora(), BenchmarkCallback(tmp_path / "mine")).train()
    found = only_record(tmp_path / "mine")
    assert found.run_id == attempt.run_id and found.attempts == 2


def test_running_out_of_memory_is_a_row_of_the_report(tmp_path):
    callback = BenchmarkCallback(tmp_path / "mine")
    with pytest.raises(torch.OutOfMemoryError):
        try:
            trainer_of(tmp_path, lora(), callback, Fail(2, torch.OutOfMemoryError("tried to allocate 2 GiB"))).train()
        except torch.OutOfMemoryError:
            callback.close()
            raise
    found = only_record(tmp_path / "mine")
    assert found.status == "out_of_memory" and "tried to allocate 2 GiB" in found.reason


def test_training_that_begins_again_says_that_the_first_did_not_end(tmp_path):
    callback = BenchmarkCallback(tmp_path / "mine")
    trainer = trainer_of(tmp_path, lora(), callback)
    trainer.add_callback(Fail(4, RuntimeError("once")))
    with pytest.raises(RuntimeError):
        trainer.train()
    trainer.remove_callback(Fail)
    trainer.train()
    (attempt,) = attempts(tmp_path / "mine")
    assert attempt.status == "interrupted" and attempt.speed.train_steps == 4
    assert only_record(tmp_path / "mine").speed.train_steps == 9


def test_an_unfinished_run_does_not_keep_its_model_alive(tmp_path):
    import gc
    import weakref

    callback = BenchmarkCallback(tmp_path / "mine")

    def fails():
        trainer = trainer_of(tmp_path, lora(), callback, Fail(1, RuntimeError("once")))
        with pytest.raises(RuntimeError):
            trainer.train()
        return weakref.ref(trainer.model)

    model = fails()
    gc.collect()
    assert model() is None
    callback.close()
    assert attempts(tmp_path / "mine")[0].memory.weight_bytes is None


SCRIPT = """
import os
import signal
import sys
from pathlib import Path

from transformers import TrainerCallback

from tests.plugin.test_benchmark_callback import BenchmarkCallback, lora, trainer_of


class Interrupt(TrainerCallback):
    def on_step_end(self, args, state, control, **inside):
        if state.global_step == 4 and sys.argv[2] == "ctrl-c":
            os.kill(os.getpid(), signal.SIGINT)
        if state.global_step == 4 and sys.argv[2] == "exception":
            raise KeyError("row 7")
        if state.global_step == 4 and sys.argv[2] in ("terminated", "answers itself"):
            os.kill(os.getpid(), signal.SIGTERM)


# Whoever started the tests in the background may have had it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.argv[2] == "answers itself":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))

folder = Path(sys.argv[1])
callback = BenchmarkCallback(folder / "mine")
trainer_of(folder / str(os.environ.get("RANK", 0)), lora(), callback, Interrupt(), eval_strategy="epoch").train()
"""


def run_script(folder, *command, mode):
    script = folder / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *command, str(script), str(folder), mode], check=False, capture_output=True, text=True,
        timeout=600, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "exit_codes", "said"),
    [
        ("ctrl-c", {1, -signal.SIGINT}, "KeyboardInterrupt (after step 4 of 9)"),
        ("exception", {1}, "KeyError: 'row 7' (after step 4 of 9)"),
        ("terminated", {-signal.SIGTERM}, "SIGTERM ended the process (after step 4 of 9)"),
        ("answers itself", {7}, "the process ended before training did (after step 4 of 9)"),
    ],
)
def test_a_script_that_dies_leaves_an_attempt(tmp_path, mode, exit_codes, said):
    done = run_script(tmp_path, mode=mode)
    assert done.returncode in exit_codes, done.stderr
    if mode in ("ctrl-c", "exception"):
        assert said.split(" (")[0] in done.stderr
    (attempt,) = attempts(tmp_path / "mine")
    assert (attempt.status, attempt.reason) == ("interrupted", said)
    assert attempt.command == "python script.py …" and attempt.spec.source_sha256 is not None


@pytest.mark.slow
def test_two_processes_leave_one_record_with_the_work_of_both(tmp_path):
    command = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = run_script(tmp_path, *command, mode="whole")
    assert done.returncode == 0, done.stderr
    found = only_record(tmp_path / "mine")
    # Each step has four rows in each of two processes; the second of an epoch has the last four rows, two to each.
    assert (found.spec.training.batch_size, found.spec.training.processes) == (8, 2)
    assert found.speed.train_steps == found.spec.training.steps == 6
    # Accelerate fills the last batches up with rows from the beginning: 2 x 8 rows an epoch.
    assert found.speed.train_examples == 3 * 16
    assert found.speed.train_real_tokens > 3 * TOKENS
    assert found.scores["accuracy"] <= 1


def test_an_encoder_decoder_in_a_seq2seq_trainer(tmp_path):
    config = T5Config(
        vocab_size=100,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
        pad_token_id=PAD,
    )
    batch = tiny_batch((9, 6, 7, 4))
    data = [
        {**{key: values[row] for key, values in batch.items()}, "labels": batch["input_ids"][row]} for row in range(4)
    ]
    settings = Seq2SeqTrainingArguments(
        tmp_path / "out", use_cpu=True, max_steps=4, per_device_train_batch_size=2, report_to="none", save_strategy="no",
        disable_tqdm=True, predict_with_generate=True, eval_strategy="steps", eval_steps=2, generation_max_length=6,
    )  # fmt: skip
    Seq2SeqTrainer(
        T5ForConditionalGeneration(config), args=settings, train_dataset=data, eval_dataset=data,
        callbacks=[BenchmarkCallback(tmp_path / "mine", metric="loss")],
    ).train()  # fmt: skip
    found = only_record(tmp_path / "mine")
    assert (found.speed.train_examples, found.speed.train_real_tokens) == (8, 2 * (9 + 6 + 7 + 4))
    assert found.parameters.head == 0 and found.parameters.adapter == found.parameters.trained
    assert found.score == found.scores["loss"]


def test_a_compiled_model_is_counted_alike_and_compiled_whole(tmp_path):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    callback = BenchmarkCallback(tmp_path / "mine")
    compiled = {"torch_compile": True, "torch_compile_backend": "eager", "max_steps": 4}
    trainer_of(tmp_path, tiny_roberta(), callback, **compiled).train()
    found = only_record(tmp_path / "mine")
    assert found.speed.train_examples == 16
    assert torch._dynamo.utils.counters["stats"]["calls_captured"] > 0
    assert not torch._dynamo.utils.counters["graph_break"]


def test_records_of_two_scripts_stand_in_one_table_and_beside_those_of_the_harness(tmp_path):
    for label, model in (("mine", lora()), ("old", tiny_roberta())):
        callback = BenchmarkCallback(tmp_path / "mine", task="vader_film", label=label)
        trainer_of(tmp_path, model, callback, eval_strategy="epoch").train()
    own, planned = read_records(tmp_path / "mine"), [record("lora"), record("full", score=0.8)]
    comparison = compare([*own, *planned])
    assert [[row.label for row in setting.rows] for setting in comparison.settings] == [
        ["full", "lora"],
        ["mine", "old"],
    ]
    page = render_files(Report([*own, *planned]))["report.md"].decode()
    assert "`mine`" in page and "**No suite planned these runs** (source: own script)" in page
    frame = to_frame(own)
    assert set(frame["method"]) == {"lora", "full"} and (frame["train_real_tokens"] == 3 * TOKENS).all()


def test_an_evaluation_is_read_by_its_prefix():
    history = [
        {"loss": 2.0, "step": 1},
        {"eval_loss": 1.0, "eval_accuracy": 0.5, "eval_runtime": 0.1, "eval_steps_per_second": 3.0, "step": 1},
        {"eval_long_accuracy": 0.25, "eval_long_runtime": 0.2, "step": 1},
        {"loss": float("nan"), "step": 2},
        {"test_f1": 0.75, "test_f1_by_class": [0.5, 1.0], "test_loss": float("inf"), "test_runtime": 0.3, "step": 2},
        {"train_runtime": 5.0, "train_loss": 2.0, "step": 2},
    ]
    first, second = evaluations(history)
    assert (first.scores, first.seconds) == ({"loss": 1.0, "accuracy": 0.5, "long_accuracy": 0.25}, pytest.approx(0.3))
    assert second.scores == {"test_f1": 0.75}
    assert [(point.step, point.loss) for point in curve_of(history)] == [(1, 2.0), (1, None), (2, None)]


def test_a_norm_that_is_no_number_leaves_the_curve_as_it_is():
    history = [{"loss": 2.0, "grad_norm": norm, "step": 1} for norm in ("1.250", 10**400, [1.0])]
    assert [point.loss for point in curve_of(history)] == [2.0, 2.0, 2.0]


def test_a_long_curve_keeps_some_fifty_means():
    points = curve_of([{"loss": float(step), "step": step} for step in range(1, 1001)])
    assert len(points) == 50
    assert (points[0].step, points[0].loss) == (20, sum(range(1, 21)) / 20)


def test_the_record_of_a_script_is_valid_by_the_published_schema(tmp_path):
    import jsonschema

    trainer_of(tmp_path, lora(), BenchmarkCallback(tmp_path / "mine"), eval_strategy="epoch").train()
    (path,) = (tmp_path / "mine").glob("*/record.json")
    schema = json.loads((ROOT / "lora_bench" / "schemas" / "record.schema.json").read_text())
    jsonschema.validate(json.loads(path.read_text()), schema)
