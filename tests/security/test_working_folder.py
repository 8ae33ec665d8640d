"""Files of the working folder and programs that a repository's configuration names run in no process that a command starts."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lora_bench
from lora_bench.exchange.peft_results import import_results
from lora_bench.util.child_process import git_output
from tests.project import SUITE, write_project
from tests.security.bombs import code_bomb

ROOT = Path(lora_bench.__file__).parents[1]
ONE = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]").replace("48", "32")

# What our processes import, and names that repositories often have.
SHADOWS = ["evaluate", "datasets", "torch", "transformers", "peft", "numpy", "json", "lora_bench", "pip"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a file for each shadowed module, and the sign that they leave if they run."""
    sign, folder = tmp_path / "it-ran", tmp_path / "work"
    folder.mkdir()
    for name in SHADOWS:
        (folder / f"{name}.py").write_text(code_bomb(sign))
    (folder / "pip.py").unlink()
    (folder / "pip").mkdir()
    for name in ("__init__.py", "__main__.py"):
        (folder / "pip" / name).write_text(code_bomb(sign))
    write_project(folder, ONE)
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return folder, sign


def in_folder(folder, code, *arguments):
    """Run code as an installed script runs: without the working folder on its path."""
    command = [sys.executable, "-P", "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


COMMAND = "import sys; from lora_bench.cli import main; sys.exit(main(sys.argv[1:]))"


def test_the_shadowing_files_of_these_tests_run_where_the_working_folder_is_on_the_path(place):
    folder, sign = place
    subprocess.run([sys.executable, "-m", "evaluate"], cwd=folder, check=True)
    assert sign.is_dir()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="workers are forked")
@pytest.mark.parametrize(("training", "workers"), [("", "1"), ("training: {processes: 2}\n", "0")])
def test_workers_and_ranks_import_nothing_from_the_working_folder(place, training, workers):
    folder, sign = place
    (folder / "tickets.yaml").write_text(ONE + training)
    done = in_folder(folder, COMMAND, "run", "tickets.yaml", "--workers", workers, "--quiet")
    assert done.returncode == 0, done.stderr
    (record,) = (folder / "runs").rglob("record.json")
    assert json.loads(record.read_bytes())["status"] == "ok"
    assert not sign.exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="workers are forked")
def test_workers_that_begin_anew_import_nothing_from_the_working_folder(place, monkeypatch):
    folder, sign = place
    starts_cuda = Path(__file__).parents[1] / "execute" / "starts_cuda"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(starts_cuda), str(ROOT)]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = in_folder(folder, COMMAND, "run", "tickets.yaml", "--workers", "1")
    assert done.returncode == 0 and "does its imports itself" in done.stdout + done.stderr, done.stderr
    assert not sign.exists()


def test_the_question_for_devices_imports_nothing_from_the_working_folder(place, monkeypatch):
    folder, sign = place
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    ask = (
        "from pathlib import Path; from lora_bench.records import environment as e; "
        "e.DEVICE_FILES, e.DRIVERS = Path('/'), ('*',); print(e.cuda_devices())"
    )
    done = in_folder(folder, ask)
    assert done.returncode == 0 and done.stdout.startswith("["), done.stderr
    assert not sign.exists()


def test_pip_is_the_installed_one(place):
    folder, sign = place
    fetch = (
        "import sys; from pathlib import Path; from lora_bench.util import pip_assets as a; "
        "asset = a.Asset('x', 'x', 'no-such-package==1', 'wheel', 'no_such_package-1-py3-none-any.whl', '0' * 64, 1, 'MIT');"
        "a.known_assets = lambda: {'x': asset}; a.obtain('x')"
    )
    done = in_folder(folder, fetch)
    assert "no-such-package" in done.stderr
    assert not sign.exists()


def test_a_process_of_ours_runs_this_lora_bench_wherever_it_was_found(place, monkeypatch):
    folder, _ = place
    monkeypatch.delenv("PYTHONPATH")
    code = (
        "import subprocess, sys; sys.path.insert(0, sys.argv[1]); from lora_bench.util.child_process import our_command; "
        "sys.exit(subprocess.run(our_command('lora_bench.cli', '--version')).returncode)"
    )
    done = in_folder(folder, code, str(ROOT))
    assert done.returncode == 0 and lora_bench.__version__ in done.stdout, done.stderr


def test_every_python_that_the_package_starts_has_a_safe_path():
    allowed = {
        "util/child_process.py": "the door itself",
        "gate/rerun.py": "sets PYTHONSAFEPATH, unless this process has the working folder on its path too",
    }
    found = set()
    for path in sorted((ROOT / "lora_bench").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            listed = node.elts if isinstance(node, ast.List | ast.Tuple) else ()
            if any(isinstance(item, ast.Constant) and item.value in ("-m", "-c") for item in listed[:3]):
                found.add(path.relative_to(ROOT / "lora_bench").as_posix())
    assert found == set(allowed)


# --- git -------------------------------------------------------------------------------------------------------------


def git(folder, *arguments):
    author = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    return subprocess.run(["git", *author, "-C", str(folder), *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def evil(tmp_path):
    """A program that leaves a sign, and the sign."""
    sign, program = tmp_path / "it-ran", tmp_path / "evil.sh"
    program.write_text(f"#!/bin/sh\nmkdir -p {sign}\n")
    program.chmod(0o755)
    return program, sign


@pytest.fixture
def clone(tmp_path):
    """A repository with one result file, and a commit that says it is signed."""
    folder = tmp_path / "peft"
    results = folder / "method_comparison" / "MetaMathQA" / "results"
    results.mkdir(parents=True)
    (results / "x.json").write_text("{}")
    git(tmp_path, "init", "--quiet", str(folder))
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "x")
    commit = git(folder, "cat-file", "commit", "HEAD").stdout
    head, message = commit.split("\n\n", 1)
    signed = f"{head}\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n\n{message}"
    made = subprocess.run(
        ["git", "-C", str(folder), "hash-object", "-t", "commit", "-w", "--stdin"],
        input=signed, capture_output=True, text=True, check=True,
    )  # fmt: skip
    git(folder, "update-ref", "HEAD", made.stdout.strip())
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="the program is a shell script")
def test_the_history_of_a_repository_is_read_without_the_programs_that_it_names(clone, evil, tmp_path):
    program, sign = evil
    for key in ("gpg.program", "core.fsmonitor", "core.sshCommand", "diff.external", "core.pager"):
        git(clone, "config", key, str(program))
    git(clone, "config", "log.showSignature", "true")
    subprocess.run(["git", "-C", str(clone), "log"], capture_output=True)
    assert sign.is_dir()
    sign.rmdir()
    import_results(clone / "method_comparison", tmp_path / "runs", history=True)
    assert not sign.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the program is a shell script")
def test_missing_objects_of_a_repository_are_not_fetched(clone, evil):
    program, sign = evil
    for key, value in {
        "remote.origin.url": "ssh://x/y", "remote.origin.promisor": "true", "core.sshCommand": str(program),
        "remote.origin.partialclonefilter": "blob:none", "core.repositoryformatversion": "1",
        "extensions.partialClone": "origin",
    }.items():  # fmt: skip
        git(clone, "config", key, value)
    missing = "1" * 40
    subprocess.run(["git", "-C", str(clone), "cat-file", "blob", missing], capture_output=True)
    assert sign.is_dir()
    sign.rmdir()
    assert git_output(clone, "cat-file", "blob", missing) is None
    assert not sign.exists()
