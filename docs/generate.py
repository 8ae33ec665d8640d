"""Write the pages of the documentation that come from the code, or check that they are up to date.

    python docs/generate.py methods            writes docs/methods.md: one card a method
    python docs/generate.py methods --check    exits with 1 where it would change
    python docs/generate.py suites             writes docs/suites.md: every key of a suite
    python docs/generate.py support            writes docs/support.md: which method works on which model

The card of a method is its module's docstring, and its options are the fields of its class, so neither can go stale; nor can
the keys of a suite, which are the fields and docstrings of the classes that read it. What works is found by probing: each
method is put on a small model of each kind, trained for three steps, and asked for a padded row. That takes some minutes and
depends on the versions of the libraries, which the page names.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lora_bench.documents import Strict
from lora_bench.errors import LoraBenchError
from lora_bench.families import FAMILIES
from lora_bench.methods import Method, known_methods
from lora_bench.records.analysis import Analysis
from lora_bench.records.budget import Caps
from lora_bench.records.protocol import PROTOCOLS, Protocol
from lora_bench.records.spec import Decoding
from lora_bench.suite.entries import Range, read_method
from lora_bench.suite.probe_suite import Cell, CellRecipe, ProbeFile, Size
from lora_bench.suite.schema import OWN_ARGUMENTS, ModelEntry, Probe, Recipe, SuiteBudget, SuiteFile, Training, Tuning

FOLDER = Path(__file__).parent

METHODS_HEADER = """# Methods

A page made by `docs/generate.py` from the modules in `lora_bench/methods/`: one card a method.

"""


def main() -> int:
    """Write or check a page."""
    what = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "methods")
    pages: dict[str, Callable[[], str]] = {"methods": methods_page, "suites": suites_page, "support": support_page}
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


def _arguments(docstring: str, section: str = "Args") -> dict[str, str]:
    """The descriptions under `Args:` or another heading of a Google docstring, by argument."""
    _, _, after = docstring.partition(f"{section}:\n")
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


SUITES_HEADER = """# Every key of a suite

A page made by `docs/generate.py suites` from the classes that read a suite. For an editor `lora-bench schema suite` prints the
JSON Schema. A key that nothing reads is refused, with its line and the nearest one that there is.

```yaml
suite: tickets
tasks:
  - rte                                                              # by name
  - {task: tickets, data: tickets.csv, text: subject, label: queue}  # or written out
models:
  - FacebookAI/roberta-base
  - {model: microsoft/deberta-v3-base, shown: DeBERTa-v3-base}
methods:
  - method: full
    learning_rate:                                                   # by base model; `default` is every other one
      microsoft/deberta-v3-base: {low: 5e-6, high: 5e-5}             # drawn from a range
      default: {low: 1e-5, high: 1e-4}
  - {method: lora, learning_rate: {low: 2e-4, high: 2e-3}}
  - {method: lora, label: lora_all, targets: [all], tasks: rte, learning_rate: [2e-4, 6e-4, 2e-3]}
seeds: [0, 1, 2]
budget: {adapter_parameters: 300_000, epochs: 3, trials: 3}
training: {batch_size: 16, max_length: 256, warmup: 0.06}
training_arguments: {adam_beta2: 0.98}
recipes:
  - {tasks: tickets, max_length: 64}
tuning: {seeds: [100]}
analysis: {reference: lora, margin: 0.01}
```

"""

KEYS_OF_TASKS = """## tasks

