"""Metrics from elsewhere: ``hub:NAME`` is an `evaluate` script that runs on this machine.

NAME is a metric on the Hugging Face hub at a commit of 40 digits (`rouge@COMMIT`, `owner/name@COMMIT`), or a local folder
(`./mine` with `mine.py`). `code_hash` says which code a name stands for now; a user's permission is for that hash
(`lora_bench.suite.consent`). A local script is loaded from a copy of the bytes that were hashed.

Values are the numbers that the script returns, by name. A number that is not finite is None; lists and texts are left out. The
metric's own value, also kept under its full name, is its only number or the one named like the metric. Of several others,
``hub:NAME:NUMBER`` picks one.
"""

import ast
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any

import datasets
import evaluate

from lora_bench.errors import LoraBenchError, unknown
from lora_bench.metrics.support.lookup import HUB, known_metrics, unpinned
from lora_bench.util.atomic_files import write_atomic
from lora_bench.util.paths import cache_folder
from lora_bench.util.regular_files import MIB, read_regular

NUMBER = re.compile(r"(?P<path>.+):(?P<number>\w[\w.-]*)")
PINNED = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)@(?P<commit>[0-9a-f]{40})")
# The owner of the metrics that have none in their name.
OWNER = "evaluate-metric"
# A script is written by hand; more is data, or an endless device.
MAX_SCRIPT_BYTES = MIB
# `evaluate` downloads what such a line's comment names, in place of the module beside the script.
FETCHED = re.compile(r"^(?:import|from)\s+\.[^#\n]*#", re.MULTILINE)


class HubMetric:
    """A metric from the hub, with the `compute` of the others.

    *name* is ``hub:NAME`` or ``hub:NAME:NUMBER``, where NAME is a folder or ends in a commit. *allowed* is the `code_hash` that
    may run; by default any code that the name stands for. Raise LoraBenchError if it cannot be loaded, or is no longer the code
    that is allowed.
    """

    def __init__(self, name: str, allowed: str | None = None) -> None:
        self.name = name
        self.path, self.number = _parts(name)
        if (reason := unpinned(name)) is not None:
            raise LoraBenchError(f"metric {name!r} {reason}")
        now = code_hash(name)
        if allowed is not None and now != allowed:
            raise LoraBenchError(
                f"metric {name!r} has changed since its code was allowed as {allowed}; it is {now} now, and is not run"
            )
        self.module = _load(self.path, now)

    def compute(
        self, *, predictions: Sequence[Any], references: Sequence[Any], **options: Any
    ) -> dict[str, float | None]:
        """Return numbers by name, its own under its full one. Raise LoraBenchError for too many references or numbers."""
        ways = self.module.features if isinstance(self.module.features, list) else [self.module.features]
        if all(isinstance(way.get("references"), datasets.Value) for way in ways):
            references = self._single(references)
        raw = self.module.compute(predictions=predictions, references=references, **options)
        values = {
            name: float(value) if math.isfinite(value) else None
            for name, value in (raw or {}).items()
            if isinstance(value, Real)
        }
        return {**values, self.name: values[self._own(values)]}

    def _single(self, references: Sequence[Any]) -> list[Any]:
        most = max((len(each) for each in references if isinstance(each, list | tuple)), default=1)
        if most > 1:
            raise LoraBenchError(f"metric {self.name!r} takes one reference for a prediction, got up to {most}")
        return [each[0] if isinstance(each, list | tuple) and each else each for each in references]

    def _own(self, values: Mapping[str, float | None]) -> str:
        if self.number is not None:
            if self.number not in values:
                raise unknown(f"number of metric {HUB}{self.path}:", self.number, values)
            return self.number
        last = self.path.partition("@")[0].replace("\\", "/").rstrip("/").rpartition("/")[2].removesuffix(".py")
        if last in values or len(values) == 1:
            return last if last in values else next(iter(values))
        if not values:
            raise LoraBenchError(f"metric {self.name!r} returns no number")
        first = next(iter(values))
        raise LoraBenchError(
            f"metric {self.name!r} returns several numbers ({', '.join(values)}); say which, as {self.name}:{first}"
        )


def script_name(name: str) -> str:
    """The name of a metric's script, without the number that is taken of its values: `hub:./mine`, `hub:NAME@COMMIT`."""
    return f"{HUB}{_parts(name)[0]}"


