"""Random kills over every kind of suite: does a folder that was disturbed come to hold what an undisturbed one holds?

    python -m benchmarks.kills --kills 200 --out reports/kills.md    rounds of each kind in turn, until 200 signals have hit
    python -m benchmarks.kills --minutes 20                          as many rounds as the time allows
    python -m benchmarks.kills --only trials twins --seed 7          of these kinds, with another draw
    python -m benchmarks.kills --rounds 1                            one of each: shows that it runs
    python -m benchmarks.kills --kills 200 --out kills.md --resume   goes on from the page of a command that was cut off

In a round up to nine signals hit the command, the process that forks workers, or a worker, each at a random moment: SIGKILL,
SIGTERM or SIGINT, or once a round SIGSEGV. A command that has ended is started again before the next signal, until one ends
with 0. Then the same command is given until it ends with 0, from the second time on with --retry: a run that crashed is done
again only where that is asked for. The folder must then hold the choices, runs and scores of an undisturbed one. Models are
tiny; all processes are real. With Ray, each command starts a cluster of its own on this machine; its processes are among those
hit.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import random
import re
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from lora_bench.records.probe_store import read_probes
from lora_bench.records.store import read_records, record_files
from tests.choosing import SUITES, write_choosing
from tests.faults.forge import Command, Forge

PROBES = """\
suite: tickets
models: [base]
methods: [full, lora]
cell: {batch_size: 2, length: 8, threads: 1}
probe: {processes: 2, latency: [[1, 8]], seconds: 0.1}
"""
RUN = ("run", "tickets.yaml", "--quiet")
MOST_KILLS = 9
MOST_SECONDS_TO_BEGIN = 120.0
# A command that does not complete a folder in so many tries has failed.
MOST_COMMANDS = 8


@dataclass(frozen=True)
class Kind:
    """A kind of suite.

    Args:
        suite: Its file.
        argv: The command.
        commands: How many commands work on the folder at once.
    """

    suite: str
    argv: tuple[str, ...] = (*RUN, "--workers", "2")
    commands: int = 1


KINDS = {
    "trials": Kind(SUITES["trials"]),
    "halving": Kind(SUITES["halving"]),
    "starts": Kind(SUITES["starts"]),
    "packs": Kind(SUITES["packs"], (*RUN, "--workers", "1")),
    "seeds": Kind(SUITES["seeds"].replace("at_most: 8", "at_most: 4")),
    "twins": Kind(SUITES["trials"], (*RUN, "--workers", "1"), commands=2),
    "probes": Kind(PROBES, ("probe", "tickets.yaml", "--quiet", "--share")),
    "ray": Kind(SUITES["trials"], (*RUN, "--ray", "local", "--workers", "1")),
}


@dataclass
class Tally:
    """What the rounds of a kind came to."""

    rounds: int = 0
    commands: int = 0
    signals: int = 0
    aside: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass
class Tallies:
    """What all rounds came to, by kind, and the signals by name, such as "SIGKILL to a worker"."""

    kinds: dict[str, Tally]
    signals: Counter[str] = field(default_factory=Counter)


def content(project: Path) -> dict[str, Any]:
    """What a folder says that must not depend on kills: each run, and its status and scores; probes without their times."""
    folder = project / "runs" / "tickets"
    found: dict[str, Any] = {
        record.run_id: (record.status, record.spec.training.learning_rate, record.scores)
        for record in (read_records(folder) if record_files(folder) else [])
    }
    return found | {f"probe {record.run_id} {record.repeat}": record.status for record in read_probes(folder)}


def alive(process: psutil.Process) -> bool:
    """Whether a signal still reaches a process: one that has ended stays listed until its parent asks for its exit code."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def victims(command: int) -> dict[str, list[psutil.Process]]:
    """The living processes of a command by their part; parts without any are left out."""
    found: dict[str, list[psutil.Process]] = {"command": [], "server": [], "worker": []}
    try:
        found["command"].append(psutil.Process(command))
        for child in found["command"][0].children():
            found["server"].append(child)
            found["worker"] += child.children()
    except psutil.NoSuchProcess:
        pass
    living = {part: [one for one in processes if alive(one)] for part, processes in found.items()}
    return {part: processes for part, processes in living.items() if processes}


