"""Fit the size of each method on a base model, by counting on the meta device.

The base model is built with shapes and without weights, the method is applied, and the parameters are counted. A bisection on
the method's size meets the budget's target (0.2 to 0.4 s a method for base-size models). A fit depends on the model, the
method, the target and the versions of the libraries, and is cached under the hash of these.
"""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

from lora_bench.documents import Strict
from lora_bench.errors import BudgetUnreachable, LoraBenchError, UnsupportedPair
from lora_bench.families import declared_family, given_keys
from lora_bench.kinds import KindName
from lora_bench.methods import Method, trains_base, with_size
from lora_bench.models.library_errors import in_a_sentence
from lora_bench.models.loading import load_model, longest_input
from lora_bench.models.registry import BaseModel
from lora_bench.records.budget import Budget, fit_size
from lora_bench.records.record import CountedParameters
from lora_bench.util.hashing import content_hash
from lora_bench.util.paths import cache_folder
from lora_bench.util.regular_files import MIB
from lora_bench.util.sealed_json import keep, kept_as
from lora_bench.version import __version__

# Sizes up to this one are counted at once: their weights take some MB a layer at most.
LARGE_SIZE = 4096
BYTES_PER_WEIGHT = 4


def installed_bytes() -> int:
    """Return the memory of this machine, free or not."""
    return int(psutil.virtual_memory().total)


class ModelShape(Strict):
    """Facts of a base model for estimates: weights that multiply every token, layers and width.

    These weights include the output vocabulary of a causal model, whether or not it shares it with its input.

    Args:
        multiplied: Weights that multiply every token.
        layers: Number of layers, those of encoder and decoder together.
        width: Width of a token's vector.
        vocabulary: Tokens that it can look up.
        positions: Tokens of the longest input, or None for any length.
    """

    multiplied: int
    layers: int
    width: int
    vocabulary: int
    positions: int | None


class MethodFit(Strict):
    """A method on a base model.

    Args:
        size: The fitted size, or None if the method has none or the budget fixes none.
        parameters: Counts, or None if the pair is unsupported.
        reason: Why the pair is unsupported, or why no size meets the budget; else None.
        saved_bytes: Bytes by which weights of the base that the method packs are smaller than in float32.
    """

    size: int | None
    parameters: CountedParameters | None
    shape: ModelShape | None
    reason: str | None
    saved_bytes: int = 0


