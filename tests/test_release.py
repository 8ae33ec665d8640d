"""What a release needs: one version everywhere, an address that installs, a workflow that publishes, and an image."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from lora_bench.cli.parser import build_parser
from lora_bench.version import __version__

ROOT = Path(__file__).parents[1]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))
JOBS = WORKFLOW["jobs"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
HEADING = f"## [{__version__}]"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *filter(Path.is_file, (ROOT / "examples").iterdir())]


def step(job, name):
    (found,) = [one["run"] for one in JOBS[job]["steps"] if one.get("name") == name]
    return found


def test_the_version_is_one_everywhere():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == __version__
    assert f"\n{HEADING}" in CHANGELOG
    tags = {tag for page in PAGES for tag in re.findall(r"/lora_bench@v([\d.]+)", page.read_text(encoding="utf-8"))}
    assert tags == {__version__}


def test_no_page_installs_a_name_of_the_index_that_is_not_ours():
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            assert not re.search(r"pip install [\"']?lora[_-]bench(?!.*@ git\+)", line), f"{page.name}: {line}"


def test_the_changelog_of_a_version_answers_questions_in_at_most_60_lines():
    version = HEADING + CHANGELOG.partition(HEADING)[2].split("\n## ")[0]
    assert len(version.strip().splitlines()) <= 60
    questions = re.findall(r"^### (.+)\n- ", version, flags=re.M)
    assert questions and all(question.endswith("?") for question in questions)
    assert len(questions) == version.count("\n### ")


@pytest.fixture
def released(tmp_path):
    """Runs the step that looks at tag and changelog, on a changelog with this heading."""

    def run(tag, heading, line="- More.", address="example.org/us"):
        (tmp_path / "lora_bench").mkdir(exist_ok=True)
        version = (ROOT / "lora_bench" / "version.py").read_text().replace("HOST/OWNER", address)
        (tmp_path / "lora_bench" / "version.py").write_text(version)
        (tmp_path / "CHANGELOG.md").write_text(
            f"# Changelog\n\n{heading}\n\n### Added\n\n{line}\n\n## [0.0.1]\n\n- Old.\n"
        )
        script = step("build", "Compare the tag with the version, and take its notes from the changelog")
        environment = {"PATH": "/usr/bin:/bin", "GITHUB_REF_NAME": tag}
        command = ["bash", "-eo", "pipefail", "-c", script]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def test_a_release_takes_its_notes_from_the_changelog(released, tmp_path):
    assert released(f"v{__version__}", f"{HEADING} - 2031-02-03").returncode == 0
    assert (tmp_path / "notes.md").read_text() == "\n### Added\n\n- More.\n\n"


@pytest.mark.parametrize(
    ("tag", "heading", "line", "said"),
    [
        ("v9.9.9", f"{HEADING} - 2031-02-03", "- More.", "v9.9.9 is no tag of version"),
        (f"v{__version__}", f"{HEADING} - unreleased", "- More.", "CHANGELOG.md has no date"),
        (f"v{__version__}", "## [9.9.9]", "- More.", "CHANGELOG.md says nothing of"),
        (f"v{__version__}", f"{HEADING} - 2031-02-03", "", "CHANGELOG.md says nothing of"),
    ],
)
def test_a_tag_that_does_not_fit_ends_the_release(released, tag, heading, line, said):
    ended = released(tag, heading, line)
    assert ended.returncode == 1 and f"::error::{said}" in ended.stdout


def test_a_release_waits_for_the_address_of_its_repository(released):
    ended = released(f"v{__version__}", f"{HEADING} - 2031-02-03", address="HOST/OWNER")
    assert ended.returncode == 1 and "::error::HOST/OWNER stands for the repository's address" in ended.stdout
    assert "`lora_bench/version.py`" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_model_is_a_file_of_the_release_and_not_of_the_index():
    stored = {
        one["with"]["name"]: one["with"]["path"] for one in JOBS["build"]["steps"] if "upload-artifact" in str(one)
    }
    assert stored == {"dist": "dist", "models": "models", "notes": "notes.md"}
    fetched = {
        job: [one["with"] for one in JOBS[job]["steps"] if "download-artifact" in str(one) and "with" in one]
        for job in ("test", "publish")
    }
    assert fetched["publish"] == [{"name": "dist", "path": "dist"}]
    # Where the asset of this name is looked for, as if a user had put it there by hand.
    assert {"name": "models", "path": "cache/assets"} in fetched["test"]
    assert "dist/* models/*" in step("announce", "Make the release")


def test_wheels_are_tested_on_linux_and_macos_before_they_are_published():
    assert (JOBS["test"]["needs"], JOBS["publish"]["needs"], JOBS["announce"]["needs"]) == ("build", "test", "publish")
    runners = JOBS["test"]["strategy"]["matrix"]["runner"]
    assert {runner.split("-")[0] for runner in runners} == {"ubuntu", "macos"}
    for line in step("test", "Use").splitlines():
        if line.startswith("lora-bench "):
            build_parser().parse_args(line.split()[1:])


def test_what_publishes_runs_nothing_and_what_runs_may_not_publish():
    assert WORKFLOW["permissions"] == {}
    permissions = {name: job["permissions"] for name, job in JOBS.items()}
    assert permissions == {
        "build": {"contents": "read"}, "test": {}, "publish": {"id-token": "write"}, "announce": {"contents": "write"},
    }  # fmt: skip
    assert not any("run" in one for one in JOBS["publish"]["steps"])
    publish = JOBS["publish"]["steps"][-1]
    assert publish["with"] == {"attestations": True} and JOBS["publish"]["environment"]["name"] == "pypi"
    for job in JOBS.values():
        assert all(re.search(r"@[0-9a-f]{40}$", one["uses"]) for one in job["steps"] if "uses" in one)


def test_the_image_runs_the_quickstart_and_not_as_root():
    lines = re.sub(r"\\\n\s*", "", DOCKERFILE).splitlines()
    instructions = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    names = [name for name, _ in instructions]
    assert names[:2] == ["ARG", "FROM"] and instructions[1][1] == "${BASE}"
    last = dict(instructions)
    assert last["USER"] not in ("root", "0") and names.index("USER") > max(
        index for index, name in enumerate(names) if name == "RUN"
    )
    assert json.loads(last["ENTRYPOINT"]) == ["lora-bench"]
    build_parser().parse_args(json.loads(last["CMD"]))
    for name, script in instructions:
        if name == "RUN":
            assert subprocess.run(["sh", "-n", "-c", script], check=False).returncode == 0, script


def test_the_image_is_built_from_what_the_package_is_built_from():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert all((ROOT / name).exists() for name in kept)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = re.findall(r'^(?:readme|license-files) = \[?"(.+?)"', project, flags=re.M)
    (built,) = re.findall(r"^only-include = (.+)$", project, flags=re.M)
    assert kept == {"pyproject.toml", *named, *json.loads(built)}


@pytest.mark.parametrize(
    "file", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda file: file.stem
)
def test_an_issue_form_is_one_that_github_takes(file):
    form = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert set(form) == {"name", "description", "labels", "body"}
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]+", name) for name in ids)
    for field in form["body"]:
        assert field["type"] in ("input", "textarea") and field["attributes"]["label"]
