"""Write the pages of the documentation that come from the code, or check that they are up to date.

    python docs/generate.py methods            writes docs/methods.md: one card a method
    python docs/generate.py methods --check    exits with 1 if it would change
    python docs/generate.py suites             writes docs/suites.md: every key of a suite
    python docs/generate.py support            writes docs/support.md: which method works on which model; takes a minute
    python docs/generate.py fits               writes docs/fits.md: which method fits which card; takes minutes

A method's card is its module's docstring, and its options are the fields of its class. The keys of a suite are the fields and
docstrings of the classes that read it. So neither goes stale.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from entries import merged
from fits_page import fits_page
from pydantic import BaseModel
from support import support_page

from lora_bench.docstrings import arguments, described
from lora_bench.documents import Strict
from lora_bench.methods import known_methods
from lora_bench.records.analysis import AnalysisSettings
from lora_bench.records.budget import UntilPlateau, Work
from lora_bench.records.protocol import PROTOCOLS, STRICT, Protocol
from lora_bench.records.spec import Decoding
from lora_bench.suite.entries import Range, read_method
from lora_bench.suite.probe_suite import CellShape, ProbeCellRecipe, ProbeFile, Size
from lora_bench.suite.schema import ModelEntry, Probe, Recipe, RetentionText, SuiteBudget, SuiteFile, Training, Tuning

FOLDER = Path(__file__).parent

METHODS_HEADER = """# Methods

Made by `docs/generate.py methods`. Each method's size, which a budget turns, and its learning rate for suites that give none:

"""


def main() -> int:
    """Write or check a page."""
    what = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "methods")
    pages: dict[str, Callable[[], str]] = {
        "methods": methods_page,
        "suites": suites_page,
        "support": support_page,
        "fits": fits_page,
    }
    page, made = FOLDER / f"{what}.md", pages[what]()
    if "--check" not in sys.argv[1:]:
        page.write_text(made, encoding="utf-8")
        return 0
    if page.is_file() and page.read_text(encoding="utf-8") == made:
        return 0
    print(f"{page.name} differs from the code; run python docs/generate.py {what}")
    return 1


def methods_page() -> str:
    """Return a table of the methods and a card for each."""
    methods = known_methods()
    sizes = {name: f"`{method.size}`" if isinstance(method.size, str) else "none" for name, method in methods.items()}
    sizes |= {"peft": "`size_option`", "combined": "`size_value`"}  # they have a size only if the suite gives one
    rows = [f"- [`{name}`](#{name}): {sizes[name]}, {methods[name].learning_rate:g}\n" for name in methods]
    return METHODS_HEADER + "".join([*rows, *(card(name, method) for name, method in methods.items())])


def card(name: str, method: Any) -> str:
    """Return Markdown for one method: its module's docstring, then its options."""
    title, _, text = (sys.modules[method.__module__].__doc__ or "").strip().partition("\n")
    lines = ["", f"## {name}", "", f"**{title}**", text.rstrip(), ""]
    about = arguments(method.__doc__)
    for option, field in method.model_fields.items():
        default = "" if field.is_required() else f"={field.get_default(call_default_factory=True)!r}"
        lines.append(f"- `{option}{default}`: {about[option]}")
    for preset, found in getattr(method, "presets", {}).items():
        given = ", ".join(f"{option}={value!r}" for option, value in found.options.items())
        rate = "" if found.learning_rate is None else f", rate {found.learning_rate:g}"
        lines.append(f"- preset `{preset}` (`{given}`{rate}): {found.source}.")
    return "\n".join(lines).rstrip() + "\n"


SUITES_HEADER = """# Every key of a suite

Made by `docs/generate.py suites`. `lora-bench schema suite` prints the JSON Schema for your editor. Brackets hold a key's
values and its default, the first of several.

```yaml
suite: tickets
tasks:
  - rte                                                              # by name
  - {task: tickets, data: tickets.csv, text: subject, label: queue}  # or written out
models:
  - FacebookAI/roberta-base
  - {model: microsoft/deberta-v3-base, revision: 82d8d18a7b88346261ba15d8b1044900a452cf90}  # has safetensors
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
tuning: {seeds: [100, 101]}
analysis: {reference: lora, margin: 0.01}
```

"""

