"""Which CUDA devices there are, by torch's account, with cards that are pretended and with real ones."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lora_bench.errors import LoraBenchError
from lora_bench.execute.executors.inline import ThisProcess
from lora_bench.execute.executors.local import LocalWorkers, worker_environments
from lora_bench.plan.cost_estimate import CostEstimate, default_workers
from lora_bench.records import environment
from lora_bench.records.environment import cuda_devices, described_devices
from tests.cards import pretend


@pytest.fixture(autouse=True)
def _asked_anew(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(environment, "_asked", functools.cache(environment._asked.__wrapped__))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
@pytest.mark.parametrize(
    ("visible", "driver"), [("0", True), ("NoDevFiles", True), ("NoDevFiles", False), ("0", False)]
)
def test_a_variable_that_names_a_card_makes_none(monkeypatch, tmp_path, visible, driver):
    """Container tools and job schedulers set it on machines without a card too."""
    if driver:
        (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(environment, "DEVICE_FILES", tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert cuda_devices() == []


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="only where the driver has no such folder")
def test_cards_without_a_folder_of_nvidia_are_planned_for(monkeypatch, tmp_path):
    """As under WSL2 and with ROCm."""
    log = pretend(monkeypatch, tmp_path, 2)
    assert cuda_devices() == ["0", "1"]
    assert ThisProcess().on_gpu
    workers = LocalWorkers(3, tmp_path / "log", worker_environments(3, 1))
    assert workers.on_gpu
    assert [one["CUDA_VISIBLE_DEVICES"] for one in workers.environments] == ["0", "1", "0"]
    assert default_workers([CostEstimate(1.0, 2**40, 0, measured=False)] * 5, threads=1) == 2
    assert described_devices()[1].memory_bytes == 80 * 2**30
    assert log.read_text() == "asked\n"


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, ["0", "1", "2"]),
        ("2, 0", ["2", "0"]),
        ("GPU-1f2e,1", ["GPU-1f2e", "1"]),
        ("MIG-77", ["MIG-77"]),
        ("7", []),
        ("", []),
    ],
)
def test_only_the_devices_that_the_variable_names_are_used(monkeypatch, tmp_path, visible, found):
    pretend(monkeypatch, tmp_path, 3)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert cuda_devices() == found


def test_a_torch_that_fails_is_said_and_is_no_missing_card(monkeypatch, tmp_path):
    pretend(monkeypatch, tmp_path, 1, broken=True)
    with pytest.raises(LoraBenchError, match=r"torch fails .*driver initialization failed; set CUDA_VISIBLE_DEVICES"):
        cuda_devices()


@pytest.mark.gpu
def test_cards_are_found_without_starting_cuda_here():
    code = (
        "import os, torch\n"
        "from lora_bench.records.environment import described_devices\n"
        "found = described_devices()\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert found and len(found) == torch.cuda.device_count()\n"
        "for index, one in enumerate(found):\n"
        "    facts = torch.cuda.get_device_properties(index)\n"
        "    assert (one.name, one.memory_bytes, one.uuid) == (facts.name, facts.total_memory, str(facts.uuid))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
