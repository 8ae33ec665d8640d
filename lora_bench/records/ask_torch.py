"""Ask torch which CUDA devices it can use, and print them as JSON.

    python -m lora_bench.records.ask_torch

`lora_bench.records.environment` starts it: a process that has started CUDA can fork no other process that uses it.
"""

from __future__ import annotations

import json


def main() -> None:
    """Print each device's facts, in torch's order; an empty list if torch finds none."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = [torch.cuda.get_device_properties(index) for index in range(count)]
    print(json.dumps([{"name": one.name, "memory_bytes": one.total_memory, "uuid": str(one.uuid)} for one in found]))


if __name__ == "__main__":
    main()
