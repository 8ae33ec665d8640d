"""The environments of a report's runs: each one, their differences, and the rows that ran in each."""

from lora_bench.records.record import Environment
from lora_bench.report.blocks import Block, Heading, TextList, TextTable
from lora_bench.report.model.comparison import Comparison, rows_of
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
    facts = [{**_machine(one), **_packages(one)} for one in comparison.environments]
    names = dict.fromkeys(name for one in facts for name in one)
    cells = [[name, *(one.get(name) or MISSING for one in facts)] for name in names]
    header = ["", *(f"environment {index}" for index in range(1, len(facts) + 1))]
    return [
        *blocks,
        "They differ in what follows, and rows from different environments differ in it beside the method: their speed and "
        "memory are not to be compared, and their scores with that in mind.",
        TextTable(header, [row for row in cells if len(set(row[1:])) > 1], numbers_from=len(header)),
    ]


def _environment(environment: Environment) -> str:
    facts = _machine(environment)
    known = [
        facts["device"],
        ", ".join(facts[name] for name in ("processor", "cores", "memory") if facts[name]),
        facts["system"],
        f"Python {facts['Python']}" if environment.python is not None else "",
        listed([f"{name} {version}" for name, version in _packages(environment).items()]),
    ]
    return "; ".join(part for part in known if part) + "."


def _machine(environment: Environment) -> dict[str, str]:
    """Return all facts of an environment but its packages; "" for what is not known."""
    devices = f"{environment.device_count} × " if (environment.device_count or 0) > 1 else ""
    cores, memory = environment.cores, environment.memory_bytes
    return {
        "device": f"{devices}{inert(environment.device)}" if environment.device is not None else "",
        "processor": inert(environment.cpu or ""),
        "cores": plural(cores, "core") if cores is not None else "",
        "memory": f"{memory / GIB:.0f} GiB" if memory is not None else "",
        "system": inert(environment.system or ""),
        "Python": inert(environment.python or ""),
    }


def _packages(environment: Environment) -> dict[str, str]:
    return {inert(name): inert(version) for name, version in sorted(environment.packages.items())}


def _rows_in(comparison: Comparison, index: int) -> list[str]:
    """Return the rows with runs in an environment, each once however many learning rates it was run with."""
    found: dict[str, None] = {}
    for setting, table, row in rows_of(comparison.settings):
        if index in row.environments:
            some = "some runs of " if len(row.environments) > 1 else ""
            where = f"{tables.model_name(table)}, {tables.setting_name(setting, comparison)}"
            found[f"{some}{tables.method_name(row)} ({where})"] = None
    return [*found]
