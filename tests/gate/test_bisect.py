"""The search by halves: what it finds, what it costs, and environments that differ in one package."""

import subprocess
import zipfile

import pytest

from lora_bench.errors import LoraBenchError
from lora_bench.gate import judge
from lora_bench.gate.bisect import (
    Candidates,
    candidates,
    cost_lines,
    failing_cell,
    found_lines,
    most_tries,
    search,
    tried,
)
from lora_bench.gate.other_environments import checked_out, installed
from lora_bench.gate.rerun import Way
from tests.gate.histories import accepted, night


def tries(bad_from, count, skipped=()):
    """A candidate to try, and what was tried."""
    told = []

    def one(index):
        assert 0 <= index < count and index not in told
        told.append(index)
        return "skip" if index in skipped else "bad" if index >= bad_from else "good"

    return one, told


@pytest.mark.parametrize("count", [2, 3, 10, 33])
def test_the_first_bad_one_is_found_wherever_it_is_in_no_more_tries_than_are_announced(count):
    for bad_from in range(1, count):
        one, told = tries(bad_from, count)
        found = search(count, one)
        assert (found.good, found.bad, found.skipped) == (bad_from - 1, bad_from, ())
        assert len(told) <= most_tries(count)


def test_what_cannot_be_tried_is_gone_around_and_named():
    one, _ = tries(5, 10, skipped=(4, 5))
    found = search(10, one)
    assert (found.good, found.bad, found.skipped) == (3, 6, (4, 5))
    of = Candidates("torch", tuple(f"2.{n}" for n in range(10)))
    assert found_lines(found, of)[-1].endswith("may be among them: 2.4, 2.5")


@pytest.mark.parametrize(
    ("bad_from", "skipped", "said"),
    [(9, (), "last .* bad, and it is good"), (0, (), "first"), (1, (2,), "not to be tried")],
)
def test_ends_that_are_not_what_they_are_said_to_be_end_the_search(bad_from, skipped, said):  # fmt: skip
    one, told = tries(bad_from, 3, skipped)
    with pytest.raises(LoraBenchError, match=said):
        search(3, one)
    assert len(told) <= 2


def test_versions_are_named_with_their_package():
    assert candidates("transformers=5.22.0,5.23.0rc1,5.24.0+cpu", None) == Candidates(
        "transformers", ("5.22.0", "5.23.0rc1", "5.24.0+cpu")
    )


@pytest.mark.parametrize(
    "given", ["transformers", "transformers=1", "-r=1,2", "a=1,--index-url", "a=1;2,3", "--x..y", ""]
)
def test_what_is_neither_versions_nor_commits_is_refused(given):
    with pytest.raises(LoraBenchError, match="--bisect takes"):
        candidates(given, None)
    with pytest.raises(LoraBenchError, match="twice"):
        candidates("a=1,1", None)


