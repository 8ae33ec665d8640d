"""Differences between the environments of two nights: a package, a driver, a machine."""

from __future__ import annotations

from lora_bench.gate.night_answer import Change
from lora_bench.gate.series import Night
from lora_bench.records.record import Environment


def environment_changes(before: Night, after: Night) -> list[Change]:
    """Return every difference, packages first; a night with several environments shows all their values."""
    was, now = _facts(before.environments), _facts(after.environments)
    return [
        Change(what=what, before=was.get(what), after=now.get(what))
        for what in sorted({*was, *now}, key=lambda what: (not what.startswith(PACKAGE), what))
        if was.get(what) != now.get(what)
    ]


PACKAGE = "package "


def _facts(environments: tuple[Environment, ...]) -> dict[str, str]:
    """Return the values of environments by name, such as a package or the driver."""
    found: dict[str, list[str]] = {}
    for environment in environments:
        content = environment.model_dump(mode="json", exclude={"packages"})
        packages = {f"{PACKAGE}{name}": version for name, version in environment.packages.items()}
        for what, value in {**packages, **content}.items():
            shown = "unknown" if value is None else str(value)
            if shown not in found.setdefault(what.replace("_", " "), []):
                found[what.replace("_", " ")].append(shown)
    return {what: ", ".join(sorted(values)) for what, values in found.items()}
