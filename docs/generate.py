"""Write the pages of the documentation that come from the code, or check that they are up to date.

    python docs/generate.py methods            writes docs/methods.md: one card a method
    python docs/generate.py methods --check    exits with 1 where it would change
    python docs/generate.py support            writes docs/support.md: which method works on which model

The card of a method is its module's docstring, and its options are the fields of its class, so neither can go stale. What
works is found by probing: each method is put on a small model of each kind, trained for three steps, and asked for a padded
row. That takes some minutes and depends on the versions of the libraries, which the page names.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lora_bench.errors import LoraBenchError
from lora_bench.methods import Method, known_methods

FOLDER = Path(__file__).parent

METHODS_HEADER = """# Methods

A page made by `docs/generate.py` from the modules in `lora_bench/methods/`: one card a method.

"""


def main() -> int:
    """Write or check a page."""
    what = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "methods")
    pages: dict[str, Callable[[], str]] = {"methods": methods_page, "support": support_page}
    page, made = FOLDER / f"{what}.md", pages[what]()
    if "--check" not in sys.argv[1:]:
        page.write_text(made, encoding="utf-8")
        return 0
    if page.is_file() and page.read_text(encoding="utf-8") == made:
        return 0
    print(f"{page.name} differs from what the code says; run python docs/generate.py {what}")
    return 1


def methods_page() -> str:
    """One card a method."""
    return METHODS_HEADER + "\n".join(card(name, method) for name, method in known_methods().items())


def card(name: str, method: Any) -> str:
    """Markdown for one method: its module's docstring, then its options."""
    title, _, text = (sys.modules[method.__module__].__doc__ or "").strip().partition("\n")
    lines = [f"## `{name}`", "", f"**{title}**", text.rstrip(), ""]
    lines += ["| option | default | |", "| --- | --- | --- |"]
    about = _arguments(method.__doc__ or "")
    for option, field in method.model_fields.items():
        default = "required" if field.is_required() else f"`{field.get_default(call_default_factory=True)!r}`"
        size = " **Its size.**" if option == method.size else ""
        lines.append(f"| `{option}` | {default} | {_inert(about.get(option, ''))}{size} |")
    if not method.model_fields:
        lines = lines[:-2]
    lines += ["", f"Suggested learning rate, where a suite gives none: {method.learning_rate:g}.", ""]
    return "\n".join(lines)


def _arguments(docstring: str) -> dict[str, str]:
    """The descriptions under `Args:` of a Google docstring, by argument."""
    _, _, after = docstring.partition("Args:\n")
    found: dict[str, str] = {}
    name = ""
    for line in after.splitlines():
        if not line.strip():
            break
        indented = len(line) - len(line.lstrip()) > 8
        if indented and name:
            found[name] += f" {line.strip()}"
        else:
            name, _, text = line.strip().partition(": ")
            found[name] = text
    return found


def _inert(text: str) -> str:
    return text.replace("|", "\\|")


# PEFT's other methods, with the options that each needs before it can be put on anything.
PEFT_TYPES: dict[str, dict[str, Any]] = {
    "ADALORA": {"targets": ["query", "value"]},
    "IA3": {"options": {"feedforward_modules": []}, "targets": ["key", "value"]},
    "VERA": {"targets": ["query", "value"]},
    # Not ModernBERT's `attn_norm`, which does nothing in its first layer and has no weight there.
    "LN_TUNING": {"options": {"target_modules": r".*(LayerNorm|ln_1|ln_2|_layernorm|layer_norm|mlp_norm)"}},
    "FOURIERFT": {"options": {"n_frequency": 100}, "targets": ["query", "value"]},
    "LOHA": {"targets": ["query", "value"]},
    "LOKR": {"targets": ["query", "value"]},
    "OFT": {"options": {"oft_block_size": 0, "r": 4}, "targets": ["query", "value"]},
    "BOFT": {"targets": ["query", "value"]},
    "HRA": {"targets": ["query", "value"]},
    "MISS": {"options": {"r": 4}, "targets": ["query", "value"]},
    "RANDLORA": {"targets": ["query", "value"]},
    "WAVEFT": {"options": {"n_frequency": 100}, "targets": ["query", "value"]},
    "HIRA": {"targets": ["query", "value"]},
    "PREFIX_TUNING": {"options": {"num_virtual_tokens": 8}},
    "PROMPT_TUNING": {"options": {"num_virtual_tokens": 8}},
    "P_TUNING": {"options": {"num_virtual_tokens": 8}},
}


