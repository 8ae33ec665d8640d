"""Which methods fit a card with a base model, from its config.json alone.

The peak of a step is counted from shapes (see `lora_bench.training.measure.layer_traces`); the traces are kept, so that another
card takes no time. The time of a step is an estimate from published speeds.
"""

import dataclasses
import itertools
import json
import tempfile
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from lora_bench.errors import LoraBenchError, first_line
from lora_bench.families import declared_family
from lora_bench.kinds import KindName, find_kind
from lora_bench.methods import Method, known_methods, known_presets
from lora_bench.models.base_precision import meet
from lora_bench.models.chunked_loss import LEAST, chunk_loss, tokens_in_chunks
from lora_bench.models.find_family import use_family, with_family
from lora_bench.models.loading import load_model, reads_apart, writes_on
from lora_bench.models.registry import BaseModel
from lora_bench.models.safety import read_config
from lora_bench.records.spec import AnyPrecision
from lora_bench.training.measure.layer_traces import DEPTHS, ROWS, RowSteps, StepTrace, StepTraces, trace_step
from lora_bench.training.measure.step_costs import CARDS, CONTEXT_BYTES, GAPS, card_bytes, find_card
from lora_bench.tuners.four_bit import pack_layers
from lora_bench.tuners.inferred_family import family_of_model
from lora_bench.util.hashing import content_hash
from lora_bench.util.paths import cache_folder
from lora_bench.util.sealed_json import keep, kept_as
from lora_bench.version import __version__

Base = Literal["float32", "bfloat16", "4 bits"]
"""How the frozen weights are stored; they are multiplied in sixteen bits, those in float32 by autocast."""

METHODS = ("full", "lora_all", "bottleneck_adapter", "prefix_tuning")
MOST_ROWS = 4096

# Share of a card's speed that matrix products reach, and the times that activations pass through memory. By PEFT's results on
# an L40S: see docs/fits.md.
REACHED, PASSES = 0.5, 4
TIME_FACTOR = 2


@dataclass(frozen=True)
class Fit:
    """A method on a card, with or without checkpointed layers.

    Args:
        step: Bytes of a step of the rows that were asked for; None, with the *reason*, if the method does not work.
        largest: The most rows that fit; 0 if none does.
        seconds: Of a step of these; None if nothing fits, or the card's speed is not known.
    """

    method: str
    base: Base
    checkpointing: bool
    step: StepTrace | None = None
    reason: str | None = None
    largest: int = 0
    seconds: float | None = None


def what_fits(
    base_model: BaseModel, card: str, *, length: int, rows: int, progress: Callable[[str], None]
) -> Iterator[Fit]:
    """Yield each method with each base, first without and then with checkpointed layers, on rows of *length* tokens.

    Raise LoraBenchError if no card has the name, or the model cannot be built from its config.json.
    """
    room, known = card_bytes(card), find_card(card)
    base_model = with_family(base_model)
    for label, base, again in itertools.product(METHODS, get_args(Base), (False, True)):
        if base == "4 bits" and label != "lora_all":
            continue
        progress(f"counting {label} on {base_model.shown} in {base}{', checkpointed' if again else ''}")
        try:
            traces = step_traces(base_model, named_method(label), base, length, checkpointing=again)
        except (LoraBenchError, RuntimeError, ValueError) as error:
            yield Fit(label, base, again, reason=first_line(error))
            continue
        most = largest_batch(traces, room)
        seconds = step_seconds(traces.at(most), known) if most and known is not None else None
        yield Fit(label, base, again, traces.at(rows), largest=most, seconds=seconds)


def largest_batch(traces: StepTraces, room: int) -> int:
    """Return the most rows whose step fits a card's memory; 0 if none does."""
    first = traces.chunked_from or MOST_ROWS + 1

    def fitting(rows: range) -> int:
        return bisect_left(rows, True, key=lambda number: needed(traces.at(number)) > room)

    # The first batch in chunks may need less than the last one without.
    in_chunks = fitting(range(first, MOST_ROWS + 1))
    return first - 1 + in_chunks if in_chunks else fitting(range(1, first))


def needed(step: StepTrace) -> int:
    """Return the memory that a process needs on a card for a step."""
    return int(step.peak * (1 + GAPS)) + CONTEXT_BYTES


def step_seconds(step: StepTrace, card: str) -> float:
    """Return the likely seconds of a step on a known card: of its products, and of its bytes through memory."""
    _, tera, giga = CARDS[card]
    moved = 3 * step.weights + PASSES * step.activations + 4 * step.gradients + 2 * step.states
    return step.flops / (REACHED * tera * 1e12) + moved / (giga * 1e9)