def git(folder, *arguments):
    """What git says in a folder."""
    author = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    done = subprocess.run(["git", *author, "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A repository with four commits of a file."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    commits = []
    for number in range(4):
        (folder / "number.txt").write_text(str(number))
        git(folder, "add", "number.txt")
        git(folder, "commit", "-qm", str(number))
        commits.append(git(folder, "rev-parse", "HEAD"))
    return folder, commits


def test_commits_go_from_the_good_one_to_the_bad_one(repository):
    folder, commits = repository
    assert candidates("HEAD~2..HEAD", folder) == Candidates(None, tuple(commits[1:]))
    with pytest.raises(LoraBenchError, match="no commit"):
        candidates("HEAD..HEAD", folder)
    with pytest.raises(LoraBenchError, match="git rev-parse failed"):
        candidates("nothing..HEAD", folder)
    with pytest.raises(LoraBenchError, match="git rev-parse failed"):
        candidates("HEAD..nothing", folder)


def test_a_commit_on_another_branch_is_no_good_end(repository):
    folder, commits = repository
    git(folder, "checkout", "-qb", "other", commits[1])
    git(folder, "commit", "-qm", "elsewhere", "--allow-empty")
    with pytest.raises(LoraBenchError, match=f"{commits[3]} is not among what other was made from"):
        candidates(f"{commits[3]}..other", folder)
    assert candidates(f"{commits[0]}..other", folder).names == (*commits[:2], git(folder, "rev-parse", "other"))


def test_a_checkout_stands_beside_the_repository_and_goes_again(repository, tmp_path):
    folder, commits = repository
    with checked_out(tmp_path / "at", folder, commits[1], tmp_path / "log.txt") as place:
        assert (place / "number.txt").read_text() == "1" and (folder / "number.txt").read_text() == "3"
    assert not (tmp_path / "at").exists()
    with checked_out(tmp_path / "at", folder, "0" * 40, tmp_path / "log.txt") as place:
        assert place is None


def test_what_a_search_left_that_was_killed_is_in_nobodys_way(repository, tmp_path):
    folder, commits = repository
    git(folder, "worktree", "add", "-q", "--detach", str(tmp_path / "at"), commits[0])
    (tmp_path / "at" / "left.txt").write_text("")
    with checked_out(tmp_path / "at", folder, commits[1], tmp_path / "log.txt") as place:
        assert (place / "number.txt").read_text() == "1" and not (place / "left.txt").exists()
    left = tmp_path / "venv" / "lib" / "left.txt"
    left.parent.mkdir(parents=True)
    left.write_text("")
    with installed(Way("tickets"), tmp_path / "venv", str(wheel(tmp_path, "1.0")), tmp_path / "log.txt") as place:
        assert place is not None and not left.exists()


def wheel(folder, version, *, name="tinyshift", source="", entry_points=""):
    """A wheel as pip takes it, without a build."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    information = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": source or f"version = {version!r}\n",
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{information}/entry_points.txt": entry_points,
    }
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
        record = "".join(f"{file},,\n" for file in [*files, f"{information}/RECORD"])
        archive.writestr(f"{information}/RECORD", record)
    return path


@pytest.mark.slow
def test_an_environment_differs_in_one_package_and_sees_the_others(tmp_path, monkeypatch):
    for version in ("1.0", "2.0"):
        wheel(tmp_path / "wheels", version)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    # What stands in PYTHONPATH would come before the environment's own packages.
    (tmp_path / "tinyshift.py").write_text("version = 'of the path'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    # As where a virtual environment sees the packages of the system, or a user has some of their own.
    (tmp_path / "dist-packages").mkdir()
    (tmp_path / "dist-packages" / "of_the_system.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "dist-packages"))
    asked = (
        "import of_the_system, tinyshift, importlib.metadata as m, pydantic, lora_bench; "
        "print(tinyshift.version, m.version('tinyshift'))"
    )
    with installed(Way("tickets"), tmp_path / "venv", "tinyshift==1.0", tmp_path / "log.txt") as place:
        done = subprocess.run(
            [place.python, "-c", asked], env=place.environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["1.0", "1.0"]
    assert not (tmp_path / "venv").exists()
    with installed(Way("tickets"), tmp_path / "venv", "tinyshift==3.0", tmp_path / "log.txt") as place:
        assert place is None
    assert "No matching distribution" in (tmp_path / "log.txt").read_text()


def failing():
    """An answer with a suspect series."""
    return judge(night("tonight", shift={"lora": -0.03}), accepted(20), "nightly")


def test_the_cell_to_search_for_is_the_worst_or_the_one_named():
    answer = failing()
    one = failing_cell(answer, None)
    assert one.name.method == "lora" and failing_cell(answer, one.series) == one
    with pytest.raises(LoraBenchError, match="nothing is wrong with a series"):
        failing_cell(answer, answer.series[-1].series)
    with pytest.raises(LoraBenchError, match="nothing is wrong in n21"):
        failing_cell(judge(night("n21"), accepted(20), "nightly"), None)


def test_a_search_says_first_what_it_costs():
    lines = cost_lines(Candidates("torch", tuple("12345678")), failing_cell(failing(), None))
    # Both ends and ⌈log₂ 7⌉ between them; the three runs took 10 s and 2.9 s beside each, and an environment a minute.
    assert "8 versions of torch: at most 5 environments" in lines[1] and "its 3 runs took 39 s" in lines[1]
    assert lines[2].startswith("about 8 min")


def test_a_try_is_bad_where_the_cell_has_what_is_looked_for():
    looked_for = failing_cell(failing(), None)
    history = accepted(20)

    def shows(**changes):
        answer = judge(night("tonight", methods=["lora"], **changes), history, "nightly")
        return tried(next(one for one in answer.series if one.name.method == "lora"), looked_for)

    assert shows(shift={"lora": -0.03}) == "bad"
    assert shows() == "good"
    assert shows(status="failed", reason="no such function") == "skip"
    assert shows(training={"threads": 4}) == "skip"  # no history under these conditions
    assert tried(None, looked_for) == "skip"


def test_a_crash_is_looked_for_as_a_crash():
    answer = judge(
        night("tonight", methods=["lora"], status="failed", reason="x"), accepted(20, methods=["lora"]), "nightly"
    )
    looked_for = failing_cell(answer, None)
    assert tried(answer.series[0], looked_for) == "bad"
    assert tried(judge(night("tonight"), accepted(20), "nightly").series[0], looked_for) == "good"
    # It takes no history to see that runs give scores, and one to see whether these are good.
    young = judge(night("tonight"), accepted(1), "nightly").series[0]
    assert tried(young, looked_for) == "good" and tried(young, failing_cell(failing(), None)) == "skip"
