"""Batches in which each row has an adapter of its own, answered by one batched product in place of a loop over adapters.

PEFT takes such a batch as `model(**batch, adapter_names=[...])`, one name for each row, and answers adapter after adapter in
every layer. After `mix_adapters(model)` the same call stacks the weights of the rows' adapters and multiplies once. Smaller
ranks are filled up with zeros. Nothing is kept between two calls, so a stored adapter has one copy, and adapters may be loaded,
trained and deleted in between: stacking anew costs no more than looking weights up in a stack.

It also answers what PEFT refuses: heads of several layers, adapters without a head of their own, and DeBERTa, whose projections
of queries and keys are called on relative positions too, one table for all rows. Our own tuners mix this way without the call.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraModel
from peft.tuners.lora.layer import Linear, LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn

from lora_bench.errors import LoraBenchError

BASE_ROW = "__base__"
"""PEFT's name, in `adapter_names`, for a row without an adapter."""


def mix_adapters(model: PeftModel) -> PeftModel:
    """Answer batches with `adapter_names` by batched products from now on; return *model* itself.

    Raise LoraBenchError for a method whose rows PEFT would all give the active adapter, silently.
    """
    tuner: Any = model.base_model
    if not hasattr(tuner, "_enable_peft_forward_hooks"):
        method = model.peft_config[model.active_adapter].peft_type.value
        raise LoraBenchError(
            f"{method} adapters cannot be mixed in a batch: call set_adapter(name), and answer the rows of each by themselves"
        )
    if isinstance(tuner, LoraModel):
        tuner._enable_peft_forward_hooks = partial(_lora_rows, tuner)
    return model


@contextmanager
def _lora_rows(tuner: Any, *args: Any, **kwargs: Any) -> Iterator[None]:
    """Take the place of PEFT's own context of one call."""
    mixed = kwargs.get("adapter_names") is not None
    with (mixed_rows if mixed else type(tuner)._enable_peft_forward_hooks)(tuner, *args, **kwargs):
        yield


@dataclass
class BatchRows:
    """The adapter of each row of a batch, and how often the model may repeat a row in place, as for beams or choices."""

    names: Sequence[str]
    repeats: set[int] = field(default_factory=lambda: {1})

    def of(self, x: Tensor) -> Sequence[str]:
        """Return the adapter of each row of *x*; the names of the batch if *x* has other rows."""
        times = next((times for times in self.repeats if len(x) == times * len(self.names)), 1)
        return [name for name in self.names for _ in range(times)]

    def check(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise LoraBenchError unless the batch that a model is called on has a row, or repeats of it, for each name."""
        ids = args[0] if args else kwargs.get("input_ids")
        given = kwargs.get("inputs_embeds") if ids is None else ids
        if given is None:
            return
        check_rows(self.of(given), given)
        if ids is not None and ids.dim() == 3:  # the choices of a row, which the model reads as rows
            self.repeats.add(ids.shape[1])


def check_rows(adapter_names: Sequence[str], x: Tensor) -> None:
    """Raise LoraBenchError unless there is an adapter name for each row of *x*, shape (batch, ...)."""
    if len(adapter_names) != len(x):
        raise LoraBenchError(f"adapter_names has {len(adapter_names)} names for a batch of {len(x)} rows")


@contextmanager
def mixed_rows(tuner: Any, *_args: Any, **kwargs: Any) -> Iterator[None]:
    """Give every layer of a tuner the adapters of the batch's rows, the argument `adapter_names`, during one call.

    Raise LoraBenchError in training, for an unknown adapter, or for one whose rows PEFT does not mix.
    """
    names = list(kwargs["adapter_names"])
    if tuner.training:
        raise LoraBenchError("adapter_names mixes adapters in one batch and is for inference: call eval() first")
    missing = sorted(set(names) - set(tuner.peft_config) - {BASE_ROW})
    if missing:
        raise LoraBenchError(f"adapter_names has {missing}, the model has {sorted(tuner.peft_config)}")
    rows = BatchRows(names, {1, *(kwargs.get(name) or 1 for name in ("num_beams", "num_return_sequences"))})
    with ExitStack() as undo:
        undo.callback(tuner.model.register_forward_pre_hook(rows.check, with_kwargs=True).remove)
        for site in sites(tuner.model):
            answer = _answer(site, names)
            if answer is None or "forward" in vars(site):  # such as accelerate's
                undo.callback(site.register_forward_pre_hook(partial(_pass_names, rows), with_kwargs=True).remove)
            else:
                site.forward = partial(answer, site, rows)
                undo.callback(delattr, site, "forward")
        yield


def sites(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers that have adapters and the modules that are trained whole, without a look at each adapter."""
    if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        yield module
    if isinstance(module, BaseTunerLayer):
        yield from sites(module.get_submodule("base_layer"))
    elif not isinstance(module, AuxiliaryTrainingWrapper):
        for child in module.children():
            yield from sites(child)


def _answer(site: Any, names: Sequence[str]) -> Callable[..., Tensor] | None:
    """Return what answers mixed rows at a site in place of its own `forward`, or None. Refuse variants of LoRA."""
    if isinstance(site, LoraLayer) and (other := sorted(set(names) & set(site.lora_variant))):
        raise LoraBenchError(
            f"adapter {other[0]!r} is a variant of LoRA such as DoRA and cannot be mixed in a batch: call "
            f"set_adapter({other[0]!r}), and answer its rows by themselves"
        )
    if type(site).forward is Linear.forward:
        plain = not (site.disable_adapters or site.merged or any(site.lora_bias.values()))
        return _lora if plain else None
    return _whole_module if isinstance(site, ModulesToSaveWrapper) and not site.disable_adapters else None


def _pass_names(
    rows: BatchRows, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    names = rows.of(next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)))
    return args, {**kwargs, "adapter_names": names}


