"""Write the pages of the documentation that come from the code, or check that they are up to date.

    python docs/generate.py            writes docs/methods.md
    python docs/generate.py --check    exits with 1 where it would change

The card of a method is its module's docstring, and its options are the fields of its class, so neither can go stale.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lora_bench.methods import known_methods

PAGE = Path(__file__).parent / "methods.md"

HEADER = """# Methods

A page made by `docs/generate.py` from the modules in `lora_bench/methods/`: one card a method.

"""


def main() -> int:
    """Write or check the page."""
    made = HEADER + "\n".join(card(name, method) for name, method in known_methods().items())
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(made, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == made:
        return 0
    print(f"{PAGE.name} differs from the modules; run python docs/generate.py")
    return 1


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


if __name__ == "__main__":
    sys.exit(main())