Each is a name of `lora-bench list tasks`, or a mapping with [the keys of a task](tasks.md#every-key-of-a-task).

"""

KEYS_OF_METHODS = """## methods

Each is a name of `lora-bench list methods`, or a mapping with [the options of the method](methods.md) and these keys:

| key | |
| --- | --- |
"""

BUDGET = """One amount of work is needed (`epochs`, or a key that begins with `train_`), and one number of parameters may be
given: see [budgets](budgets.md)."""

RECIPES = "Each says for which cells it is, and what they do in another way, with one amount of work at most:"

TRAINING_ARGUMENTS = """## training_arguments

Passed on to `transformers.TrainingArguments`, to all methods alike, such as `adam_beta2`. `gradient_accumulation_steps` is the
number of parts in which a batch is taken, and divides `training.batch_size`. Refused is what the suite has a key of its own
for, what the harness needs as it is, and what reaches the hub:
"""

KEYS_OF_PROBES = """## A suite of probes

It trains nothing, and has shapes in the place of tasks: see [probes](probes.md).

"""

# Where the keys of a class stand on the page.
HEADINGS = {
    "SuiteBudget": "budget",
    "Caps": "budget.caps",
    "Training": "training",
    "Recipe": "recipes",
    "Tuning": "tuning",
    "Decoding": "decoding",
    "Analysis": "analysis",
    "Probe": "probe",
    "Cell": "cell",
    "Size": "budget of probes",
    "CellRecipe": "recipes of probes",
}
# Keys whose entries are read by hand, with a part of the page for each.
OF_THEIR_OWN = ("tasks", "models", "methods", "training_arguments", "protocol")


def suites_page() -> str:
    """A table for each part of a suite, and of a suite of probes."""
    beside = _arguments(read_method.__doc__ or "", "Keys")
    slices = (
        "In the place of a rate, a range from which `budget: {trials: N}` rates are drawn, one in each of N slices:"
    )
    return "".join(
        [
            SUITES_HEADER,
            "## The keys\n\n",
            keys(SuiteFile),
            KEYS_OF_TASKS,
            section("models", "Each is a name, or a mapping:", keys(ModelEntry)),
            KEYS_OF_METHODS,
            *(f"| `{key}` | {_inert(text)} |\n" for key, text in beside.items()),
            "\n",
            section("methods.learning_rate", slices, keys(Range)),
            section("budget", BUDGET, keys(SuiteBudget)),
            section("budget.caps", "", keys(Caps)),
            section("training", "", keys(Training)),
            TRAINING_ARGUMENTS,
            *(f"`{name}`, " for name in sorted(OWN_ARGUMENTS)[:-1]),
            f"`{max(OWN_ARGUMENTS)}`.\n\n",
            section(
                "recipes", "Each says for which cells it is, and what they do in another way:", keys(Recipe, Training)
            ),
            section("tuning", "", keys(Tuning)),
            protocol_part(),
            section("decoding", "", keys(Decoding)),
            section("analysis", "See [statistics](statistics.md).", keys(Analysis)),
            section("probe", "See [probes](probes.md).", keys(Probe)),
            KEYS_OF_PROBES,
            keys(ProbeFile),
            section("cell", "", keys(Cell)),
            section("budget of probes", "", keys(Size)),
            section("recipes of probes", "The same for cells:", keys(CellRecipe, Cell, Probe)),
        ]
    ).removesuffix("\n")


def section(heading: str, intro: str, table: str) -> str:
    """A part of the page."""
    return f"## {heading}\n\n{intro}{2 * chr(10) if intro else ''}{table}"


def keys(part: type[BaseModel], *others: type[BaseModel]) -> str:
    """A table of the keys of a class, its own before those that it inherits; what it does not describe *others* do."""
    bases = [base for base in part.__mro__ if issubclass(base, Strict) and base is not Strict]
    about: dict[str, str] = {}
    for base in (*bases, *others):
        about = _arguments(base.__doc__ or "") | about
    schema = part.model_json_schema()
    rows = []
    for name in dict.fromkeys(name for base in bases for name in base.__annotations__ if name in part.model_fields):
        said = value(schema["properties"][name])
        of_its_own = part in (SuiteFile, ProbeFile) and name in OF_THEIR_OWN
        rows.append(
            (f"`{name}`", f"[{said}](#{name})" if of_its_own else said, default(name, schema), _inert(about[name]))
        )
    # Where everything may be left out, a column says nothing.
    shown = [0, 1, 2, 3] if any(row[2] != "–" for row in rows) else [0, 1, 3]
    head = ("key", "value", "default", "")
    lines = [" | ".join(row[place] for place in shown) for row in (head, *rows)]
    lines.insert(1, " | ".join("---" for _ in shown))
    return "".join(f"| {line} |\n" for line in lines).replace("|  |", "| |") + "\n"


def value(schema: dict[str, Any]) -> str:
    """What a key may have as its value, from its JSON Schema."""
    if "anyOf" in schema:
        first, *rest = (value(one) for one in schema["anyOf"] if one.get("type") != "null")
        several = {f"list: {first}": "a list of them", f"mapping to {first}": "a mapping to them"}
        return ", or ".join([first, *(several.get(one, one) for one in rest)])
    if "$ref" in schema:
        heading = HEADINGS[schema["$ref"].rpartition("/")[2]]
        return f"[mapping](#{heading.replace('.', '').replace(' ', '-')})"
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if "prefixItems" in schema:
        return f"pair, each {value(schema['prefixItems'][0])}"
    if "items" in schema:
        return f"list: {value(schema['items'])}"
    if schema["type"] == "object":
        of = schema["additionalProperties"]
        return f"mapping to {value(of)}" if "type" in of else "mapping"
    kinds = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`", "string": "text"}
    return "name" if "pattern" in schema else kinds[schema["type"]] + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    """The bounds of a number, such as " in [0, 1)"."""
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if high is None and below is None:
        return f" above {above}" if above is not None else f" of at least {low}" if low is not None else ""
    begin = f"[{low}" if low is not None else f"({above}"
    return f" in {begin}, {f'{high:,}]' if high is not None else f'{below:,})'}"


def default(name: str, schema: dict[str, Any]) -> str:
    """What a key is where it is left out; a dash where that is nothing, or what its parts are."""
    if name in schema.get("required", ()):
        return "required"
    given = schema["properties"][name].get("default")
    if given is None or isinstance(given, dict) or given in ("", []):
        return "–"
    return f"`{given if isinstance(given, str) else json.dumps(given)}`"


def protocol_part() -> str:
    """The rules of each protocol."""
    about, schema = _arguments(Protocol.__doc__ or ""), Protocol.model_json_schema()["properties"]
    names = [f"`{name}`" for name in PROTOCOLS]
    intro = f"A name, {' or '.join(names)}, or a mapping of one and what differs: `{{protocol: paper, choose_on: selection}}`."
    table = f"| rule | value | {' | '.join(names)} | |\n|{' --- |' * (3 + len(names))}\n"
    for rule in Protocol.model_fields:
        of_each = (getattr(rules, rule) for rules in PROTOCOLS.values())
        cells = [f"`{said if isinstance(said, str) else json.dumps(said)}`" for said in of_each]
        table += f"| `{rule}` | {value(schema[rule])} | {' | '.join(cells)} | {_inert(about[rule])} |\n"
    return section("protocol", intro, f"{table}\n")


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
    made = {
        "RoBERTa": make("Roberta", ["classifier"]),
        "XLM-RoBERTa": make("XLMRoberta", ["classifier"]),
        "BERT": make("Bert", ["classifier"]),
        "DeBERTa": make("Deberta", ["pooler", "classifier"], **relative),
        "DeBERTa-v2/v3": make(
            "DebertaV2", ["pooler", "classifier"], **relative, share_att_key=True, position_buckets=8
        ),
        "GPT-2": make("GPT2", ["score"]),
    }
    return made | {one.shown: partial(tiny_model, one.name) for one in FAMILIES if one.shown not in made}


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
