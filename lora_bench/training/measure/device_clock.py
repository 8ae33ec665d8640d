"""Points in time on a device, behind one interface.

A CUDA device records them itself, in its stream of work, and Python goes on. Synchronising there would keep the host from
running ahead, which in short steps costs more than the measurement may. On a CPU the host's clock suffices; any other device
is synchronised.
"""

from __future__ import annotations

import time
from typing import Any

import torch


class DeviceClock:
    """The host's clock, for a device that does its work before Python goes on, or is synchronised.

    A mark is a point in time: when the device gets there.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def mark(self) -> Any:
        """Return the time now, once the device has done its work."""
        self.wait()
        return time.perf_counter()

    def has_passed(self, mark: Any) -> bool:
        """Return True: the device was waited for."""
        return True

    def wait(self) -> None:
        """Wait for any device but the CPU."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def seconds(self, earlier: Any, later: Any) -> float:
        """Return the seconds between two points."""
        return float(later - earlier)


class CudaClock(DeviceClock):
    """The clock of a CUDA device: events in its current stream."""

    def mark(self) -> Any:
        """Put an event into the stream."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def has_passed(self, mark: Any) -> bool:
        """Return True if the device has reached an event."""
        return bool(mark.query())

    def wait(self) -> None:
        """Wait for all streams of the device."""
        torch.cuda.synchronize(self.device)

    def seconds(self, earlier: Any, later: Any) -> float:
        """Return the seconds between two events."""
        return float(earlier.elapsed_time(later)) / 1000


def clock_of(device: torch.device) -> DeviceClock:
    """Return the clock of a device."""
    return CudaClock(device) if device.type == "cuda" else DeviceClock(device)
