"""Names of suites, tasks, series, baselines, runs and files of data lead nowhere but to their place."""

import csv
import hashlib
import io
import json
import tarfile
import zipfile

import pytest
from pydantic import TypeAdapter, ValidationError

from lora_bench.cli import main
from lora_bench.documents import read_yaml
from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.records.baseline_folder import accept
from lora_bench.records.store import read_records
from lora_bench.suite.load_suite import load_suite
from lora_bench.suite.probe_suite import load_probe_suite
from lora_bench.tasks import find_folder, in_folder, load_data, load_task, task_from_document
from lora_bench.tasks.files import read_file
from lora_bench.tasks.releases import NotThisForm, webnlg
from lora_bench.tasks.source_tables import Layout
from lora_bench.util import pip_assets as assets
from lora_bench.util.filenames import FileName, Name, file_name
from tests.project import SUITE, write_project
from tests.sample_records import record

OUT = {
    "up": "../../x",
    "up inside": "a/../../x",
    "absolute": "/etc/passwd",
    "drive": "C:\\x",
    "backslash": "..\\x",
    "empty": "",
    "dot": ".",
    "dots": "..",
    "hidden": ".ssh",
    "null": "a\0b",
    "line end": "a\n",
    "turned around": "a\u202etxt.exe",
    "no width": "a\u200bb",
    "looks like a dot": "a․․/x",
    "another alphabet": "аdmin",
    "option": "-rf",
    "space": "a b",
    "long": "x" * 300,
    "device": "CON",
    "device with a suffix": "nul.txt",
    "port": "com1",
    "trailing dot": "a.",
    "stream": "a:b",
}
every_name = pytest.mark.parametrize("name", OUT.values(), ids=OUT)


@every_name
def test_no_such_name_is_the_name_of_a_file_or_folder(name):
    with pytest.raises(ValueError, match="name"):
        file_name(name)
    for kind in (Name, FileName):
        with pytest.raises(ValidationError):
            TypeAdapter(kind).validate_python(name)


def test_ordinary_names_are_names():
    for name in ("a", "glue-small", "lora-table2", "v1.0", "A_b.c-d", "console", "x" * 100, "0123456789abcdef"):
        assert file_name(name) == name


@every_name
def test_a_suite_a_task_and_a_suite_of_probes_are_refused_by_their_names(tmp_path, name):
    quoted = json.dumps(name)
    suite = write_project(tmp_path, SUITE.replace("suite: tickets", f"suite: {quoted}"))
    with pytest.raises(BadInput, match=r"suite: |no text"):
        load_suite(suite)
    suite.write_text(SUITE.replace("task: tickets", f"task: {quoted}"))
    with pytest.raises(BadInput, match=r"tasks\[0\]\.task: |no text"):
        load_suite(suite)
    suite.write_text(f"suite: {quoted}\nmodels: [base]\nmethods: [full]\n")
    with pytest.raises(BadInput, match=r"suite: |no text"):
        load_probe_suite(suite)


@every_name
def test_names_on_the_command_line_are_refused_before_any_work(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    for command in (["run", "x", f"--series={name}"], ["plan", "x", f"--series={name}"]):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 2
    with pytest.raises(SystemExit):
        main(["baseline", "accept", "runs", f"--name={name}"])
    assert "argument --series: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@every_name
def test_no_known_thing_is_found_by_a_name_that_leads_elsewhere(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "x.yaml").write_text("task: x\n")
    with pytest.raises(LoraBenchError, match="unknown task"):
        load_task(name)


@every_name
def test_a_record_whose_id_leads_elsewhere_is_no_record_and_is_copied_nowhere(tmp_path, name):
    content = record().model_dump(mode="json", by_alias=True)
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps({**content, "run_id": name}))
    with pytest.raises(BadInput, match="is no record: run_id"):
        read_records(tmp_path / "runs")
    with pytest.raises(BadInput):
        accept(tmp_path / "runs", tmp_path / "baselines" / "b")
    assert not (tmp_path / "baselines").exists()


# Data


LAYOUT = """\
task: small
data: {hub: owner/name, revision: main, splits: {train: train, test: test}}
local: {folders: [Small], train: TRAIN, test: test.csv, text: text, label: label}
text: text
label: label
"""


def rows(number=400):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["text", "label"])
    writer.writerows([f"row {index}", "ab"[index % 2]] for index in range(number))
    return text.getvalue()


@pytest.fixture
def data_dir(tmp_path):
    """A data directory with the set in it, and the secret beside it."""
    (tmp_path / "secret.csv").write_text(rows())
    folder = tmp_path / "data" / "Small"
    folder.mkdir(parents=True)
    for name in ("train.csv", "test.csv"):
        (folder / name).write_text(rows())
    return tmp_path / "data"


def layout(tmp_path, train="train.csv", folders="Small"):
    path = tmp_path / "small.yaml"
    path.write_text(LAYOUT.replace("TRAIN", json.dumps(train)).replace("[Small]", json.dumps([folders])))
    return task_from_document(read_yaml(path))


@pytest.mark.parametrize("name", ["../../secret.csv", "ABSOLUTE"])
def test_a_layout_cannot_name_a_file_outside_of_the_data_directory(tmp_path, data_dir, name):
    task = layout(tmp_path, str(tmp_path / "secret.csv") if name == "ABSOLUTE" else name)
    with pytest.raises(LoraBenchError, match="leads out of"):
        find_folder(task, data_dir)
    with pytest.raises(LoraBenchError, match="leads out of"):
        in_folder(task, data_dir / "Small")


