"""A paper's claims about the cost of methods, as facts in a file beside the suite that measures it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from lora_bench.documents import Strict, read_yaml, validate
from lora_bench.util.paths import folders

FILE = "claims.yaml"

Quantity = Literal[
    "trained_weights", "step_memory", "stored_weights", "step_speed", "merged_latency", "adapted_latency", "task_switch",
    "hundred_tasks",
]  # fmt: skip


class Claim(Strict):
    """A claim of a paper.

    Args:
        quantity: The quantity that is claimed to be small, or large.
        where: Place in the paper.
        of: The model or setting that the paper measured.
        printed: The claim in the paper's numbers.
        model: Name of the base model that the claim is of, if it is compared with one alone.
        method: Label of the method, likewise.
        shape: Batch size and length of a forward pass, likewise.
    """

    quantity: Quantity
    where: str
    of: str
    printed: str
    model: str | None = None
    method: str | None = None
    shape: tuple[int, int] | None = None


class Claims(Strict):
    """The claims of a paper.

    Args:
        paper: Authors, year, title and address.
        claims: Claims in the order of the report.
    """

    paper: str
    claims: tuple[Claim, ...] = Field(min_length=1)


def known_claims(suite: str) -> Claims | None:
    """Return the claims that the baseline of a suite's name tests, or None.

    Raises:
        BadInput: With every fault of their file.
    """
    files = [folder / suite / FILE for folder in folders("baselines") if (folder / suite / FILE).is_file()]
    return read_claims(files[0]) if files else None


def read_claims(file: Path) -> Claims:
    """Return the claims in a file.

    Raises:
        BadInput: With every fault of the file.
    """
    return validate(Claims, read_yaml(file))
