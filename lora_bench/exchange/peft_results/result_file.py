"""The layout of a result file of PEFT's method_comparison: fields in use are typed, and new fields are ignored."""

import json
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

# Limits of a table; a file may come from an untrusted source.
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Metrics = dict[str, JsonValue]

NOT_MEASURED = -1
"""What our exports give for a number of theirs that was not measured: no measurement is negative."""


def _measured(value: Any) -> Any:
    return None if value == NOT_MEASURED and not isinstance(value, bool) else value


Measured = BeforeValidator(_measured)


class ResultPart(BaseModel):
    """A part of a result file."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class TrainConfig(ResultPart):
    """The recipe; fields not named here are kept unchanged."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    model_id: str
    dtype: str | None = None
    batch_size: Count | None = None
    max_steps: Count | None = None
    eval_steps: Count | None = None
    max_seq_length: Count | None = None
    seed: Whole | None = None
    grad_norm_clip: float | None = None
    optimizer_kwargs: dict[str, JsonValue] = {}
    lr_scheduler: str | None = None
    dataset_id: str | None = None


class RunInfo(ResultPart):
    """Settings of the run."""

    created_at: str | None = None
    experiment_name: str
    peft_branch: str | None = None
    peft_worktree_is_dirty: bool | None = None
    train_config: TrainConfig
    peft_config: dict[str, JsonValue] | None
    error_msg: str | None = None


class TrainInfo(ResultPart):
    """Results of the run. Every entry of `metrics` names its step; the last one has the scores on the test split."""

    accelerator_memory_max: Annotated[Whole | None, Measured] = None
    train_time: Annotated[float | None, Measured] = None
    file_size: Count | None = None
    num_trainable_params: Annotated[Count | None, Measured] = None
    num_total_params: Count | None = None
    status: Literal["success", "canceled", "failed"]
    metrics: list[Metrics]


class MetaInfo(ResultPart):
    """Versions and machine of the run."""

    model_info: dict[str, JsonValue] = {}
    dataset_info: dict[str, JsonValue] = {}
    package_info: dict[str, JsonValue] = {}
    system_info: dict[str, JsonValue] = {}


class Result(ResultPart):
    """A result file."""

    run_info: RunInfo
    train_info: TrainInfo
    meta_info: MetaInfo


def plain_data(content: bytes) -> tuple[Any, bool]:
    """Return the data of a file, and True if all its numbers are finite; NaN, which is not JSON, becomes None.

    Raise ValueError if it is not JSON.
    """
    left_out: list[str] = []

    def number(text: str) -> float | None:
        value = float(text)
        if not math.isfinite(value):
            left_out.append(text)
        return value if math.isfinite(value) else None

    data = json.loads(content, parse_float=number, parse_constant=left_out.append)
    return data, not left_out


def number_in(value: JsonValue) -> float | None:
    """Return *value* if it is a number that fits a float, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def text_in(value: JsonValue) -> str | None:
    """Return *value* if it is a text, else None."""
    return value if isinstance(value, str) else None
