"""Everything that a GPU has to show, in one command: tests, benchmarks and probes, and a page that names the card.

    tox -e gpu                              at most 40 minutes
    python -m benchmarks.on_a_card          the same, with the packages that are installed

The parts are the tests marked `gpu`, three benchmarks and the probes of `system-claims-gpu`. Base models have the shape of
RoBERTa-base with random weights, or are made from the package index, so no hub is asked. Each part that ends leaves its outcome
in the folder (`runs/card`), with what it printed; a part that the time or a signal stops leaves nothing that counts, but the
probes go on where they were. So the same command does what is missing, and nothing twice.

Exit codes are lora_bench's: 0 if every part is done and well, 2 without a card, 3 if a part failed or is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from lora_bench.cli.help import BAD_INPUT, DONE, SOME_FAILED
from lora_bench.records.environment import described_devices, driver_version
from lora_bench.util.redaction import without_secrets
from lora_bench.util.signals import CODES, Stopped, ending_on_signals

ROOT = Path(__file__).parents[1]
MINUTES = 40.0
NO_CARD = "no CUDA device: torch finds none here, and all that this command does needs one"
# `lora-bench probe` ends with a report when it is asked to stop; what takes longer is killed.
STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Part:
    """One command.

    Args:
        name: Its name in files and on the page.
        command: Its arguments, after those of Python.
        minutes: After which it is stopped, or earlier if less time is left.
        shown: What the page shows of it: "page" for Markdown that it prints, "end" for its last lines.
    """

    name: str
    command: tuple[str, ...]
    minutes: float = MINUTES
    shown: Literal["page", "end"] = "page"


def parts(out: Path, processes: int) -> list[Part]:
    """The parts, in order. The probes come last: what time is left is theirs, and they go on where they were.

    Args:
        out: Folder of results, from the project's folder on.
        processes: Fresh processes for each cell of the probes; two are the fewest that give a noise floor.
    """
    probes = ("-m", "lora_bench.cli", "probe", "system-claims-gpu", "--runs", str(out), "--processes", str(processes))
    sweep = ("--model", "shape:roberta-base", "--runs", "40", "--loop", "5", "--workers", "1", "--bfloat16")
    return [
        Part("tests", ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu"), 8, "end"),
        Part("packing", ("-m", "benchmarks.packing", *sweep, "--out", str(out / "sweep-gpu.md")), 9),
        Part("levers", ("-m", "benchmarks.levers", "--shape", "base", "--compile"), 5),
        Part("packed_scores", ("-m", "benchmarks.packed_scores"), 4),
        Part("probes", probes, shown="end"),
    ]


@dataclass(frozen=True)
class Outcome:
    """How a part went.

    Args:
        card: Name of the card.
        command: What was done.
        code: Exit code; none if it was stopped.
        seconds: It took.
    """

    card: str
    command: list[str]
    code: int | None
    seconds: float

    @property
    def said(self) -> str:
        """The outcome in words."""
        if self.code is None:
            return "stopped; the same command goes on"
        return "done" if self.code == 0 else f"failed: exit code {self.code}"


class Folder:
    """Results of one card.

    Args:
        path: Where they are.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def outcome(self, part: Part) -> Outcome | None:
        """How a part went, or None if it was never tried with this command."""
        path = self.path / f"{part.name}.json"
        if not path.exists():
            return None
        found = Outcome(**json.loads(path.read_text(encoding="utf-8")))
        return found if found.command == list(part.command) else None

    def keep(self, part: Part, outcome: Outcome) -> None:
        """Keep how a part went."""
        text = json.dumps(dataclasses.asdict(outcome), indent=2)
        (self.path / f"{part.name}.json").write_text(text + "\n", encoding="utf-8")

    def other_card(self, card: str) -> str | None:
        """The card whose results are here already, if it is another."""
        cards = {json.loads(path.read_text(encoding="utf-8"))["card"] for path in self.path.glob("*.json")}
        return next(iter(sorted(cards - {card})), None)

    def printed(self, part: Part, stream: Literal["out", "err"]) -> Path:
        """File of what a part prints."""
        return self.path / f"{part.name}.{stream}"