def disturb(
    draw: random.Random, commands: Sequence[Command], seconds: float, signals: Counter[str], *, crash: bool
) -> bool:
    """Send a signal to a process at a random moment; whether it was one that looks like a crash."""
    time.sleep(draw.uniform(0, seconds))
    command = draw.choice(commands)
    part = draw.choice(["command", "server", "worker", "worker"])
    # A command that still plans has no worker yet; one whose cluster died may get none.
    end = time.monotonic() + MOST_SECONDS_TO_BEGIN
    while part not in (parts := victims(command.pid)):
        if not parts or time.monotonic() > end:
            return False
        time.sleep(0.05)
    name = draw.choice(
        ["SIGKILL", "SIGKILL", "SIGTERM", "SIGINT", *(["SIGSEGV"] if crash and part == "worker" else [])]
    )
    # The command tells its server what to do, which heeds no signal that can be heeded.
    number = signal.Signals["SIGKILL" if part == "server" else name]
    try:
        draw.choice(parts[part]).send_signal(number)
    except psutil.NoSuchProcess:
        return False
    signals[f"{number.name} to a {part}"] += 1
    return number == signal.SIGSEGV


def one_round(
    forge: Forge,
    kind: Kind,
    template: Path,
    place: Path,
    whole: dict[str, Any],
    seconds: float,
    seed: str,
    tally: Tally,
    signals: Counter[str],
) -> None:
    """Disturb a folder, complete it, and note in what it differs from *whole*."""
    draw = random.Random(seed)
    hit = signals.total()
    project = Path(shutil.copytree(template, place))
    crash = True
    commands: list[Command] = []
    for _ in range(draw.randint(1, MOST_KILLS)):
        ended = [command for command in commands if not victims(command.pid)]
        commands = [command for command in commands if command not in ended]
        if 0 in [command.wait() for command in ended]:
            break
        for _ in range(kind.commands - len(commands)):
            commands.append(forge.start(project, *kind.argv))
            tally.commands += 1
        # Half of what is left: a later moment is soon after the end, and the next signals come later anyway.
        missing = 1 - len(record_files(project / "runs" / "tickets")) / len(whole)
        crash = not disturb(draw, commands, max(0.1, missing / 2) * seconds, signals, crash=crash) and crash
    for command in commands:
        command.wait()
    codes = []
    while len(codes) < MOST_COMMANDS and codes[-1:] != [0]:
        last = forge.start(project, *kind.argv, *(["--retry"] if codes else []))
        codes.append(last.wait())
        tally.commands += 1
    tally.rounds += 1
    tally.signals += signals.total() - hit
    tally.aside += len(list(project.glob("runs/tickets/*/superseded.json")))
    if codes[-1] != 0:
        tally.faults.append(f"{seed}: the last command ended with {codes[-1]}: {last.output.strip()[-300:]}")
    found = content(project)
    if found != whole:
        keys = sorted(key for key in {*found, *whole} if found.get(key) != whole.get(key))
        told = "; ".join(f"{key}: {found.get(key)} for {whole.get(key)}" for key in keys[:3])
        tally.faults.append(f"{seed}: {len(keys)} differ: {told}")
    left = [str(path.name) for path in (project / "runs").rglob("*") if re.match(r"\.|.*\.tmp", path.name)]
    if left:
        tally.faults.append(f"{seed}: half-written files are left: {left}")
    shutil.rmtree(project)


def measure(
    kinds: Sequence[str],
    seed: int,
    *,
    rounds: float,
    kills: float,
    minutes: float,
    tell: Callable[[Tallies], None],
    tallies: Tallies | None = None,
) -> Tallies:
    """Do the rounds, the kinds in turn, until a limit is met; *tell* gets what each turn came to.

    *tallies* is what earlier rounds came to, none by default.
    """
    tallies = tallies or Tallies({name: Tally() for name in kinds})
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        forge = Forge(folder)
        try:
            undisturbed = {}
            for kind in kinds:
                template = folder / kind / "template"
                write_choosing(template, KINDS[kind].suite)
                project = Path(shutil.copytree(template, folder / kind / "whole"))
                began = time.monotonic()
                command = forge.start(project, *KINDS[kind].argv)
                assert command.wait() == 0, command.output
                whole = content(project)
                assert {status if isinstance(status, str) else status[0] for status in whole.values()} == {"ok"}, whole
                undisturbed[kind] = (template, whole, time.monotonic() - began)
            number = min(tally.rounds for tally in tallies.kinds.values())
            while number < rounds and tallies.signals.total() < kills and time.monotonic() < end:
                number += 1
                for kind, (template, whole, seconds) in undisturbed.items():
                    place = folder / kind / str(number)
                    told = f"{kind} {seed}.{number}"
                    try:
                        tally = tallies.kinds[kind]
                        one_round(forge, KINDS[kind], template, place, whole, seconds, told, tally, tallies.signals)
                    except AssertionError as error:  # a command that does not end
                        tally.faults.append(f"{told}: {str(error)[-300:]}")
                tell(tallies)
            left = forge.left_behind()
            if left:
                tallies.kinds[kinds[-1]].faults.append(f"these processes outlived all commands: {left}")
        finally:
            forge.close()
    return tallies


