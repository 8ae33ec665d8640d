"""The reason of a failure names the folders of a run and leaves words that look like them alone."""

from pathlib import Path

import pytest

from lora_bench.training.attempt import without_folder


@pytest.mark.parametrize(
    ("folder", "message", "said"),
    [
        (".", "index 1: 5. is out of range.", "index 1: 5. is out of range."),
        ("model", "the model has no file model.bin", "the model has no file model.bin"),
        ("model", "cannot read model/config.json", "cannot read MODEL/config.json"),
        ("../base/model", "nothing in ../base/model.", "nothing in MODEL."),
        ("../base/model", "../base/models is another", "../base/models is another"),
        ("/data/model", "cannot read '/data/model/config.json'", "cannot read 'MODEL/config.json'"),
        ("/data/model", "/data/model.old and /my/data/model stay", "/data/model.old and /my/data/model stay"),
        ("/data/model", "there is no /data/model: it was moved", "there is no MODEL: it was moved"),
    ],
)
def test_a_folder_is_replaced_where_it_stands_as_a_path(folder, message, said):
    assert without_folder(message, Path(folder), "MODEL") == said


def test_a_relative_folder_is_replaced_where_it_is_written_in_full():
    assert without_folder(f"no {Path('model').absolute()}/a", Path("model"), "MODEL") == "no MODEL/a"
    assert without_folder(f"no {Path.cwd()}/a", Path(), "SUITE") == "no SUITE/a"


def test_the_root_is_no_folder_of_a_machine():
    assert without_folder("1 / 2 of /data/x", Path("/"), "SUITE") == "1 / 2 of /data/x"
