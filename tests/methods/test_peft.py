"""Any method of PEFT works by its name, or is unsupported with a reason that was found by trying."""

import re
import subprocess
import sys

import pytest
import torch
import transformers
from peft import PeftModel
from pydantic import ValidationError
from transformers import BertConfig, Trainer, TrainerCallback, TrainingArguments

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.methods import known_methods, with_size
from lora_bench.methods.peft import _trial
from lora_bench.testing import check_method, tiny_models
from lora_bench.training.checkpoint import load_trained, trained_weights
from lora_bench.util.hashing import content_hash
from lora_bench.util.seeding import adapters_drawn_from
from tests.tiny import HEAD_MODULES, tiny_batch, tiny_deberta_v2, tiny_gpt2_classifier, tiny_roberta

Peft = known_methods()["peft"]


def applied(family, **options):
    model, head = tiny_models()[family]
    return Peft(**options).apply(model, head=head)


@pytest.mark.parametrize(
    "options",
    [
        {"type": "IA3"},
        {"type": "LoHa", "targets": ("query", "value"), "size_option": "r", "size_value": 2},
        {"type": "FOURIERFT", "options": {"n_frequency": 20}},
        {"type": "LORA", "options": {"r": 4}, "targets": ("output",)},
    ],
    ids=lambda options: options["type"],
)
def test_contract_on_encoders(options):
    check_method(Peft(**options), families=("roberta", "deberta-v2"))


def test_contract_on_a_decoder():
    check_method(Peft(type="IA3"), families=("gpt2",))


@pytest.mark.parametrize(
    ("family", "options", "reason"),
    [
        # a layer that the method cannot wrap
        ("gpt2", {"type": "HRA"}, r"PEFT's HRA cannot be put on this model: TypeError: Target module Conv1D"),
        # no default for the family, and none given
        ("roberta", {"type": "LN_TUNING"}, "PEFT's LN_TUNING cannot be put on this model: .*target_modules"),
        # put on without a word, and fails when it runs
        ("deberta-v2", {"type": "PREFIX_TUNING", "options": {"num_virtual_tokens": 3}}, "does not support past key"),
        # runs without a word, and trains the head alone
        ("gpt2", {"type": "OSF"}, "PEFT's OSF trains nothing of this model beside its head"),
        # trains without a word, and reads the wrong token of a padded row
        (
            "gpt2",
            {"type": "PROMPT_TUNING", "options": {"num_virtual_tokens": 3}},
            "a padded row is answered differently",
        ),
        # trains, and leaves the pooler of the head as it was drawn
        ("roberta", {"type": "TRAINABLE_TOKENS", "options": {"token_indices": [1]}}, "a part of the head frozen"),
        # a shape that does not divide
        ("roberta", {"type": "VBLORA"}, "must be divisible by `vector_length`"),
        ("roberta", {"type": "LORA", "options": {"r": -1}}, "PEFT's LORA cannot be put on this model: ValueError"),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else None,
)
def test_what_does_not_work_is_unsupported_with_the_reason(family, options, reason):
    with pytest.raises(UnsupportedPair, match=reason):
        applied(family, **options)


@pytest.mark.parametrize("seed", range(3))
def test_lily_answers_a_row_by_its_batch_whatever_weights_a_run_draws(seed):
    sizes = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "num_hidden_layers": 2}
    model = transformers.RobertaForSequenceClassification(transformers.RobertaConfig(vocab_size=64, **sizes))
    _trial.cache_clear()
    with adapters_drawn_from(seed), pytest.raises(UnsupportedPair, match="LILY a padded row is answered differently"):
        Peft(type="LILY").apply(model, head=list(HEAD_MODULES["roberta"]))


def test_it_is_unsupported_on_the_meta_device_too_so_a_plan_says_so():
    with torch.device("meta"):
        model, head = tiny_models()["gpt2"]
    with pytest.raises(UnsupportedPair, match="trains nothing of this model beside its head"):
        Peft(type="OSF").apply(model, head=head)
    model = Peft(type="LORA", options={"init_lora_weights": "pissa"}).apply(model, head=head)
    assert all(weight.is_meta for weight in model.parameters())


