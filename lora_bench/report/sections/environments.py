"""The environments of a report's runs: each one, their differences, and the rows that ran in each."""

from __future__ import annotations

from lora_bench.records.record import Environment
from lora_bench.report.blocks import Block, Heading, TextList, TextTable
from lora_bench.report.model.comparison import Comparison
from lora_bench.report.sections import method_tables as tables
from lora_bench.report.text import GIB, MISSING, inert, listed, plural


def environment_section(comparison: Comparison) -> list[Block]:
    """Return the section on environments; empty where no record has one."""
    if not comparison.environments:
        return []
    items: list[str | TextList] = []
    several = len(comparison.environments) > 1
    for index, environment in enumerate(comparison.environments):
        name = f"Environment {index + 1}: " if several else ""
        items.append(f"{name}{_environment(environment)}")
        if several:
            rows = listed(_rows_in(comparison, index)) if index else "all that is not named below"
            items.append(TextList([f"Ran {rows}."]))
    blocks: list[Block] = [Heading(2, "Environment"), TextList(items)]
    if not several:
        return blocks
    return [
        *blocks,
        "They differ in what follows, and rows from different environments differ in it beside the method: their speed and "
        "memory are not to be compared, and their scores with that in mind.",
        _differences(comparison),
    ]


def _environment(environment: Environment) -> str:
    known = [
        _device(environment),
        ", ".join(part for part in (inert(environment.cpu or ""), _cores(environment), _memory(environment)) if part),
        inert(environment.system or ""),
        f"Python {inert(environment.python)}" if environment.python is not None else None,
        listed([f"{inert(name)} {inert(version)}" for name, version in sorted(environment.packages.items())]),
    ]
    return "; ".join(part for part in known if part) + "."


def _device(environment: Environment) -> str | None:
    devices = f"{environment.device_count} × " if (environment.device_count or 0) > 1 else ""
    return f"{devices}{inert(environment.device)}" if environment.device is not None else None


def _cores(environment: Environment) -> str | None:
    return plural(environment.cores, "core") if environment.cores is not None else None


def _memory(environment: Environment) -> str | None:
    return f"{environment.memory_bytes / GIB:.0f} GiB" if environment.memory_bytes is not None else None


def _differences(comparison: Comparison) -> TextTable:
    """Return a line for each thing in which environments differ, a column an environment."""
    facts: list[dict[str, str | None]] = []
    for one in comparison.environments:
        packages: dict[str, str | None] = {
            inert(name): inert(version) for name, version in sorted(one.packages.items())
        }
        machine = {
            "device": _device(one),
            "processor": inert(one.cpu) if one.cpu is not None else None,
            "cores": _cores(one),
            "memory": _memory(one),
            "system": inert(one.system) if one.system is not None else None,
            "Python": inert(one.python) if one.python is not None else None,
        }
        facts.append({**machine, **packages})
    names = dict.fromkeys(name for one in facts for name in one)
    rows = [
        [name, *(one.get(name) or MISSING for one in facts)]
        for name in names
        if len({one.get(name) for one in facts}) > 1
    ]
    header = ["", *(f"environment {index}" for index in range(1, len(facts) + 1))]
    return TextTable(header, rows, numbers_from=len(header))


def _rows_in(comparison: Comparison, index: int) -> list[str]:
    """Return the rows with runs in an environment, each once however many learning rates it was run with."""
    found: dict[str, None] = {}
    for setting in comparison.settings:
        for table in setting.tables:
            for row in table.rows:
                if index in row.environments:
                    some = "some runs of " if len(row.environments) > 1 else ""
                    where = f"{tables.model_name(table)}, {tables.setting_name(setting, comparison)}"
                    found[f"{some}{tables.method_name(row)} ({where})"] = None
    return [*found]
