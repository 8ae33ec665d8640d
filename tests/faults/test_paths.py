"""Folders as people have them: read-only, linked, and with names of all kinds; and a clock that jumps."""

import ast
import ctypes
import os
import sys
import time
import traceback
from pathlib import Path

import pytest

from lora_bench.cli import main
from lora_bench.errors import LoraBenchError
from lora_bench.records.baseline_folder import accept
from lora_bench.records.store import RunFolder, read_records
from lora_bench.util.atomic_files import check_writable, is_local, make_folder
from tests.faults.test_power_loss import ANSWERS, a_record
from tests.sample_records import sample_suite

ROOT = Path(__file__).parents[2]

NAMES = {
    "spaces": "my runs  of today",
    "Unicode": "läufe für 日本 🙂",
    "decomposed": "la\u0308ufe",
    "right to left": "\u202eabc",
    "quotes": 'it\'s "so" $HOME `x` ; & | *?[a]',
    "newline": "two\nlines",
    "dash": "-rf",
    "dots": "..a..",
    "as long as a name may be": "x" * 255,
}


def fill(runs: Path) -> list:
    """Runs with records, predictions and an attempt."""
    records = [a_record(seed) for seed in range(2)]
    for record in records:
        folder = RunFolder(runs / record.run_id)
        with folder.try_lock():
            (folder.path / "predictions.json").write_bytes(ANSWERS)
            folder.publish(record.model_copy(update={"status": "interrupted", "reason": "stopped"}))
            folder.publish(record)
    return sorted(records, key=lambda record: record.run_id)


@pytest.mark.skipif(sys.platform == "win32", reason="such names are none there")
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_runs_folder_may_have_any_name(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    records = fill(tmp_path / name / "suite")
    assert read_records(tmp_path / name / "suite") == records
    assert accept(tmp_path / name / "suite", tmp_path / "baseline") == records
    assert main(["export", f"./{name}/suite", "--to", "csv", "--out", "out.csv"]) == 0, capsys.readouterr().err
    assert (tmp_path / "out.csv").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="paths have other limits there")
def test_a_deep_folder_with_a_path_of_thousands_of_characters(tmp_path):
    deep = tmp_path.joinpath(*["x" * 200] * 15)
    assert len(str(deep)) > 3000
    records = fill(deep)
    assert read_records(deep) == records


@pytest.mark.parametrize("name", ["x" * 300, "ä" * 200, "nul\0byte"])
def test_a_name_that_no_file_can_have_is_bad_input(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    assert main(["report", name]) == 2
    said = capsys.readouterr().err
    assert said.startswith("lora-bench: ") and "Traceback" not in said and len(said) < 1_000
    assert list(tmp_path.iterdir()) == []


def test_two_dots_in_a_path_lead_where_they_say(tmp_path):
    (tmp_path / "a").mkdir()
    records = fill(tmp_path / "a" / ".." / "runs")
    assert read_records(tmp_path / "runs") == records


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_linked_runs_folder_is_written_through_the_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs").symlink_to("elsewhere", target_is_directory=True)
    records = fill(tmp_path / "runs")
    assert read_records(tmp_path / "elsewhere") == read_records(tmp_path / "runs") == records
    assert (tmp_path / "runs").is_symlink()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_to_nowhere_is_said(tmp_path):
    (tmp_path / "runs").symlink_to(tmp_path / "unmounted", target_is_directory=True)
    with pytest.raises(LoraBenchError, match=r"runs is a link to .*unmounted, which does not exist"):
        make_folder(tmp_path / "runs" / "suite")
    assert not (tmp_path / "unmounted").exists()


def test_a_file_in_the_place_of_a_folder_is_said(tmp_path):
    (tmp_path / "runs").write_text("no folder")
    with pytest.raises(LoraBenchError, match=r"runs/suite cannot be written: .*; choose another folder with --runs"):
        check_writable(tmp_path / "runs" / "suite", "--runs")


def give_up_privileges() -> None:
    """From now on the permissions of files hold for root too: this process has no capability left (capabilities(7)).

    It stays the owner of its files. Another user could not read the packages of an environment that is closed to others.
    """
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


def without_privileges(do, output: Path) -> str:
    """What *do* prints in a process without the rights that root has; it has the imports of this one."""
    pid = os.fork()
    if not pid:
        try:
            file = os.open(output, os.O_WRONLY | os.O_CREAT)
            os.dup2(file, 1)
            os.dup2(file, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            if os.geteuid() == 0:
                give_up_privileges()
            do()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
    os.waitpid(pid, 0)
    return output.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="root gives up its capabilities as Linux has them")
def test_a_read_only_folder_is_refused_before_any_work_and_read_all_the_same(tmp_path):
    runs = tmp_path / "runs"
    records = fill(runs)
    assert main(["report", str(runs)]) == 0
    for path in [runs, *runs.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)

    def do():
        assert read_records(runs) == records
        assert [RunFolder(runs / record.run_id).damage() for record in records] == [None, None]
        assert main(["report", str(runs), "--check"]) == 0
        print("exit", main(["report", str(runs)]))
        check_writable(runs, "--runs")

    said = without_privileges(do, tmp_path / "output")
    for path in [runs, *runs.rglob("*")]:
        path.chmod(0o755)
    assert "lora-bench: [Errno 13] Permission denied" in said and "exit 2" in said
    assert "runs cannot be written: Permission denied; choose another folder with --runs" in said.splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="mounts are looked up as Linux shows them")
