"""The facts of a metric, which its module states once as `METRIC`. Reading them imports no library of metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from lora_bench.stats.items import Floats, Weighted

Kind = Literal["classification", "regression", "generation"]

# What published tables print as a difference, of a metric that is a share or a correlation.
HALF_A_POINT = 0.005


@dataclass(frozen=True)
class Metric:
    """One metric. Its name is that of its module; its module's docstring is its card.

    Args:
        value: From predictions and references, at least one of each, to the value; None or NaN where it is undefined. The
            docstring says in a line what it is and in which range.
        kind: The kind of task that it scores. Predictions are class indexes, numbers or texts; the references of a text
            are a list of one or more texts.
        higher_is_better: Its direction.
        takes_classes: Whether `value` takes the number of `classes`. With two it is then that of the second class, so a
            task must give its classes in order.
        points: Whether a hundredth of it is a point, as papers print it. Other metrics have a unit of their own.
        margin: The difference that a suite disregards where it declares no margin, or None for no default.
        library: The module of the extra `nlg` that it rests on, or None.
        java: Whether that library runs Java.
        item_scores: For a mean over items, from `references` (items,) and `predictions` (seeds, items) to the score of each
            item, shape (seeds, items).
        weighted: For another metric of items, from the same and `classes` to a function of how often each item was drawn.
    """

    value: Callable[..., float | None]
    kind: Kind = field(kw_only=True)
    higher_is_better: bool = field(default=True, kw_only=True)
    takes_classes: bool = field(default=False, kw_only=True)
    points: bool = field(default=True, kw_only=True)
    margin: float | None = field(default=None, kw_only=True)
    library: str | None = field(default=None, kw_only=True)
    java: bool = field(default=False, kw_only=True)
    item_scores: Callable[..., Floats] | None = field(default=None, kw_only=True)
    weighted: Callable[..., Weighted] | None = field(default=None, kw_only=True)

    @property
    def of_items(self) -> bool:
        """Whether it can be computed on resampled test items."""
        return self.item_scores is not None or self.weighted is not None

    def options(self, classes: int | None) -> dict[str, Any]:
        """The arguments of `value` besides predictions and references, for a task of so many classes."""
        return {"classes": classes} if self.takes_classes and classes else {}
