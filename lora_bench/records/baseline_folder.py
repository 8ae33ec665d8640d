"""Keep the records of a suite as a baseline, and make a runs folder of a baseline again.

    baselines/<suite>/suite.yaml          the suite
                      runs.json           the records of its runs: see `lora_bench.records.sealed_records`
                      answers.jsonl.xz    their predictions and probabilities: see `lora_bench.records.answers_file`
                      probes.json         the records of its probes
                      analysis.json       the analysis of the weights that the runs kept

Generated texts stay in the runs folder: they repeat the data set, whose licence may forbid redistribution.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.records.answers_file import Kept, read_answers, write_answers
from lora_bench.records.layout import ANSWERS_FILE, PREDICTIONS, PROBABILITIES, PROBES_FILE, RECORD, RUNS_FILE
from lora_bench.records.probe_record import ProbeRecord
from lora_bench.records.probe_store import PROBES, has_probes, probe_files, read_probes
from lora_bench.records.record import Record
from lora_bench.records.sealed_records import MAX_RECORD_BYTES, contents, write_many
from lora_bench.records.store import RunFolder, files_in, has_records, is_baseline, read_records
from lora_bench.records.weight_analysis import accept_analysis
from lora_bench.util.atomic_files import write_atomic, write_once
from lora_bench.util.regular_files import read_regular
from lora_bench.util.sealed_json import SEAL, seal, unseal


@dataclass(frozen=True)
class StoredRuns:
    """The runs of a runs folder or a baseline, to be kept elsewhere byte for byte."""

    folder: Path

    @cached_property
    def records(self) -> dict[str, Record]:
        """The records by run id."""
        return {record.run_id: record for record in read_records(self.folder)}

    @cached_property
    def plain(self) -> dict[str, dict[str, Any]]:
        """The records by run id as plain data, without seals."""
        if is_baseline(self.folder):
            return {one["run_id"]: _without_seal(one) for one in contents(self.folder / RUNS_FILE)}
        return {run_id: _plain(self.folder / run_id / RECORD) for run_id in self.records}

    @cached_property
    def answers(self) -> list[Kept]:
        """The answers of all runs. Raise LoraBenchError if some are missing, or do not match their record."""
        return [answers for record in self.records.values() for answers in self._answers_of(record)]

    def copy(self, run_id: str, to: RunFolder) -> bool:
        """Copy a run with its answers, unless it is there or another process has it. Return True if it was copied."""
        lock = to.try_lock()
        if lock is None:
            return False
        with lock:
            if to.record() is not None:
                return False
            for _, name, content in self._answers_of(self.records[run_id]):
                write_atomic(to.path / name, content)
            return write_once(to.path / RECORD, seal(self.plain[run_id]))

    def _answers_of(self, record: Record) -> Iterator[Kept]:
        for named in (record.predictions, record.probabilities):
            if named is not None and named.file in (PREDICTIONS, PROBABILITIES):
                content = self._file_of(record.run_id, named)
                if content is None:
                    file = self.folder / record.run_id / named.file
                    raise LoraBenchError(f"{file} is missing or does not match its record; run {record.run_id} again")
                yield Kept(record.run_id, named.file, content)

    @cached_property
    def _file_of(self) -> Any:
        return files_in(self.folder)


def accept(source: Path, baseline: Path) -> list[Record]:
    """Keep the records of a runs folder or a baseline, with their answers, as a baseline, replacing those in it.

    Interrupted at any moment, the baseline has whole records with their answers, the old or the new ones; the same command
    completes it. Raise LoraBenchError if there are no records, or predictions are missing or do not match their record.
    """
    stored, file = StoredRuns(source), baseline / ANSWERS_FILE
    plain, answers = stored.plain, stored.answers
    earlier: Iterable[Kept] = ()
    with contextlib.suppress(BadInput):  # damaged answers are replaced
        earlier = read_answers(file).values() if file.is_file() else ()
    if earlier or answers:
        write_answers(file, [*earlier, *answers])
    write_many(baseline / RUNS_FILE, plain.values())
    if answers:
        write_answers(file, answers)
    else:
        file.unlink(missing_ok=True)
    return list(stored.records.values())


def accept_probes(source: Path, baseline: Path) -> list[ProbeRecord]:
    """Keep the probe records of a runs folder or a baseline in a baseline, replacing those in it."""
    records = read_probes(source)
    kept = source / PROBES_FILE
    plain = list(map(_without_seal, contents(kept))) if kept.is_file() else list(map(_plain, probe_files(source)))
    write_many(baseline / PROBES_FILE, plain)
    return records


def keep_baseline(source: Path, baseline: Path) -> list[str]:
    """Keep all records of a folder, with their answers, which must be there, as a baseline. Return a sentence a file."""
    said = []
    if has_records(source) or not has_probes(source):
        said.append(f"{len(accept(source, baseline))} records in {baseline / RUNS_FILE}")
        if (analysis := accept_analysis(source, baseline)) is not None:
            said.append(f"the analysis of their weights in {analysis}")
    if has_probes(source):
        said.append(f"{len(accept_probes(source, baseline))} records in {baseline / PROBES_FILE}")
    return said


def make_runs_folder(source: Path, runs: Path) -> list[str]:
    """Write the records of a baseline as a runs folder, in which `run` continues. Return a sentence about each kind.

    Records that are in the folder stay as they are. Raise LoraBenchError if there are none, or the folder is a baseline itself.
    """
    if (runs / RUNS_FILE).exists() or (runs / PROBES_FILE).exists():
        raise LoraBenchError(f"{runs} is a baseline; name another folder for the runs with --out")
    said = []
    if has_records(source) or not has_probes(source):
        stored = StoredRuns(source)
        copied = [run_id for run_id in stored.records if stored.copy(run_id, RunFolder(runs / run_id))]
        said.append(f"{len(copied)} of {len(stored.records)} records in {runs}")
        if (analysis := accept_analysis(source, runs)) is not None:
            said.append(f"the analysis of their weights in {analysis}")
    if has_probes(source):
        for probe, plain in zip(read_probes(source), contents(source / PROBES_FILE), strict=True):
            write_once(runs / PROBES / f"{probe.run_id}.json", seal(_without_seal(plain)))
        said.append(f"{len(probe_files(runs))} records in {runs / PROBES}")
    return said


def _plain(file: Path) -> dict[str, Any]:
    return unseal(read_regular(file, MAX_RECORD_BYTES))[0]


def _without_seal(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != SEAL}
