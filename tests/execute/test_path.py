"""The path from the command to the Trainer is short, and is the one that the design page prints."""

import re
import traceback
from pathlib import Path

import transformers

from lora_bench import cli
from tests.project import SUITE, write_project

ROOT = Path(__file__).parents[2]
MOST_FRAMES = 7


def on_the_page() -> list[str]:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    found = re.search(r"From the command to the Trainer:\n+```text\n(.+?)\n```", text, flags=re.DOTALL)
    assert found is not None, "docs/design.md prints no path"
    return [line.split()[0] for line in found[1].splitlines()]


def ours(frames) -> list[str]:
    """The functions of the package in a stack, the outermost first."""
    package = ROOT / "lora_bench"
    return [f"{Path(one.filename).stem}.{one.name}" for one in frames if Path(one.filename).is_relative_to(package)]


def test_the_stack_inside_train_is_the_path_on_the_design_page(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    path = write_project(tmp_path, SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora, full]"))
    train, seen = transformers.Trainer.train, []

    def noted(trainer, *given, **named):
        seen.append(ours(traceback.extract_stack()))
        return train(trainer, *given, **named)

    monkeypatch.setattr(transformers.Trainer, "train", noted)
    assert cli.main(["run", str(path), "--runs", str(tmp_path / "runs"), "--workers", "0", "--quiet"]) == 0
    # A tiny model is trained once a process, before the first run.
    runs = [stack for stack in seen if "trainer.warm_up" not in stack]
    assert runs == [on_the_page()] * 2
    assert len(on_the_page()) <= MOST_FRAMES
