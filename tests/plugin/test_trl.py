"""TRL's trainers write records through the callback, and train our tuners as they train PEFT's."""

import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM

from lora_bench import BenchmarkCallback
from lora_bench.kinds.exercises import exercise
from lora_bench.kinds.exercises.generation.chat_format import ChatFormat
from lora_bench.methods import known_methods
from lora_bench.models.loading import load_model, load_tokenizer
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.store import read_records
from lora_bench.report import compare
from lora_bench.suite.load_suite import load_suite
from lora_bench.tasks import Split
from lora_bench.tuners import BottleneckConfig, PrefixConfig
from tests.chats import CHATML, chat_tokenizer, echoes
from tests.kinds import test_preference as pairs

trl = pytest.importorskip("trl", reason="TRL is an extra, and is not installed: tox -e more")
datasets = pytest.importorskip("datasets")

WIDTH, LAYERS = 32, 2
# What transformers needs to tell an answer's tokens, and otherwise CHATML.
MARKED = CHATML.replace(
    "{{ message['content'] }}<|im_end|>\n",
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}\n",
)
CONFIGS = {
    "PEFT's LoRA": LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    "bottleneck adapter": BottleneckConfig(bottleneck_size=4, task_type="CAUSAL_LM"),
    "prefix": PrefixConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
}
ADAPTER = {
    "PEFT's LoRA": LAYERS * 2 * (2 * WIDTH + WIDTH * 2),
    # Houlsby's: two in each layer, each down and up with biases.
    "bottleneck adapter": LAYERS * 2 * (4 * WIDTH + 4 + WIDTH * 4 + WIDTH),
    # A key and a value of every token in every layer.
    "prefix": LAYERS * 2 * 3 * WIDTH,
}


TALK = [
    {"role": "user", "content": "the film"}, {"role": "assistant", "content": "was great"},
    {"role": "user", "content": "a plot"}, {"role": "assistant", "content": "is dull"},
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("llama3", ("<|eot_id|>", "<|eot_id|>")),
        ("llama3_2", ("<|eot_id|>", "<|eot_id|>")),
        ("qwen2_5", ("<|im_end|>", "<|im_end|>")),
        ("qwen3", ("<|im_end|>", "<|im_end|>")),
        ("gemma3", ("<end_of_turn>", "<end_of_turn>")),
        ("phi3", ("<|end|>", "<|end|>\n</s>")),
        ("gptoss", ("<|end|>", "<|return|>")),
        ("deepseekv3", ("<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>")),
    ],
)
def test_answers_are_found_in_the_templates_that_trl_brings(name, ends):
    template = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer = chat_tokenizer(None)
    tokenizer.bos_token = "<s>"
    turns = ChatFormat(tokenizer, template).turns(TALK)
    assert [turns.text[first:after] for first, after in turns.answers] == [f"was great{ends[0]}", f"is dull{ends[1]}"]


def tiny_llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=100, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=4, pad_token_id=1, eos_token_id=2, bos_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def arguments(config, folder, **more):
    given = {"max_steps": 3, "learning_rate": 1e-2, "report_to": "none", "save_strategy": "no", "logging_steps": 1}
    return config(
        output_dir=str(folder / "trainer"), per_device_train_batch_size=4, use_cpu=True, bf16=False, disable_tqdm=True,
        gradient_checkpointing=False, **given, **more,
    )  # fmt: skip


def trained(trainer, callback, folder):
    """The record of a training, which changed the adapter and nothing else."""
    trainer.add_callback(callback)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, weight in trainer.model.named_parameters() if not torch.equal(weight, before[name])}
    frozen = {name for name, weight in trainer.model.named_parameters() if not weight.requires_grad}
    assert changed and not changed & frozen
    (record,) = read_records(folder)
    return record


@pytest.mark.parametrize("name", CONFIGS)
def test_sft_trains_an_adapter_and_leaves_its_record(tmp_path, name):
    rows = datasets.Dataset.from_list([{"messages": chat} for chat in echoes(12)])
    trainer = trl.SFTTrainer(
        model=tiny_llama(), args=arguments(trl.SFTConfig, tmp_path, max_length=64, assistant_only_loss=True),
        train_dataset=rows, processing_class=chat_tokenizer(MARKED), peft_config=CONFIGS[name],
    )  # fmt: skip
    record = trained(trainer, BenchmarkCallback(tmp_path / "mine", task="echo"), tmp_path / "mine")
    assert (record.status, record.speed.train_steps, record.speed.train_examples) == ("ok", 3, 12)
    # Two turns of 6 tokens of a question, 5 of an answer, and no token for the lines between them.
    assert record.speed.train_real_tokens == 12 * 22
    assert (record.parameters.adapter, record.parameters.head) == (ADAPTER[name], 0)
    assert record.spec.training.max_length == 64 and len(record.curve) == 3


