"""What judging 10,000 scores costs: CPU seconds of a fresh process, from its start to the answer.

    python benchmarks/judge_speed.py                      three shapes of methods × tasks × seeds
    python benchmarks/judge_speed.py --shape 10 20 50     one shape

Time is that of the process and not of the clock, so other work on the machine counts little. The base is the same process
without this package: pandas and scipy.special are imported, and the data frame is made. The page takes the answer's time too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPES = [(10, 20, 50), (5, 40, 50), (2000, 1, 5)]


def measure(methods: int, tasks: int, seeds: int) -> None:
    """Print the CPU seconds of this process up to the data frame, to the answer, and to the page."""
    import numpy as np
    import pandas
    import scipy.special  # noqa: F401  (a part of the base)

    noise = np.random.default_rng(0).normal(0, 0.03, (methods, tasks, seeds))
    table = [
        {"method": f"m{method}", "task": f"t{task}", "seed": seed, "score": 0.6 + method % 10 / 100 + noise[method, task, seed]}
        for method in range(methods)
        for task in range(tasks)
        for seed in range(seeds)
    ]  # fmt: skip
    frame = pandas.DataFrame(table)
    base = time.process_time()

    from lora_bench import judge

    found = judge(frame)
    assert found.answer and "torch" not in sys.modules
    answer, page = time.process_time(), ""
    if methods <= 100:
        with tempfile.TemporaryDirectory() as folder:
            found.write_report(Path(folder))
        page = f"{time.process_time():9.2f}"
    shape = f"{methods} × {tasks} × {seeds}"
    print(f"{shape:>14} {len(table):7,} {base:6.2f} {answer:7.2f} {page:>9}")


def main() -> None:
    """Measure each shape in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, help="measure one shape here: methods, tasks and seeds")
    arguments = parser.parse_args()
    if arguments.shape is not None:
        measure(*arguments.shape)
        return
    print("methods × tasks × seeds: scores, CPU seconds to the frame (the base), to the answer, and to the page")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    # Installed packages have byte code; a first process writes it.
    subprocess.run([sys.executable, "-c", "import lora_bench.exchange.scores"], check=True, env=environment)
    for shape in SHAPES:
        subprocess.run([sys.executable, __file__, "--shape", *map(str, shape)], check=True, env=environment)


if __name__ == "__main__":
    main()