def test_which_file_systems_are_this_machines_own(tmp_path, monkeypatch):
    mounts = """\
22 1 0:20 / / rw - ext4 /dev/vda rw
23 22 0:21 / /proc rw - proc proc rw
24 22 0:22 / /mnt/my\\040disk rw - xfs /dev/vdb rw
25 22 0:23 / /mnt rw - nfs4 server:/a rw
26 22 0:24 / /mnt/my\\040disk/over rw - fuse.sshfs x rw
"""
    real = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda path, **options: mounts if path.name == "mountinfo" else real(path, **options)
    )
    found = {
        place: is_local(Path(place)) for place in ("/a", "/mnt/b", "/mnt/my disk/c", "/mnt/my disk/over/d", "/proc")
    }
    assert found == {"/a": True, "/mnt/b": False, "/mnt/my disk/c": True, "/mnt/my disk/over/d": False, "/proc": False}


PACKAGE = ROOT / "lora_bench"
# What a reader sees of a run, and nothing more: when it began, for MLflow and in a record.
SHOWN = {"script_run.py", "attempt.py", "process.py", "to_mlflow.py"}


def test_no_module_asks_what_time_it_is_but_to_show_it():
    """Neither the time of day nor the time of a file orders, expires or measures anything."""
    asks = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                name = f"{ast.unparse(node.value)}.{node.attr}"
                if name in ("time.time", "time.time_ns", "datetime.now", "datetime.today") or node.attr.startswith(
                    ("st_mtime", "st_ctime", "st_atime")
                ):
                    asks.setdefault(path.name, set()).add(name)
    assert set(asks) <= SHOWN, asks


@pytest.mark.parametrize("jump", [-3600.0, 86_400.0])
def test_records_come_in_the_order_of_their_ids_whatever_the_clock_says(tmp_path, monkeypatch, jump):
    real = time.time
    for number, record in enumerate(sample_suite()):
        monkeypatch.setattr(time, "time", lambda number=number: real() + jump * number)
        folder = RunFolder(tmp_path / record.run_id)
        for _ in range(2):
            folder.publish(record.model_copy(update={"status": "interrupted", "reason": "stopped"}))
        folder.publish(record)
        os.utime(folder.path / "record.json", (max(0, real() + jump * number),) * 2)
        assert folder.attempts() == 2
    found = [record.run_id for record in read_records(tmp_path)]
    assert found == sorted(record.run_id for record in sample_suite())
