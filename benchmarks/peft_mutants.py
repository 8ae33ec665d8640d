"""Which changes of PEFT the suite `peft-fork` finds: PEFT is changed inside this process, and held against PEFT as it is.

    lora-bench run peft-fork --seeds 5                        five minutes of one CPU core
    python -m benchmarks.peft_mutants runs/peft-fork          the table of docs/gate.md; a quarter of an hour of one core
    python -m benchmarks.peft_mutants runs/peft-fork --change "scaling halved"

Each change runs the series that show it, by `lora-bench run --only`. Results of a CPU repeat to the bit, so the series that it
does not reach are those of the folder. All together are held against the folder by `lora-bench check --against`. No installed
file is changed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, peft_model
from peft.tuners.adalora.layer import RankAllocator, SVDLinear
from peft.tuners.ia3.layer import IA3Layer
from peft.tuners.ia3.layer import Linear as IA3Linear
from peft.tuners.lora.layer import Linear, LoraLayer
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.tuners.vera.layer import Linear as VeraLinear
from peft.tuners.vera.layer import VeraLayer
from peft.utils import other
from torch import nn
from torch.nn import functional as F

from lora_bench.cli.parser import main as lora_bench
from lora_bench.records.store import read_records

SUITE, SEEDS = "peft-fork", 3
# On GPT-2's transposed weights, there with dropout, there with a scaling of 4 / √8, and on linear layers beside a whole head.
PLAIN, DROPOUT, RSLORA, LINEAR = "plain", "dropout", "rslora", "linear"
IA3, VERA, ADALORA = "ia3", "vera", "adalora"

Patched = tuple[Any, str, Callable[..., Any]]


def after(owner: Any, name: str, then: Callable[..., None]) -> Patched:
    """A method of PEFT that does *then* to its layer afterwards, with the name of the adapter."""
    old = getattr(owner, name)

    def changed(self: Any, adapter_name: str, *given: Any, **named: Any) -> None:
        old(self, adapter_name, *given, **named)
        then(self, adapter_name)

    return owner, name, changed


def halve_scaling(layer: LoraLayer, adapter: str) -> None:
    layer.scaling[adapter] /= 2


def drop_dropout(layer: LoraLayer, adapter: str) -> None:
    layer.lora_dropout[adapter] = nn.Identity()


def draw_b(layer: LoraLayer, adapter: str) -> None:
    layer.lora_B[adapter].reset_parameters()


def keep_in_bfloat16(layer: LoraLayer, adapter: str) -> None:
    for matrix in (layer.lora_A[adapter], layer.lora_B[adapter]):
        matrix.to(torch.bfloat16)


def round_input(self: LoraLayer, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The inputs of A with the digits of bfloat16."""
    return x.to(torch.bfloat16).to(dtype)


def save_nothing(self: Any, *given: Any, **named: Any) -> dict[str, torch.Tensor]:
    return {}


def do_nothing(*given: Any, **named: Any) -> None:
    """Leave out a step of PEFT."""


class AsFunction(nn.Module):
    """Dropout by the function in place of the module."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop parts of *x* in training."""
        return F.dropout(x, self.p, self.training)


def other_dropout(layer: LoraLayer, adapter: str) -> None:
    if isinstance(found := layer.lora_dropout[adapter], nn.Dropout):
        layer.lora_dropout[adapter] = AsFunction(found.p)


def unused_buffer(layer: LoraLayer, adapter: str) -> None:
    layer.register_buffer("calls", torch.zeros(()), persistent=False)


