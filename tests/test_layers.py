"""The layers of lora_bench, as a table: each part and the parts it may import. An import goes down, never up."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lora_bench"

GROUND = {"names", "shown", "documents", "errors", "failpoints", "pulse", "resources", "randomness", "version"}
WORDS = {"record", "spec", "budget", "protocol", "analysis", "halving"} | GROUND
STORE = {
    "ends",
    "disk",
    "processes",
    "sealed",
    "claims",
    "company",
    "checkpoint_files",
    "store",
    "environment",
    "probe_record",
    "probe_store",
} | WORDS
MATERIAL = {"tuners", "families", "metrics", "assets", "minilm", "shapes"}
PARTS = {
    "methods",
    "tasks",
    "models",
    "loading",
    "measure",
    "meter",
    "checkpoint",
    "card",
    "recipe",
    "generation",
    "start",
    "course",
    "dropout",
    "ranks",
    "sharded",
}
SUITE = {"suite", "suite_file", "entries", "job", "resolve", "choose"}

MAY_IMPORT = {
    "version": set(),
    "errors": set(),
    "resources": set(),
    "documents": {"errors"},
    "failpoints": {"errors"},
    "pulse": set(),
    "ends": {"errors", "record"},
    "randomness": set(),
    "dropout": {"randomness"},
    "relative_positions": set(),
    "ranks": {"dropout"},
    "sharded": {"families"},
    "launch": STORE | {"job", "loop"},
    "copies": set(),
    "protocol": {"documents"},
    "spec": {"budget", "documents", "protocol"},
    "budget": {"documents", "errors"},
    "halving": {"errors"},
    "analysis": {"documents"},
    "record": {"analysis", "budget", "documents", "spec", "names", "shown"},
    "processes": set(),
    "disk": {"errors", "failpoints", "processes"},
    "sealed": {"disk", "spec"},
    "claims": {"disk", "processes"},
    "company": {"processes", "store"},
    "checkpoint_files": {"disk", "failpoints"},
    "store": {"record", "checkpoint_files", "claims", "disk", "documents", "ends", "errors", "failpoints", "sealed"},
    "environment": {"record", "version"},
    "probe_record": WORDS,
    "probe_store": {"probe_record", "disk", "errors", "store"},
    "families": {"errors"},
    "tuners": {"families", "errors"},
    "metrics": {"errors", "hub"},
    "assets": {"errors", "resources"},
    "minilm": {"assets", "disk", "errors", "resources", "sealed"},
    "shapes": {"errors", "resources"},
    "methods": MATERIAL | GROUND,
    "hub": {"errors", "shown"},
    "names": set(),
    "shown": set(),
    "model_files": {"errors", "resources"},
    "pieces": set(),
    "tasks": MATERIAL | WORDS | {"hub"},
    "models": MATERIAL | WORDS | {"hub", "model_files"},
    "loading": MATERIAL | WORDS | {"models", "pieces"},
    "measure": WORDS | {"tuners"},
    "meter": WORDS | {"measure"},
    "tokens": set(),
    "history": {"record"},
    "inferred": WORDS | {"measure"},
    "own_run": WORDS | {"history", "meter", "metrics", "store", "tokens"},
    "plug_in": STORE | {"history", "inferred", "measure", "meter", "own_run", "stopping", "tokens"},
    "checkpoint": STORE | {"sharded"},
    "generation": WORDS | {"tasks"},
    "start": {"errors", "store"},
    "card": WORDS | {"models"},
    "recipe": WORDS,
    "course": WORDS,
    "flops": PARTS | STORE | {"metrics", "probe"},
    "job": PARTS | STORE,
    "suite_file": WORDS | {"hub"},
    "entries": PARTS | STORE | {"suite_file"},
    "contradictions": WORDS | {"suite_file", "entries"},
    "suite": PARTS | STORE | {"suite_file", "entries", "contradictions"},
    "choose": {"protocol", "record"},
    "resolve": PARTS | STORE | {"suite", "suite_file", "entries"},
    "stats": {"errors"},
    "report": STORE | {"published", "stats"},
    "export": STORE | {"report"},
    "peft_results": STORE,
    "exchange": {"errors", "store", "export", "peft_results", "report"},
    "check": STORE | {"report", "stats", "stopping"},
    "gate": STORE | {"check"},
    "published": WORDS | {"store"},
    "fitting": PARTS | STORE | SUITE | {"metrics"},
    "estimate": PARTS | STORE | {"fitting"},
    "obtain": PARTS | STORE | {"suite"},
    "cell": STORE | {"estimate", "fitting", "job"},
    "plan_checks": PARTS | STORE | SUITE | {"cell", "contradictions"},
    "micro_batch": PARTS | STORE | {"memory_model", "metrics", "suite_file"},
    "plan": PARTS | STORE | SUITE | {"flops", "micro_batch", "cell", "fitting", "estimate", "obtain", "plan_checks"},
    "selection": PARTS | STORE,
    "loop": PARTS | STORE | {"selection"},
    "attempt": STORE | {"job", "loop"},
    "scoring": PARTS | STORE | {"job", "loop"},
    "kept_tokens": {"disk", "sealed"},
    "warm": PARTS | STORE | {"copies", "job", "kept_tokens", "pieces", "relative_positions"},
    "run_examples": PARTS | STORE | {"attempt", "job", "scoring", "warm"},
    "pipeline": PARTS
    | STORE
    | {"attempt", "copies", "flops", "job", "loop", "metrics", "run_examples", "scoring", "selection", "warm"},
    "run": STORE | {"attempt", "job", "launch", "loop", "pipeline", "ranks"},
    "pack": STORE
    | MATERIAL
    | {"attempt", "checkpoint", "copies", "job", "loading", "loop", "pipeline", "run", "scoring", "dropout"},
    "probe": STORE | PARTS | {"shapes"},
    "executors": STORE | PARTS | {"attempt", "job", "launch", "loop", "run", "pack", "probe", "tuners", "metrics"},
    "stopping": set(),
    "execute": STORE
    | SUITE
    | {"cell", "plan", "estimate", "fitting", "executors", "loop", "methods", "pack", "sharing", "stopping"},
    "sharing": STORE | {"executors"},
    "probe_suite": STORE | SUITE | {"contradictions"},
    "probe_plan": STORE | PARTS | SUITE | {"fitting", "plan", "probe", "probe_suite"},
    "probe_execute": STORE | {"executors", "probe", "probe_plan", "stopping"},
    "progress": STORE | {"cell", "plan", "executors"},
    "memory_model": STORE | PARTS | {"metrics", "probe"},
    "plan_table": STORE | {"cell", "plan", "estimate", "memory_model", "methods", "progress"},
    "reproduce": PARTS | STORE | SUITE | {"published", "report"},
    "prepared": {"disk", "documents", "errors", "names", "reproduce", "sealed", "spec", "suite", "tasks"},
    "listing": GROUND | {"methods", "models", "tasks", "assets"},
    "testing": MATERIAL | PARTS | STORE,
    "commands": {
        *WORDS,
        "check",
        "ends",
        "store",
        "suite",
        "suite_file",
        "tasks",
        "plan",
        "execute",
        "progress",
        "plan_table",
        "listing",
        "report",
        "export",
        "published",
        "reproduce",
        "prepared",
        "probe_record",
        "probe_store",
        "probe_suite",
        "probe_plan",
        "probe_execute",
        "stopping",
    },
    "cli": {"commands", "ends", "errors", "exchange", "gate", "names", "shown", "stopping", "version"},
    "__init__": {"version", "plug_in", "plan", "execute", "suite", "report", "store"},
}


def parts() -> set[str]:
    """Every module and sub-package of the package."""
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    return modules | {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}


def imported_parts(path: Path) -> set[str]:
    """Names of the parts that a file imports, inside functions too, e.g. {"errors", "budget"}."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module == "lora_bench":
            names = [f"lora_bench.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("lora_bench.")}
    return found & parts()


def test_the_table_names_every_part():
    assert parts() - set(MAY_IMPORT) == set()


@pytest.mark.parametrize("part", sorted(parts()))
def test_part_imports_only_what_the_table_allows(part):
    module = PACKAGE / f"{part}.py"
    for file in [module] if module.exists() else sorted((PACKAGE / part).glob("*.py")):
        extra = imported_parts(file) - MAY_IMPORT[part] - {part}
        assert not extra, f"{file.name} imports {', '.join(sorted(extra))}; see MAY_IMPORT"


@pytest.mark.parametrize(
    "module",
    [
        "lora_bench",
        "lora_bench.cli",
        "lora_bench.gate",
        "lora_bench.report",
        "lora_bench.suite.load",
        "lora_bench.plan.make_plan",
        "lora_bench.execute.run_suite",
    ],
)
def test_importing_it_loads_no_torch(module):
    loaded = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "peft", "datasets"} & set(done.stdout.split())
