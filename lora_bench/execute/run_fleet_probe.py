"""Do `lora-bench probe fleet`: each part of each model in a process of its own, unless its record is there."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from lora_bench.errors import WorkBroken
from lora_bench.probe.fleet.measure_part import MODELS
from lora_bench.records.fleet_record import Part, has_part
from lora_bench.util.child_process import our_command


def run_fleet_probe(folder: Path, say: Callable[[str], None]) -> None:
    """Measure the parts that *folder* lacks. Raise WorkBroken if a process ends without a record."""
    missing = [(model, part) for model in MODELS for part in get_args(Part) if not has_part(folder, model, part)]
    # BLAS would start threads of its own.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for number, (model, part) in enumerate(missing, 1):
        say(f"[{number}/{len(missing)}] {model}: {part}")
        command = our_command("lora_bench.probe.fleet.measure_part", str(folder), model, part)
        done = subprocess.run(command, check=False, env=environment)
        if done.returncode:
            raise WorkBroken(f"measuring {part} of {model} ended with {done.returncode}; its process says why above")