def forward_by(update: Callable[[Linear, str, torch.Tensor, torch.Tensor], torch.Tensor]) -> Patched:
    """Plain LoRA's forward pass with another way to add its update to a result; all else goes PEFT's own way."""
    old = Linear.forward

    def changed(self: Linear, x: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        plain = not (self.disable_adapters or self.merged or self.lora_variant or "adapter_names" in named)
        if not plain:
            return old(self, x, *given, **named)
        result = self.base_layer(x, *given, **named)
        kind = result.dtype
        for adapter in self.active_adapters:
            if adapter in self.lora_A:
                x = self._cast_input_dtype(x, self.lora_A[adapter].weight.dtype)
                result = update(self, adapter, self.lora_dropout[adapter](x), result)
        return result.to(kind)

    return Linear, "forward", changed


def product_first(layer: Linear, adapter: str, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """(B A) x in place of B (A x)."""
    return result + F.linear(x, layer.lora_B[adapter].weight @ layer.lora_A[adapter].weight) * layer.scaling[adapter]


def scaled_input(layer: Linear, adapter: str, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """B (A (scaling x)) in place of scaling B (A x)."""
    return result + layer.lora_B[adapter](layer.lora_A[adapter](x * layer.scaling[adapter]))


def in_another_order(*given: Any, **named: Any) -> dict[str, torch.Tensor]:
    """The weights of an adapter from the last to the first."""
    return dict(reversed(get_peft_model_state_dict(*given, **named).items()))


def more_draws(layer: LoraLayer, adapter: str) -> None:
    torch.rand(1)


def begin_at(names: Sequence[str], value: float) -> Callable[[Any, str], None]:
    """Fill these weights of a layer."""

    def fill(layer: Any, adapter: str) -> None:
        for name in names:
            getattr(layer, name)[adapter].data.fill_(value)

    return fill


def keep_all_ranks(self: RankAllocator, model: nn.Module, budget: int) -> dict[str, list[bool]]:
    """A rank pattern that leaves nothing out."""
    return {
        name: [True] * len(weight) for name, weight in model.named_parameters() if f"lora_E.{self.adapter_name}" in name
    }


def with_update(owner: Any, of: Callable[[Any, str, torch.Tensor, torch.Tensor], torch.Tensor]) -> Patched:
    """A layer's forward pass by *of*, which is given its adapter, input and the base layer's result."""
    old = owner.forward

    def changed(self: Any, x: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        if self.disable_adapters or self.merged:
            return old(self, x, *given, **named)
        (adapter,) = self.active_adapters
        return of(self, adapter, x, self.base_layer(x, *given, **named))

    return owner, "forward", changed


def scaled_difference(layer: Any, adapter: str, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """W x + (l - 1) W x in place of l W x."""
    return result + result * (layer.ia3_l[adapter].flatten() - 1)


def vectors_first(layer: Any, adapter: str, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """(b B) (d A) x in place of b (B (d (A x)))."""
    A = layer.vera_lambda_d[adapter][:, None] * layer.vera_A[adapter][:, : layer.in_features]
    B = layer.vera_lambda_b[adapter][:, None] * layer.vera_B[adapter][: layer.out_features]
    return result + F.linear(F.linear(layer.vera_dropout[adapter](x), A), B)


def one_matrix(layer: Any, adapter: str, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """(B (E A)) x in place of B ((E A) x)."""
    update = layer.lora_B[adapter] @ (layer.lora_A[adapter] * layer.lora_E[adapter])
    scaling = layer.scaling[adapter] / (layer.ranknum[adapter] + 1e-5)
    return result + F.linear(layer.lora_dropout[adapter](x), update) * scaling


@dataclass(frozen=True)
class Change:
    """A change of PEFT.

    Args:
        code: Exit code of `check --against`: 0 for a change that passes.
        patches: Attributes of PEFT that take its place.
        series: Labels of the series that are run.
        seeds: Of these series.
    """

    code: int
    patches: tuple[Patched, ...]
    series: tuple[str, ...]
    seeds: int = SEEDS


def _after_update(then: Callable[..., None]) -> tuple[Patched, ...]:
    return (after(LoraLayer, "update_layer", then),)


CHANGES = {
    "scaling halved": Change(1, _after_update(halve_scaling), (PLAIN,)),
    "dropout dropped": Change(4, _after_update(drop_dropout), (DROPOUT,)),
    "dropout dropped, five seeds": Change(1, _after_update(drop_dropout), (DROPOUT,), seeds=5),
    "B not at zero": Change(1, (after(LoraLayer, "reset_lora_parameters", draw_b),), (PLAIN,)),
    "`modules_to_save` forgotten": Change(1, ((other, "_set_trainable", do_nothing),), (LINEAR,)),
    "`modules_to_save` trained and not saved": Change(
        1, ((other.ModulesToSaveWrapper, "adapter_state_dict", save_nothing),), (LINEAR,)
    ),
    "A and B in bfloat16": Change(
        1, (*_after_update(keep_in_bfloat16), (BaseTuner, "_cast_adapter_dtype", do_nothing)), (PLAIN,)
    ),
    "inputs of A rounded to bfloat16": Change(0, ((BaseTunerLayer, "_cast_input_dtype", round_input),), (PLAIN,)),
    "(B A) x in place of B (A x)": Change(0, (forward_by(product_first),), (PLAIN, LINEAR)),
    "x scaled in place of B A x": Change(0, (forward_by(scaled_input),), (PLAIN, RSLORA)),
    "dropout by its function": Change(0, _after_update(other_dropout), (DROPOUT,)),
    "a buffer that nothing reads": Change(0, _after_update(unused_buffer), (PLAIN,)),
    "weights saved in another order": Change(
        0, ((peft_model, "get_peft_model_state_dict", in_another_order),), (PLAIN, LINEAR)
    ),
    "another random number drawn for each layer": Change(0, _after_update(more_draws), (PLAIN,)),
    "IA3: l drawn, not at one": Change(1, ((IA3Layer, "reset_ia3_parameters", do_nothing),), (IA3,)),
    "IA3: W x + (l - 1) W x": Change(0, (with_update(IA3Linear, scaled_difference),), (IA3,)),
    "VeRA: d at zero": Change(
        1, (after(VeraLayer, "reset_vera_parameters", begin_at(["vera_lambda_d"], 0.0)),), (VERA,)
    ),
    # VeRA learns more in so few steps then: a gain is named.
    "VeRA: b at one": Change(
        0, (after(VeraLayer, "reset_vera_parameters", begin_at(["vera_lambda_b"], 1.0)),), (VERA,)
    ),
    "VeRA: (b B) (d A) x": Change(0, (with_update(VeraLinear, vectors_first),), (VERA,)),
    "AdaLoRA: scaling halved": Change(1, (after(SVDLinear, "update_layer", halve_scaling),), (ADALORA,)),
    "AdaLoRA: all ranks kept": Change(1, ((RankAllocator, "mask_to_budget", keep_all_ranks),), (ADALORA,)),
    "AdaLoRA: (B E A) x": Change(0, (with_update(SVDLinear, one_matrix),), (ADALORA,)),
}


@contextmanager
def changed(patches: Sequence[Patched]) -> Iterator[None]:
    """Change PEFT in this process for a while."""
    with ExitStack() as stack:
        for owner, name, new in patches:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, new)
        yield


@dataclass(frozen=True)
class Found:
    """What `check --against` said of a change.

    Args:
        code: Its exit code.
        seeds: Of each series.
        lines: The worst finding of each series that has one.
    """

    code: int
    seeds: int
    lines: tuple[str, ...]


def held_against(change: Change, unchanged: Path, place: Path) -> Found:
    """Run the change's series in *place*, and hold all series against those of the folder *unchanged*."""
    before, runs, answer = place / "unchanged", place / "runs", place / "answer.json"
    reached = []
    for one in read_records(unchanged):
        own = one.spec.method.label in change.series
        if one.spec.seed not in range(change.seeds if own else SEEDS):
            continue
        reached += [one.run_id] if own else []
        for folder in [before] if own else [before, runs / SUITE]:
            shutil.copytree(unchanged / one.run_id, folder / one.run_id, ignore=shutil.ignore_patterns("weights"))
    options = [option for run_id in reached for option in ("--only", run_id)]
    options += ["--seeds", str(change.seeds)] if change.seeds > SEEDS else []
    with changed(change.patches), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        ended = lora_bench(["run", SUITE, "--runs", str(runs), "--workers", "0", "--quiet", *options])
    if ended not in (0, 3):
        raise RuntimeError(f"the runs ended with exit code {ended}")
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        code = lora_bench(["check", str(runs / SUITE), "--against", str(before), "--json", str(answer)])
    series = json.loads(answer.read_text(encoding="utf-8"))["series"]
    lines = [f"{one['name']['method']}: {one['findings'][0]['text']}" for one in series if one["findings"]]
    return Found(code, change.seeds, tuple(lines))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 1 if a change has another answer than it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("unchanged", type=Path, help="folder of the suite's runs with PEFT as it is, on this machine")
    parser.add_argument("--change", choices=[*CHANGES], action="append", help="try this one alone; may be repeated")
    options = parser.parse_args(arguments)
    wrong = False
    for name in options.change or CHANGES:
        with tempfile.TemporaryDirectory() as place:
            found = held_against(CHANGES[name], options.unchanged, Path(place))
        wrong |= found.code != CHANGES[name].code
        said = "; ".join(found.lines) or "all scores are the same"
        print(f"| {name} | {found.seeds} | {found.code} | {said} |", flush=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
