"""The change ΔW of each weight of a layer, from the weights that a run kept.

LoRA gives its factors B and A. Every other method that changes weights (DoRA, PiSSA, full fine-tuning, PEFT's others) gives the
difference of the trained weight and the base model's. What one module computes together, such as GPT-2's query, key and value,
is taken apart.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lora_bench.analyse.subspaces import Singular, of_matrix, of_product
from lora_bench.errors import LoraBenchError, UnsupportedPair, first_line
from lora_bench.families import family_of
from lora_bench.kinds.exercises.predicting import quiet
from lora_bench.models.loading import load_rounded
from lora_bench.models.registry import BaseModel
from lora_bench.records.kept_adapter import CONFIG, adapter_config
from lora_bench.records.spec import PlannedSpec
from lora_bench.training.kept_weights import open_adapter, open_whole
from lora_bench.training.model_card import kind_of_run
from lora_bench.training.winner import UNMERGEABLE
from lora_bench.tuners.fused_lora import LORA_BENCH_FUSED_LORA, FusedLoraLayer
from lora_bench.tuners.slices import slices_of

Place = tuple[int, str]
"""Index of a layer, and the part of it that a weight computes."""


@dataclass(frozen=True)
class Delta:
    """The change of a weight, decomposed: *matrix* is ΔW unless factors are known, *A* LoRA's, shape (rank, in_features)."""

    delta: Singular
    matrix: Tensor | None = None
    A: Tensor | None = None

    def added_to(self, W: Tensor) -> Tensor:
        """Return W + ΔW."""
        if self.matrix is not None:
            return W.double() + self.matrix.double()
        return W.double() + (self.delta.left * self.delta.values) @ self.delta.right.T


class NoDelta(LoraBenchError):
    """The method of a run changes no weight of a layer."""


def load_base(spec: PlannedSpec, base_model: BaseModel) -> nn.Module:
    """Return the base model as the run began with it, or raise LoraBenchError if it has an encoder and a decoder."""
    kind = kind_of_run(spec).model_kind
    with quiet():
        model = load_rounded(base_model, spec, kind)
    if model.config.is_encoder_decoder:
        raise LoraBenchError(
            f"{spec.model.name} has an encoder and a decoder, and changes are named by the number of one layer: they cannot be "
            "analysed yet"
        )
    return model.eval()


def weights_of(model: nn.Module) -> Iterator[tuple[Place, Tensor]]:
    """Yield the weight of each part of each layer, shape (out_features, in_features)."""
    for path, module in model.named_modules():
        for place, group in _places(model, path):
            if isinstance(module, nn.Linear | Conv1D):
                weight = module.weight.detach()
                yield place, _sliced(weight.T if isinstance(module, Conv1D) else weight, group)


def deltas_of(base: nn.Module, folder: Path, another: Callable[[], nn.Module]) -> dict[Place, Delta]:
    """Return the change of each weight that a run changed.

    *base* is the base model of `load_base`, with the same layers afterwards; *another* loads it again, for methods that must be
    merged into it. NoDelta is raised if its method changes no weight of a layer.
    """
    with quiet(), torch.no_grad():
        if not (folder / CONFIG).is_file():
            return _differences(base, open_whole(base, folder))
        config = adapter_config(folder)
        plain = config.get("peft_type") == "LORA" and config.get("init_lora_weights", True) in (True, False, "gaussian")
        if (plain or config.get("peft_type") == LORA_BENCH_FUSED_LORA.value) and not config.get("use_dora"):
            adapted: Any = open_adapter(base, folder)
            try:
                return dict(_of_factors(base, adapted.base_model.model))
            finally:
                adapted.unload()
        adapted = open_adapter(another(), folder)
        try:
            merged = adapted.merge_and_unload()
        except (LoraBenchError, *UNMERGEABLE) as error:
            raise NoDelta(f"it cannot be merged into weights: {first_line(error)}") from None
        return _differences(base, merged)


def _of_factors(base: nn.Module, adapted: nn.Module) -> Iterator[tuple[Place, Delta]]:
    from peft.tuners.lora import LoraLayer

    for path, layer in adapted.named_modules():
        if isinstance(layer, FusedLoraLayer):
            (name,) = layer.configs
            adapted = [layer.parts[index] for index in layer.adapted(name)]
            A, B = layer.factors(name)
            for place, _ in _places(base, path):
                slices = [number for number, part in enumerate(adapted) if part == place[1]]
                if slices:
                    factors = layer.configs[name].scaling * B[slices].flatten(0, 1), A[slices[0]]
                    yield place, Delta(of_product(*factors), A=factors[1].double())
        elif isinstance(layer, LoraLayer) and len(layer.lora_A) == 1:
            own: Any = layer
            (name,) = own.lora_A
            A, B = own.lora_A[name].weight, own.lora_B[name].weight * own.scaling[name]
            for place, group in _places(base, path):
                yield place, Delta(of_product(_sliced(B, group), A), A=A.double())


def _differences(base: nn.Module, trained: nn.Module) -> dict[Place, Delta]:
    """Return the difference of each weight of a layer that changed."""
    after = dict(weights_of(trained))
    found = {}
    for place, W in weights_of(base):
        matrix = after[place].double() - W.double()
        if matrix.any():
            # A trained weight is rounded to float32, and a merged one twice.
            rounding = 2 * torch.finfo(torch.float32).eps * float(torch.linalg.matrix_norm(W.double()))
            found[place] = Delta(of_matrix(matrix, rounding), matrix=matrix)
    if not found:
        raise NoDelta("it changes no weight matrix of a layer")
    return found


@dataclass(frozen=True)
class _Slice:
    """The rows of a weight that compute one part: the slices at *indexes* of *count*, in *groups* runs."""

    indexes: tuple[int, ...]
    count: int
    groups: int


def _places(model: nn.Module, path: str) -> list[tuple[Place, _Slice]]:
    """Return the parts that the module at a path computes, with their rows of its weight; none outside of layers."""
    config: Any = model.config
    try:
        family = family_of(config.model_type)
    except UnsupportedPair:  # an undeclared family: each module is a part of its own
        inside = re.fullmatch(r"(?:.*?\.)?(\d+)\.(.+)", path)
        return [((int(inside[1]), inside[2]), _Slice((0,), 1, 1))] if inside is not None else []
    parts = family.slices_at(path, config.to_dict())
    layer = re.match(family.layer, path)
    if not parts or layer is None:
        return []
    number = int(layer[0].rsplit(".", 1)[1])
    groups = config.to_dict()[family.num_heads_key] if len(parts) > 1 and family.fused_layout == "heads" else 1
    of_part = {part: tuple(index for index, own in enumerate(parts) if own == part) for part in parts}
    return [((number, part), _Slice(indexes, len(parts), groups)) for part, indexes in of_part.items()]


def _sliced(rows: Tensor, group: _Slice) -> Tensor:
    """Return the rows of one part of a matrix of shape (out_features, ...)."""
    slices = slices_of(rows.T, group.count, group.groups)
    return torch.cat([slices[index].T for index in group.indexes])
