"""The analysis of the weights that runs kept: `analysis.json` in their folder, the source of its page and a report's section.

ΔW is a run's change of one weight W of a layer, U and V its left and right singular vectors.
"""

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from lora_bench.documents import Strict
from lora_bench.records.sealed_records import read_sealed, sealed
from lora_bench.util.atomic_files import write_atomic
from lora_bench.util.filenames import FileName

SCHEMA = 1
FILE = "analysis.json"

Of = Literal["A", "delta"]


class WeightChange(Strict):
    """The change of one weight in one run.

    Args:
        layer: Index of the layer.
        part: Part of the layer, such as "query".
        shape: Outputs and inputs of W.
        weight_norm: Frobenius norm of W.
        delta_norm: Frobenius norm of ΔW.
        delta_spectral_norm: Largest singular value of ΔW.
        directions: r, the number of directions of ΔW: its rank, at most 64.
        along_delta: Frobenius norm of UᵀWV, over the first r directions of ΔW.
        along_weight: The same over the first r directions of W.
        similarities: For each of the first left singular vectors of W + ΔW the greatest cosine with any of W.
    """

    layer: int
    part: str
    shape: tuple[int, int]
    weight_norm: float
    delta_norm: float
    delta_spectral_norm: float
    directions: int
    along_delta: float
    along_weight: float
    similarities: tuple[float, ...]


class RunChanges(Strict):
    """The changes that one run made.

    Args:
        group: Name of its method, with the size if the method has several.
    """

    run_id: FileName
    group: str
    seed: int | None
    changes: tuple[WeightChange, ...]


class Overlap(Strict):
    """Subspace similarity φ(i, j) of two groups of runs on one part, a mean over layers and pairs of runs.

    Args:
        first: Name of a group; its first i directions are compared.
        second: Name of a group; its first j directions are compared.
        seeds: Seeds of the runs of a pair.
        part: Part of a layer.
        of: Right singular vectors of A, or of ΔW.
        pairs: Number of pairs of runs.
        width: Inputs of the weight: random subspaces have φ(i, j) = max(i, j) / width on average.
        rows: Values of i.
        columns: Values of j.
        similarity: φ for each i and j.
        by_layer: φ of all directions that both have, for each layer.
    """

    first: str
    second: str
    seeds: Literal["same", "different"]
    part: str
    of: Of
    pairs: int
    width: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    similarity: tuple[tuple[float, ...], ...]
    by_layer: tuple[float, ...]

    @property
    def random(self) -> float:
        """The expected φ of all directions of random subspaces."""
        return max(self.rows[-1], self.columns[-1]) / self.width


class ModelChanges(Strict):
    """The changes of one base model on one task.

    Args:
        task: Name of the task.
        model: Name of the base model for readers.
    """

    task: str
    model: str
    runs: tuple[RunChanges, ...]
    overlaps: tuple[Overlap, ...]


class WeightAnalysis(Strict):
    """The analysis of a folder of runs.

    Args:
        suites: Names of their suites.
        models: One for each task and base model.
        left_out: Reason why the runs of a method have no ΔW, by method label.
    """

    model_config = ConfigDict(populate_by_name=True)

    schema_version: int = Field(alias="schema", default=SCHEMA)
    suites: tuple[str, ...]
    models: tuple[ModelChanges, ...]
    left_out: dict[str, str]

    @property
    def run_ids(self) -> set[str]:
        """Ids of all analysed runs."""
        return {run.run_id for model in self.models for run in model.runs}


def write_analysis(analysis: WeightAnalysis, folder: Path) -> Path:
    """Write an analysis into a folder of runs; return its file."""
    write_atomic(folder / FILE, sealed(analysis))
    return folder / FILE


def read_analysis(folder: Path) -> WeightAnalysis | None:
    """Return the analysis in a folder, or None if there is none. Raise BadInput if it is damaged or too new."""
    if not (folder / FILE).is_file():
        return None
    return read_sealed(folder / FILE, WeightAnalysis, SCHEMA, "analysis of weights")


def accept_analysis(runs: Path, baseline: Path) -> Path | None:
    """Copy the analysis of a folder of runs into a baseline, in place of an earlier one; return its file if there is any."""
    analysis = read_analysis(runs)
    if analysis is None:
        (baseline / FILE).unlink(missing_ok=True)
        return None
    return write_analysis(analysis, baseline)
