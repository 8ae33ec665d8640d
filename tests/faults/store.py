"""What a runs folder holds, for comparison with another's, and what it must not hold."""

import re
from pathlib import Path

from lora_bench.records.store import read_records

# When and where a run ran, and how often it was begun.
VARIES = {"speed", "memory", "started_at", "attempts", "resumed", "environment"}


def content_of(project: Path) -> dict[str, dict]:
    """What the records of a project say that must not depend on when and how often they were begun."""
    return {record.run_id: record.model_dump(exclude=VARIES) for record in read_records(project / "runs" / "tickets")}


def half_written(project: Path) -> list[str]:
    """Temporary files, which a process that was killed leaves and the next one takes away."""
    runs = project / "runs"
    return [str(path.relative_to(runs)) for path in runs.rglob("*") if re.match(r"\.|.*\.tmp", path.name)]
