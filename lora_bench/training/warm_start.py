"""Start from another task's run, as the LoRA paper starts MRPC, RTE and STS-B from MNLI: its adapter, without its head."""

from __future__ import annotations

from torch import nn

from lora_bench.errors import LoraBenchError
from lora_bench.records.store import RunFolder


def start_from(model: nn.Module, source: RunFolder, head: list[str]) -> None:
    """Load the trained weights of a run into a model of the same method; the head stays as drawn.

    Args:
        model: The base model with the method applied.
        source: Folder of the run, which must have kept its weights.
        head: The modules of the head.

    Raises:
        LoraBenchError: If the run left no weights, or weights of another shape.
    """
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
    from safetensors.torch import load_file

    adapted = isinstance(model, PeftModel)
    # PEFT reads a pickle, or asks the hub, if the file it looks for first is missing.
    if not any(source.weights.glob("adapter_model.safetensors" if adapted else "model*.safetensors")):
        raise LoraBenchError(
            f"run {source.path.name}, from which this one starts, left no weights; remove its folder and run the suite again"
        )
    if adapted:
        own, theirs = get_peft_model_state_dict(model), load_peft_weights(str(source.weights), device="cpu")
    else:
        shards = sorted(source.weights.glob("model*.safetensors"))
        own, theirs = (
            model.state_dict(),
            {name: weight for shard in shards for name, weight in load_file(shard).items()},
        )
    taken = {name: weight for name, weight in theirs.items() if not any(f".{part}." in f".{name}" for part in head)}
    misfits = [name for name, weight in taken.items() if name not in own or own[name].shape != weight.shape]
    if misfits:
        raise LoraBenchError(f"run {source.path.name} left weights that do not fit this method, such as {misfits[0]}")
    weights = {**own, **taken}
    if adapted:
        set_peft_model_state_dict(model, weights)
    else:
        model.load_state_dict(weights)
