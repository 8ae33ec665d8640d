"""A gate's baseline: one small file in git for each accepted night, `baselines/<name>/nights/<label>.json`.

A person accepts a night with a reason, or a workflow does after the gate passed it. The file is reviewed like any other.
Nights are ordered by their number, not by a clock; labels order nights that were accepted at the same time.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from lora_bench.errors import BadInput, Fault, LoraBenchError, collecting, refuse, unknown
from lora_bench.gate.series import Night
from lora_bench.records.sealed_records import first_fault
from lora_bench.records.store import write_once
from lora_bench.report.text import natural
from lora_bench.util.regular_files import load_json, read_regular

NIGHTS = "nights"
SCHEMA = 1
MAX_BYTES = 50_000_000
CONFIRMATION = "-confirm"


def read_nights(baseline: Path) -> list[Night]:
    """Return the accepted nights of a baseline, in order of number and then label.

    Two nights that were accepted at the same time have the same number. Raise BadInput with every file that cannot be read, has
    no number, or is of another suite.
    """
    nights: list[Night] = []
    faults: list[Fault] = []
    for file in sorted((baseline / NIGHTS).glob("*.json")):
        with collecting(faults):
            nights.append(_read(file))
    for night in nights:
        place = str(baseline / NIGHTS / f"{night.label}.json")
        if night.number is None:
            faults.append(Fault("is no accepted night: it has no number", file=place))
        if night.suite != nights[0].suite:
            faults.append(Fault(f"is of the suite {night.suite!r}, and others are of {nights[0].suite!r}", file=place))
    refuse(faults)
    return sorted(nights, key=lambda night: (night.number or 0, natural(night.label), night.label))


def _read(file: Path) -> Night:
    try:
        data = load_json(read_regular(file, MAX_BYTES))
        version = data.get("schema") if isinstance(data, dict) else None
        if isinstance(version, int) and version > SCHEMA:
            newer = f"was written with night schema {version}, and this lora_bench reads up to {SCHEMA}; upgrade it"
            raise BadInput([Fault(newer, file=str(file))])
        night = Night.model_validate_json(json.dumps(data))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput([Fault(f"is no night: {first_fault(error)}", file=str(file))]) from None
    if night.label != file.stem:
        raise BadInput([Fault(f"is the night {night.label!r}: a night's file has its name", file=str(file))])
    return night


def write_night(night: Night, baseline: Path) -> Path:
    """Write an accepted night and return its file. Raise LoraBenchError if a night of that label is accepted already."""
    file = baseline / NIGHTS / f"{night.label}.json"
    if not write_once(file, to_text(night)):
        raise LoraBenchError(f"{night.label} is accepted already; {file} has it")
    return file


def to_text(night: Night) -> bytes:
    """Serialise an accepted night with one line a run, so that it can be reviewed as a diff."""
    content = night.model_dump(mode="json", exclude_defaults=True, by_alias=True)
    content["schema"] = SCHEMA
    for cell in content["cells"]:
        for run in cell["runs"]:
            # The place and duration of a run are in its record; later nights are not compared on them.
            run.pop("command", None)
            run.pop("seconds", None)
    lines = ["{"]
    for key in sorted(content.keys() - {"cells"}):
        lines.append(f" {json.dumps(key)}: {_compact(content[key])},")
    lines.append(' "cells": [')
    for number, cell in enumerate(content["cells"], start=1):
        runs = cell.pop("runs")
        lines += [
            f'  {_compact(cell)[:-1]}, "runs": [',
            ",\n".join(f"   {_compact(run)}" for run in runs),
            "  ]}" + ("," if number < len(content["cells"]) else ""),
        ]
    lines += [" ]", "}"]
    return ("\n".join(lines) + "\n").encode("utf-8")


def _compact(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def before(nights: Sequence[Night], label: str) -> list[Night]:
    """Return the nights to compare this label with: those before it if it is accepted, else all."""
    return list(itertools.takewhile(lambda night: night.label != label, nights))


def night_folders(runs: Path) -> dict[str, Path]:
    """Return the nights in a suite's runs folder by series label, without confirmations of other nights."""
    if not runs.is_dir():
        raise LoraBenchError(
            f"{runs} is not there; `lora-bench run SUITE --series LABEL` writes a night to runs/SUITE/LABEL"
        )
    found = {
        folder.name: folder
        for folder in sorted(runs.iterdir())
        if folder.is_dir() and (any(folder.glob("*/record.json")) or any(folder.glob("probes/*.json")))
    }
    return {
        label: folder
        for label, folder in found.items()
        if label.removesuffix(CONFIRMATION) == label or label.removesuffix(CONFIRMATION) not in found
    }


def tonight_in(runs: Path, accepted: Sequence[Night], label: str | None = None) -> tuple[str | None, Path]:
    """Return the label and the folder of the night to judge; the label is None if its records give it.

    *runs* is a suite's runs folder, or the folder of one night. Without a label it is the only night that is not accepted.
    Raise LoraBenchError if there is no such night, or several and nothing says which.
    """
    folders = night_folders(runs)
    if not folders:
        if label is not None:
            raise LoraBenchError(f"{runs} is one night; --series names one of a folder of nights")
        return None, runs
    if label is not None:
        if label not in folders:
            raise unknown("series", label, folders)
        return label, folders[label]
    known = {night.label for night in accepted}
    new = [name for name in folders if name not in known]
    if len(new) == 1:
        return new[0], folders[new[0]]
    if not new:
        raise LoraBenchError(f"all {len(folders)} nights in {runs} are accepted; name one of them with --series")
    shown = ", ".join(new[:5]) + (", …" if len(new) > 5 else "")
    raise LoraBenchError(
        f"{len(new)} nights in {runs} are not accepted ({shown}); say with --series which is tonight's"
    )
