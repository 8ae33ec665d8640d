"""What `lora-bench probe fleet` measured of one base model that serves many adapters: a file for each model and part.

Speeds are rows a second; seconds are those of the process on a CPU, and of the clock on a GPU.
"""

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from lora_bench.documents import Strict
from lora_bench.records.record import Environment, Said
from lora_bench.records.sealed_records import DamagedRecord, MissingRecord, read_each, read_sealed, sealed
from lora_bench.util.atomic_files import write_atomic
from lora_bench.util.filenames import FileName

SCHEMA = 1
FLEET, PARTS = "fleet", "fleet_parts"

Part = Literal["speed", "latency", "storage", "answers"]
Traffic = Literal["uniform", "zipf"]

WAYS = ("mixed", "PEFT's", "by adapter", "one by one", "base", "merged")
MIXED, PEFTS, BY_ADAPTER, ONE_BY_ONE, BASE, MERGED = WAYS


class FleetSpeed(Strict):
    """Batches of one size, answered in each way: medians over *rounds*, by the name of the way."""

    tokens: int
    active: int
    ranks: tuple[int, ...]
    rows: int
    rounds: int
    rows_per_second: dict[str, float]
    difference: dict[str, float]
    others: dict[str, int]

    def gain(self, *over: str) -> float:
        """Return how many times the speed of a way mixed batches have, by default of the fastest other for several adapters."""
        ways = [way for way in over or (PEFTS, BY_ADAPTER, ONE_BY_ONE) if way in self.rows_per_second]
        return self.rows_per_second[MIXED] / max(self.rows_per_second[way] for way in ways)


class ProductSpeed(Strict):
    """Seconds of the first product of LoRA, of a row's tokens with the weights of its adapter, by the way to compute it."""

    tokens: int
    active: int
    seconds: dict[str, float]


class Exactness(Strict):
    """Answers compared with those of the lone adapter: the greatest difference of a logit, and rows with another label."""

    difference: float
    others: int


class FleetLatency(Exactness):
    """Seconds from a request's arrival to its answer; null where more than *behind* requests came to wait, so none is typical.

    *share* is that of the rate at which the base model answers full batches, as measured by this process.
    """

    traffic: Traffic
    way: str
    share: float
    arrivals_per_second: float
    requests: int
    behind: int
    p50: float | None
    p90: float | None
    p99: float | None


class HitRate(Strict):
    """Share of requests whose adapter is among the *slots* last used."""

    traffic: Traffic
    slots: int
    rate: float


class FleetStorage(Exactness):
    """Bytes and seconds of one of *stored* adapters, of which *slots* are on the model.

    Of the process an adapter takes *layer_bytes* in the model's layers, and *waiting_bytes* as tensors that wait in memory.
    """

    stored: int
    slots: int
    file_bytes: int
    tensor_bytes: int
    layer_bytes: int
    waiting_bytes: int
    modules: int
    activate_seconds: float
    load_seconds: float
    delete_seconds: float
    swap_seconds: float
    request_seconds: float
    first_from_file_seconds: float
    first_from_memory_seconds: float
    hit_rates: tuple[HitRate, ...]


class FleetAnswers(Exactness):
    """Rows of mixed batches over adapters of unequal ranks, each compared."""

    rows: int
    adapters: int
    ranks: tuple[int, ...]


class FleetRecord(Strict):
    """One part of the measurements of one base model."""

    model_config = ConfigDict(populate_by_name=True)

    schema_version: int = Field(alias="schema", default=SCHEMA)
    model: FileName
    part: Part
    command: Said = "lora-bench probe fleet"
    environment: Environment
    speeds: tuple[FleetSpeed, ...] = ()
    products: tuple[ProductSpeed, ...] = ()
    latencies: tuple[FleetLatency, ...] = ()
    storage: FleetStorage | None = None
    answers: FleetAnswers | None = None


def fleet_file(folder: Path, model: str, part: Part) -> Path:
    """Return the file of one part of one model."""
    return folder / PARTS / f"{model}-{part}.json"


def has_part(folder: Path, model: str, part: Part) -> bool:
    """Return True if a part is measured and its file is whole."""
    try:
        return bool(read_fleet_part(fleet_file(folder, model, part)))
    except (DamagedRecord, MissingRecord):
        return False


def fleets_in(folder: Path) -> dict[str, Path]:
    """Return the folders with fleets by name: this one, or else those in it."""
    folders = [folder] if (folder / PARTS).is_dir() else sorted(path.parent for path in folder.glob(f"*/{PARTS}"))
    return {path.absolute().name: path for path in folders if any((path / PARTS).glob("*.json"))}


def read_fleet_part(file: Path) -> FleetRecord:
    """Read one part. Raise BadInput as `read_sealed` does."""
    return read_sealed(file, FleetRecord, SCHEMA, "fleet record")


def read_fleet(folder: Path) -> list[FleetRecord]:
    """Read the parts in a folder, by file name; none where there is no fleet."""
    return read_each(sorted((folder / PARTS).glob("*.json")), read_fleet_part)


def write_fleet_part(folder: Path, record: FleetRecord) -> None:
    """Write one part."""
    write_atomic(fleet_file(folder, record.model, record.part), sealed(record))