DEEP = {
    "roberta": lambda: tiny_roberta(num_hidden_layers=12),
    "deberta-v2": lambda: tiny_deberta_v2(num_hidden_layers=12),
    "gpt2": lambda: tiny_gpt2_classifier(n_layer=12),
}


@pytest.mark.parametrize("family", DEEP)
@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({"layers_to_transform": [5], "target_modules": ["query", "query_proj", "c_attn"]}, {5}),
        ({"layers_to_transform": 11, "target_modules": ["query", "query_proj", "c_attn"]}, {11}),
        ({"target_modules": r".*\.(11|7)\..*(query|query_proj|c_attn)"}, {7, 11}),
    ],
)
def test_options_may_name_a_layer_above_the_second(family, options, layers):
    model = Peft(type="LORA", options=options).apply(DEEP[family](), head=HEAD_MODULES[family])
    found = {int(re.search(r"\.(\d+)\.", path)[1]) for path, _ in model.named_parameters() if "lora_" in path}
    assert found == layers


def test_a_layer_that_the_model_has_not_is_unsupported():
    options = {"layers_to_transform": [12], "target_modules": ["query"]}
    with pytest.raises(UnsupportedPair, match=r"PEFT's LORA cannot be put on this model: .*\[12\]"):
        Peft(type="LORA", options=options).apply(DEEP["roberta"](), head=["classifier"])


def test_a_name_that_peft_does_not_know_is_the_users_to_put_right():
    with pytest.raises(LoraBenchError, match=r"unknown PEFT type 'LORAA'; did you mean 'LORA'\?") as type_error:
        applied("roberta", type="loraa")
    with pytest.raises(LoraBenchError, match=r"unknown option of IA3 'fan_in'.*fan_in_fan_out") as option_error:
        applied("roberta", type="IA3", options={"fan_in": True})
    assert not any(isinstance(error.value, UnsupportedPair) for error in (type_error, option_error))


def test_the_trial_leaves_the_first_weights_as_they_would_be_without_it():
    drawn = []
    for draw in (Peft.apply, Peft.put_on):
        model, head = tiny_models()["roberta"]
        with adapters_drawn_from(3):
            model = draw(Peft(type="LORA", options={"r": 3}), model, head=head)
        drawn.append([weight for path, weight in model.named_parameters() if "lora_A" in path])
    assert all(torch.equal(*pair) for pair in zip(*drawn, strict=True))


# --- the size --------------------------------------------------------------------------------------------------------


def test_a_named_option_is_the_size_and_without_one_there_is_none():
    vera = Peft(type="VERA", size_option="r", size_value=4)
    assert (Peft.size, Peft(type="VERA").size, vera.size) == (None, None, "size_value")
    assert with_size(vera, 7) == Peft(type="VERA", size_option="r", size_value=7)
    assert Peft(**vera.model_dump(mode="json")) == vera


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size_option": "r"}, "given together"),
        ({"size_value": 3}, "given together"),
        ({"targets": ("query", "query")}, "names something twice: query, query"),
        ({"size_option": "r", "size_value": 3, "options": {"r": 4}}, "options give r a second time"),
        (
            {"targets": ("query",), "options": {"target_modules": ["query"]}},
            "options give target_modules a second time",
        ),
        (
            {"targets": ("query",), "options": {"layers_to_transform": [1]}},
            "targets are those of every layer: with layers_to_transform, give target_modules as a list of names",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        Peft(type="LORA", **options)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"type": "lora"}, {"type": "LORA"}),
        ({"type": "LoHa", "targets": ("value", "query")}, {"type": "LOHA", "targets": ("query", "value")}),
        ({"targets": ("all",)}, {"targets": ("ffn", "output", "value", "key", "query")}),
        (
            {"options": {"r": 4, "target_modules": ["value", "query", "value"]}},
            {"options": {"target_modules": ["query", "value"], "r": 4}},
        ),
        ({"options": {"layers_to_transform": 3}}, {"options": {"layers_to_transform": [3]}}),
        ({"options": {"layers_to_transform": [11, 2]}}, {"options": {"layers_to_transform": [2, 11]}}),
    ],
)
def test_two_spellings_of_a_run_have_the_same_options(one, other):
    first, second = (Peft(**{"type": "LORA", **options}) for options in (one, other))
    assert content_hash(first.model_dump(mode="json")) == content_hash(second.model_dump(mode="json"))
    assert Peft(**first.model_dump(mode="json")) == first


