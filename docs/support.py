"""Find out which method works on which model for which kind of task, for docs/support.md.

Each method is put on a tiny model, trained for three steps, and asked for a padded row. Kinds of task whose models are of one
class in transformers share a probe. The page depends on the versions of the libraries, which it names; it takes a minute of one
core.
"""

from __future__ import annotations

import copy
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from peft_defects import DEFECTS
from pydantic import ValidationError

from lora_bench.errors import LoraBenchError, typed_line
from lora_bench.families import FAMILIES, Family
from lora_bench.kinds import known_kinds
from lora_bench.methods import Method, known_methods

# What PEFT's methods need beside query and value, or in their place, to be put on a tiny model.
PEFT_OPTIONS: dict[str, dict[str, Any]] = {
    "ADAMSS": {"options": {"r": 8, "num_subspaces": 2}},
    "ADAPTION_PROMPT": {"options": {"adapter_len": 4, "adapter_layers": 2}, "targets": None},
    "BEFT": {"targets": ["value"]},
    "C3A": {"options": {"block_size": 8}},
    "CPT": {"options": {"cpt_token_ids": [5, 6, 7, 8]}, "targets": None},
    "DEFT": {"options": {"r": 4}},
    "DELORA": {"options": {"r": 4}},
    "FOURIERFT": {"options": {"n_frequency": 100}},
    "FROD": {"options": {"progressbar": False}},
    "GLORA": {"options": {"r": 4}},
    "GRALORA": {"options": {"r": 4, "alpha": 8}},
    "IA3": {"options": {"feedforward_modules": []}, "targets": ["key", "value"]},
    "LILY": {"options": {"r": 4}},
    "LN_TUNING": {"options": {"target_modules": r".*(LayerNorm|layernorm|ln_1|ln_2)"}, "targets": None},
    "MISS": {"options": {"r": 4}},
    "OFT": {"options": {"oft_block_size": 0, "r": 4}},
    "OSF": {"options": {"effective_rank": 8}},
    "PEANUT": {"options": {"r": 4}},
    "POLY": {"options": {"r": 4}},
    "PSOFT": {"options": {"r": 8}},
    "PVERA": {"options": {"r": 8}},
    "RANDLORA": {"options": {"r": 8}},
    "ROAD": {"options": {"group_size": 8}},
    "SHADOW": {"options": {"r": 4, "shadow_dropout": 0.0}, "targets": None},
    "SHIRA": {"options": {"r": 4}},
    "SUPERTUNING": {"options": {"sparsity": 0.9}},
    "TRAINABLE_TOKENS": {"options": {"token_indices": [5, 6, 7]}, "targets": None},
    "UNILORA": {"options": {"theta_d_length": 64}},
    "VBLORA": {"options": {"vector_length": 8, "num_vectors": 16}},
    "VERA": {"options": {"r": 8}},
    "WAVEFT": {"options": {"n_frequency": 100}},
    "XLORA": {"options": {"adapters": {"first": "FOLDER"}}, "targets": None},
}
PROMPTS = ("CARTRIDGE", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "PROMPT_TUNING")

# Kinds of task by the class of their models: those of texts, of their parts, and of texts to write.
SHOWN_KINDS: dict[str, list[str]] = {}
for _kind in sorted(
    known_kinds().values(), key=lambda kind: (not kind.has_head, not kind.reads_one_token, kind.model_kind != kind.name)
):
    SHOWN_KINDS.setdefault(_kind.model_names.auto, []).append(_kind.name)

# Models on which PEFT's methods are probed: an encoder, a decoder as classifier and as writer, and one with fused weights.
PEFT_MODELS = (
    ("RoBERTa", "classification"),
    ("Llama", "classification"),
    ("Llama", "generation"),
    ("GPT-2", "generation"),
)
LABELS = 3


class Probed(NamedTuple):
    """A tiny model, a kind of task, and the methods to put on it.

    Args:
        shown: Name of the model on the page.
        kind: A kind of task of its class.
        peft: True for PEFT's methods, False for those of lora_bench.
    """

    shown: str
    kind: str
    peft: bool = False


