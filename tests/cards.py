"""Cards where there are none: a driver's file, and a torch that other processes import and that finds some cards."""

import functools
import os
from pathlib import Path

from lora_bench.records import environment

TORCH = """
import os, types

with open({log!r}, "a") as log:
    log.write("asked\\n")


class cuda:
    @staticmethod
    def device_count():
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        given = range({count}) if chosen is None else [entry.strip() for entry in chosen.split(",")]
        known = [entry for entry in given if str(entry).startswith(("GPU-", "MIG-")) or str(entry) in map(str, range({count}))]
        return len(known)

    @staticmethod
    def is_available():
        if {broken}:
            raise RuntimeError("CUDA driver initialization failed")
        return cuda.device_count() > 0

    @staticmethod
    def get_device_properties(index):
        return types.SimpleNamespace(name="Card", total_memory=80 * 2**30, uuid=f"1f2e3d4c-0000-0000-0000-00000000000{{index}}")
"""


def pretend(monkeypatch, folder: Path, count: int, *, broken: bool = False) -> Path:
    """Let processes started from here find so many cards. Return a file with a line for each time torch was asked."""
    driver, log = folder / "nvidiactl", folder / "asked"
    (folder / "stand_in" / "torch").mkdir(parents=True)
    driver.touch()
    log.touch()
    source = TORCH.format(log=str(log), count=count, broken=broken)
    (folder / "stand_in" / "torch" / "__init__.py").write_text(source)
    before = os.environ.get("PYTHONPATH")
    root = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder / "stand_in"), root, *([before] if before else [])]))
    monkeypatch.setattr(environment, "DEVICE_FILES", folder)
    monkeypatch.setattr(environment, "_asked", functools.cache(environment._asked.__wrapped__))
    return log
