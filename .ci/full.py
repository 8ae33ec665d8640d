"""Run what is too slow for the default command: all of it, or one shard.

    tox -e full                    every shard, one after the other
    tox -e full -- 17              shard 17 modulo their number, so that consecutive numbers run all

A shard takes at most ten minutes on two cores.
"""

import subprocess
import sys

# Slow tests run in the environment of the default command, which is there already.
SLOW = 8
PYTEST = ["-n2", "--dist=worksteal", "--times=.tox/times-slow.txt", "-m", "slow and not gpu"]
SHARDS = [
    *(["py", "--", *PYTEST, f"--shard={part}/{SLOW}"] for part in range(1, SLOW + 1)),
    ["oldest"],
    ["more"],
    ["docs,reports"],
]


def main(numbers: list[str]) -> int:
    """Run the shards of these numbers, or all, and return 1 if one failed."""
    chosen = [int(number) % len(SHARDS) for number in numbers] or range(len(SHARDS))
    failed = []
    for number in chosen:
        command = ["tox", "run", "-e", *SHARDS[number]]
        print(f"full: shard {number} of 0 to {len(SHARDS) - 1}: {' '.join(command)}", flush=True)
        if subprocess.run([sys.executable, "-m", *command], check=False).returncode:
            failed.append(number)
    print(f"full: shards {', '.join(map(str, failed))} failed" if failed else "full: passed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