def test_a_layout_may_name_a_file_of_a_set_beside_it(tmp_path, data_dir):
    (data_dir / "Beside").mkdir()
    (data_dir / "Beside" / "more.csv").write_text(rows())
    folder = find_folder(layout(tmp_path, "../Beside/more.csv"), data_dir)
    assert len(load_data(in_folder(layout(tmp_path, "../Beside/more.csv"), folder), folder).splits["train"].ids) > 0
    (data_dir / "Beside" / "more.csv").unlink()
    (data_dir / "Beside" / "more.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(LoraBenchError, match="leads out of"):
        find_folder(layout(tmp_path, "../Beside/more.csv"), data_dir)


@pytest.mark.parametrize("folders", ["..", "../data", "/", "Small/../.."])
def test_a_layout_cannot_name_a_folder_outside_of_the_data_directory(tmp_path, data_dir, folders):
    with pytest.raises(LoraBenchError, match="has no folder"):
        find_folder(layout(tmp_path, folders=folders), data_dir)


def test_a_link_in_the_data_that_leads_out_is_not_followed(tmp_path, data_dir):
    (data_dir / "Small" / "train.csv").unlink()
    (data_dir / "Small" / "train.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(LoraBenchError, match="leads out of"):
        find_folder(layout(tmp_path), data_dir)


def test_a_link_that_stays_inside_is_followed(tmp_path, data_dir):
    (data_dir / "Small" / "train.csv").rename(data_dir / "Small" / "all.csv")
    (data_dir / "Small" / "train.csv").symlink_to("all.csv")
    (tmp_path / "linked").symlink_to(data_dir)  # the user's own link to the whole of it
    folder = find_folder(layout(tmp_path), tmp_path / "linked")
    assert len(load_data(in_folder(layout(tmp_path), folder), folder).splits["train"].ids) > 0


def test_a_link_among_the_files_of_webnlg_that_leads_out_is_not_followed(tmp_path):
    entry = '<entry category="A" eid="1"><modifiedtripleset><mtriple>a | b | c</mtriple></modifiedtripleset>'
    xml = f'<b><entries>{entry}<lex comment="good" lid="1">A b c.</lex></entry></entries></b>'
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "one.xml").write_text(xml)
    (tmp_path / "secret.xml").write_text(xml)
    wanted = Layout(format="webnlg", wanted=frozenset({"text"}), columns=None, quoting=True)
    assert read_file(tmp_path / "train", wanted)[0].columns["text"] == ["A b c."]
    (tmp_path / "train" / "two.xml").symlink_to(tmp_path / "secret.xml")
    with pytest.raises(BadInput, match="is a link that leads out of its folder"):
        read_file(tmp_path / "train", wanted)


def test_no_entity_of_a_data_file_reads_another_file_or_grows_without_bound(tmp_path):
    (tmp_path / "secret").write_text("the secret")
    outside = f'<!DOCTYPE b [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]>'
    growing = '<!DOCTYPE b [<!ENTITY a0 "xxxxxxxxxx">' + "".join(
        f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10)
    )
    for head, entity in ((outside, "x"), (growing + "]>", "a9")):
        raw = f'{head}<b><entry eid="1"><lex comment="good" lid="1">&{entity};</lex></entry></b>'.encode()
        with pytest.raises(NotThisForm, match="is no valid XML"):
            webnlg(raw, "train")


# Archives: members are read by their exact names and never written


def an_asset(tmp_path, monkeypatch, file, kind):
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    asset = assets.Asset("made", "", "made==1", kind, file.name, digest, len(content), "")
    monkeypatch.setattr(assets, "ASSETS", (asset,))
    monkeypatch.setenv("LORA_BENCH_CACHE", str(file.parent.parent))
    return "made"


def test_members_of_archives_are_read_without_unpacking_and_links_are_not_followed(tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "assets"
    folder.mkdir(parents=True)
    (tmp_path / "secret").write_text("the secret")
    file = folder / "made-1.tar.gz"
    with tarfile.open(file, "w:gz") as tar:
        for name, target in (("link", str(tmp_path / "secret")), ("../up", None), ("/absolute", None), ("good", None)):
            entry = tarfile.TarInfo(name)
            if target is not None:
                entry.type, entry.linkname = tarfile.SYMTYPE, target
                tar.addfile(entry)
            else:
                entry.size = 4
                tar.addfile(entry, io.BytesIO(b"here"))
    before = sorted(tmp_path.rglob("*"))
    name = an_asset(tmp_path, monkeypatch, file, "sdist")
    with pytest.raises(LoraBenchError, match="contains no file 'link'"):
        assets.members(name, ["link"])
    assert assets.members(name, ["good", "../up", "/absolute"]) == dict.fromkeys(
        ("good", "../up", "/absolute"), b"here"
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_a_zip_is_read_in_the_same_way(tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "assets"
    folder.mkdir(parents=True)
    file = folder / "made-1-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("../up", b"here")
    before = sorted(tmp_path.rglob("*"))
    assert assets.members(an_asset(tmp_path, monkeypatch, file, "wheel"), ["../up"]) == {"../up": b"here"}
    assert sorted(tmp_path.rglob("*")) == before
