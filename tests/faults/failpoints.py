"""Makes a process fail at a place in the code: an audit hook for the events that `lora_bench.util.failpoints.reach` raises.

    LORA_BENCH_FAILPOINT=SITE:ACTION[@N]

does ACTION when a process gets to SITE: each time, or the N-th time alone. With `LORA_BENCH_FAILPOINT_ONCE=FILE` only the
first of several processes that get there does, which makes FILE. Processes listen that start with `STARTUP` on PYTHONPATH.
This file imports nothing of the package: it is read before the process does anything.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLE = "LORA_BENCH_FAILPOINT"
ONCE = "LORA_BENCH_FAILPOINT_ONCE"

# On PYTHONPATH, it makes each process that starts, and what that forks, listen.
STARTUP = Path(__file__).parent / "startup"

# Every site, with where it is. A test holds this table against the calls of `reach` in the code, and against a run.
SITES = {
    "suite.plan": "before a suite is planned",
    "suite.planned": "when it is planned, before anything is written",
    "suite.finished": "when the record of a run has come in",
    "suite.report": "before the report is written",
    "workers.start": "before the server that forks workers is started",
    "workers.fork": "before a worker is asked for",
    "workers.send": "before a worker is given a job",
    "workers.end": "before the server is ended",
    "server.import": "in the server, before its imports",
    "server.ready": "in the server, after its imports",
    "server.fork": "in the server, before it forks",
    "server.bury": "in the server, when a worker has ended",
    "worker.begin": "in a worker, before it reports for work",
    "worker.job": "in a worker, when it has a job",
    "run.held": "when the run's folder is held",
    "run.load": "before the base model is loaded",
    "run.data": "before the data are read",
    "run.train": "before the first step",
    "run.step": "at the begin of a step",
    "run.forward": "when the model has a batch at hand",
    "run.loss": "when the loss of a step is known",
    "run.trained": "after the last step",
    "run.evaluation": "at each batch of an evaluation",
    "run.keep": "before predictions and weights are written",
    "run.publish": "before the record is published",
    "write.temporary": "when the temporary file is made and empty",
    "write.written": "when it is written, before it is flushed to the disk",
    "write.link": "before a record is linked to its name",
    "write.linked": "when it is, before the temporary file is removed",
    "write.replace": "before a file is replaced by the temporary file",
    "write.replaced": "when it is, before the folder is flushed to the disk",
    "publish.clean": "when the record is there, before what lay beside it is removed",
    "checkpoint.begin": "before the first file of a checkpoint",
    "checkpoint.manifest": "before its manifest",
    "checkpoint.written": "when it is whole, before those before it are removed",
}

_ACTIONS = ("kill", "abort", "hang", "int", "term", "nan", "out_of_memory", "sleep:SECONDS", "raise:EXCEPTION[:ERRNO]")
_EXCEPTIONS = {"OSError": OSError, "MemoryError": MemoryError, "RuntimeError": RuntimeError, "ValueError": ValueError}


@dataclass(frozen=True)
class Failpoint:
    """What is to happen where: see the module."""

    site: str
    action: str
    argument: str
    number: int | None


_reached: Counter[str] = Counter()


def parse(text: str) -> Failpoint:
    """Read `SITE:ACTION[@N]`.

    Raises:
        ValueError: If there is no such site or action.
    """
    rest, _, number = text.partition("@")
    site, _, what = rest.partition(":")
    action, _, argument = what.partition(":")
    if site not in SITES:
        raise ValueError(f"no failpoint is called {site!r}")
    if action not in [one.split(":")[0] for one in _ACTIONS] or (number and not number.isdecimal()):
        raise ValueError(f"{VARIABLE}={text}: expected SITE:ACTION or SITE:ACTION@N, with one of {_ACTIONS}")
    if action == "raise" and argument.split(":")[0] not in _EXCEPTIONS:
        raise ValueError(f"{VARIABLE}={text}: expected one of {', '.join(_EXCEPTIONS)} to raise")
    return Failpoint(site, action, argument, int(number) if number else None)


def listen(event: str, facts: tuple[Any, ...]) -> None:
    """An audit hook: do what the environment says where the process gets to the site that it names."""
    if event.startswith("lora_bench.") and (text := os.environ.get(VARIABLE)):
        _reached_site(event.removeprefix("lora_bench."), facts, parse(text))


def _reached_site(site: str, facts: tuple[Any, ...], point: Failpoint) -> None:
    if site not in SITES:
        raise ValueError(f"no failpoint is called {site!r}")
    if site != point.site:
        return
    _reached[site] += 1
    if point.number in (None, _reached[site]) and _first():
        _do(point, facts)


def _first() -> bool:
    """Whether no other process did the action, where only one is to."""
    path = os.environ.get(ONCE)
    if path is None:
        return True
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _do(point: Failpoint, facts: tuple[Any, ...]) -> None:
    match point.action:
        case "nan":
            facts[0]["loss"] = math.nan
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "abort":
            os.abort()
        case "int":
            signal.raise_signal(signal.SIGINT)
        case "term":
            signal.raise_signal(signal.SIGTERM)
        case "hang":
            _hang()
        case "sleep":
            time.sleep(float(point.argument))
        case "out_of_memory":
            import torch  # the process trains, so it is there

            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB (a failpoint)")
        case "raise":
            name, _, number = point.argument.partition(":")
            if number:
                raise _EXCEPTIONS[name](int(number), os.strerror(int(number)))
            raise _EXCEPTIONS[name]("raised by a failpoint")


def _hang() -> None:
    """Do nothing for ever, whatever signal asks for an end."""
    while True:
        time.sleep(3600)
