"""The wheel carries all that the package needs far from its checkout, but for our own models in a release's."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pytest
import yaml

from lora_bench.models.registry import find_model
from lora_bench.util.pip_assets import find_asset

ROOT = Path(__file__).parents[1]
DATA = ROOT / "lora_bench" / "data"
MODELS = ("gpt2-mini", "deberta-mini")

# The release's own step builds with `build`, which would fetch hatchling for each; here that is installed.
PYTHON = f"""#!/bin/sh
case "$*" in
    "-m build --"*) exec "{sys.executable}" -m hatchling build -t "${{3#--}}" ;;
    "-m pip "* | "-m twine "*) ;;
    *) exec "{sys.executable}" "$@" ;;
esac
"""


@pytest.fixture
def installed():
    """The files of the installed package."""
    try:
        found = {str(path): path for path in files("lora_bench") or []}
    except PackageNotFoundError:
        found = {}
    if "lora_bench/cli/parser.py" not in found:
        pytest.skip("lora_bench is not installed from a wheel here; tox installs it so")
    return found


def test_the_wheel_carries_tasks_baselines_schemas_and_our_models(installed):
    for needed in (
        "lora_bench/_tasks/movie_reviews.yaml",
        "lora_bench/_baselines/quickstart/suite.yaml",
        "lora_bench/_baselines/quickstart-search/suite.yaml",
        "lora_bench/_baselines/smoke/suite.yaml",
        "lora_bench/_baselines/nightly/nights/repeat-1.json",
        "lora_bench/_baselines/lora-table2/published.csv",
        "lora_bench/schemas/suite.schema.json",
        "lora_bench/data/gpt2-mini/model.safetensors",
        "lora_bench/data/gpt2-mini/README.md",
        "lora_bench/data/deberta-mini/masked_words.safetensors",
        "lora_bench/report/assets/card.css",
        "lora_bench/report/assets/page.css",
        "lora_bench/report/assets/page.js",
        "lora_bench/py.typed",
    ):
        assert needed in installed


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A checkout after the step `Build` of the release; beside it, in `full`, the wheel of an ordinary install."""
    pytest.importorskip("hatchling")
    top = tmp_path_factory.mktemp("release")
    folder = top / "checkout"
    for name in ("lora_bench", "tasks", "baselines"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "benchmarks").mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "benchmarks/model_wheels.py"):
        shutil.copy(ROOT / name, folder / name)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "../full"]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))
    (script,) = [step["run"] for step in workflow["jobs"]["build"]["steps"] if step.get("name") == "Build"]
    (top / "bin").mkdir()
    (top / "bin" / "python").write_text(PYTHON)
    (top / "bin" / "python").chmod(0o755)
    here = {**os.environ, "PATH": f"{top / 'bin'}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-eo", "pipefail", "-c", script], cwd=folder, env=here, check=True, capture_output=True)
    return folder


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def names(archive: Path) -> set[str]:
    with zipfile.ZipFile(archive) as opened:
        return set(opened.namelist())


@pytest.mark.slow
def test_the_wheel_of_a_release_has_at_most_three_megabytes_and_all_but_our_models(release):
    small, full = only(release / "dist", "*.whl"), only(release.parent / "full", "*.whl")
    assert small.name == full.name and small.stat().st_size <= 3_000_000 and full.stat().st_size > 10_000_000
    assert names(full) - names(small) == {
        path.relative_to(ROOT).as_posix() for model in MODELS for path in (DATA / model).iterdir()
    }
    assert names(small) < names(full)
    assert not [
        name for name in names(full) if "_baselines" in name and name.endswith(("runs.json", "probes.json", ".xz"))
    ]


@pytest.mark.slow
def test_a_build_from_the_sources_of_a_release_has_our_models(release):
    with tarfile.open(only(release / "dist", "*.tar.gz")) as archive:
        for model in MODELS:
            assert any(
                f"/lora_bench/data/{model}/" in name and name.endswith(".safetensors") for name in archive.getnames()
            )


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_model_of_a_release_is_the_asset_that_is_pinned(release, model):
    asset = find_asset(model)
    wheel = release / "models" / asset.file
    assert len(list(wheel.parent.iterdir())) == len(MODELS) and asset.requirement.endswith(f"/{wheel.name}")
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == asset.sha256
    assert wheel.stat().st_size == asset.size_bytes


@pytest.mark.slow
def test_the_wheel_of_a_release_says_how_to_get_the_model_and_takes_it_from_the_cache(release, tmp_path):
    with zipfile.ZipFile(only(release / "dist", "*.whl")) as archive:
        archive.extractall(tmp_path / "site")

    def find() -> subprocess.CompletedProcess[str]:
        script = (
            "import lora_bench\n"
            "from pathlib import Path\n"
            "from lora_bench.errors import AssetUnavailable\n"
            "from lora_bench.models.registry import find_model\n"
            f"assert Path(lora_bench.__file__).is_relative_to({str(tmp_path)!r})\n"
            "try:\n"
            "    print(find_model('gpt2-mini', base=Path()).sha256)\n"
            "except AssetUnavailable as error:\n"
            "    print(error)\n"
        )
        path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
        nowhere = {"https_proxy": "http://127.0.0.1:9", "no_proxy": "", "PIP_RETRIES": "0"}
        here = {**os.environ, "PYTHONPATH": path, "LORA_BENCH_CACHE": str(tmp_path / "cache"), **nowhere}
        return subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=here, capture_output=True, text=True)

    asset = find_asset("gpt2-mini")
    *_, folder, last = find().stdout.splitlines()
    assert folder.strip() == str(tmp_path / "cache" / "assets")
    assert last.startswith('or install from the repository, which has it: pip install "lora_bench @ git+https://')
    shutil.copy(release / "models" / asset.file, tmp_path / "cache" / "assets")
    done = find()
    assert done.stdout.strip() == find_model("gpt2-mini", base=Path()).sha256, done.stderr