def read_page(text: str) -> Tallies:
    """What the rounds of a page came to."""
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| \d+ \|$", text, re.MULTILINE)
    kinds = {
        name: Tally(int(rounds), int(commands), int(hit), int(aside)) for name, rounds, commands, hit, aside in rows
    }
    for name, fault in re.findall(r"^\* ((\w+) \d+\.\d+: .*)$", text, re.MULTILINE):
        kinds[fault].faults.append(name)
    (said,) = re.findall(r"^Signals: (.*)\.$", text, re.MULTILINE)
    return Tallies(kinds, Counter({name: int(count) for count, name in re.findall(r"(\d+) ([^,]+)", said)}))


def page(tallies: Tallies, seed: int, skipped: Sequence[str]) -> str:
    """The page: a row for each kind, and every round that went wrong."""
    total = sum(tally.rounds for tally in tallies.kinds.values())
    faults = [fault for tally in tallies.kinds.values() for fault in tally.faults]
    signals = tallies.signals
    lines = [
        "# Random kills",
        "",
        f"In {total} rounds over {len(tallies.kinds)} kinds of suite, {signals.total()} signals hit a process at a random "
        f"moment. {'Every folder' if not faults else f'All folders but {len(faults)}'} came to hold the choices, runs and "
        "scores of an undisturbed one.",
        "",
        f"Made by `python -m benchmarks.kills` with seed {seed}; its docstring says what a round is.",
        "",
        "| kind | rounds | commands | signals | records set aside | folders that differ |",
        "| --- | --: | --: | --: | --: | --: |",
        *(
            f"| {name} | {tally.rounds} | {tally.commands} | {tally.signals} | {tally.aside} | {len(tally.faults)} |"
            for name, tally in tallies.kinds.items()
        ),
        "",
        "Signals: " + ", ".join(f"{count} {name}" for name, count in sorted(signals.items())) + ".",
    ]
    if skipped:
        lines += ["", f"Not run, since its package was not installed: {', '.join(skipped)}."]
    if faults:
        lines += ["", "## Rounds that went wrong", "", *(f"* {fault}" for fault in faults)]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="of each kind")
    parser.add_argument("--kills", type=int, help="until so many signals have hit")
    parser.add_argument("--minutes", type=float, help="for so long")
    parser.add_argument("--only", nargs="+", choices=sorted(KINDS), default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, help="the page, written anew after each turn; printed at the end by default"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the page --out")
    given = parser.parse_args(arguments)
    earlier = read_page(given.out.read_text(encoding="utf-8")) if given.resume else None
    skipped = [name for name in given.only if name == "ray" and importlib.util.find_spec("ray") is None]
    kinds = [name for name in given.only if name not in skipped]
    limits = {name: getattr(given, name) for name in ("rounds", "kills", "minutes")}
    if set(limits.values()) == {None}:
        limits["rounds"] = 25

    def tell(tallies: Tallies) -> None:
        if given.out is not None:
            given.out.write_text(page(tallies, given.seed, skipped), encoding="utf-8")

    tallies = measure(
        kinds if earlier is None else list(earlier.kinds),
        given.seed,
        **{name: math.inf if limit is None else limit for name, limit in limits.items()},
        tell=tell,
        tallies=earlier,
    )
    tell(tallies)
    if given.out is None:
        print(page(tallies, given.seed, skipped), end="")


if __name__ == "__main__":
    main()
