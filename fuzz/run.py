"""Fuzz one target with atheris, which watches what code an input reaches: python fuzz/run.py TARGET [libFuzzer's options].

    python -m pip install atheris
    python fuzz/run.py suite -max_total_time=600
    python fuzz/run.py published -runs=100000
    python fuzz/run.py all -max_total_time=15               every target in a process of its own, one a core at once

Inputs that reach something new are kept in fuzz/corpus/TARGET, begun with what the project has of the kind; an input with which
our code fails is written to fuzz/crash-*.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))


def main() -> None:
    """Fuzz the target that the command line names."""
    import atheris

    with atheris.instrument_imports(include=["lora_bench", "yaml", "csv", "json"]):
        from fuzz import targets

    names = ", ".join(targets.TARGETS)
    if len(sys.argv) < 2 or sys.argv[1] not in [*targets.TARGETS, "all"]:
        sys.exit(f"usage: fuzz/run.py TARGET [options], where TARGET is all or one of {names}")
    name, options = sys.argv[1], sys.argv[2:]
    if name == "all":
        sys.exit(fuzz_all(list(targets.TARGETS), options))
    corpus = HERE / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(seed)

    def one(raw: bytes) -> None:
        targets.harmless(targets.TARGETS[name], raw)

    atheris.Setup(
        [sys.argv[0], "-timeout=60", f"-artifact_prefix={HERE}/", "-max_len=20000", *options, str(corpus)], one
    )
    atheris.Fuzz()


def fuzz_all(names: Sequence[str], options: Sequence[str]) -> int:
    """Fuzz each target in a process of its own, as many at once as there are cores; the number of those that failed."""

    def code(name: str) -> int:
        return subprocess.run([sys.executable, __file__, name, *options]).returncode

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        codes = dict(zip(names, pool.map(code, names), strict=True))
    failed = [name for name, found in codes.items() if found != 0]
    print("fuzzing failed: " + ", ".join(failed) if failed else f"fuzzed {', '.join(names)}", flush=True)
    return len(failed)


def seeds(name: str) -> list[bytes]:
    """Good inputs of a target, from the project's own files."""
    from lora_bench.util.sealed_json import SEAL

    root = HERE.parent
    patterns = {
        "suite": ["baselines/*/suite.yaml"],
        "probe-suite": ["baselines/*/suite.yaml"],
        "task": ["tasks/*.yaml"],
        "record": [],
        "probe": [],
        "records": [],
        "answers": [],
        "published": ["baselines/*/published.csv"],
        "work": [],
        "data": [],
        "config": [],
        "adapter": [],
        "runs": [],
    }
    files = [path for pattern in patterns[name] for path in sorted(root.glob(pattern))][:20]
    found = [path.read_bytes() for path in files]
    if name in ("record", "probe"):
        kept = {"record": "quickstart/runs.json", "probe": "system-claims/probes.json"}[name]
        records = json.loads((root / "baselines" / kept).read_bytes())["records"][:20]
        # Without its seal, which no change would match.
        found = [json.dumps({key: record[key] for key in record if key != SEAL}).encode() for record in records]
    if name == "records":
        found = [few_records()]
    if name == "answers":
        found = [b'{"run_id":"0123456789abcdef","file":"predictions.json","content":{"predictions":[0,1]}}\n']
    if name == "work":
        found = [prepared()]
    if name == "config":
        from fuzz.targets import good_config

        found = [good_config()]
    if name == "adapter":
        from fuzz.targets import ADAPTER_FILES, good_adapter

        found = [bytes([ADAPTER_FILES.index(file)]) + content for file, content in sorted(good_adapter().items())]
    if name == "runs":
        from fuzz.targets import RUN_FILES, good_runs

        of_first = {path.rpartition("/")[2]: content for path, content in sorted(good_runs().items(), reverse=True)}
        found = [bytes([number]) + of_first[file] for number, file in enumerate(RUN_FILES)]
    if name == "data":
        contents = (
            b"text,label\na,b\n",
            b'{"text": "a", "label": "b"}\n',
            b'[{"text": "a", "a": {"b": 1}}]',
            b"<b><entry/></b>",
        )
        found = [bytes([number]) + content for number in range(8) for content in contents]
    return found


def few_records() -> bytes:
    """A file of two records of the quickstart."""
    from lora_bench.records.sealed_records import write_many

    records = [json.loads(raw) for raw in seeds("record")[:2]]
    with tempfile.TemporaryDirectory() as folder:
        write_many(Path(folder) / "runs.json", records)
        return (Path(folder) / "runs.json").read_bytes()


def prepared() -> bytes:
    """What a folder says that is prepared for a suite."""
    from lora_bench.execute.prepared_folder import prepare
    from lora_bench.suite.load_suite import load_suite

    with tempfile.TemporaryDirectory() as folder:
        return prepare(Path(folder), load_suite("quickstart"), "quickstart", series="second").read_bytes()


if __name__ == "__main__":
    main()