METHODS = """A name, or a mapping with [the method's options](methods.md) and these keys:

"""

RANGE = "A range, from which `budget: {trials: N}` takes N rates:"

BUDGET = "One amount of work (`epochs` or `train_…`), at most one of parameters. See [budgets](budgets.md)."

UNTIL = (
    "In place of a number of `epochs` or `train_examples`: see [budgets](budgets.md#until-it-stops-improving). "
    "`selection_every` gives the spacing of scores."
)

TRAINING_ARGUMENTS = """Such as `adam_beta2`. `gradient_accumulation_steps` splits a batch and must
divide `training.batch_size`. Arguments that the suite's own keys or lora_bench set, or that reach the hub, are refused by name.

"""

RECIPES = "What differs, and for which runs; one amount of work at most:"

PROBES = "It has shapes in place of tasks, and trains nothing. See [probes](probes.md)."

CELL_RECIPES = "What differs, and for which cells:"

# Where the keys of a class stand on the page.
HEADINGS = {
    "SuiteBudget": "budget",
    "UntilPlateau": "until a plateau",
    "Training": "training",
    "Recipe": "recipes",
    "Tuning": "tuning",
    "Decoding": "decoding",
    "RetentionText": "retention",
    "AnalysisSettings": "analysis",
    "Probe": "probe",
    "Cell": "cell",
    "Size": "budget of probes",
    "CellRecipe": "recipes of probes",
}
# Keys whose entries are read by hand, with the place that describes each.
LINKS = {
    "tasks": "tasks.md#every-key-of-a-task",
    "models": "#models",
    "methods": "#methods",
    "training_arguments": "#training_arguments",
    "protocol": "#protocol",
}


def suites_page() -> str:
    """Return a table for each part of a suite, and of a suite of probes."""
    method_keys = "".join(f"- `{key}`: {text}\n" for key, text in arguments(read_method.__doc__, "Keys").items())
    parts = {
        "suite": keys(SuiteFile),
        "models": f"A name, or a mapping:\n\n{keys(ModelEntry)}",
        "methods": f"{METHODS}{method_keys}\n",
        "methods.learning_rate": f"{RANGE}\n\n{keys(Range)}",
        "budget": f"{BUDGET}\n\n{keys(SuiteBudget)}",
        "until a plateau": f"{UNTIL}\n\n{keys(UntilPlateau)}",
        "training": keys(Training),
        "training_arguments": TRAINING_ARGUMENTS,
        "recipes": f"{RECIPES}\n\n{keys(Recipe, training=Training, budget=Work, suite=SuiteFile)}",
        "tuning": keys(Tuning),
        "protocol": protocol_part(),
        "decoding": keys(Decoding),
        "retention": f"`true`, or a mapping:\n\n{keys(RetentionText)}",
        "analysis": f"See [statistics](statistics.md).\n\n{keys(AnalysisSettings)}",
        "probe": f"See [probes](probes.md).\n\n{keys(Probe)}",
        "A suite of probes": f"{PROBES}\n\n{keys(ProbeFile, suite=SuiteFile)}",
        "cell": keys(CellShape),
        "budget of probes": keys(Size, budget=SuiteBudget),
        "recipes of probes": f"{CELL_RECIPES}\n\n{keys(ProbeCellRecipe, cell=CellShape, probe=Probe)}",
    }
    return SUITES_HEADER + "".join(f"## {heading}\n\n{part}" for heading, part in parts.items()).rstrip() + "\n"