def code_hash(name: str) -> str:
    """The commit of a metric's script, or the sha256 of a local one together with the modules beside it that it imports.

    Nothing of it is run. Raise LoraBenchError if there is no such script, or it takes code from elsewhere.
    """
    path, _ = _parts(name)
    pinned = PINNED.fullmatch(path)
    return pinned["commit"] if pinned is not None else _hash(_local_code(path))


def _hash(code: Mapping[str, bytes]) -> str:
    lines = [f"{file} {hashlib.sha256(content).hexdigest()}\n" for file, content in sorted(code.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _parts(name: str) -> tuple[str, str | None]:
    """The script of a metric's name, and the number that is taken of its values."""
    path = name.removeprefix(HUB)
    # The colon of `C:\mine` is no number's.
    named = NUMBER.fullmatch(path)
    return (named["path"], named["number"]) if named else (path, None)


def _local_code(path: str) -> dict[str, bytes]:
    """A local script and the modules beside it that it imports, by file name: all that `evaluate` takes along."""
    script = _script(path)
    code = {script.name: _read(path, script)}
    try:
        text = code[script.name].decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise LoraBenchError(f"metric '{HUB}{path}': {script.name} is no Python: {error}") from None
    _refuse_fetched(path, text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module is not None:
            beside = script.parent / f"{node.module.partition('.')[0]}.py"
            if beside.is_file():
                code[beside.name] = _read(path, beside)
    return code


def _refuse_fetched(path: str, text: str) -> None:
    """Refuse a script that has `evaluate` fetch code which neither its hash nor its commit covers."""
    match = FETCHED.search(text)
    if match is not None:
        raise LoraBenchError(
            f"metric '{HUB}{path}' would fetch code that no hash covers: `evaluate` takes the comment after {match[0]!r} for "
            "its address; keep the module beside the script, and leave the comment out"
        )


def _script(path: str) -> Path:
    try:
        place = Path(path).expanduser()
        script = place if place.suffix == ".py" else place / f"{place.name}.py"
        if script.is_file():
            return script
    except (OSError, RuntimeError, ValueError):
        pass  # a name that no path can have, or the home of a user that does not exist
    raise LoraBenchError(f"metric '{HUB}{path}' is no folder with a script (without one: {', '.join(known_metrics())})")


def _read(path: str, file: Path) -> bytes:
    try:
        return read_regular(file, MAX_SCRIPT_BYTES)
    except OSError as error:
        raise LoraBenchError(f"metric '{HUB}{path}': {file.name} cannot be read: {error.strerror}") from None


@cache
def _load(path: str, version: str) -> evaluate.EvaluationModule:
    """The module of a script whose `code_hash` is *version*."""
    pinned = PINNED.fullmatch(path)
    try:
        script = _copied(path, version) if pinned is None else _downloaded(**pinned.groupdict())
        # In memory, like the package's own.
        return evaluate.load(script, keep_in_memory=True)
    except LoraBenchError:
        raise
    except Exception as error:  # whatever a script raises, or a package that it needs
        raise LoraBenchError(f"metric '{HUB}{path}' cannot be loaded: {error}") from error


def _copied(path: str, version: str) -> str:
    """A copy of a local script with what it imports: what is loaded is what was hashed, whatever becomes of the folder."""
    code = _local_code(path)
    if _hash(code) != version:
        raise LoraBenchError(f"metric '{HUB}{path}' changed while it was read, and is not run")
    folder = cache_folder("metric-scripts", version)
    for file, content in code.items():
        write_atomic(folder / file, content)
    return str(folder / _script(path).name)


def _downloaded(name: str, commit: str) -> str:
    from lora_bench.util.hub import snapshot

    repository = name if "/" in name else f"{OWNER}/{name}"
    script = f"{repository.partition('/')[2]}.py"
    copy = snapshot("metric", repository, commit, ["*.py"], leave=["*/*"])
    if not (copy.folder / script).is_file():
        raise LoraBenchError(f"metric '{HUB}{name}@{commit}' has no script {script}")
    _refuse_fetched(f"{name}@{commit}", read_regular(copy.folder / script, MAX_SCRIPT_BYTES).decode("utf-8"))
    return str(copy.folder / script)
