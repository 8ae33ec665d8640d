"""The facts of a metric, stated once in its module as `METRIC`. Reading them imports no library of metrics."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np

# Names, so that a metric's module imports no numpy.
Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"
Weighted: TypeAlias = "Callable[[Floats], Floats]"
"""A metric as a function of item weights; see `lora_bench.stats.items.ItemMetric`."""

MetricKind = Literal[
    "classification",
    "probabilities",
    "regression",
    "generation",
    "tokens",
    "multilabel",
    "spans",
    "likelihood",
    "preference",
]
"""Form of the answers that a metric reads. A kind of task names those of its own: see `lora_bench.kinds`."""

# What published tables print as a difference, of a metric that is a share or a correlation.
HALF_A_POINT = 0.005


@dataclass(frozen=True)
class Metric:
    """A metric. Its module gives its name, and its module's docstring is its card.

    Args:
        value: Function from predictions and references, at least one of each, to the value; None or NaN if it is undefined.
            Its docstring says in a line what it returns, and in which range. Metrics with `item_parts` or `of_item`, and of
            several labels, need none.
        kind: Form of the answers that it reads. Predictions are class indexes, numbers, texts, lists of the words' labels or
            lists of label indexes; references of a text are a list of texts. For "probabilities" a prediction has that of each
            class, and a reference is the index of the right one. For "likelihood", of tasks that write texts, a
            prediction is the sum of the losses of the right text's tokens, in nats, and a reference their number. For
            "preference" a prediction has the log-likelihoods of the chosen and the rejected answer, and then those at the
            start of the run; a reference is the list of 0, the place of the better one.
        higher_is_better: Direction.
        takes_classes: True if `value` takes the number of `classes`. With two, it is then of the second class, so a task must
            give its classes in order.
        points: True if a hundredth of it is a point, as papers print it. Other metrics have a unit of their own.
        margin: Difference that a suite disregards if it declares no margin; None for no default.
        constant: Score that stands for a constant prediction: 0, of a correlation.
        library: Module of the extra `nlg` that it needs.
        java: True if that library runs Java.
        item_scores: For a mean over items, function from `references` (items,) and `predictions` (seeds, items) to the score
            of each item, shape (seeds, items).
        weighted: For another metric of items, function from the same and `classes` to a function of how often each item was
            drawn. For several labels there is no `classes`, and the arrays of 0 and 1 have one more axis: the labels.
        item_parts: For a sum over items divided by another, function from an item's reference and prediction to its parts of
            the two sums.
        of_item: For a mean over items whose predictions are texts or lists, function from an item's references and prediction
            to its score.
        entities: True if it counts entities, so that labels must be tags such as B-PER, I-PER and O.
    """

    value: Callable[..., float | None] | None = None
    kind: MetricKind = field(kw_only=True)
    higher_is_better: bool = field(default=True, kw_only=True)
    takes_classes: bool = field(default=False, kw_only=True)
    points: bool = field(default=True, kw_only=True)
    margin: float | None = field(default=None, kw_only=True)
    constant: float | None = field(default=None, kw_only=True)
    library: str | None = field(default=None, kw_only=True)
    java: bool = field(default=False, kw_only=True)
    item_scores: Callable[..., Floats] | None = field(default=None, kw_only=True)
    weighted: Callable[..., Weighted] | None = field(default=None, kw_only=True)
    item_parts: Callable[[Any, Any], tuple[float, float]] | None = field(default=None, kw_only=True)
    of_item: Callable[[Any, Any], float] | None = field(default=None, kw_only=True)
    entities: bool = field(default=False, kw_only=True)

    @property
    def of_items(self) -> bool:
        """True if it can be computed on resampled test items."""
        return any(way is not None for way in (self.item_scores, self.weighted, self.item_parts, self.of_item))

    def options(self, classes: int | None) -> dict[str, Any]:
        """Return the further arguments of `value` for a task of so many classes."""
        return {"classes": classes} if self.takes_classes and classes else {}