def _lora(layer: Any, rows: BatchRows, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return W x + scaling * B A x, with A, B and scaling of each row's adapter."""
    y: Tensor = layer.base_layer(x, *args, **kwargs)
    names = rows.of(x)
    lora_A, lora_B = layer.lora_A, layer.lora_B  # looked up once, since a module's attributes are slow
    own = [name for name in dict.fromkeys(names) if name in lora_A]
    if not own:
        return y
    own_rows = each_row(x, names)
    tokens = own_rows.reshape(len(names), -1, x.shape[-1])
    A = by_row({name: lora_A[name].weight for name in own}, names)
    B = by_row({name: lora_B[name].weight for name in own}, names)
    hidden = torch.bmm(tokens.to(A.dtype), A.transpose(1, 2))
    update = torch.bmm(hidden * factors_of(layer.scaling, names, hidden), B.transpose(1, 2))
    mixed = y + update.view(*own_rows.shape[:-1], -1).to(y.dtype)
    return mixed if own_rows is x else mixed.as_subclass(EachRow)


def _whole_module(wrapper: Any, rows: BatchRows, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return the outputs of each row's own copy of a module that is trained whole, or of the base model's."""
    names = rows.of(x)
    check_rows(names, x)
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name if name in wrapper.modules_to_save else BASE_ROW, []).append(place)
    outputs = {}
    for name, own in places.items():
        module = wrapper.original_module if name == BASE_ROW else wrapper.modules_to_save[name]
        outputs[name] = module(x[own], *args, **kwargs)
    if len({output.shape[1:] for output in outputs.values()}) > 1:
        raise LoraBenchError(
            f"adapters {sorted(outputs)} have heads of other sizes and cannot be mixed in a batch: answer each size by itself"
        )
    order = torch.tensor([place for own in places.values() for place in own], device=x.device)
    return torch.cat(list(outputs.values()))[order.argsort()]


def by_row(weights: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Return the weight of each row's adapter, shape (rows, ...): zeros without one, and beyond the size of a smaller one."""
    shapes = {weight.shape for weight in weights.values()}
    if len(shapes) == 1 and weights.keys() >= set(names):
        return torch.stack([weights[name] for name in names])
    # Copied into zeros, as filling up each weight first takes half as long again.
    largest = [max(lengths) for lengths in zip(*shapes, strict=True)]
    found = next(iter(weights.values())).new_zeros(len(names), *largest)
    for row, name in enumerate(names):
        if (weight := weights.get(name)) is not None:
            found[(row, *map(slice, weight.shape))] = weight
    return found


def factors_of(scaling: Mapping[str, float], names: Sequence[str], like: Tensor) -> Tensor:
    """Return the factor of each row's adapter, to be multiplied with a tensor *like* of shape (rows, ...)."""
    return like.new_tensor([scaling.get(name, 0.0) for name in names]).view(-1, *(1,) * (like.dim() - 1))


def each_row(x: Tensor, names: Sequence[str]) -> Tensor:
    """Return *x* with a row for each name: a table that all rows share becomes one for each."""
    if len(x) == 1 < len(names):
        return x.expand(len(names), *x.shape[1:])
    check_rows(names, x)
    return x


_SHAPES = (Tensor.view, Tensor.permute, Tensor.transpose, Tensor.contiguous)


class EachRow(Tensor):
    """What a projection makes of a table that all rows share, one for each row: the model's repeat for the rows is done.

    DeBERTa splits it into heads, and then repeats it. It stays of this class so long; any other operation ends it.
    """

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func is Tensor.repeat:
                return args[0].as_subclass(Tensor)
            found = func(*args, **(kwargs or {}))
            if isinstance(found, Tensor):
                found = found.as_subclass(cls if func in _SHAPES else Tensor)
        return found