Found = dict[str, str | None] | str
"""Why each method does not work, or None if it does; or why there is no such model."""


def own_methods() -> dict[str, Method]:
    """Return every method and variant of a table, by the name that it has there.

    `qlora` is not among them, as it is `lora` on a packed base, nor `linear_probe`, as it adds nothing: their own tests have
    them.
    """
    known = known_methods()
    rows: dict[str, Method] = {
        "full": known["full"](),
        "full, top_layers 1": known["full"](top_layers=1),
        "bitfit": known["bitfit"](),
        "lora": known["lora"](),
        "lora, all": known["lora"](targets=["all"]),
        "lora, DoRA": known["lora"](use_dora=True),
        "lora, rsLoRA": known["lora"](use_rslora=True),
    }
    for initialisation in ("gaussian", "pissa", "olora"):
        rows[f"lora, {initialisation}"] = known["lora"](initialisation=initialisation)
    for variant in ("houlsby", "pfeiffer", "parallel", "lin"):
        rows[f"bottleneck_adapter, {variant}"] = known["bottleneck_adapter"](variant=variant)
    rows["prefix_tuning"] = known["prefix_tuning"]()
    rows["prefix_tuning, reparameterised"] = known["prefix_tuning"](reparameterised=True)
    for name in sorted(set(known) - {method_of(row) for row in rows} - {"combined", "linear_probe", "peft", "qlora"}):
        rows[name] = known[name]()
    lora, parallel = {"method": "lora"}, {"method": "bottleneck_adapter", "variant": "parallel"}
    rows["combined, LoRA+PE"] = known["combined"](parts=(lora, {"method": "prefix_embedding"}))
    rows["combined, LoRA+PL"] = known["combined"](parts=(lora, {"method": "prefix_layer"}))
    rows["combined, MAM"] = known["combined"](parts=({"method": "prefix_tuning"}, parallel))
    return rows


def peft_methods() -> dict[str, Method | str]:
    """Return every PEFT method of the installed version, by its type; or why a suite may not have it."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    made: dict[str, Method | str] = {}
    for peft_type in sorted(kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING):
        if peft_type.startswith(("LORA_BENCH", "BOTTLENECK")):
            continue  # the tuners of lora_bench, which have methods of their own
        default: dict[str, Any] = {"targets": ["query", "value"]}
        if peft_type in PROMPTS:
            default = {"options": {"num_virtual_tokens": 8}}
        try:
            made[peft_type] = known_methods()["peft"](type=peft_type, **default | PEFT_OPTIONS.get(peft_type, {}))
        except ValidationError as error:
            made[peft_type] = error.errors()[0]["msg"].removeprefix("Value error, ")
    return made


def method_of(row: str) -> str:
    """Return the method of a row such as "lora, DoRA"."""
    return row.partition(", ")[0]


def tiny_configs() -> dict[str, Any]:
    """Return the config of the tiny model of each family, by the family's name on the page, and of BERT."""
    import transformers

    def config(family: Family, classes: str) -> Any:
        sizes = {family.hidden_size_key: 32, family.num_layers_key: 2, family.num_heads_key: 4, "vocab_size": 64}
        return getattr(transformers, f"{classes}Config")(**sizes, pad_token_id=0, **family.tiny)

    found = {}
    for family in FAMILIES:
        found[family.shown] = config(family, family.classes)
        if "bert" in family.model_types:
            found["BERT"] = config(family, "Bert")
    return found


def tiny(shown: str, kind: str) -> tuple[Any, list[str]]:
    """Return a tiny model for a kind of task, made as a suite makes one, and the names of its head's modules.

    Raises:
        LoraBenchError: If there is no such model, or lora_bench makes none.
    """
    import torch

    from lora_bench.models.loading import load_model
    from lora_bench.models.registry import BaseModel

    config = tiny_configs()[shown]
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        base = BaseModel(
            name=shown, shown=shown, folder=Path(folder), sha256="", revision=None, model_type=config.model_type,
            has_weights=False,
        )  # fmt: skip
        torch.manual_seed(0)
        model, head = load_model(base, kind=kind, labels=LABELS)
    model.config.pad_token_id = 0
    return model, head


