"""A checkpoint is the whole state or none of it."""

import json
import shutil

import pytest
import torch
from torch import nn

from lora_bench.records.checkpoint_files import MANIFEST
from lora_bench.training.checkpoint import latest_checkpoint, load_trained, save_checkpoint, trained_weights


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


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_two_checkpoints_are_kept(tmp_path):
    for step in (1, 2, 3, 10):
        save_checkpoint(tmp_path, step, *trained_for(step), {})
    assert names(tmp_path) == ["step-00000003", "step-00000010"]


def test_a_second_checkpoint_after_the_same_step_does_not_take_the_first_away_before_it_is_whole(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 4, *trained_for(4), {"said": "first"})

    def cut_off(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("lora_bench.records.checkpoint_files.write_atomic", cut_off)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(tmp_path, 4, *trained_for(4), {"said": "second"})
    assert names(tmp_path) == ["step-00000004"], "what there was no room for takes none"
    save_checkpoint(tmp_path, 4, *trained_for(4), {"said": "third"})
    assert latest_checkpoint(tmp_path).progress == {"said": "third"}
    assert names(tmp_path) == ["step-00000004", "step-00000004-2"]


FILES = ["best.safetensors", MANIFEST, "optimizer.safetensors", "state.json", "weights.safetensors"]
DAMAGES = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "first byte": lambda whole: bytes([whole[0] ^ 1]) + whole[1:],
    "middle byte": lambda whole: (
        whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
    ),
    "last byte": lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
}


def test_any_damaged_file_sends_a_checkpoint_to_the_quarantine_and_the_one_before_is_used(tmp_path):
    model, optimizer, schedule = trained_for(2)
    for step in (1, 2):
        best = {"weight": torch.full((3,), float(step))}
        save_checkpoint(tmp_path / "whole", step, model, optimizer, schedule, {}, best=best)
    assert names(tmp_path / "whole" / "step-00000002") == FILES
    damages = [*DAMAGES.items(), ("missing", None)]
    for name, (kind, damage) in [(name, one) for name in FILES for one in damages]:
        run = tmp_path / f"{name} {kind}"
        shutil.copytree(tmp_path / "whole", run / "checkpoint")
        file = run / "checkpoint" / "step-00000002" / name
        if damage is None:
            file.unlink()
        else:
            file.write_bytes(damage(file.read_bytes()))
        said = []
        found = latest_checkpoint(run / "checkpoint", said.append)
        assert found is not None and found.step == 1, (name, kind)
        if (name, kind) == (MANIFEST, "missing"):
            # A writer was cut off: that is no damage, and nothing of it can be used.
            assert said == [] and names(run) == ["checkpoint"]
            continue
        assert name in said[0] and "step-00000002" in said[0] and "quarantine/1" in said[0]
        assert said[0].endswith("; the run resumed from step-00000001")
        assert names(run / "quarantine" / "1") == ["reason.txt", "step-00000002"]
        assert name in (run / "quarantine" / "1" / "reason.txt").read_text()
        assert len(names(run / "quarantine" / "1" / "step-00000002")) == len(FILES) - (damage is None)
        assert names(run / "checkpoint") == ["step-00000001"]


def test_where_no_checkpoint_is_whole_the_run_begins_anew(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path / "checkpoint", step, *trained_for(step), {})
        (tmp_path / "checkpoint" / f"step-{step:08d}" / "state.json").write_text("{}")
    said = []
    assert latest_checkpoint(tmp_path / "checkpoint", said.append) is None
    assert len(said) == 2 and names(tmp_path / "quarantine") == ["1", "2"]
    assert all(one.endswith("; the run began anew") for one in said)


def test_a_checkpoint_of_another_run_is_passed_over(tmp_path):
    """Its weights have other names: to load them would end the run."""
    save_checkpoint(tmp_path / "checkpoint", 1, *trained_for(1), {}, run_id="mine")
    save_checkpoint(tmp_path / "checkpoint", 2, *trained_for(2), {}, run_id="theirs")
    said = []
    assert latest_checkpoint(tmp_path / "checkpoint", said.append, "mine").step == 1
    assert said == [
        "the checkpoint step-00000002 belongs to run theirs and was moved to quarantine/1; the run resumed from step-00000001"
    ]
    # Another run's would else count as one of the two that are kept, and take the place of this run's own.
    assert names(tmp_path / "checkpoint") == ["step-00000001"]
    assert latest_checkpoint(tmp_path / "checkpoint", said.append, "third") is None
    assert said[-1].endswith("belongs to run mine and was moved to quarantine/2; the run began anew")


def test_a_manifest_names_nothing_outside_of_its_checkpoint(tmp_path):
    save_checkpoint(tmp_path / "checkpoint", 1, *trained_for(1), {})
    manifest = tmp_path / "checkpoint" / "step-00000001" / MANIFEST
    (tmp_path / "checkpoint" / "outside").write_text("")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "../outside": "e3b0c442" + "0" * 56}))
    said = []
    assert latest_checkpoint(tmp_path / "checkpoint", said.append) is None
    assert "'../outside' is missing" in said[0]


def test_a_checkpoint_of_a_newer_lora_bench_is_left_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr("lora_bench.training.checkpoint.FORMAT", 2)
    save_checkpoint(tmp_path / "checkpoint", 1, *trained_for(1), {})
    monkeypatch.undo()
    said = []
    assert latest_checkpoint(tmp_path / "checkpoint", said.append) is None
    assert "by a newer lora_bench" in said[0] and names(tmp_path) == ["checkpoint"]


def test_trained_weights_are_those_the_optimiser_updates(tmp_path):
    model, *_ = trained_for(0)
    weights = trained_weights(model)
    assert set(weights) == {"0.bias", "2.weight", "2.bias"}
    load_trained(model, {name: torch.zeros_like(weight) for name, weight in weights.items()})
    assert model[2].weight.abs().sum() == 0 and model[0].weight.abs().sum() > 0
