"""How many mutants of five modules the default tests kill, and how many more the slow ones.

    pip install cosmic-ray
    python -m benchmarks.mutants                      60 mutants of each module, about two hours on one core
    python -m benchmarks.mutants judge --count 20

Cosmic Ray makes the mutants: another operator, number, comparison or branch in one place. As many as are asked for are drawn
from all of a module, the same each time. A mutant is killed if a test of those beside its module fails or takes ten times as
long as all did before. The module's file changes meanwhile; use a checkout that nothing else uses.
"""

import argparse
import contextlib
import importlib
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[1]
# Tests that run the code of a module, the closest first: most mutants end at the first.
TESTS = {
    "stats/verdict": ["stats", "report/model/test_verdicts.py", "published/test_verdicts.py"],
    "records/run_lock": ["faults/test_claims.py", "records", "execute/test_choices.py", "execute/test_run_suite.py"],
    "tuners/prefix": [
        "tuners/test_prefix.py",
        "tuners/test_prefix_attention.py",
        "tuners/test_reparameterised_prefix.py",
    ],
    "plan/size_fitting": ["plan", "methods/test_counts.py", "methods/test_qlora.py"],
    "gate/judge": ["gate/test_judge.py", "gate", "stats/test_gate.py"],
}

DEFAULT, SLOW = "not gpu and not slow", "slow and not gpu"
# Annotations are never evaluated, so that another operator between types changes nothing.
LEFT_OUT = ("core/NoOp", "core/ReplaceBinaryOperator_BitOr")


def mutants(code: str, count: int) -> list[tuple[str, str]]:
    """Return the names and the texts of so many mutants, or of all if there are fewer."""
    tree = get_ast(code)
    operators = [
        name for name in operator_names() if not name.startswith(LEFT_OUT) and not get_operator(name).arguments()
    ]
    places = [
        (name, occurrence, start)
        for name in sorted(operators)
        for occurrence, (start, _) in enumerate(
            place for node in ast_nodes(tree) for place in get_operator(name)().mutation_positions(node)
        )
    ]
    drawn = random.Random(0).sample(places, min(count, len(places)))
    return [
        (f"line {line} {name.removeprefix('core/')}", text)
        for name, occurrence, (line, _) in sorted(drawn, key=lambda place: place[2])
        if (text := mutate_code(code, get_operator(name)(), occurrence)) is not None
    ]


def killed(tests: Sequence[str], selection: str, seconds: float) -> bool:
    """Return whether one of these tests fails, in a process that has this one's libraries and none of our modules yet."""
    child = os.fork()
    if child == 0:
        os.setsid()
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1), os.dup2(quiet, 2)
        code = 3
        with contextlib.suppress(BaseException):
            code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", selection, *tests])
        os._exit(int(code))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            # 5: none of these tests is selected.
            return os.waitstatus_to_exitcode(status) not in (0, 5)
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


@contextlib.contextmanager
def mutated(file: Path, text: str) -> Iterator[None]:
    """Put *text* in the place of a file, and its own back."""
    whole = file.read_bytes()
    file.write_text(text, encoding="utf-8")
    try:
        yield
    finally:
        file.write_bytes(whole)


def try_module(name: str, count: int) -> Counter[str]:
    """Return how many mutants the default tests kill, how many the slow ones alone, and how many none."""
    file, tests = ROOT / "lora_bench" / f"{name}.py", [f"tests/{path}" for path in TESTS[name]]
    begun = time.monotonic()
    if killed(tests, DEFAULT, 3600) or killed(tests, SLOW, 3600):
        raise SystemExit(f"{name}: tests fail without a mutant")
    allowed = 10 * (time.monotonic() - begun)
    found = Counter(default=0, slow=0, none=0)
    for label, text in mutants(file.read_text(encoding="utf-8"), count):
        with mutated(file, text):
            by = "default" if killed(tests, DEFAULT, allowed) else "slow" if killed(tests, SLOW, allowed) else "none"
        found[by] += 1
        if by != "default":
            print(f"    {name} {label}: killed by {by}", flush=True)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Print the kills of each module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"parts of {', '.join(TESTS)}")
    parser.add_argument("--count", type=int, default=60, help="mutants of each module")
    given = parser.parse_args(arguments)
    os.chdir(ROOT)
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ["OMP_NUM_THREADS"] = "1"
    for library in ("torch", "transformers", "peft", "scipy.stats", "pandas"):
        importlib.import_module(library)
    for name in TESTS:
        if not given.modules or any(part in name for part in given.modules):
            found = try_module(name, given.count)
            print(
                f"{name}: of {found.total()} mutants {found['default']} killed by the default tests, "
                f"{found['slow']} more by slow ones, {found['none']} by none",
                flush=True,
            )


if __name__ == "__main__":
    main()
