"""Read the experiments of PEFT's method_comparison, and write the suite that runs them here.

An experiment is a folder `experiments/METHOD/NAME` with an `adapter_config.json` (none for full fine-tuning) and a
`training_params.json` of what differs from `default_training_params.json`. What a suite cannot say is a line that names the
experiment and the key. The files may be a stranger's: a configuration that would have PEFT read files or run code is a fault.
"""

import dataclasses
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from lora_bench.documents import dotted
from lora_bench.errors import Fault, LoraBenchError, refuse
from lora_bench.exchange.peft_results.mapping import NOT_OPTIONS, SETS
from lora_bench.families import ROLES, Family, Part, Role, declared_family, parts_of, roles_in_order
from lora_bench.methods.lora import Lora
from lora_bench.methods.peft import Peft
from lora_bench.models.registry import LOCAL, find_model, known_models
from lora_bench.models.safety import read_config
from lora_bench.models.shapes import PREFIX
from lora_bench.records.kept_adapter import CONFIG, harmful_option
from lora_bench.records.spec import AnyPrecision
from lora_bench.records.store import write_atomic
from lora_bench.util.hub import asked_once
from lora_bench.util.regular_files import read_object

DEFAULTS, TRAINING = "default_training_params.json", "training_params.json"
OURS, TASK = "minilm-l6-roberta", "sst2"
# Of their script, which warms up over a tenth of the steps before a cosine; and of torch, where no weight decay is given.
WARMUP, ADAMW_DECAY = 0.1, 0.01

# Settings that a suite has no key for, at the values that change nothing.
NEUTRAL = {"compile": False, "use_amp": False, "autocast_adapter_dtype": True, "attn_implementation": None}
# Likewise, but at another value the experiment is another method: LoRA-FA's optimiser, the text that a prefix starts from.
ESSENTIAL = {"optimizer_type": "AdamW", "init_kv_cache_prefix": None}
READ = {"model_id", "dtype", "max_seq_length", "batch_size", "max_steps", "eval_steps", "use_gc", "seed", "grad_norm_clip",
        "optimizer_kwargs", "lr_scheduler", *NEUTRAL, *ESSENTIAL}  # fmt: skip