def probed_methods() -> dict[str, Method]:
    """Every method and variant that the page has a row for, by the name of the row."""
    known = known_methods()
    rows: dict[str, Method] = {
        "full": known["full"](),
        "full, top_layers 1": known["full"](top_layers=1),
        "bitfit": known["bitfit"](),
        "lora": known["lora"](),
        "lora on all": known["lora"](targets=["all"]),
        "lora, DoRA": known["lora"](use_dora=True),
        "lora, rsLoRA": known["lora"](use_rslora=True),
    }
    for initialisation in ("gaussian", "pissa", "olora"):
        rows[f"lora, {initialisation}"] = known["lora"](initialisation=initialisation)
    for variant in ("houlsby", "pfeiffer", "parallel", "lin"):
        rows[f"bottleneck_adapter, {variant}"] = known["bottleneck_adapter"](variant=variant)
    rows["prefix_tuning"] = known["prefix_tuning"]()
    rows["prefix_tuning, reparameterised"] = known["prefix_tuning"](reparameterised=True)
    for name in sorted(set(known) - {"full", "bitfit", "lora", "bottleneck_adapter", "prefix_tuning", "peft"}):
        rows[name] = known[name]()
    for peft_type, options in PEFT_TYPES.items():
        rows[f"peft, {peft_type}"] = known["peft"](type=peft_type, **options)
    return rows


def small_models() -> dict[str, Callable[[], tuple[Any, list[str]]]]:
    """Makes a small classifier of each kind, with the names of its head's modules."""
    import transformers

    from lora_bench.testing import tiny_model
    from lora_bench.tuners.trial import small_config

    def make(name: str, head: list[str], **options: Any) -> Callable[[], tuple[Any, list[str]]]:
        config_class = getattr(transformers, f"{name}Config")
        model_class = getattr(transformers, f"{name}ForSequenceClassification")
        size = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96, "max_position_embeddings": 64}
        return lambda: (model_class(small_config(config_class(**size, num_labels=2, **options))), head)

    relative = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    return {
        "RoBERTa": make("Roberta", ["classifier"]),
        "XLM-RoBERTa": make("XLMRoberta", ["classifier"]),
        "BERT": make("Bert", ["classifier"]),
        "DeBERTa": make("Deberta", ["pooler", "classifier"], **relative),
        "DeBERTa-v2/v3": make(
            "DebertaV2", ["pooler", "classifier"], **relative, share_att_key=True, position_buckets=8
        ),
        "GPT-2": make("GPT2", ["score"]),
        "Llama": lambda: tiny_model("llama"),
        "ModernBERT": lambda: tiny_model("modernbert"),
        "T5 encoder": lambda: tiny_model("t5"),
    }


def support_page() -> str:
    """A table of methods and models, and under it why a pair does not work."""
    import torch

    from lora_bench.tuners.trial import fault_of

    torch.set_num_threads(1)
    models = small_models()
    rows = [f"| method | {' | '.join(models)} |", f"| --- |{' :-: |' * len(models)}"]
    reasons: dict[str, list[str]] = {}
    for name, method in probed_methods().items():
        marks = []
        for model_name, make in models.items():
            torch.manual_seed(0)
            base, head = make()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    reason = fault_of(method.apply(base, head=head), name, head)
                except LoraBenchError as error:
                    reason = str(error)
                except Exception as error:  # what a library raises is the answer to the question
                    reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            marks.append("yes" if reason is None else "no")
            if reason is not None:
                reasons.setdefault(f"`{name}`: {_inert(reason)}", []).append(model_name)
        rows.append(f"| `{name}` | {' | '.join(marks)} |")
    versions = ", ".join(f"{package} {version(package)}" for package in ("transformers", "peft", "torch"))
    why = [f"- {', '.join(names)}, {reason}" for reason, names in reasons.items()]
    return "\n".join(
        [
            "# Which method works on which model",
            "",
            f"A page made by `docs/generate.py support` with {versions}, by probing: each method is put on a small "
            "classifier of each kind, trained for three steps, and asked for a padded row. *yes* says that every weight it "
            "adds got a gradient, that the head is trained whole, and that padding changed no answer.",
            "",
            *rows,
            "",
            "## Why not",
            "",
            *why,
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