def test_sft_trains_a_model_that_a_method_has_adapted(tmp_path):
    model = known_methods()["lora"](rank=2).apply(tiny_llama(), head=[])
    rows = datasets.Dataset.from_list([{"messages": chat} for chat in echoes(12)])
    trainer = trl.SFTTrainer(
        model=model, args=arguments(trl.SFTConfig, tmp_path, max_length=64), train_dataset=rows,
        processing_class=chat_tokenizer(MARKED),
    )  # fmt: skip
    record = trained(trainer, BenchmarkCallback(tmp_path / "mine"), tmp_path / "mine")
    assert record.spec.method.name == "lora" and record.parameters.adapter == ADAPTER["PEFT's LoRA"]


def test_preference_has_the_loss_and_gradients_of_dpo(tmp_path):
    """On the same batch, of pairs with answers and prompts of several lengths, and an adapter that has moved."""
    path = pairs.write_project(
        tmp_path / "project", pairs.only("lora").replace("rejected: worse", "rejected: worse, beta: 0.3")
    )
    (cell,) = make_plan(load_suite(path), tmp_path / "runs").cells
    tokenizer = load_tokenizer(cell.job.base_model)
    made = exercise(cell.job.task, tokenizer, cell.job.spec)
    texts = [
        ("the film", "was great", "awful"),
        ("a", "b very fine story", "is dull"),
        ("a plot and music", "was", "a end"),
    ]
    base = load_model(cell.job.base_model, kind="preference", labels=0)[0]
    lessons = made.weighed_at_start(base, made.lessons(Split(["1", "2", "3"], texts, [(0,)] * 3))[0])

    rows = datasets.Dataset.from_list([dict(zip(("prompt", "chosen", "rejected"), one, strict=True)) for one in texts])
    trainer = trl.DPOTrainer(
        model=base, args=arguments(trl.DPOConfig, tmp_path, beta=0.3), train_dataset=rows, processing_class=tokenizer,
        peft_config=LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True),
    )  # fmt: skip
    model = trainer.model.eval()
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)

    def ids(row, label):
        return [token for token, one in zip(row["input_ids"], row["labels"], strict=True) if (one >= 0) == label]

    theirs = trainer.data_collator(
        [
            {"prompt_ids": ids(chosen, False), "chosen_ids": ids(chosen, True), "rejected_ids": ids(rejected, True)}
            for chosen, rejected in made.units(lessons)
        ]
    )
    losses, gradients = [], []
    for loss_of, batch in ((trainer.compute_loss, theirs), (made.loss_of, made.collate(lessons))):
        model.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        losses.append(loss.detach())
        gradients.append({name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None})
    assert abs(losses[0] - math.log(2)) > 0.01
    torch.testing.assert_close(losses[1], losses[0])
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) == 2 * LAYERS
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_grpo_trains_an_adapter_and_leaves_its_record(tmp_path, name):
    rows = datasets.Dataset.from_list([{"prompt": chat[:1]} for chat in echoes(8)])

    def length(completions, **others):
        return [float(len(completion[0]["content"])) for completion in completions]

    trainer = trl.GRPOTrainer(
        model=tiny_llama(), reward_funcs=length, train_dataset=rows, processing_class=chat_tokenizer(MARKED),
        args=arguments(trl.GRPOConfig, tmp_path, num_generations=4, max_completion_length=5, beta=0.1),
        peft_config=CONFIGS[name],
    )  # fmt: skip
    record = trained(trainer, BenchmarkCallback(tmp_path / "mine", task="long"), tmp_path / "mine")
    # Four completions a step are trained on; passes that only write or compare are no training.
    assert (record.status, record.speed.train_steps, record.speed.train_examples) == ("ok", 3, 12)
    assert record.parameters.adapter == ADAPTER[name]
    assert compare(read_records(tmp_path / "mine")).settings
