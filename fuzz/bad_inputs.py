"""Bad inputs for whole commands: a good project with one file mutated, cut, oversized, of the wrong type or in an odd place.

Number and seed give the same inputs on every machine. `tests/security/test_bad_inputs.py` does them all.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_bench.util.sealed_json import SEAL, seal

VALUES: list[Any] = [
    None, True, -1, 0, 2**31, 2**63, 10**9, 10**400, 1e-300, 1e300, -0.0, "", " ", "x", "a" * 5000, "/dev/zero",
    "../../etc/passwd",
    "\x1b[31m", "é\u202e", "=1+1", "$(touch PWN)", "; rm x", "\ud800", [], [[]], {}, {"a": {}}, ["x"] * 50, [1e300], "1e999",
    "^(([a-z0-9_.])+)+$X", "pissa_niter_999999", "owner/kernel", "hub:./x", "NaN", float("nan"), float("inf"),
]  # fmt: skip
PIECES = [
    b"",
    b"\0",
    b"\xff\xfe",
    b"{",
    b"[" * 5000,
    b'"',
    b"\n",
    b"\r",
    b",",
    b"\t",
    b": ",
    b"- ",
    b"&a *a",
    b"!!python/x",
    b"1e999",
]


@dataclass(frozen=True)
class BadInput:
    """A change of a good project, and the command that meets it.

    Args:
        name: What is changed, for messages.
        change: Makes the change in the folder of the project.
        command: The command, from that folder.
    """

    name: str
    change: Callable[[Path], None]
    command: list[str]


def bad_inputs(project: Path, number: int, seed: int = 0) -> Iterator[BadInput]:
    """Yield bad inputs for copies of a finished project, in which `tickets.yaml` was run with `keep_weights: last`."""
    draw = random.Random(seed)
    runs = sorted(path.relative_to(project).as_posix() for path in (project / "runs" / "tickets").glob("*/record.json"))
    adapters = sorted(
        path.relative_to(project).as_posix() for path in project.glob("runs/tickets/*/weights/adapter_config.json")
    )
    of_runs = ["report", "choose", "use", "export"]
    for index in range(number):
        kind = ("suite", "table", "record", "adapter", "model")[index % 5]
        if kind == "suite":
            file, command = "tickets.yaml", ["plan", "tickets.yaml"]
        elif kind == "table":
            file, command = (
                "tickets.csv",
                draw.choice([["plan", "tickets.yaml"], ["init", "tickets.csv", "--model", "base"]]),
            )
        elif kind == "record":
            folder = Path(draw.choice(runs)).parent
            file = (folder / draw.choice(["record.json", "record.json", "predictions.json"])).as_posix()
            verb = draw.choice(of_runs)
            command = [verb, "runs/tickets", *(["--to", "json", "--out", "out.json"] if verb == "export" else [])]
        elif kind == "adapter":
            config = draw.choice(adapters)
            weights = str(Path(config).parent)
            file = draw.choice([config, config, f"{weights}/adapter_model.safetensors", f"{weights}/tokenizer.json"])
            command = draw.choice(
                [
                    ["use", "runs/tickets", "lora", "--merge", "merged"],
                    ["use", "runs/tickets", "lora", "--share", "shared"],
                    ["predict", "runs/tickets", "tickets.csv", "lora", "--out", "answers.csv"],
                    ["predict", weights, "tickets.csv", "--out", "answers.csv"],
                    ["analyse", "runs/tickets"],
                    ["import", "adapter", weights, "--out", "out", "--base", "base"],
                ]
            )
        else:
            names = ["config.json", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
            file, command = f"base/{draw.choice(names)}", ["plan", "tickets.yaml"]
        what, change = _change(draw, file)
        yield BadInput(f"{index}: {file}: {what}: {' '.join(command)}", change, command)


def _change(draw: random.Random, file: str) -> tuple[str, Callable[[Path], None]]:
    """Return what is done with a file, and how."""
    seed = draw.random()
    changes = {"odd": _odd, "cut": _cut, "value": _value if file.endswith(".json") else _cut}
    what = draw.choices(list(changes), weights=[1, 3, 6])[0]
    return what, lambda folder: changes[what](random.Random(seed), folder / file)


def _odd(draw: random.Random, path: Path) -> None:
    """Put something else in the place of a file."""
    path.unlink()
    kind = draw.choice(["folder", "pipe", "device", "nothing", "dangling", "empty"])
    if kind == "folder" or os.name == "nt":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind in ("device", "dangling"):
        path.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    elif kind == "empty":
        path.touch()


def _cut(draw: random.Random, path: Path) -> None:
    """Cut pieces out of a file, double them, and put pieces in."""
    raw = path.read_bytes()
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(min(len(raw), 2000) + 1)
        end = at + draw.choice([0, 1, 2, 10, 100, len(raw)])
        raw = raw[:at] + draw.choice([*PIECES, raw[at:end] * 3]) + raw[end:]
    path.write_bytes(raw)


def _value(draw: random.Random, path: Path) -> None:
    """Change values of a JSON file; a seal is made anew, so that the content is looked at."""
    data = json.loads(path.read_bytes())
    sealed = isinstance(data, dict) and data.pop(SEAL, None) is not None
    for _ in range(draw.randint(1, 3)):
        places = list(_places(data))
        if not places:
            break
        inside, key = draw.choice(places)
        if draw.random() < 0.2 and isinstance(inside, dict):
            del inside[key]
        else:
            inside[key] = draw.choice(VALUES)
    try:
        path.write_bytes(seal(data) if sealed else json.dumps(data).encode())
    except ValueError:  # a number that no seal can hold
        path.write_bytes(json.dumps(data).encode())


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield data, key
        yield from _places(value)
