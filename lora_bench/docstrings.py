"""The sections of Google docstrings, from which JSON Schemas and pages take the descriptions of fields."""

import inspect


def arguments(docstring: str | None, section: str = "Args") -> dict[str, str]:
    """Return the descriptions under `Args:`, or another heading, by argument."""
    _, _, after = inspect.cleandoc(docstring or "").partition(f"{section}:\n")
    found: dict[str, str] = {}
    name = ""
    for line in after.splitlines():
        if not line.startswith("    "):
            break
        if line.startswith("     ") and name:
            found[name] += f" {line.strip()}"
        else:
            name, _, text = line.strip().partition(": ")
            found[name] = text
    return found


def described(part: type) -> dict[str, str]:
    """Return the descriptions of a class's fields, those that it inherits included."""
    return {name: text for base in reversed(part.__mro__) for name, text in arguments(base.__doc__).items()}
