"""Records as MLflow runs: one experiment a suite, one run a record.

A run's tag `run_id` names its record. Its tag `record_sha256`, written last, shows that the record is complete. So an export
can be repeated: complete runs stay, a record that changed since (by a retry) replaces its run, and an interrupted run is
written again. MLflow's parameters cannot be changed, so replacing is deleting and writing; MLflow keeps deleted runs in its
trash.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from lora_bench.errors import LoraBenchError
from lora_bench.exchange.facts import COMPLETE, RecordFacts, by_suite, not_installed, renew, sentence
from lora_bench.records.record import Record

# Limits of MLflow's API on one call of log_batch, and on the length of a value.
BATCHES = {"metrics": 1000, "params": 100, "tags": 100}
MAX_PARAM, MAX_TAG = 6000, 5000
PAGE = 1000

_NOT_IN_NAMES = re.compile(r"[^\w. :/-]", re.ASCII)


def to_mlflow(records: Sequence[Record], out: str | None = None) -> str:
    """Write *records* to an MLflow tracking store. Return a sentence about what was done.

    *out* is a tracking URI, or the folder of `mlflow.db`; by default `MLFLOW_TRACKING_URI`, then MLflow's own default. Raise
    LoraBenchError if MLflow is not installed, or refuses.
    """
    # An export sends its numbers only to the given store.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        from mlflow import get_tracking_uri
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError:
        raise not_installed("mlflow") from None

    uri = get_tracking_uri() if out is None else _uri(out)
    count: Counter[str] = Counter()
    try:
        client = MlflowClient(tracking_uri=uri)
        for suite, facts in by_suite(records).items():
            count += _export_suite(client, suite, facts)
    except (MlflowException, ImportError, OSError) as error:
        raise LoraBenchError(f"MLflow at {uri} refused: {error}") from error
    return sentence(count, uri)


def _uri(out: str) -> str:
    """Return a tracking URI unchanged, and a folder as the URI of the store in it."""
    if re.match(r"[a-z][a-z+]+:|databricks$", out):
        return out
    folder = Path(out).resolve()
    if any(folder.glob("*/meta.yaml")):  # MLflow wrote stores of files until 3.7
        return folder.as_uri()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'mlflow.db'}"


def _export_suite(client: Any, suite: str, facts: Sequence[RecordFacts]) -> Counter[str]:
    name = _name(suite)
    experiment = client.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment is not None else client.create_experiment(name)
    return renew(
        facts,
        _runs(client, experiment_id),
        tag=lambda run, name: run.data.tags.get(name),
        delete=lambda run: client.delete_run(run.info.run_id),
        write=lambda fact: _write(client, experiment_id, fact),
    )


def _runs(client: Any, experiment_id: str) -> list[Any]:
    found, token = [], None
    while token != "":
        page = client.search_runs([experiment_id], max_results=PAGE, page_token=token)
        found += page
        token = page.token or ""
    return found


def _write(client: Any, experiment_id: str, fact: RecordFacts) -> None:
    from mlflow.entities import Metric, Param, RunTag

    start = _milliseconds(fact.tags.get("started_at"))
    run = client.create_run(experiment_id, start_time=start, tags={"run_id": fact.run_id}, run_name=fact.name)
    run_id = run.info.run_id
    metrics = [Metric(_name(name), value, start, fact.last_step) for name, value in fact.results.items()]
    for step, values in fact.curve:
        # The curve's scores are of the selection split, the record's of the split it names. They are two metrics.
        metrics += [Metric(_name(f"curve_{name}"), value, start, step) for name, value in values.items()]
    params = [Param(_name(name), str(value)[:MAX_PARAM]) for name, value in fact.conditions.items()]
    tags = [RunTag(_name(name), value[:MAX_TAG]) for name, value in fact.tags.items()]
    for kind, items in (("metrics", metrics), ("params", params), ("tags", tags)):
        for first in range(0, len(items), BATCHES[kind]):
            client.log_batch(run_id, **{kind: items[first : first + BATCHES[kind]]})
    seconds = sum(fact.results.get(f"{part}_seconds", 0.0) for part in ("load", "train", "evaluation"))
    end = start + int(1000 * seconds)
    client.set_terminated(run_id, status="FINISHED" if fact.ok else "FAILED", end_time=end)
    client.set_tag(run_id, COMPLETE, fact.sha256)


def _name(name: str) -> str:
    return _NOT_IN_NAMES.sub("_", name)


def _milliseconds(started_at: str | None) -> int:
    """Return the start of a record, or the present time if it is unknown."""
    try:
        return int(datetime.fromisoformat(started_at or "").timestamp() * 1000)
    except ValueError:
        return int(time.time() * 1000)
