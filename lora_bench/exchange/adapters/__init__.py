"""Adapters of other libraries, as folders that our tuners load.

Bottleneck adapters and prefixes of AdapterHub's `adapters`, and PEFT's own prefix tuning, are converted where both sides
compute the same. Where they do not, the error says what differs.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_bench.errors import LoraBenchError
from lora_bench.util.atomic_files import whole_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lora_bench.exchange.adapters.portable_adapter import PortableAdapter
    from lora_bench.models.made_folder import Progress


def import_adapter(
    folder: Path, out: Path, *, base: str | None = None, allow_pickle: bool = False, progress: "Progress | None" = None
) -> "PortableAdapter":
    """Write an adapter of AdapterHub, or a prefix of PEFT, to *out*, as `PeftModel.from_pretrained` loads it with our tuners.

    *base* is the name or folder of its base model, by default the name in *folder*. Weights only in a pickle are read by
    torch's restricted reader, with *allow_pickle*. Return the adapter, which knows the Python lines that load it.

    Raises:
        UnsupportedPair: If its library computes something else than our tuner.
        LoraBenchError: If it cannot be read, does not fit the base model, or *out* is not empty.
    """
    from lora_bench.exchange.adapters.adapterhub import from_adapterhub
    from lora_bench.exchange.adapters.peft_prefix import from_peft_prefix
    from lora_bench.exchange.adapters.portable_adapter import check_fits, read_settings, write_adapter
    from lora_bench.models.library_errors import in_a_sentence

    settings = read_settings(folder)
    if settings.get("peft_type") == "PREFIX_TUNING":
        convert, named = from_peft_prefix, settings.get("base_model_name_or_path")
    elif "peft_type" in settings:
        raise LoraBenchError(f"{folder} holds {settings['peft_type']}, which PEFT loads as it is")
    elif "config" in settings:
        convert, named = from_adapterhub, settings.get("model_name")
    else:
        raise LoraBenchError(f"{folder}: its adapter_config.json is neither AdapterHub's nor PEFT's")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise LoraBenchError(f"{out} is there already: give --out a new folder")
    model, name = _skeleton(folder, base or named, progress)
    with in_a_sentence(f"{folder}: its adapter_config.json cannot be understood"):
        adapter = convert(folder, settings, model, name, allow_pickle=allow_pickle)
        check_fits(adapter, model)
    with whole_folder(out) as made:
        write_adapter(adapter, made)
    return adapter


def _skeleton(folder: Path, name: Any, progress: "Progress | None") -> "tuple[PreTrainedModel, str]":
    from lora_bench.models.find_family import skeleton
    from lora_bench.models.registry import find_model

    if not isinstance(name, str) or not name:
        raise LoraBenchError(f"{folder} does not name its base model: give --base MODEL")
    return skeleton(find_model(name, base=Path(), progress=progress)), name
