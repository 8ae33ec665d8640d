"""Who is at work on a device, and what its driver tells, with real processes and a driver of our own."""

import os
import subprocess
import sys
import time
import types
from dataclasses import replace

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
from lora_bench.records.environment import CudaDevice, described_devices

BUSY = "while True: pass"

CARD = CudaDevice("0", "Fast", 80 * 2**30, "1f2e3d4c-5b6a-7988-9aab-bbccddeeff00")
SLOW = CudaDevice("1", "Slow", 16 * 2**30, "00000000-5b6a-7988-9aab-bbccddeeff00")
DIVIDED = "77777777-5b6a-7988-9aab-bbccddeeff00"
PARTS = ["MIG-aaaaaaaa-1111-1111-1111-111111111111", "MIG-bbbbbbbb-1111-1111-1111-111111111111"]


class Driver(types.ModuleType):
    """NVML as far as we ask it."""

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.pids = [4_000_001]
        self.millijoules = [1_000, 4_500]
        # By place on the bus: the slow card, which CUDA counts last, and a card in parts.
        self.uuids = {"slow": f"GPU-{SLOW.uuid}", "card": f"GPU-{CARD.uuid}", "whole": f"GPU-{DIVIDED}"}
        self.parts: dict[int, str] = {0: PARTS[0], 3: PARTS[1]}
        self.knows_parts = True

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        known = {given: name for name, given in self.uuids.items()}
        if self.knows_parts:
            known |= {part: f"part {place}" for place, part in self.parts.items()}
        if uuid not in known:
            raise RuntimeError("Not Found")
        return known[uuid]

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        if handle == "slow":
            raise RuntimeError("Not Supported")
        return [1, 1] if handle == "whole" else [0, 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, index: int) -> str:
        if index not in self.parts:
            raise RuntimeError("Not Found")
        return f"part {index}"

    def nvmlDeviceGetUUID(self, handle: str) -> bytes:
        return self.parts[int(handle.split()[1])].encode()

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
    return made


@pytest.fixture
def no_driver(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # an import of it fails


def test_a_busy_process_is_named_with_its_share_of_a_core(monkeypatch):
    monkeypatch.setattr(device, "BUSY_SHARE", 0.01)  # others may share the core with it
    busy = subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True)
    watch = Company(None)
    try:
        # A child of this process is ours; to be somebody else's, it is looked at as a grandchild would be.
        monkeypatch.setattr(device.psutil.Process, "children", lambda self, recursive=False: [])
        end = time.monotonic() + 120
        while not (found := [one for one in watch.seen() if f"process {busy.pid}" in one]):
            assert time.monotonic() < end
    finally:
        busy.kill()
        busy.wait()
    assert len(found) == 1 and found[0].startswith("python") and found[0].endswith("% of a core")


def test_own_children_and_idle_processes_are_no_company():
    busy = subprocess.Popen([sys.executable, "-c", BUSY])
    idle = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        seen = company(None)
    finally:
        for process in (busy, idle):
            process.kill()
            process.wait()
    assert not [one for one in seen if any(f"process {process.pid})" in one for process in (busy, idle))]


def test_a_process_that_comes_while_it_is_watched_is_seen(driver):
    watch = Company(CARD)
    driver.pids += [os.getpid(), 4_000_002]
    assert watch.seen() == ["process 4000001", "process 4000002"]


def test_where_the_driver_numbers_processes_otherwise_nobody_new_is_taken_for_another(driver):
    watch = Company(CARD)
    driver.pids.append(4_000_003)  # this one as the host sees it
    assert watch.seen() == ["process 4000001"]


def test_alone_is_only_said_where_the_driver_names_this_process(driver):
    """In a container NVML may hide every process, or number them as the host does."""
    driver.pids = []
    watch = Company(CARD)
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
    watch = Company(described_devices()[0])
    torch.zeros(1, device="cuda")
    assert not [one for one in watch.seen() or [] if f"process {os.getpid()})" in one]


def test_without_a_driver_nobody_can_tell(no_driver):
    assert Company(CARD).seen() is None
    assert used_bytes(CARD) is None
    with EnergyMeter(CARD) as meter:
        pass
    assert (meter.joules, meter.reason) == (None, "the package nvidia-ml-py is not installed")


def test_energy_is_a_difference_in_joules(driver):
    with EnergyMeter(CARD) as meter:
        pass
    assert (meter.joules, meter.reason) == (3.5, None)
    assert used_bytes(CARD) == 7 * 2**20


def test_a_card_without_a_counter_gives_a_reason_and_no_zero(driver):
    driver.millijoules = []  # the question raises
    with EnergyMeter(CARD) as meter:
        pass
    assert meter.joules is None and meter.reason.startswith("the driver does not tell")


def test_a_cpu_has_no_counter():
    with EnergyMeter(None) as meter:
        pass
    assert (meter.joules, meter.reason) == (None, HOST_IS_DEVICE)


@pytest.mark.parametrize(
    ("card", "handle"),
    [
        (CARD, "card"),  # the second on the bus, and CUDA's first
        (SLOW, "slow"),
        (replace(CARD, visible="GPU-1f2e"), "card"),
        (replace(CARD, visible="MIG-bb", uuid=PARTS[1].removeprefix("MIG-")), "part 3"),
        # The card's UUID in place of the part's.
        (replace(CARD, visible="MIG-bb", uuid=DIVIDED), "part 3"),
        (replace(CARD, visible=PARTS[0], uuid=DIVIDED), "part 0"),
    ],
)
def test_the_card_is_the_one_with_torchs_uuid(driver, card, handle):
    assert nvml_device(card) == (driver, handle)


@pytest.mark.parametrize("visible", ["0", "MIG-cc", "MIG-"])
def test_a_part_that_nothing_names_is_not_guessed(driver, visible):
    reason = nvml_device(replace(CARD, visible=visible, uuid=DIVIDED))
    assert "divided by MIG; name one part of it by its UUID in CUDA_VISIBLE_DEVICES" in reason


def test_a_card_that_the_driver_does_not_know_is_no_other_card(driver):
    reason = nvml_device(replace(CARD, uuid="99999999-5b6a-7988-9aab-bbccddeeff00"))
    assert reason == "the driver does not tell: Not Found"


@pytest.mark.gpu
def test_on_a_card_the_drivers_memory_grows_with_what_torch_takes():
    pytest.importorskip("pynvml")
    import torch

    (card, *_) = described_devices()
    torch.zeros(1, device="cuda")
    before = used_bytes(card)
    taken = torch.zeros(2**30, dtype=torch.uint8, device="cuda")
    assert used_bytes(card) - before >= len(taken)
    with EnergyMeter(card) as meter:
        time.sleep(0.2)
    assert (meter.joules is None) != (meter.reason is None)
