"""The keys of a task that a kind reads; `lora_bench.tasks.declaration.Task` explains them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer

from lora_bench.documents import Strict
from lora_bench.kinds.support.linearise import Linearise


def one_or_more(given: Any) -> Any:
    """Return a string as a tuple of one."""
    return (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else given


Columns = Annotated[tuple[str, ...], BeforeValidator(one_or_more)]


class Label(Strict):
    """The label of a row.

    Args:
        column: Column of the label, of one text to write or several, of the labels of the words, or of answers.
        rule: "sign" gives the classes negative and positive of a number, and drops zeros.
        start: Column of the first character of an answer in its text, counted from 0; by default the first place where it
            stands.
        where: Keep texts at whose index the lists in these columns have these values.
        separator: What stands between the labels of a row, for several labels in one text.
        columns: Columns of 0 and 1, one for each label, in place of `column`.
    """

    column: str = ""
    rule: Literal["sign"] | None = None
    start: str | None = None
    where: dict[str, str] = Field(default_factory=dict)
    separator: str | None = Field(default=None, min_length=1)
    columns: Columns = ()

    @model_serializer(mode="wrap")
    def _without_later_keys(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out keys that came after the first records while they say nothing, so that no run gets another id."""
        said: dict[str, Any] = dump(self)
        return {key: value for key, value in said.items() if value or key not in ("separator", "columns")}


class Declared(Protocol):
    """The keys of a task."""

    @property
    def kind(self) -> str: ...
    @property
    def text(self) -> tuple[str, ...]: ...
    @property
    def label(self) -> Label: ...
    @property
    def labels(self) -> tuple[str, ...] | None: ...
    @property
    def label_names(self) -> Mapping[str, str]: ...
    @property
    def linearise(self) -> Linearise | None: ...
    @property
    def spelling(self) -> str | None: ...
    @property
    def unanswerable(self) -> bool: ...
    @property
    def empty_texts(self) -> str: ...
    @property
    def all_metrics(self) -> tuple[str, ...]: ...
