"""The options of a command that does runs."""

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lora_bench.errors import LoraBenchError
from lora_bench.util.filenames import file_name


@dataclass(frozen=True)
class Afterwards:
    """Time to keep for one more training after the runs.

    Args:
        seconds: As long as it is likely to take.
        times: It takes no longer than so many times the longest run.
    """

    seconds: float
    times: float


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options for the runs of a suite.

    Args:
        runs: Folder that contains `SUITE/RUN_ID`.
        folder: Folder of the suite's runs, if it is not `RUNS/SUITE` or `RUNS/SUITE/SERIES`.
        workers: Runs at once; 0 does them in this process; None chooses from cores, devices and memory.
        only: Ids of the only runs to do; empty for all.
        retry: Repeat runs that failed, timed out or ran out of memory.
        series: Label of a repeat of the whole suite with its own seeds.
        data_dir: Folder with published data sets in their usual layout.
        minutes: Time after which runs are stopped, to be resumed by the same command; None for no limit.
        afterwards: What these minutes must hold beside the runs; None for nothing.
        slowdowns: How many times its estimate a run takes, by the label of its method, where that was measured.
        timeout: Seconds without progress before a run is ended; 0 for no limit; None follows its estimate.
        pack: Train runs that may share a base model as packs; see `lora_bench.pack`.
        cut: Restrict DeBERTa's relative positions to those rows reach; see `lora_bench.models.deberta_positions`.
        among: Number of processes that do this at once, so that packs leave work for each of them.
        wait: Wait for runs of other processes, and then do the runs that depend on them.
        ray: Address of a Ray cluster that does the runs: HOST:PORT, "auto", or "local" for one of this machine that ends
            with the work. Its nodes must see *runs*, the data and the base models under the same paths.
        continue_from: Runs folder or baseline whose runs are taken as done, and copied with their answers.
        allow_code: Code of the suite that may run, as `NAME@HASH`; see `lora_bench.suite.consent`.

    Raise LoraBenchError if two options contradict each other, or the series is not a valid file name.
    """

    runs: str | Path = "runs"
    folder: Path | None = None
    workers: int | None = None
    only: Collection[str] = ()
    retry: bool = False
    series: str | None = None
    data_dir: Path | None = None
    minutes: float | None = None
    afterwards: Afterwards | None = None
    slowdowns: Mapping[str, float] = field(default_factory=dict)
    timeout: float | None = None
    pack: bool = True
    cut: bool = True
    among: int = 1
    wait: bool = True
    ray: str | None = None
    continue_from: Path | None = None
    allow_code: Collection[str] = ()

    def __post_init__(self) -> None:
        if self.ray is not None and self.workers == 0:
            raise LoraBenchError("--workers 0 trains in this process, and --ray on a cluster; leave one of them out")
        if self.timeout and self.ray is None and in_this_process(self.workers):
            way = "leave it out on Windows" if self.workers != 0 else "use --workers 1 or more"
            raise LoraBenchError(f"--timeout needs worker processes; {way}")
        if self.series is not None:
            try:
                file_name(self.series)
            except ValueError as error:
                raise LoraBenchError(f"--series needs the name of a folder: {error}") from None


def in_this_process(workers: int | None) -> bool:
    """Return True if runs are done in this process, because Windows cannot fork or the user asked for it."""
    return workers == 0 or sys.platform == "win32"