def probe(asked: Probed) -> Found:
    """Put methods on a model; return what is wrong with each."""
    import torch

    torch.set_num_threads(1)
    model_type = tiny_configs()[asked.shown].model_type
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            base, head = tiny(asked.shown, asked.kind)
        except LoraBenchError as error:
            return general(str(error), model_type)
        methods = peft_methods() if asked.peft else own_methods()
        return {name: fault(name, method, base, head) for name, method in methods.items()}


def fault(name: str, method: Method | str, base: Any, head: Sequence[str]) -> str | None:
    """Return why a method does not work on a model; None if it works."""
    import torch

    from lora_bench.tuners.trial import fault_of

    if isinstance(method, str):
        return method
    torch.manual_seed(0)
    # `peft` would make this same trial before it puts its method on a model.
    put_on = getattr(method, "put_on", method.apply)
    try:
        reason = fault_of(put_on(copy.deepcopy(base), head=list(head)), "it", head)
    except LoraBenchError as error:
        reason = str(error)
    except Exception as error:  # what a library raises is the answer to the question
        reason = f"it fails on the model: {typed_line(error)}"
    reason = reason and re.sub(rf"^(?:PEFT's )?{re.escape(name.rpartition(', ')[2])}\b", "it", reason)
    return reason and general(reason, base.config.model_type, type(base).__name__)


def general(reason: str, model_type: str, model_class: str = "") -> str:
    """Return a reason in words that fit other methods and models too."""
    replaced = {
        rf"\bno {re.escape(model_type)}\b": "no model of this family",
        rf"\b(?:this )?{re.escape(model_type)}\b": "this family",
        r"<class '[\w.]*?(\w+)'>": r"\1",
        r"^\d+ of the \d+ weights": "some weights",
        # PEFT goes on with what it supports.
        r"(?<=not supported)[.,] [Cc]urrently.*": "",
        # Where else to look depends on the family.
        r": prefix_layer works there,.*": "",
        "(?<=generation needs a causal model) such as gpt2": " or an encoder with a decoder",
        # The path of a weight is the model's own.
        r", \S+ first$|(?<=frozen): \S+$": "",
    }
    for pattern, replacement in replaced.items():
        reason = re.sub(pattern, replacement, reason)
    return re.sub(rf"\b{model_class}\b", "the model", reason) if model_class else reason


class Notes:
    """Numbered reasons: one for each reason with the methods that it is given for."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, str], int] = {}

    def of(self, names: Sequence[str], reason: str) -> int:
        """Return the number of a reason for methods or variants."""
        return self.numbers.setdefault((listed(names), reason), len(self.numbers) + 1)

    def lines(self) -> Iterator[str]:
        """Yield a line for each reason."""
        for (names, reason), number in self.numbers.items():
            yield f"{number}. {names}: {reason}\n"


def listed(names: Sequence[str]) -> str:
    """Return names such as "lora, DoRA" with the variants of each method together."""
    variants: dict[str, list[str]] = {}
    for name in names:
        method, _, variant = name.partition(", ")
        variants.setdefault(method, []).append(variant or "default")
    shown = {method: "" if found == ["default"] else f" ({', '.join(found)})" for method, found in variants.items()}
    return ", ".join(f"`{method}`{of}" for method, of in shown.items())


def cell(names: Sequence[str], found: dict[str, str | None], notes: Notes) -> str:
    """Return the cell of a method: "yes", "no" or "some", with the numbers of the reasons.

    Args:
        names: The method's variants.
        found: Why each does not work, or None.
        notes: Receives the reasons.
    """
    reasons: dict[str, list[str]] = {}
    for name in names:
        reason = found[name]
        if reason is not None:
            reasons.setdefault(reason, []).append(name)
    if not reasons:
        return "yes"
    numbers = ", ".join(str(notes.of(variants, reason)) for reason, variants in reasons.items())
    return f"{'no' if sum(map(len, reasons.values())) == len(names) else 'some'}: {numbers}"


def table(kinds: Sequence[str], found: dict[str, Found], notes: Notes) -> str:
    """Return the table of kinds that share a class of models: a row a model, a column a method."""
    columns: dict[str, list[str]] = {}
    for name in own_methods():
        columns.setdefault(method_of(name), []).append(name)
    lines = [
        f"## {', '.join(kinds).capitalize().replace('_', ' ')}\n\n",
        f"| model | {' | '.join(f'`{name}`' for name in columns)} |\n",
        f"| --- |{' --- |' * len(columns)}\n",
    ]
    none: dict[str, list[str]] = {}
    for model, of_model in found.items():
        if isinstance(of_model, str):
            none.setdefault(of_model, []).append(model)
            continue
        cells = [cell(names, of_model, notes) for names in columns.values()]
        lines.append(f"| {model} | {' | '.join(cells)} |\n")
    lines += ["\n"] if none else []
    return "".join([*lines, *(f"Not on {', '.join(models)}: {reason}.\n" for reason, models in none.items()), "\n"])


def peft_table(found: dict[Probed, Found], notes: Notes) -> str:
    """Return the table of PEFT's methods: a row a method, a column a model."""
    heads = [f"{asked.shown}, {asked.kind}" for asked in found]
    lines = [f"| type | {' | '.join(heads)} |\n", f"| --- |{' --- |' * len(heads)}\n"]
    types = peft_methods()
    of_each = {one: [of_model[one] for of_model in found.values() if isinstance(of_model, dict)] for one in types}
    for peft_type, reasons in of_each.items():
        cells = []
        for reason in reasons:
            alike = [one for one in types if reason in of_each[one]]
            cells.append("yes" if reason is None else f"no: {notes.of(alike, reason)}")
        lines.append(f"| `{peft_type}` | {' | '.join(cells)} |\n")
    return "".join(lines)


