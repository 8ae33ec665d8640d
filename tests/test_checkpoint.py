"""A checkpoint is the whole state or none of it."""

import json

import torch
from torch import nn

from lora_bench.checkpoint import MANIFEST, latest_checkpoint, load_trained, save_checkpoint, trained_weights


def trained_for(steps, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    go_on(model, optimizer, schedule, range(steps))
    return model, optimizer, schedule


def go_on(model, optimizer, schedule, steps):
    for step in steps:
        torch.manual_seed(step)
        model(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def test_going_on_from_a_checkpoint_equals_never_having_stopped(tmp_path):
    whole, *_ = trained_for(7)
    first = trained_for(4)
    save_checkpoint(tmp_path, 4, *first, {"curve": [1, 2]})
    again = trained_for(0, seed=9)
    with torch.no_grad():
        again[0][0].weight.copy_(whole[0].weight)  # frozen weights come from the base model, not from a checkpoint
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.step == 4 and checkpoint.progress == {"curve": [1, 2]}
    checkpoint.restore(*again)
    go_on(*again, range(4, 7))
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), again[0].parameters(), strict=True))


def test_a_newer_checkpoint_replaces_the_older(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, *trained_for(step), {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_what_is_cut_short_changed_or_without_a_manifest_is_passed_over(tmp_path):
    save_checkpoint(tmp_path / "a", 1, *trained_for(1), {})
    (step,) = (tmp_path / "a").iterdir()
    names = sorted(path.name for path in step.iterdir())
    assert names == [MANIFEST, "optimizer.safetensors", "state.json", "weights.safetensors"]
    for name in names:
        whole = (step / name).read_bytes()
        for broken in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1])):
            (step / name).write_bytes(broken)
            assert latest_checkpoint(tmp_path / "a") is None
        (step / name).unlink()
        assert latest_checkpoint(tmp_path / "a") is None
        (step / name).write_bytes(whole)
        assert latest_checkpoint(tmp_path / "a") is not None


def test_the_previous_checkpoint_is_used_where_the_newest_is_broken(tmp_path):
    save_checkpoint(tmp_path, 1, *trained_for(1), {})
    newest = tmp_path / "step-00000002"
    newest.mkdir()
    (newest / MANIFEST).write_text(json.dumps({"weights.safetensors": "0" * 64}))
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.step == 1


def test_trained_weights_are_those_the_optimiser_updates(tmp_path):
    model, *_ = trained_for(0)
    weights = trained_weights(model)
    assert set(weights) == {"0.bias", "2.weight", "2.bias"}
    load_trained(model, {name: torch.zeros_like(weight) for name, weight in weights.items()})
    assert model[2].weight.abs().sum() == 0 and model[0].weight.abs().sum() > 0