def test_what_an_option_gives_in_order_stays_in_order():
    options = {"rank_pattern": {"value": 2, "query": 1}, "loftq_config": {"steps": [3, 1]}, "target_modules": ".*value"}
    assert Peft(type="LORA", options=options).options == options


def test_a_suite_can_be_read_without_torch():
    code = (
        "import sys\nfrom lora_bench.methods import known_methods\n"
        "known_methods()['peft'](type='IA3')\nsys.exit('torch' in sys.modules or 'peft' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- AdaLoRA ---------------------------------------------------------------------------------------------------------


def train(model, callbacks, folder, steps=8):
    batch = tiny_batch((9, 6), labels=True)
    batch["input_ids"] = batch["input_ids"].clamp(max=60)
    data = [{key: rows[row] for key, rows in batch.items()} for row in range(2)]
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, learning_rate=1e-2, save_strategy="no", report_to=[],
        disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    Trainer(model=model, args=arguments, train_dataset=data, callbacks=callbacks).train()


def test_adaloras_ranks_fall_to_its_target_by_the_end_of_the_run(tmp_path):
    method = Peft(
        type="ADALORA", options={"init_r": 6, "target_r": 2, "tinit": 1, "tfinal": 2}, targets=("query", "value")
    )
    model, head = tiny_models()["roberta"]
    model = method.apply(model, head=head)
    train(model, method.callbacks(), tmp_path)
    assert model.peft_config["default"].total_step == 8
    kept = [int((weight != 0).sum()) for path, weight in model.named_parameters() if "lora_E" in path]
    # 2 layers * 2 weights, with 2 of 6 ranks each on average
    assert (len(kept), sum(kept)) == (4, 4 * 2)


def test_without_its_callback_adalora_keeps_every_rank(tmp_path):
    method = Peft(type="ADALORA", options={"init_r": 6, "target_r": 2})
    model, head = tiny_models()["roberta"]
    model = method.apply(model, head=head)
    train(model, [], tmp_path)
    assert all((weight != 0).all() for path, weight in model.named_parameters() if "lora_E" in path)


@pytest.mark.parametrize(
    "of_task", ["SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice"]
)
def test_adaloras_penalty_is_in_the_loss_that_is_trained(of_task):
    """As Zhang et al. (2023) have it, with PEFT's mean over matrices: how far the rows of each are from orthogonal ones."""
    config = BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, num_labels=2
    )
    model = getattr(transformers, f"BertFor{of_task}")(config).eval()
    ids = torch.arange(5, 17).reshape(2, 6)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": ids % 2}
    one = torch.tensor([0, 1])
    labels = {
        "TokenClassification": {"labels": ids % 2},
        "QuestionAnswering": {"start_positions": one, "end_positions": one + 1},
        "MultipleChoice": {"labels": one[:1]},
    }.get(of_task, {"labels": one})
    batch = {key: rows[None] for key, rows in batch.items()} if of_task == "MultipleChoice" else batch
    plain = model(**batch, **labels)
    head = ["qa_outputs" if of_task == "QuestionAnswering" else "classifier"]
    method = Peft(type="ADALORA", options={"orth_reg_weight": 0.25}, targets=("query", "value"))
    adapted = method.apply(model, head=head)
    weights = {path: weight for path, weight in adapted.named_parameters() if "lora_A" in path or "lora_B" in path}
    products = [weight.T @ weight if "lora_B" in path else weight @ weight.T for path, weight in weights.items()]
    distances = [(product - torch.eye(len(product))).norm() for product in products]
    # The update is nothing at the start, so that answers and the model's own loss are those of the base.
    found = adapted.eval()(**batch, **labels)
    answers = "start_logits" if of_task == "QuestionAnswering" else "logits"
    assert torch.allclose(found[answers], plain[answers], atol=1e-6)
    assert torch.isclose(found.loss, plain.loss + 0.25 * sum(distances) / len(distances))


