"""Who is at work on a device, and what its driver tells, with real processes and a driver of our own."""

import os
import subprocess
import sys
import time
import types

import pytest
import torch

from lora_bench.probe import device
from lora_bench.probe.device import (
    HOST_IS_DEVICE,
    Company,
    EnergyMeter,
    company,
    has_bfloat16,
    nvml_device,
    used_bytes,
)

BUSY = "while True: pass"


class Driver(types.ModuleType):
    """NVML as far as we ask it."""

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.pids = [4_000_001]
        self.millijoules = [1_000, 4_500]
        self.asked: list[object] = []

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        self.asked.append(index)
        return "card"

    nvmlDeviceGetHandleByUUID = nvmlDeviceGetHandleByIndex

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> object:
        return types.SimpleNamespace(used=7 * 2**20)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return self.millijoules.pop(0)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[object]:
        return [types.SimpleNamespace(pid=pid) for pid in self.pids]


@pytest.fixture
def driver(monkeypatch):
    made = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", made)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return made


@pytest.fixture
def no_driver(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # an import of it fails


def test_a_busy_process_is_named_with_its_share_of_a_core(monkeypatch):
    monkeypatch.setattr(device, "BUSY_SHARE", 0.1)  # other tests may share the core with it
    busy = subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True)
    watch = Company("cpu")
    try:
        # A child of this process is ours; to be somebody else's, it is looked at as a grandchild would be.
        monkeypatch.setattr(device.psutil.Process, "children", lambda self, recursive=False: [])
        time.sleep(1.0)
        (found,) = [one for one in watch.seen() if f"process {busy.pid}" in one]
    finally:
        busy.kill()
        busy.wait()
    assert found.startswith("python") and found.endswith("% of a core")


def test_own_children_and_idle_processes_are_no_company():
    busy = subprocess.Popen([sys.executable, "-c", BUSY])
    idle = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        seen = company("cpu")
    finally:
        for process in (busy, idle):
            process.kill()
            process.wait()
    assert not [one for one in seen if any(f"process {process.pid})" in one for process in (busy, idle))]


def test_a_process_that_comes_while_it_is_watched_is_seen(driver):
    watch = Company("cuda")
    driver.pids += [os.getpid(), 4_000_002]
    assert watch.seen() == ["process 4000001", "process 4000002"]


def test_where_the_driver_numbers_processes_otherwise_nobody_new_is_taken_for_another(driver):
    watch = Company("cuda")
    driver.pids.append(4_000_003)  # this one as the host sees it
    assert watch.seen() == ["process 4000001"]


def test_alone_is_only_said_where_the_driver_names_this_process(driver):
    """In a container NVML may hide every process, or number them as the host does."""
    driver.pids = []
    watch = Company("cuda")
    assert watch.seen() is None
    driver.pids = [4_000_003]
    assert watch.seen() is None
    driver.pids = [os.getpid()]
    assert watch.seen() == []


@pytest.mark.parametrize(("card", "emulates", "has"), [("T4", True, False), ("A100", False, True)])
def test_a_card_that_emulates_bfloat16_does_not_have_it(monkeypatch, card, emulates, has):
    def supported(including_emulation=True):
        return (emulates and including_emulation) or has

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert torch.cuda.is_bf16_supported() and has_bfloat16() is has


@pytest.mark.gpu
def test_a_card_has_bfloat16_from_compute_capability_eight_on():
    assert has_bfloat16() == (torch.cuda.get_device_capability() >= (8, 0))


@pytest.mark.gpu
def test_this_process_is_never_company_to_itself():
    pytest.importorskip("pynvml")
    watch = Company("cuda")
    torch.zeros(1, device="cuda")
    assert not [one for one in watch.seen() or [] if f"process {os.getpid()})" in one]


def test_without_a_driver_nobody_can_tell(no_driver):
    assert Company("cuda").seen() is None
    assert used_bytes() is None
    with EnergyMeter("cuda") as meter:
        pass
    assert (meter.joules, meter.reason) == (None, "the package nvidia-ml-py is not installed")


def test_energy_is_a_difference_in_joules(driver):
    with EnergyMeter("cuda") as meter:
        pass
    assert (meter.joules, meter.reason) == (3.5, None)
    assert used_bytes() == 7 * 2**20


def test_a_card_without_a_counter_gives_a_reason_and_no_zero(driver):
    driver.millijoules = []  # the question raises
    with EnergyMeter("cuda") as meter:
        pass
    assert meter.joules is None and meter.reason.startswith("the driver does not tell")


def test_a_cpu_has_no_counter():
    with EnergyMeter("cpu") as meter:
        pass
    assert (meter.joules, meter.reason) == (None, HOST_IS_DEVICE)


@pytest.mark.parametrize(("visible", "asked"), [(None, 0), ("2,0", 2), ("GPU-1f2e,1", "GPU-1f2e")])
def test_the_first_device_that_may_be_used_is_asked(driver, monkeypatch, visible, asked):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert nvml_device() == (driver, "card")
    assert driver.asked == [asked]
