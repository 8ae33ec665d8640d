"""Count the weights of a model, read the clock of a device, and measure peaks of memory.

On a CUDA device memory is the peak of the allocator, on a CPU the peak resident set of the process. A value that the system
does not tell is None.
"""

import contextlib
import ctypes
import gc
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import nn
from torch.overrides import TorchFunctionMode

from lora_bench.records.record import CountedParameters
from lora_bench.tuners.trial import is_in


def count_parameters(model: nn.Module, *, head: list[str], total: int) -> CountedParameters:
    """Count the weights of an adapted model; *total* has those of the base model with its head, counted before."""
    trained = {name: weight.numel() for name, weight in model.named_parameters() if weight.requires_grad}
    in_head = sum(count for name, count in trained.items() if is_in(name, head))
    everything = sum(trained.values())
    return CountedParameters(
        total=total,
        adapter=everything - in_head,
        head=in_head,
        trained=everything,
        stored=stored_weights(model) if isinstance(model, PeftModel) else everything,
    )


def stored_weights(model: PeftModel) -> int:
    """Return the number of weights that `save_pretrained` writes: a prefix is folded, and VeRA's frozen ones are saved."""
    count = 0
    for name, config in model.peft_config.items():
        # PEFT would look this name up on the hub, for an extended vocabulary, which no run has.
        base_model, config.base_model_name_or_path = config.base_model_name_or_path, None
        try:
            with _LeaveOnMeta():
                saved = get_peft_model_state_dict(model, adapter_name=name)
        finally:
            config.base_model_name_or_path = base_model
        count += sum(weight.numel() for weight in saved.values())
    return count


class _LeaveOnMeta(TorchFunctionMode):
    """Keeps tensors on the meta device that PEFT would move to the CPU: prompts have shapes there, and no numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.cpu and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


class DeviceClock:
    """Points in time on a device.

    A CUDA device records them itself, in its stream of work, and Python goes on. Synchronising there would keep the host from
    running ahead, which in short steps costs more than the measurement may. On a CPU the host's clock suffices; any other
    device is synchronised.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_cuda = device.type == "cuda"

    def mark(self) -> Any:
        """Return a point in time: when the device has done the work before it."""
        if not self.is_cuda:
            self.wait()
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def has_passed(self, mark: Any) -> bool:
        """Return True if the device has reached a point."""
        return not self.is_cuda or bool(mark.query())

    def wait(self) -> None:
        """Wait for all work of any device but the CPU."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)
        elif self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def seconds(self, earlier: Any, later: Any) -> float:
        """Return the seconds between two points."""
        return float(earlier.elapsed_time(later)) / 1000 if self.is_cuda else float(later - earlier)


class PeakMemory:
    """Peak of memory since the last reading; on CUDA the sum over the cards of this process, an upper bound of its peak."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.kind: Literal["allocated", "resident"] = "allocated" if device.type == "cuda" else "resident"

    def now(self) -> int | None:
        """Return the bytes in use now."""
        if self.device.type == "cuda":
            return sum(int(torch.cuda.memory_allocated(card)) for card in range(torch.cuda.device_count()))
        return _status_bytes("VmRSS")

    def take(self) -> int | None:
        """Return the peak in bytes since the last call, or None if the system does not tell."""
        if self.device.type == "cuda":
            # The allocator counts on the host at allocation, so there is no need to wait for the device.
            cards = range(torch.cuda.device_count())
            found = sum(int(torch.cuda.max_memory_allocated(card)) for card in cards)
            for card in cards:
                torch.cuda.reset_peak_memory_stats(card)
            return found
        peak = _status_bytes("VmHWM")
        try:
            # Linux resets the peak of the resident set to its present size.
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return None
        return peak


def return_freed_memory() -> None:
    """Return memory freed by earlier runs of this process to the system, so that it cannot hide a peak."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


def _status_bytes(key: str) -> int | None:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    line = next((line for line in status.splitlines() if line.startswith(f"{key}:")), None)
    return int(line.split()[1]) * 1024 if line else None


def a_model_is_there() -> bool:
    """Return True if this process has already loaded or made a model."""
    gc.unfreeze()  # objects frozen by an earlier run would not be searched
    # By type and not by isinstance, because some lazy objects load when isinstance asks for their class.
    return any(
        issubclass(type(one), nn.Module) and next(one.parameters(), None) is not None for one in gc.get_objects()
    )


def plain_tensors(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the tensors that hold a tensor's numbers: this process's share of a sharded one, the parts of a quantised one."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for part in (getattr(tensor, name) for name in names):
        if isinstance(part, torch.Tensor):
            yield from plain_tensors(part)


def bytes_of(tensor: torch.Tensor) -> int:
    """Return the bytes of a tensor's numbers in this process."""
    return sum(one.numel() * one.element_size() for one in plain_tensors(tensor))


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of an optimiser's state tensors in this process."""
    values = (value for state in optimizer.state.values() for value in state.values())
    return sum(bytes_of(value) for value in values if isinstance(value, torch.Tensor))


def quantile(values: list[float], share: float) -> float:
    """Return the smallest value that at least *share* of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def allocated_beside(model: nn.Module) -> int:
    """Return the bytes on CUDA devices handed out for anything but *model*. Raise RuntimeError if torch does not tell."""
    weights = (*model.parameters(), *model.buffers())
    storages = {one.untyped_storage().data_ptr() for weight in weights for one in plain_tensors(weight)}
    # Counted by allocated blocks, because a block may be up to a MiB larger than the tensor in it.
    blocks = [
        block
        for segment in torch.cuda.memory_snapshot()
        for block in segment["blocks"]
        if block["state"] == "active_allocated"
    ]
    return int(sum(block["size"] for block in blocks if block["address"] not in storages))