def keys(part: type[BaseModel], **borrowed: type[BaseModel]) -> str:
    """Return a list of the keys of a class, its own before those that it inherits.

    Args:
        part: The class.
        borrowed: Classes that describe some of its keys, by their heading; these keys are only named.
    """
    bases = [base for base in part.__mro__ if issubclass(base, Strict) and base is not Strict]
    named = list(dict.fromkeys(name for base in bases for name in base.__annotations__ if name in part.model_fields))
    about, schema = described(part), part.model_json_schema()
    alike = {
        heading: [
            name for name in named if name in of.model_fields and about.get(name, "") in ("", described(of)[name])
        ]
        for heading, of in borrowed.items()
    }
    own = [name for name in named if not any(name in names for names in alike.values())]
    texts = {name: f"({said(part, name, schema)}): {about[name]}" for name in own}
    rows = [f"- {names} {text}\n" for names, text in merged(texts, own)]
    for heading, names in alike.items():
        missing = [f"`{name}`" for name in borrowed[heading].model_fields if name not in names]
        listed = ", ".join(f"`{name}`" for name in names)
        if len(missing) < len(names):
            listed = f"all but {', '.join(missing)}" if missing else "all"
        rows.append(f"- keys of [{heading}](#{heading}): {listed}\n")
    return "".join(rows) + "\n"


def said(part: type[BaseModel], name: str, schema: dict[str, Any]) -> str:
    """Return what a key takes and its default."""
    taken = value(schema["properties"][name])
    link = LINKS.get(name) if part in (SuiteFile, ProbeFile) else None
    return (f"[{taken}]({link})" if link else taken) + default(name, schema)


def value(schema: dict[str, Any]) -> str:
    """Return what a key takes, from its JSON Schema."""
    if "anyOf" in schema:
        first, *rest = (value(one) for one in schema["anyOf"] if one.get("type") != "null")
        several = {f"list: {first}": "a list of them", f"mapping to {first}": "a mapping to them"}
        return ", or ".join([first, *(several.get(one, one) for one in rest)])
    if "$ref" in schema:
        heading = HEADINGS.get(schema["$ref"].rpartition("/")[2], "")
        return f"[mapping](#{heading.replace(' ', '-')})" if heading else "mapping"
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in sorted(schema["enum"], key=lambda one: one != schema.get("default")))
    if "prefixItems" in schema:
        return f"pair of {value(schema['prefixItems'][0])}"
    if "items" in schema:
        return f"list: {value(schema['items'])}"
    if schema["type"] == "object":
        of = schema["additionalProperties"]
        return f"mapping to {value(of)}" if "type" in of else "mapping"
    if schema["type"] == "boolean":
        return "`true`, `false`" if schema.get("default") else "`false`, `true`"
    return "name" if "pattern" in schema else "text" if schema["type"] == "string" else _number(schema)


def _number(schema: dict[str, Any]) -> str:
    """Return the kind and bounds of a number, such as "integer in [2, 5]"."""
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    kind: str = schema["type"]
    if high is None and below is None:
        positive = above == 0 or (low == 1 and kind == "integer")
        return f"positive {kind}" if positive else f"{kind} ≥ {low}" if low is not None else kind
    begin = f"[{low}" if low is not None else f"({above}"
    end = f"{high}]" if high is not None else "2^32)" if below == 2**32 else f"{below})"
    return f"{kind} in {begin}, {end}"


def default(name: str, schema: dict[str, Any]) -> str:
    """Return a key's default; nothing if it is empty, or a mapping with defaults of its own."""
    if name in schema.get("required", ()):
        return ", required"
    given, taken = schema["properties"][name].get("default"), value(schema["properties"][name])
    if given is None or isinstance(given, dict) or given in ("", []) or "`, `" in taken:
        return ""
    return f", `{given if isinstance(given, str) else json.dumps(given)}`"


def protocol_part() -> str:
    """Return the rules of each protocol."""
    named = []
    for name, rules in PROTOCOLS.items():
        differ = {
            rule: getattr(rules, rule)
            for rule in Protocol.model_fields
            if getattr(rules, rule) != getattr(STRICT, rule)
        }
        shown = ", ".join(
            f"`{rule}: {said if isinstance(said, str) else json.dumps(said)}`" for rule, said in differ.items()
        )
        named.append(f"`{name}` ({shown or 'the defaults'})")
    return f"{', '.join(named)}, or a mapping: `{{protocol: paper, choose_on: selection}}`.\n\n{keys(Protocol)}"


if __name__ == "__main__":
    sys.exit(main())
