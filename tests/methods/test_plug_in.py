"""An installed package adds a method without touching this one, in under 40 lines."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PLUG_IN = Path(__file__).parent / "plug_in"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder on the path of a new process with what pip would leave there: the module and its metadata."""
    project = tomllib.loads((PLUG_IN / "pyproject.toml").read_text())["project"]
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(PLUG_IN / "vera_plug_in.py", folder)
    metadata = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    metadata.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {module}" for name, module in entries.items()))
    ]
    metadata.joinpath("entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


def python(code, *folders):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_an_installed_plug_in_keeps_the_contract(installed):
    done = python(
        "import sys\n"
        "from lora_bench.methods import known_methods\n"
        "vera = known_methods()['vera']\n"
        "assert 'torch' not in sys.modules\n"
        "from lora_bench.testing import check_method\n"
        "check_method(vera(rank=4))\n"
        "print('kept by', vera.__module__)\n",
        installed,
        ROOT,
    )
    assert done.stdout == "kept by vera_plug_in\n", done.stderr


def test_without_the_package_there_is_no_such_method():
    done = python("from lora_bench.methods import known_methods\nprint('vera' in known_methods())", ROOT)
    assert done.stdout == "False\n", done.stderr


def test_it_is_under_40_lines():
    assert len((PLUG_IN / "vera_plug_in.py").read_text().splitlines()) < 40