def support_page() -> str:
    """Return the page."""
    import lora_bench.tuners.trial  # noqa: F401  # once, before processes are forked

    shown = [*tiny_configs()]
    own = [Probed(model, kinds[0]) for kinds in SHOWN_KINDS.values() for model in shown]
    of_peft = [Probed(model, kind, peft=True) for model, kind in PEFT_MODELS]
    with ProcessPoolExecutor(mp_context=get_context("fork")) as workers:
        found: dict[Probed, Found] = dict(zip([*own, *of_peft], workers.map(probe, [*own, *of_peft]), strict=True))
    notes, of_types = Notes(), Notes()
    tables = [table(kinds, {m: found[Probed(m, kinds[0])] for m in shown}, notes) for kinds in SHOWN_KINDS.values()]
    types = peft_table({asked: found[asked] for asked in of_peft}, of_types)
    versions = ", ".join(f"{package} {version(package)}" for package in ("transformers", "peft", "torch"))
    return (
        "# Which method works on which model\n\n"
        f"Made by `docs/generate.py support` with {versions}.\n"
        "Each method was put on a tiny model of each family, trained for three steps, and asked for a padded row. It works if\n"
        "every weight it adds gets a gradient, the head is trained whole, and padding changes no answer.\n\n"
        "`some` means that some variants of the method work. Numbers are those of the [reasons](#reasons). Kinds of task\n"
        "under one heading share their results, since they load the same class of model; summaries and translations are\n"
        "`generation`. A chat and a preference are for causal models: T5 and BART refuse them. `qlora` works where `lora`\n"
        "does, and `linear_probe` where a model has a head, but for classes, numbers and spans of T5 and BART. Models that\n"
        "are not in the tables: [families](families.md).\n\n"
        "SmolLM2-135M works like any Llama, from a folder or the hub. It has no name of its own here: the package index\n"
        "offers only a copy in 4 bits, and no exact one to check it against.\n\n"
        f"{''.join(tables)}## Reasons\n\n{''.join(notes.lines())}\n"
        "## Every method of PEFT\n\n"
        "`{method: peft, type: TYPE}` on a tiny encoder and tiny decoders, on query and value where it takes targets. GPT-2\n"
        "has these in one `Conv1D`. A run tries its pair on a small model first, so what fails here is refused there.\n\n"
        f"{types}\n{''.join(of_types.lines())}\n{DEFECTS}"
    )
