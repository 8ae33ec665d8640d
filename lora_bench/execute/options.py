"""The options of a command that does runs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lora_bench.errors import LoraBenchError
from lora_bench.execute.executors.choice import in_this_process
from lora_bench.util.filenames import file_name


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How the runs of a suite are done.

    Args:
        runs: The folder that holds `SUITE/RUN_ID`.
        folder: The folder of the suite's runs, where it is not `RUNS/SUITE` or `RUNS/SUITE/SERIES`.
        workers: Runs at once; 0 does them in this process; None chooses from cores, devices and memory.
        only: Run ids to do, and no others; empty for all.
        retry: Do runs again that failed, timed out or ran out of memory.
        series: Label of a repeat of the whole suite with seeds of its own.
        data_dir: Folder that holds data sets in the layout in which they circulate.
        timeout: Seconds that a run may make no progress before it is ended; 0 for any time; None follows its estimate.
        pack: Whether runs that may share a base take their steps together; see `lora_bench.pack`.
        cut: Whether DeBERTa's relative positions are cut to what rows reach; see `lora_bench.models.deberta_positions`.
        among: How many processes do this at once, so that packs leave each of them something to do.
        wait: Whether to wait for runs that others are at, and to do what is known then.
        ray: Address of a Ray cluster that does the runs: HOST:PORT, "auto", or "local" for one of this machine that ends
            with the work. Its nodes see *runs*, the data and the base models under the same paths.
        allow_code: Code of the suite that may run, as `NAME@HASH`; see `lora_bench.suite.consent`.

    Raises:
        LoraBenchError: If two of them contradict each other, or the series is no file name.
    """

    runs: str | Path = "runs"
    folder: Path | None = None
    workers: int | None = None
    only: Collection[str] = ()
    retry: bool = False
    series: str | None = None
    data_dir: Path | None = None
    timeout: float | None = None
    pack: bool = True
    cut: bool = True
    among: int = 1
    wait: bool = True
    ray: str | None = None
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
