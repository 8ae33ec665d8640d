"""Whether a training step fits a card: counted from shapes alone."""

from pathlib import Path

import pytest
import torch

from lora_bench.cli import main
from lora_bench.errors import LoraBenchError
from lora_bench.methods import known_methods
from lora_bench.models.registry import find_model
from lora_bench.training.measure.step_costs import CARDS, CONTEXT_BYTES, card_bytes, needed_bytes, predicted_step

GIB = 2**30


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))


def step_of(method, *, batch_size=4, length=16, cuda=False, **options):
    return predicted_step(
        find_model("gpt2-mini", base=Path.cwd()),
        known_methods()[method](**options),
        kind="classification",
        labels=2,
        batch_size=batch_size,
        length=length,
        precision="float32",
        cuda=cuda,
    )


def test_a_card_is_known_by_name_or_by_its_size():
    assert card_bytes("H100 80GB") == card_bytes("h100 80gb")
    assert card_bytes("80GB") == 80 * 10**9
    assert card_bytes("my own card 23.5 GiB") == 23.5 * GIB
    # A part of the name is enough where it is of one card alone.
    assert (card_bytes("T4"), card_bytes("4090")) == (card_bytes("T4 16GB"), card_bytes("RTX 4090 24GB"))
    with pytest.raises(LoraBenchError, match="device 'A100' could be any of A100 40GB, A100 80GB: name one"):
        card_bytes("A100")
    with pytest.raises(LoraBenchError, match="unknown device 'H10': use one of T4 16GB"):
        card_bytes("H10")


# What torch told of real cards, in GiB: from messages of users whose memory ran out.
TOLD = {"T4 16GB": 14.56, "V100 32GB": 31.73, "RTX 4090 24GB": 23.52, "L4 24GB": 21.96, "L40S 48GB": 44.40,
        "A100 40GB": 39.38, "H100 80GB": 79.18, "H200 141GB": 139.72, "B200 180GB": 178.35}  # fmt: skip


@pytest.mark.parametrize("card", TOLD)
def test_a_card_is_no_larger_than_torch_tells(card):
    assert 0.99 * TOLD[card] * GIB < card_bytes(card) <= TOLD[card] * GIB


@pytest.mark.gpu
def test_the_card_of_this_machine_is_no_larger_than_torch_tells():
    name, total = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    sizes = [card_bytes(card) for card in CARDS if card.rpartition(" ")[0] in name]
    if not sizes:
        pytest.skip(f"{name} is no card that we know")
    assert any(0.98 * total < size <= total for size in sizes)


def test_full_fine_tuning_holds_sixteen_bytes_a_weight_and_lora_four():
    # gpt2-mini as a classifier with two labels: 5,387,776 weights and a head of 512.
    weights = 5_388_288
    full = step_of("full")
    assert full.weight_bytes == full.gradient_bytes == 4 * weights
    tensors = (full.optimizer_bytes - 8 * weights) / 4
    assert tensors == int(tensors) and 0 < tensors < 200  # a step counter of four bytes for every tensor
    # Rank 4 on query and value of 4 layers of width 256, and the head.
    lora = step_of("lora", rank=4)
    assert lora.gradient_bytes == 4 * (4 * 2 * 4 * (256 + 256) + 512)
    # PEFT keeps the first head beside the copy that is trained.
    assert lora.weight_bytes == 4 * weights + lora.gradient_bytes
    assert lora.peak_bytes < full.peak_bytes


def test_activations_grow_with_the_batch_and_static_bytes_do_not():
    small, large = step_of("lora", rank=4, batch_size=2), step_of("lora", rank=4, batch_size=8)
    assert small.weight_bytes == large.weight_bytes and small.optimizer_bytes == large.optimizer_bytes
    assert large.activation_bytes == pytest.approx(4 * small.activation_bytes, rel=0.05)


def test_a_process_needs_room_beside_the_step():
    step = step_of("full")
    assert needed_bytes(step) == int(step.peak_bytes * 1.05) + CONTEXT_BYTES
    assert needed_bytes(step.model_copy(update={"peak_bytes": None})) is None


def test_a_plan_says_what_fits(tmp_path, monkeypatch, capsys):
    (tmp_path / "data.csv").write_text("text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(60)))
    (tmp_path / "s.yaml").write_text(
        "suite: s\ntasks: [{task: t, data: data.csv, text: text, label: label}]\nmodels: [gpt2-mini]\n"
        "methods: [full]\nseeds: [0]\nbudget: {train_examples: 32}\ntraining: {batch_size: 4, max_length: 16}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "s.yaml", "--device", "1GB"]) == 0
    assert "0.8 GiB: fits" in capsys.readouterr().out
    assert main(["plan", "s.yaml", "--device", "0GB"]) == 0
    assert "0.8 GiB: too much" in capsys.readouterr().out
    # Without a card it is the same count, as a step on this machine.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main(["plan", "s.yaml"]) == 0
    assert f" {step_of('full').peak_bytes / 2**20:,.0f} MiB" in capsys.readouterr().out
    assert main(["plan", "s.yaml", "--device", "H1000 80"]) == 2
    assert "unknown device 'H1000 80'; did you mean 'H100 80GB'" in capsys.readouterr().err