def fit_method(
    method: Method,
    base_model: BaseModel,
    kind: KindName,
    labels: int,
    budget: Budget,
    progress: Callable[[str], None] | None = None,
    known: dict[str, MethodFit] | None = None,
) -> MethodFit:
    """Count a method on a base model, and find the size that meets the budget.

    A pair that does not work, or a budget that no size meets, returns a fit with its reason instead of an error. *progress* is
    called before a count, which is slow. The fit is added to *known*: another task with as many labels needs no new one.
    """
    key = content_hash(
        {
            "model": base_model.sha256,
            "labels": labels,
            "kind": kind,
            "method": method.name,
            "options": method.model_dump(),
            "target": budget.parameter_target if method.size is not None else None,
            "tolerance": budget.tolerance,
            "shape": 5,  # version of the cached content
            "versions": _versions(),
            **({} if base_model.family is None else {"family": given_keys(base_model.family)}),
        }
    )
    known = {} if known is None else known
    if key in known:
        return known[key]
    path = cache_folder("fits") / f"{key}.json"
    # A refusal is found again at once, and a third-party method may change under the same versions, so neither is cached.
    is_kept = type(method).__module__.startswith("lora_bench.")
    fit = kept_as(path, MethodFit) if is_kept else None
    if fit is None:
        if progress is not None:
            progress(f"counting {method.name} on {base_model.name}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # warnings of one library about another
            fit = count_method(method, base_model, kind, labels, budget)
        if is_kept and fit.reason is None:
            keep(path, fit.model_dump(mode="json"))
    known[key] = fit
    return fit


@functools.cache
def _versions() -> tuple[str, ...]:
    return __version__, version("transformers"), version("peft"), version("torch")


def check_fits(adapter: Path, method: Method, base_model: BaseModel, kind: KindName, labels: int) -> None:
    """Check by shapes that an adapter in a folder fits a method on a base model. Raise LoraBenchError if not."""
    from lora_bench.training.warm_start import check_adapter

    model, head = load_model(base_model, kind=kind, labels=labels, on_meta=True)
    check_adapter(method.apply(model, head=head), adapter, head)


def count_method(method: Method, base_model: BaseModel, kind: KindName, labels: int, budget: Budget) -> MethodFit:
    """Count a method on a base model as `fit_method` does, without the cache."""
    counting = _Counting(base_model, kind, labels)
    size: int | None = None
    try:
        if method.size is not None and budget.parameter_target is not None:
            axis, target = budget.parameter_target
            size = fit_size(
                lambda candidate: counting.of(with_size(method, candidate)).on(axis), target, budget.tolerance, axis
            )
            method = with_size(method, size)
        found = counting.of(method)
        return MethodFit(
            size=size, parameters=found, shape=counting.shape(), reason=None, saved_bytes=counting.saved_by(method)
        )
    except (UnsupportedPair, BudgetUnreachable) as reason:
        return MethodFit(size=None, parameters=None, shape=None, reason=str(reason))


@dataclass(frozen=True)
class _Counting:
    """Counts methods on a base model, by its shapes where they are enough."""

    base_model: BaseModel
    kind: KindName
    labels: int

    def of(self, method: Method) -> CountedParameters:
        """Count a method; refuse one that is too large for this machine, or on which a library fails."""
        if method.size is not None and getattr(method, method.size) > LARGE_SIZE:
            self._refuse_beyond_memory(method)
        return self._counted(method)

    def saved_by(self, method: Method) -> int:
        """Return the bytes by which weights of the base that a method packs are smaller than in float32."""
        from lora_bench.tuners.four_bit import saved_bytes

        if not trains_base(method):
            return 0
        model, head = load_model(self.base_model, kind=self.kind, labels=self.labels, on_meta=True)
        return saved_bytes(method.apply(model, head=head))

    def _counted(self, method: Method) -> CountedParameters:
        try:
            return self._counted_on(method, on_meta=True)
        except UnsupportedPair as refusal:
            # Some methods of PEFT read the base model's weights, and shapes have none.
            if not isinstance(refusal.__cause__, NotImplementedError):
                raise
            model, _ = load_model(self.base_model, kind=self.kind, labels=self.labels, on_meta=True)
            needed, memory = sum(weight.numel() for weight in model.parameters()) * BYTES_PER_WEIGHT, installed_bytes()
            if needed > memory:
                raise LoraBenchError(
                    f"{method.name} reads the weights of model {self.base_model.name!r} before it can be counted: "
                    f"{needed / MIB:,.0f} MiB, and this machine has {memory / MIB:,.0f}"
                ) from None
        return self._counted_on(method, on_meta=False)

    def _counted_on(self, method: Method, *, on_meta: bool) -> CountedParameters:
        from lora_bench.training.measure.counters import count_parameters

        model, head = load_model(self.base_model, kind=self.kind, labels=self.labels, on_meta=on_meta)
        total = sum(weight.numel() for weight in model.parameters())
        with in_a_sentence(f"{method.name} cannot be put on model {self.base_model.name!r}"):
            return count_parameters(method.apply(model, head=head), head=head, total=total)

    def _refuse_beyond_memory(self, method: Method) -> None:
        """Refuse a size whose weights alone take more memory than there is: libraries make them before they are counted."""
        one, two = (self._counted(with_size(method, size)).adapter for size in (1, 2))
        size = getattr(method, str(method.size))
        expected = one + (two - one) * (size - 1)
        memory = installed_bytes()
        if expected * BYTES_PER_WEIGHT > memory:
            raise LoraBenchError(
                f"{method.name} with {method.size} {size:,} comes to about {expected:,} parameters on model "
                f"{self.base_model.name!r}: more than the {memory / MIB:,.0f} MiB of memory of this machine can hold"
            )

    def shape(self) -> ModelShape:
        """Return the shape of the base model."""
        with in_a_sentence(f"model {self.base_model.name!r} has a shape that cannot be read from its config.json"):
            return _shape(self.base_model, self.kind, self.labels)


def _shape(base_model: BaseModel, kind: KindName, labels: int) -> ModelShape:
    from torch import nn

    model, _ = load_model(base_model, kind=kind, labels=labels, on_meta=True)
    tables = {
        weight: weight.numel()  # once, where encoder and decoder share it
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for weight in module.parameters(recurse=False)
    }
    looked_up = sum(tables.values())
    vocabulary = model.get_output_embeddings()
    if vocabulary is not None and vocabulary.weight is model.get_input_embeddings().weight:
        looked_up -= vocabulary.weight.numel()
    config = model.config
    family = declared_family(config.model_type)
    behind = None if family is None else family.num_decoder_layers_key
    return ModelShape(
        multiplied=sum(weight.numel() for weight in model.parameters()) - looked_up,
        layers=config.num_hidden_layers + (0 if behind is None else getattr(config, behind)),
        width=config.hidden_size,
        vocabulary=model.get_input_embeddings().weight.shape[0],
        positions=longest_input(model),
    )
