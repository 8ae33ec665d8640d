"""A set that lies in a folder is found by its name, and what is not there is said with what is."""

import shutil
from pathlib import Path

import pytest

from lora_bench.documents import read_yaml
from lora_bench.errors import LoraBenchError
from lora_bench.tasks import Task, definition, find_folder, in_folder, load_data, load_unlabelled, task_from_document

DECLARATION = """\
task: mine
data: {hub: owner/name, revision: main, splits: {train: train, test: validation, also: {other: extra}}}
local:
  folders: [Mine, sets/mine]
  train: [train.tsv, training.tsv]
  test: dev.tsv
  also: {other: other.tsv, rare: {file: rare.tsv, text: words, optional: true}}
  unlabelled: {test: test.tsv, plain: {file: plain.tsv, columns: [number, text], id: number}}
  columns: [text, class]
  label: class
  label_names: {0: no, 1: yes}
text: text
label: label
labels: [no, yes]
"""
ROWS = "".join(f"text {number}\t{number % 2}\n" for number in range(40))


@pytest.fixture
def mine(tmp_path) -> Task:
    file = tmp_path / "mine.yaml"
    file.write_text(DECLARATION, encoding="utf-8")
    return task_from_document(read_yaml(file))


def write_set(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("train", "dev", "other"):
        (folder / f"{name}.tsv").write_text(ROWS, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["Mine", "mine", "MINE", "sets/mine", "Sets/Mine"])
def test_a_folder_is_found_by_its_name_whatever_its_capitals(mine, tmp_path, name):
    folder = write_set(tmp_path / "data" / name)
    (tmp_path / "data" / "another").mkdir()
    assert find_folder(mine, tmp_path / "data") == folder


def test_the_exact_name_comes_first(mine, tmp_path):
    write_set(tmp_path / "data" / "MINE")
    exact = write_set(tmp_path / "data" / "Mine")
    assert find_folder(mine, tmp_path / "data") == exact


def test_a_folder_without_the_files_is_passed_over_for_one_that_has_them(mine, tmp_path):
    (tmp_path / "data" / "Mine").mkdir(parents=True)
    folder = write_set(tmp_path / "data" / "sets" / "mine")
    assert find_folder(mine, tmp_path / "data") == folder


def test_the_data_directory_may_hold_the_files_itself(mine, tmp_path):
    folder = write_set(tmp_path / "anything")
    assert find_folder(mine, folder) == folder


def test_what_is_missing_is_said_with_what_is_there(mine, tmp_path):
    folder = write_set(tmp_path / "data" / "Mine")
    (folder / "dev.tsv").unlink()
    (folder / "train.tsv").unlink()
    with pytest.raises(LoraBenchError) as error:
        find_folder(mine, tmp_path / "data")
    assert str(error.value) == (f"task mine: {folder} has no train.tsv or training.tsv, dev.tsv (it has other.tsv)")
    with pytest.raises(LoraBenchError, match=r"has no train.tsv or training.tsv, dev.tsv"):
        in_folder(mine, folder)


def test_a_data_directory_without_the_folder_is_said_with_what_it_has(mine, tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(LoraBenchError) as error:
        find_folder(mine, tmp_path / "data")
    assert str(error.value) == (
        f"task mine: {tmp_path / 'data'} has no folder Mine or sets/mine, and not itself train.tsv or training.tsv, "
        "dev.tsv, other.tsv (it is empty)"
    )
    with pytest.raises(LoraBenchError) as error:
        find_folder(mine, tmp_path / "nowhere")
    assert str(error.value) == (
        f"task mine: there is no data directory {tmp_path / 'nowhere'}; name one with Mine or sets/mine in it, or leave "
        "--data-dir out to take the data from the hub"
    )


def test_in_a_folder_it_is_a_plain_task_with_the_names_of_its_files(mine, tmp_path):
    folder = write_set(tmp_path / "Mine")
    (folder / "train.tsv").rename(folder / "training.tsv")
    plain = in_folder(mine, folder)
    assert plain.local is None
    assert plain.data.files == {"train": "training.tsv", "test": "dev.tsv", "other": "other.tsv"}
    assert str(tmp_path) not in str(definition(plain))
    data = load_data(plain, folder)
    assert data.splits["other"].labels == [0, 1] * 20
    assert data.labels == ("no", "yes")


def test_an_optional_file_is_read_where_it_is_there(mine, tmp_path):
    folder = write_set(tmp_path / "Mine")
    (folder / "rare.tsv").write_text("words\tclass\nrare text\t1\n", encoding="utf-8")
    data = load_data(in_folder(mine, folder), folder)
    assert data.splits["rare"].texts == [("rare text",)]
    assert data.splits["rare"].labels == [1]


def test_equal_files_are_equal_data_wherever_they_lie(mine, tmp_path):
    first = write_set(tmp_path / "a" / "Mine")
    second = tmp_path / "b"
    shutil.copytree(first, second)
    assert load_data(in_folder(mine, first), first).sha256 == load_data(in_folder(mine, second), second).sha256
    assert definition(in_folder(mine, first)) == definition(in_folder(mine, second))


def test_files_without_labels_are_read_by_name(mine, tmp_path):
    folder = write_set(tmp_path / "Mine")
    (folder / "test.tsv").write_text("a text\t\nanother\t\n", encoding="utf-8")
    (folder / "plain.tsv").write_text("7\ta text\n9\tanother\n", encoding="utf-8")
    for name, ids in (("test", ["1", "2"]), ("plain", ["7", "9"])):
        split = load_unlabelled(mine, folder, name)
        assert split.texts == [("a text",), ("another",)]
        assert split.ids == ids
        assert split.labels == []
    with pytest.raises(LoraBenchError, match=r"task mine has no unlabelled split 'tset' \(known: test, plain\)"):
        load_unlabelled(mine, folder, "tset")
    (folder / "test.tsv").unlink()
    with pytest.raises(LoraBenchError, match=r"has no test.tsv \(it has dev.tsv, other.tsv, plain.tsv, train.tsv\)"):
        load_unlabelled(mine, folder, "test")


def test_a_broken_gzip_file_is_said(mine, tmp_path):
    folder = write_set(tmp_path / "Mine")
    (folder / "dev.tsv").unlink()
    (folder / "dev.tsv.gz").write_bytes(b"\x1f\x8b\x08 and nothing more")
    with pytest.raises(LoraBenchError, match=r"dev\.tsv(\.gz)?: is no whole gzip file"):
        load_data(in_folder(mine, folder), folder)
