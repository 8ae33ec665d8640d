"""Pipes, devices and links in a folder from elsewhere stop no command and lead no write out of it."""

import json
import os
import sys

import pytest

from lora_bench.cli import main
from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.metrics.support.hub_metric import code_hash
from lora_bench.records.store import RunFolder, read_records
from lora_bench.report import Report, write_report
from lora_bench.suite.load_suite import load_suite
from lora_bench.util.regular_files import read_regular
from tests.sample_records import sample_suite

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes and devices among its files")

DEVICE = "/dev/zero"


def in_place_of(path, kind):
    """A pipe, or a link to an endless device, in the place of a file."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path) if kind == "pipe" else path.symlink_to(DEVICE)
    return path


special = pytest.mark.parametrize("kind", ["pipe", "device"])


@special
def test_only_regular_files_are_read(tmp_path, kind):
    with pytest.raises(OSError, match="not a regular file"):
        read_regular(in_place_of(tmp_path / "x", kind))
    (tmp_path / "y").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("y")
    assert read_regular(tmp_path / "link", 5) == b"12345"
    with pytest.raises(OSError, match="larger than"):
        read_regular(tmp_path / "y", 4)


@special
@pytest.mark.parametrize("name", ["tickets.csv", "tickets.yaml", "base/config.json", "base/model.safetensors"])
def test_an_input_that_is_no_regular_file_is_refused(project, capsys, name, kind):
    in_place_of(project / name, kind)
    assert main(["plan", "tickets.yaml"]) == 2
    said = capsys.readouterr().err
    assert "not a regular file" in said and name.rpartition("/")[2] in said


@special
def test_a_record_that_is_no_regular_file_is_refused(tmp_path, kind):
    record = sample_suite()[0]
    in_place_of(tmp_path / record.run_id / "record.json", kind)
    with pytest.raises(BadInput, match="is no record: not a regular file"):
        read_records(tmp_path)


@special
def test_a_script_of_a_metric_that_is_no_regular_file_is_refused(tmp_path, kind):
    in_place_of(tmp_path / "mine" / "mine.py", kind)
    with pytest.raises(LoraBenchError, match="is no folder with a script"):
        code_hash(f"hub:{tmp_path / 'mine'}")


def run_id(project):
    from lora_bench.plan.make_plan import make_plan

    (cell,) = make_plan(load_suite("tickets.yaml"), project / "runs" / "tickets").cells
    return cell.job.run_id


def test_a_record_that_is_a_link_to_nothing_ends_the_command_at_once(project, capsys):
    """It once went on for ever: the record could neither be written nor read."""
    folder = project / "runs" / "tickets" / run_id(project)
    folder.mkdir(parents=True)
    (folder / "record.json").symlink_to("nowhere.json")
    assert main(["run", "tickets.yaml", "--workers", "0"]) == 2
    assert "record.json is a dangling link; remove it" in capsys.readouterr().err


def test_a_link_that_is_put_in_the_place_of_a_record_meanwhile_goes_to_the_quarantine(tmp_path):
    record = sample_suite()[0]
    folder = RunFolder(tmp_path / record.run_id)
    folder.path.mkdir()
    (folder.path / "record.json").symlink_to("nowhere.json")
    assert folder.publish(record) == record
    assert not (folder.path / "record.json").is_symlink()
    assert (folder.path / "quarantine" / "1" / "record.json").is_symlink()


def test_a_linked_run_folder_is_refused_and_what_it_leads_to_is_left_alone(project, capsys):
    outside = project / "outside"
    (outside / "checkpoint").mkdir(parents=True)
    (outside / "checkpoint" / "mine.txt").write_text("mine")
    runs = project / "runs" / "tickets"
    runs.mkdir(parents=True)
    (runs / run_id(project)).symlink_to(outside)
    assert main(["run", "tickets.yaml", "--workers", "0"]) == 2
    assert "is a link; remove it" in capsys.readouterr().err
    assert [path.name for path in sorted(outside.rglob("*"))] == ["checkpoint", "mine.txt"]


def test_a_report_is_not_written_through_a_linked_folder(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "report").symlink_to(outside)
    with pytest.raises(LoraBenchError, match="report is a link; remove it"):
        write_report(Report(sample_suite()), tmp_path / "runs")
    assert not list(outside.iterdir())


def test_a_runs_folder_may_be_a_link_of_the_users(project):
    (project / "large-disk").mkdir()
    (project / "runs").symlink_to("large-disk")
    assert main(["run", "tickets.yaml", "--workers", "0", "--quiet"]) == 0
    (record,) = (project / "large-disk").rglob("record.json")
    assert json.loads(record.read_bytes())["status"] == "ok"