def do(part: Part, folder: Folder, card: str, seconds: float) -> Outcome:
    """Do a part, and keep how it went. It is stopped after so many seconds.

    Raises:
        Stopped: If a signal ended it.
    """
    began = time.monotonic()
    code, stopped = None, None
    with folder.printed(part, "out").open("wb") as out, folder.printed(part, "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, *part.command], cwd=ROOT, stdout=out, stderr=err, stdin=subprocess.DEVNULL,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            end(process)
        except Stopped as stop:
            end(process)
            stopped = stop
    outcome = Outcome(card, list(part.command), code, round(time.monotonic() - began, 1))
    folder.keep(part, outcome)
    if stopped is not None:
        raise stopped
    return outcome


def end(process: subprocess.Popen[bytes]) -> None:
    """End a part and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)


def page(wanted: Sequence[Part], folder: Folder, card: str) -> str:
    """What the card has shown so far, as Markdown."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "peft"))
    lines = [f"# What {card} shows", "", f"{card}, driver {driver_version() or 'unknown'}; {versions}.", ""]
    lines += ["| part | outcome | minutes |", "| :-- | :-- | --: |"]
    outcomes = {part: outcome for part in wanted if (outcome := folder.outcome(part)) is not None}
    for part in wanted:
        found = outcomes.get(part)
        lines.append(
            f"| {part.name} | {found.said if found else 'missing'} | {found.seconds / 60 if found else 0:.1f} |"
        )
    for part, found in outcomes.items():
        lines += ["", f"## {part.name}", "", f"`python {' '.join(part.command)}`", ""]
        text = folder.printed(part, "out").read_text(encoding="utf-8", errors="replace").strip()
        if part.shown == "page" and found.code == 0:
            lines.append(text)
            continue
        if found.code != 0:
            text += "\n" + folder.printed(part, "err").read_text(encoding="utf-8", errors="replace").strip()
        lines += ["```text", *text.splitlines()[-20:], "```"]
    text = without_secrets("\n".join(lines) + "\n")
    return text.replace(str(ROOT), ".").replace(str(Path.home()), "~")


def do_all(wanted: Sequence[Part], folder: Folder, card: str, minutes: float, *, retry: bool = False) -> int:
    """Do the parts that are missing, as far as the time goes. Return the exit code.

    Args:
        wanted: The parts.
        folder: Their results.
        card: Name of the card.
        minutes: Time for all of them.
        retry: Do those that failed again, too.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    other = folder.other_card(card)
    if other is not None:
        print(f"{folder.path} has results of {other}, and this card is {card}: give another --out", file=sys.stderr)
        return BAD_INPUT
    until = time.monotonic() + 60 * minutes
    try:
        with ending_on_signals():
            for part in wanted:
                before = folder.outcome(part)
                if before is not None and before.code is not None and not (retry and before.code):
                    print(f"{part.name}: {before.said} before", flush=True)
                    continue
                left = until - time.monotonic()
                if left <= 0:
                    break
                print(f"{part.name}: …", flush=True)
                print(f"{part.name}: {do(part, folder, card, min(left, 60 * part.minutes)).said}", flush=True)
    except Stopped as stop:
        return CODES[stop.name]
    finally:
        (folder.path / "card.md").write_text(page(wanted, folder, card), encoding="utf-8")
    outcomes = [folder.outcome(part) for part in wanted]
    print(f"results: {folder.path / 'card.md'}")
    if any(outcome is None or outcome.code is None for outcome in outcomes):
        print("not all is done: give the same command again")
    return DONE if all(outcome is not None and outcome.code == 0 for outcome in outcomes) else SOME_FAILED


def main(arguments: Sequence[str] | None = None) -> int:
    """Do everything, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "card", help="folder of results")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for this call")
    parser.add_argument("--processes", type=int, default=2, help="for each cell of the probes")
    parser.add_argument("--retry", action="store_true", help="parts that failed, too")
    given = parser.parse_args(arguments)
    cards = described_devices()
    if not cards:
        print(NO_CARD, file=sys.stderr)
        return BAD_INPUT
    # Parts run in the project's folder; a short path shows nothing of the machine.
    out = Path(os.path.relpath(given.out, ROOT))
    # The last minute is for a part that ends slowly, and for the page.
    wanted = parts(out, given.processes)
    return do_all(wanted, Folder(ROOT / out), cards[0].name, given.minutes - 1, retry=given.retry)


if __name__ == "__main__":
    sys.exit(main())