def step_traces(base_model: BaseModel, method: Method, base: Base, length: int, *, checkpointing: bool) -> StepTraces:
    """Return the steps of a method on a base model in *base*; cached."""
    writes = writes_on(base_model.model_type) or reads_apart(base_model.model_type)
    kind: KindName = "generation" if writes else "classification"
    asked = {
        "model": base_model.sha256, "method": method.name, "options": method.model_dump(), "base": base, "length": length,
        "checkpointing": checkpointing, "kind": kind, "in_chunks_from": LEAST,
        "versions": [__version__, version("transformers"), version("peft"), version("torch")],
    }  # fmt: skip
    path = cache_folder("traces") / f"{content_hash(asked)}.json"
    found = kept_as(path, StepTraces)
    if found is None:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # warnings of one library about another
            depths = _of_depths(base_model, Path(folder))

            def steps(first: int, *, in_chunks: bool) -> RowSteps:
                return tuple(
                    (rows, depth, _step(adapted(own), base, kind, rows, length, checkpointing, in_chunks=in_chunks))
                    for rows in (first, first + 1)
                    for depth, own in depths.items()
                )

            def adapted(shape: BaseModel) -> tuple[nn.Module, str]:
                return _adapted(shape, method, base, kind)

            found = StepTraces(steps=steps(ROWS[0], in_chunks=False), layers=_layers(base_model)[1])
            shallow, _ = adapted(next(iter(depths.values())))
            tokens = tokens_in_chunks(shallow) if find_kind(kind).writes else None
            if tokens is not None and tokens <= MOST_ROWS * length:
                first = -(-tokens // length)
                chunked = steps(max(first, ROWS[0]), in_chunks=True)
                found = found.model_copy(update={"chunked": chunked, "chunked_from": first})
        keep(path, found.model_dump(mode="json"))
    return found


def cache_bytes(base_model: BaseModel, length: int) -> int:
    """Return the bytes of keys and values, in sixteen bits, that a decoder keeps of a row while it writes; 0 for others."""
    from transformers import AutoConfig

    if not writes_on(base_model.model_type):
        return 0
    config: Any = AutoConfig.from_pretrained(base_model.folder, trust_remote_code=base_model.remote_code)
    heads = int(config.num_attention_heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    return 2 * 2 * int(config.num_hidden_layers) * groups * width * length


def named_method(label: str) -> Method:
    """Return a method by its name with its defaults, or a preset."""
    if label in known_methods():
        return known_methods()[label]()
    method, preset = known_presets()[label]
    return method(**preset.options)


def _layers(base_model: BaseModel) -> tuple[str, int]:
    """Return the key of a configuration that counts the layers of a model with one stack of layers, and their number."""
    from transformers import AutoConfig

    family = base_model.family or declared_family(base_model.model_type)
    key = "num_hidden_layers" if family is None else family.num_layers_key
    config = AutoConfig.from_pretrained(base_model.folder, trust_remote_code=base_model.remote_code)
    return key, int(getattr(config, key))


def _of_depths(base_model: BaseModel, folder: Path) -> dict[int, BaseModel]:
    """Return shapes of the model with the layers of `DEPTHS`; the model itself if it is small, or has two stacks of layers."""
    key, layers = _layers(base_model)
    if layers <= max(DEPTHS) or reads_apart(base_model.model_type) or base_model.remote_code:
        return {layers: base_model}
    found = {}
    for depth in DEPTHS:
        config = {**read_config(base_model.name, base_model.folder), key: depth}
        kinds = config.get("layer_types")
        if isinstance(kinds, list):
            config["layer_types"] = [*dict.fromkeys(kinds), *kinds[:1] * depth][:depth]
        own = folder / f"{depth}"
        own.mkdir()
        (own / "config.json").write_text(json.dumps(config), encoding="utf-8")
        found[depth] = dataclasses.replace(base_model, folder=own, has_weights=False)
    return found


def _adapted(base_model: BaseModel, method: Method, base: Base, kind: KindName) -> tuple[nn.Module, str]:
    """Return a model of shapes with a method, and the pattern of the paths of its layers."""
    use_family(base_model)
    shape = dataclasses.replace(base_model, has_weights=False)
    stored: AnyPrecision = "float32" if base == "float32" else "bfloat16"
    model, head = load_model(shape, kind=kind, labels=2, on_meta=True, precision=stored)
    config: Any = model.config
    if config.pad_token_id is None:
        config.pad_token_id = 0
    layer = rf"(?:.*\.)?{family_of_model(model).layer}"
    if base == "4 bits":
        pack_layers(model, head, shapes_only=True)
    adapted = method.apply(model, head=head)
    meet(adapted, head, stored)
    return adapted, layer


def _step(
    adapted: tuple[nn.Module, str],
    base: Base,
    kind: KindName,
    rows: int,
    length: int,
    checkpointing: bool,
    *,
    in_chunks: bool,
) -> StepTrace:
    model, layer = adapted
    if in_chunks:
        chunk_loss(model, rows * length)
    task = find_kind(kind)
    return trace_step(
        model,
        layer,
        task.batch_shapes(rows, length, 2),
        "bfloat16" if base == "float32" else "float32",
        fused_attention=True,
        checkpointing=checkpointing,
        real=task.real_labels,
    )