def test_a_writers_loss_has_adaloras_penalty_too():
    writer = transformers.GPT2LMHeadModel(tiny_models()["gpt2"][0].config).eval()
    ids = torch.arange(5, 17).reshape(2, 6)
    plain = writer(input_ids=ids, labels=ids).loss.detach()
    adapted = Peft(type="ADALORA", targets=("query", "value")).apply(writer, head=[]).eval()
    assert adapted(input_ids=ids, labels=ids).loss > plain + 0.1
    assert adapted.generate(input_ids=ids[:1], max_new_tokens=2).shape == (1, 8)


def test_a_schedule_that_does_not_fit_into_the_run_is_refused(tmp_path):
    method = Peft(type="ADALORA", options={"tinit": 5, "tfinal": 3})
    model, head = tiny_models()["roberta"]
    with pytest.raises(LoraBenchError, match=r"tinit \(5\) and tfinal \(3\) leave none of the 8 steps"):
        train(method.apply(model, head=head), method.callbacks(), tmp_path)


class KeepWeights(TrainerCallback):
    """The weights after each step, and the logits they give, as a run keeps those of its best step."""

    def __init__(self):
        self.weights, self.logits = {}, {}

    def on_step_end(self, args, state, control, model=None, **inside):
        self.weights[state.global_step] = trained_weights(model)
        self.logits[state.global_step] = logits(model)


@torch.no_grad()
def logits(model):
    answer = model.eval()(**{**tiny_batch((9, 6)), "input_ids": tiny_batch((9, 6))["input_ids"].clamp(max=60)}).logits
    model.train()
    return answer


# Nothing is given up before step 2 is done, a rank less is left from step to step, and the last two keep what is left.
SCHEDULE = {"init_r": 6, "target_r": 2, "tinit": 1, "tfinal": 3}


@pytest.mark.parametrize("step", [1, 4, 10])
def test_weights_of_any_step_are_saved_with_the_ranks_of_that_step(step, tmp_path):
    method = Peft(type="ADALORA", options=SCHEDULE, targets=("query", "value"))
    model, head = tiny_models()["roberta"]
    model, kept = method.apply(model, head=head), KeepWeights()
    train(model, [*method.callbacks(), kept], tmp_path / "run", steps=10)
    load_trained(model, kept.weights[step])
    assert torch.equal(logits(model), kept.logits[step])
    model.save_pretrained(tmp_path / "saved")
    base, _ = tiny_models()["roberta"]
    loaded = PeftModel.from_pretrained(base, tmp_path / "saved")
    assert (logits(loaded) - kept.logits[step]).abs().max() <= 1e-6
    left = sum(int((weight != 0).sum()) for path, weight in kept.weights[step].items() if "lora_E" in path)
    assert sum(weight.numel() for path, weight in loaded.named_parameters() if "lora_E" in path) == left
    assert left == {1: 4 * 6, 10: 4 * 2}.get(step, left)


@pytest.mark.parametrize("step", [7, 8, 9])
def test_a_run_that_goes_on_at_the_end_of_the_schedule_keeps_the_ranks_it_has(step, tmp_path):
    method = Peft(type="ADALORA", options=SCHEDULE, targets=("query", "value"))
    models = [method.apply(*tiny_models()["roberta"][:1], head=["classifier"]) for _ in range(2)]
    kept = KeepWeights()
    train(models[0], [*method.callbacks(), kept], tmp_path / "run", steps=10)

    class GoOn(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **inside):
            load_trained(model, kept.weights[step])
            state.global_step = step

    train(models[1], [GoOn(), *method.callbacks()], tmp_path / "resumed", steps=10)
    ranks = [{path: (weight != 0) for path, weight in model.named_parameters() if "lora_E" in path} for model in models]
    assert sum(int(left.sum()) for left in ranks[1].values()) == 4 * 2
    if step > 7:  # at 7 they are given out once more, from one step's importance
        assert all(torch.equal(ranks[1][path], left) for path, left in ranks[0].items())


def test_other_methods_need_nothing_at_the_steps():
    assert Peft(type="IA3").callbacks() == []