# What PEFT takes from the base model where it is not given.
OF_MODEL = ("num_layers", "token_dim", "num_attention_heads", "num_transformer_submodules")
LORA_KEYS = {"r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "init_lora_weights", "target_modules"}
STARTS = {True: "kaiming", "gaussian": "gaussian", "pissa": "pissa", "olora": "olora"}

_FFN_IN: tuple[Part, ...] = ("feed_forward_in", "feed_forward_gate")
# Names of modules in their base models, Llama-3.2 and the transformer of FLUX.2, by the parts of a layer that they compute.
MODULES: Mapping[str, tuple[Part, ...]] = {
    "q_proj": ("query",), "k_proj": ("key",), "v_proj": ("value",), "o_proj": ("attention_output",),
    "up_proj": ("feed_forward_in",), "gate_proj": ("feed_forward_gate",), "down_proj": ("feed_forward_out",),
    "to_q": ("query",), "to_k": ("key",), "to_v": ("value",), "to_out.0": ("attention_output",),
    "add_q_proj": ("query",), "add_k_proj": ("key",), "add_v_proj": ("value",), "to_add_out": ("attention_output",),
    "linear_in": _FFN_IN, "linear_out": ("feed_forward_out",), "to_qkv_mlp_proj": ("query", "key", "value", *_FFN_IN),
}  # fmt: skip


class LeftOut(LoraBenchError):
    """Why an experiment could not be the same method here."""


@dataclass(frozen=True)
class Base:
    """The base model of the suite: its name, configuration and family, and why theirs is not used."""

    name: str
    config: Mapping[str, Any]
    family: Family | None
    why: str = ""


@dataclass
class Experiments:
    """What was read of the experiments of a folder.

    Args:
        base: Base model of the suite.
        count: Number of experiments in the folder.
        entries: Entries of the suite's methods.
        recipes: Settings of each by the keys of a suite, by label.
        notes: What is not as in their files, a line each.
        faults: Files that cannot be read, or must not be.
    """

    base: Base
    count: int
    entries: list[dict[str, Any]] = field(default_factory=list)
    recipes: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def import_experiments(folder: Path, out: Path, *, task: str = TASK, model: str | None = None) -> Experiments:
    """Write the suite *out*, with an entry for each experiment below *folder*, a benchmark of method_comparison.

    The base model is *model*; else theirs, if it is a local folder or the hub has its configuration; else ours. Raise
    LoraBenchError if there are no experiments, *out* exists, or no entry could be written.
    """
    if out.exists():
        raise LoraBenchError(f"{out} is there already; delete it, or name another file by --out")
    files = [file for name in (CONFIG, TRAINING) for file in (folder / "experiments").glob(f"*/*/{name}")]
    if not files:
        inside = sorted(path.parent for path in folder.glob("*/experiments"))
        hint = f"; did you mean {inside[0]}?" if inside else ""
        raise LoraBenchError(f"{folder} has no experiments/METHOD/NAME/{CONFIG}{hint}")
    experiments = sorted({file.parent for file in files})
    shared = read_object(folder / DEFAULTS, str(folder / DEFAULTS))
    found = Experiments(_base(shared.get("model_id"), model, out.parent), len(experiments))
    of_task = sorted(shared.keys() - READ)
    if of_task:
        found.notes.append(f"{DEFAULTS}: {', '.join(of_task)}: of their task, and not used")
    for experiment in experiments:
        _read(experiment, folder / "experiments", shared, found)
    if not found.entries:
        refuse(found.faults)
        raise LoraBenchError("\n".join([f"none of {found.count} experiments can run here", *found.notes]))
    write_atomic(out, _suite(folder.resolve().name, task, found).encode("utf-8"))
    return found


def _base(model_id: Any, given: str | None, place: Path) -> Base:
    """Return the base model; of one that is not known here, the configuration alone is read."""

    def read(name: str, why: str = "") -> Base:
        known = name.startswith(PREFIX) or name.removeprefix(LOCAL) in known_models()
        found = find_model(name if known else f"{PREFIX}{name}", base=place)
        return Base(name, read_config(name, found.folder), declared_family(found.model_type), why)

    if given is not None:
        return read(given)
    try:
        with asked_once():
            return read(str(model_id))
    except LoraBenchError as error:
        return read(OURS, f"{model_id} is not here: {error}".partition("\n")[0])


def _read(experiment: Path, root: Path, shared: Mapping[str, Any], found: Experiments) -> None:
    """Add the entry of an experiment, or the line that says why there is none."""
    label = experiment.relative_to(root).as_posix()
    config, own = experiment / CONFIG, experiment / TRAINING
    try:
        settings = read_object(own, str(own)) if own.exists() else {}
        options = read_object(config, str(config)) if config.exists() else None
        if (fault := harmful_option(options or {})) is not None:
            raise LoraBenchError(f"its {CONFIG} {fault}")
        for key in sorted(settings.keys() - READ):
            found.notes.append(f"{label}: {key}: no key of a suite, and not used")
        training = _training({**shared, **settings}, label, found.notes)
        entry = _method(options, found.base, label, found.notes)
    except LeftOut as error:
        found.notes.append(f"{label}: left out: {error}")
    except ValidationError as error:
        first = error.errors()[0]
        found.faults.append(Fault(first["msg"], file=label, key=dotted(first["loc"])))
    except LoraBenchError as error:
        found.faults.append(Fault(str(error), file=label))
    else:
        found.entries.append({**entry, "label": label, "learning_rate": training.pop("learning_rate")})
        found.recipes[label] = training


def _training(settings: Mapping[str, Any], label: str, notes: list[str]) -> dict[str, Any]:
    """Return an experiment's recipe by the keys of a suite; note what has no key there."""
    given = settings.get("optimizer_kwargs")
    optimizer: dict[str, Any] = given if isinstance(given, dict) else {}
    whole: dict[str, Any] = {name: settings.get(name) for name in ("batch_size", "max_steps")}
    whole |= {name: settings[name] for name in ("seed", "eval_steps", "max_seq_length") if name in settings}
    rate: Any = optimizer.get("lr")
    decay, clip = optimizer.get("weight_decay", ADAMW_DECAY), settings.get("grad_norm_clip", 0)
    for name, value in {**whole, "lr": rate, "weight_decay": decay, "grad_norm_clip": clip}.items():
        if isinstance(value, bool) or not isinstance(value, int if name in whole else int | float):
            raise LoraBenchError(f"{name} must be a number, got {value!r}")
    for name, neutral in {**NEUTRAL, **ESSENTIAL}.items():
        if (value := settings.get(name, neutral)) != neutral:
            shown = textwrap.shorten(repr(value), 40, placeholder="…")
            if name in ESSENTIAL:
                raise LeftOut(f"{name}: {shown} is a part of the method, and no suite has it")
            notes.append(f"{label}: {name}: {shown} has no key in a suite, and is not used")
    for name in sorted(optimizer.keys() - {"lr", "weight_decay"}):
        notes.append(f"{label}: optimizer_kwargs.{name}: not used")
    if settings.get("dtype") not in get_args(AnyPrecision):
        raise LeftOut(f"dtype: {settings.get('dtype')!r} is none of {', '.join(get_args(AnyPrecision))}")
    cosine = settings.get("lr_scheduler") == "cosine"
    keys = {"seed": "seed", "eval_steps": "selection_every", "max_seq_length": "max_length", "batch_size": "batch_size"}
    return {
        "learning_rate": float(rate),
        "train_examples": whole["batch_size"] * whole["max_steps"],
        **{key: whole[name] for name, key in keys.items() if name in whole},
        "schedule": "cosine" if cosine else "constant",
        "warmup": WARMUP if cosine else 0.0,
        "weight_decay": float(decay),
        "max_grad_norm": float(clip),
        "base_precision": settings["dtype"],
        "gradient_checkpointing": bool(settings.get("use_gc")),
    }


def _method(config: Mapping[str, Any] | None, base: Base, label: str, notes: list[str]) -> dict[str, Any]:
    """Return the entry of a method. Raise LeftOut, or ValidationError for options that our methods refuse."""
    if config is None:
        return {"method": "full"}
    kind = config.get("peft_type")
    options = _told(kind, config)
    if kind == "LORA" and (roles := _as_lora(options)) is not None:
        return roles
    width = options.get("token_dim")
    for name in (*OF_MODEL, *(["encoder_hidden_size"] if options.get("encoder_hidden_size") == width else [])):
        options.pop(name, None)
    if kind == "ADALORA":
        options.pop("total_step", None)  # set when training begins
    layers = base.config.get(base.family.num_layers_key) if base.family is not None else None
    given = options.get("adapter_layers")
    if isinstance(layers, int) and isinstance(given, int) and given > layers:
        notes.append(f"{label}: adapter_layers: {layers}, all layers of {base.name}, in place of {given}")
        options["adapter_layers"] = layers
    entry: dict[str, Any] = {"method": "peft", "type": kind}
    for name in ("target_modules", "feedforward_modules"):
        parts = _parts(options.get(name), name, base)
        if parts is None or base.family is None:
            continue
        options.pop(name)
        if name == "target_modules" and (whole := _roles(parts)) is not None:
            entry["targets"] = list(whole)
        else:
            options[name] = base.family.targets(*parts)
    entry |= {"options": options} if options else {}
    Peft.model_validate({name: value for name, value in entry.items() if name != "method"})
    return entry


def _told(kind: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that differ from the defaults of the installed PEFT. Raise LeftOut for a type or option it lacks."""
    from lora_bench.tuners.registration import known_configs

    if not isinstance(kind, str):
        raise LoraBenchError(f"peft_type must be a text, got {kind!r}")
    known = known_configs().get(kind)
    if known is None:
        raise LeftOut(f"peft_type: the installed PEFT has no {kind}")
    told = {}
    for name, value in config.items():
        if name in NOT_OPTIONS or value is None:
            continue
        if name in SETS and isinstance(value, list) and not all(isinstance(one, str | int) for one in value):
            raise LoraBenchError(f"{name} must be a list of names, got {value!r}")
        option = known.__dataclass_fields__.get(name)
        if option is None and value not in (False, {}, []):
            raise LeftOut(f"{name}: the installed PEFT has no such option of {kind}")
        if option is not None and value != _default(option):
            told[name] = value
    return told


def _default(option: Any) -> Any:
    if option.default_factory is not dataclasses.MISSING:
        return option.default_factory()
    return option.default


def _as_lora(options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the entry of our `lora`, where it is the same method as PEFT's with these options."""
    start, alpha, rank = (options.get(*one) for one in (("init_lora_weights", True), ("lora_alpha", 8), ("r", 8)))
    modules = options.get("target_modules", ["q_proj", "v_proj"])  # PEFT's default for Llama
    known = isinstance(modules, list) and MODULES.keys() >= set(modules)
    roles = _roles([part for name in modules for part in MODULES[name]]) if known else None
    numbers = isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float)
    if (
        set(options) - LORA_KEYS
        or roles is None
        or not numbers
        or not isinstance(start, str | bool)
        or start not in STARTS
    ):
        return None
    entry = {
        "rank": rank,
        "scaling": float(alpha if options.get("use_rslora") else alpha / rank),
        "targets": list(roles),
    }
    entry |= {"dropout": options["lora_dropout"]} if "lora_dropout" in options else {}
    entry |= {name: options[name] for name in ("use_rslora", "use_dora") if name in options}
    entry |= {"initialisation": STARTS[start]} if start is not True else {}
    Lora.model_validate(entry)
    return {"method": "lora", **entry}


def _parts(modules: Any, key: str, base: Base) -> list[Part] | None:
    """Return the parts that names of modules compute; None if the base model has these names, or none are given."""
    if not isinstance(modules, list) or base.family is None:
        return None
    own = {path.rpartition(".")[2] for part in ROLES["all"] for path in base.family.paths(part)}
    if own.issuperset(modules):
        return None
    strange = [name for name in modules if name not in MODULES]
    if strange:
        raise LeftOut(f"{key}: {base.name} has no {', '.join(map(str, strange))}")
    return [part for name in modules for part in MODULES[name]]


def _roles(parts: Sequence[Part]) -> tuple[Role, ...] | None:
    """Return the roles that have these parts and no others, or None."""
    roles = [role for role in ROLES if role != "all" and set(ROLES[role]) <= set(parts)]
    return roles_in_order(roles) if roles and set(parts_of(roles)) == set(parts) else None


def _suite(benchmark: str, task: str, found: Experiments) -> str:
    """Return the suite as YAML: the commonest settings for all, and recipes for those that differ."""
    given = [*found.recipes.values()]
    usual = {key: Counter(own.get(key) for own in given).most_common(1)[0][0] for own in given for key in own}
    usual = {key: value for key, value in usual.items() if value is not None}
    recipes: dict[str, dict[str, Any]] = {}
    for label, own in found.recipes.items():
        differs = {key: value for key, value in own.items() if value != usual.get(key)}
        if (seed := differs.pop("seed", None)) is not None:
            found.notes.append(f"{label}: seed: {seed}; a suite has the same seeds for all")
        if differs:
            recipes.setdefault(repr(differs), {"methods": [], **differs})["methods"].append(label)
    content = {
        "suite": "peft-" + re.sub(r"[^A-Za-z0-9._-]+", "-", benchmark),
        "about": f"The experiments of {benchmark} in PEFT's method_comparison, each at its own learning rate, on {task}.",
        "tasks": [task],
        "models": [found.base.name],
        "methods": found.entries,
        "seeds": [usual.pop("seed", 0)],
        "budget": {"train_examples": usual.pop("train_examples")},
        **{key: usual.pop(key) for key in ("selection_every",) if key in usual},
        "training": usual,
        **({"recipes": [*recipes.values()]} if recipes else {}),
    }
    head = (
        "# Written by lora-bench import peft-experiments; every line can be edited, and docs/suites.md has every key.\n"
    )
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
