"""Records as runs of Trackio: one project a suite, one run a record, in Trackio's local store.

A run's config has the record's `run_id`, and a `record_sha256` that shows what is already exported: a record that changed since
replaces its run. Trackio writes in the background and only warns of failures, so every run is read back.
"""

import contextlib
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_bench.errors import LoraBenchError
from lora_bench.exchange.facts import COMPLETE, RecordFacts, by_suite, not_installed, renew, sentence
from lora_bench.records.record import Record

ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


def to_trackio(records: Sequence[Record], out: str | None = None) -> str:
    """Write *records* to Trackio's local store, in the folder *out*, `TRACKIO_DIR` or Trackio's own. Return a sentence.

    Raise LoraBenchError if Trackio is not installed, is set to log elsewhere, or lost a run.
    """
    for name in ELSEWHERE:
        if os.environ.get(name):
            raise LoraBenchError(
                f"{name} is set, and an export goes to Trackio's local store; unset it, then `trackio sync`"
            )
    if out is not None:
        os.environ["TRACKIO_DIR"] = str(Path(out).resolve())  # Trackio reads it once, at its import
    try:
        import trackio
        from trackio.utils import TRACKIO_DIR
    except ImportError:
        raise not_installed("trackio") from None
    if out is not None and Path(TRACKIO_DIR) != Path(out).resolve():
        raise LoraBenchError(
            f"this process already uses Trackio's store in {TRACKIO_DIR}; export to {out} from another process"
        )

    count: Counter[str] = Counter()
    try:
        for suite, facts in by_suite(records).items():
            count += _export_suite(trackio, suite, facts)
    except ValueError as error:
        raise LoraBenchError(f"Trackio refused: {error}") from error
    return sentence(count, str(TRACKIO_DIR))


def _runs(trackio: Any, project: str) -> list[Any]:
    try:
        return list(trackio.Api().runs(project))
    except ValueError:  # no such project yet
        return []


def _export_suite(trackio: Any, project: str, facts: Sequence[RecordFacts]) -> Counter[str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # Trackio prints three lines a run
        count = renew(
            facts,
            _runs(trackio, project),
            tag=_tag,
            delete=lambda run: run.delete(),
            write=lambda fact: _write(trackio, project, fact),
        )
    kept = {_tag(run, COMPLETE) for run in _runs(trackio, project)}
    lost = [fact.run_id for fact in facts if fact.sha256 not in kept]
    if lost:
        raise LoraBenchError(f"Trackio did not keep {', '.join(lost)}; it said: {said.getvalue().strip()}")
    return count


def _tag(run: Any, name: str) -> Any:
    return (run.config or {}).get(name)


def _write(trackio: Any, project: str, fact: RecordFacts) -> None:
    config = {**fact.conditions, **fact.tags, COMPLETE: fact.sha256}
    run = trackio.init(
        project=project,
        name=fact.name,
        config={name: value for name, value in config.items() if not name.startswith("_")},
        # The present load of this machine says nothing about the run.
        auto_log_gpu=False,
        auto_log_cpu=False,
        embed=False,
    )
    for step, values in fact.curve:
        run.log({f"curve_{name}": value for name, value in values.items()}, step=step)
    run.log(dict(fact.results), step=fact.last_step)
    trackio.finish()
