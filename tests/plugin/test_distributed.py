"""Two processes train what one process trains, on the same rows in twice as many, half as large batches."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = '''
import os
import sys
from pathlib import Path

import torch
from peft import get_peft_model
from transformers import Trainer, TrainingArguments

from lora_bench.tuners import BottleneckConfig, FusedLoraConfig, PrefixConfig
from tests.tiny import tiny_batch, tiny_gpt2_classifier, tiny_roberta

ROBERTA = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
GPT2 = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
TUNERS = {
    "bottleneck": lambda: get_peft_model(
        tiny_roberta(**ROBERTA),
        BottleneckConfig(bottleneck_size=4, initialisation="paper", modules_to_save=["classifier"]),
    ),
    "prefix": lambda: get_peft_model(
        tiny_roberta(**ROBERTA), PrefixConfig(num_virtual_tokens=3, init_std=1.0, modules_to_save=["classifier"])
    ),
    "reparameterised_prefix": lambda: get_peft_model(
        tiny_roberta(**ROBERTA),
        PrefixConfig(
            num_virtual_tokens=3, reparameterised=True, reparameterisation_width=5, modules_to_save=["classifier"]
        ),
    ),
    "fused_lora": lambda: get_peft_model(
        tiny_gpt2_classifier(**GPT2), FusedLoraConfig(r=2, modules_to_save=["score"])
    ),
}


def train(folder, rows):
    """The losses and weights of each tuner after three steps of *rows* rows in this process."""
    batch = tiny_batch((9, 6, 7, 9, 4, 8, 5, 3, 9, 9, 8, 7), labels=True)
    data = [{key: values[row] for key, values in batch.items()} for row in range(12)]
    found = {}
    for name, make in TUNERS.items():
        torch.manual_seed(5)
        model = make()
        arguments = TrainingArguments(
            output_dir=str(folder), max_steps=3, per_device_train_batch_size=rows, use_cpu=True,
            # Adam's step is as long for a gradient that is all rounding, and would show the order of additions.
            optim="sgd", learning_rate=0.1,
            ddp_backend="gloo" if "RANK" in os.environ else None, ddp_find_unused_parameters=False,
            # A classifier's loss is a mean already; the Trainer would multiply it by the number of ranks.
            average_tokens_across_devices=False, logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=data)
        trainer.train()
        found[name] = {
            "processes": trainer.args.world_size,
            "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
            "weights": {path: weight.detach() for path, weight in model.named_parameters()},
        }
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.save(train(folder, 2), folder / f"rank{os.environ['RANK']}.pt")
'''

TUNERS = ["bottleneck", "prefix", "reparameterised_prefix", "fused_lora"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What one process found, and each of two."""
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "ranks.py"
    script.write_text(SCRIPT, encoding="utf-8")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*command, str(script), str(folder)], check=False, capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    alone = runpy.run_path(str(script))["train"](folder, 4)
    return alone, [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("tuner", TUNERS)
def test_losses_and_weights_of_two_ranks_are_those_of_one_process(runs, tuner):
    alone, ranks = runs
    assert [found[tuner]["processes"] for found in (alone, *ranks)] == [1, 2, 2]
    want = alone[tuner]
    assert len(want["losses"]) == 3
    for found in ranks:
        for path, weight in want["weights"].items():
            assert (found[tuner]["weights"][path] - weight).abs().max() <= 1e-6, path
    assert ranks[0][tuner]["losses"] == pytest.approx(want["losses"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("tuner", TUNERS)
def test_the_ranks_hold_the_same_weights_bit_for_bit(runs, tuner):
    first, second = (found[tuner]["weights"] for found in runs[1])
    assert list(first) == list(second)
    assert all(torch.equal(first[path], second[path]) for path in first)
