"""YAML is read strictly: every fault with its file, line and key, and all at once."""

import pytest
from pydantic import Field

from lora_bench.documents import Strict, dotted, read_yaml, validate
from lora_bench.errors import BadInput


class Inner(Strict):
    tolerance: float
    trials: int | None = None


class Outer(Strict):
    name: str
    seeds: tuple[int, ...]
    budget: Inner


def written(tmp_path, text):
    path = tmp_path / "suite.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def faults(tmp_path, text):
    with pytest.raises(BadInput) as caught:
        validate(Outer, read_yaml(written(tmp_path, text), shown="suite.yaml"))
    return str(caught.value).splitlines()


def test_numbers_and_booleans_are_those_of_yaml_1_2(tmp_path):
    text = "a: 1e-4\nb: yes\nc: 300_000\nd: 2020-01-01\ne: [true, null, .5, 5e3, 0x10]\n"
    data = read_yaml(written(tmp_path, text)).data
    assert data == {"a": 0.0001, "b": "yes", "c": 300_000, "d": "2020-01-01", "e": [True, None, 0.5, 5000.0, 16]}


def test_every_fault_comes_at_once_with_its_line_and_key(tmp_path):
    text = "name: 3\nseeds: [0, one]\nbudget:\n  tolerance: '5e-2'\n  trails: 3\n"
    assert faults(tmp_path, text) == [
        "suite.yaml:1: name: must be string, got 3 (int)",
        "suite.yaml:2: seeds[1]: must be integer, got 'one' (str)",
        "suite.yaml:4: budget.tolerance: must be number, got '5e-2' (str)",
        "suite.yaml:5: budget.trails: unknown key; did you mean 'trials'?",
    ]


def test_a_missing_key_is_named_with_the_line_of_what_lacks_it(tmp_path):
    assert faults(tmp_path, "name: a\nseeds: [0]\nbudget:\n  trials: 1\n") == [
        "suite.yaml:3: budget.tolerance: is missing"
    ]


def test_a_key_given_twice_is_refused_with_both_lines(tmp_path):
    assert faults(tmp_path, "name: a\nseeds: [0]\nname: b\n") == ["suite.yaml:3: name: is given twice, first in line 1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "must be a mapping of keys to values, got a list"),
        ("", "must be a mapping of keys to values, got nothing"),
        ("just words\n", "must be a mapping of keys to values, got a single value"),
        ("a: [1, 2\n", "is no valid YAML"),
        ("a: &x [1]\nb: *x\n", "aliases (*name) are not read"),
        (
            "a: !!python/object/apply:os.system [ls]\n",
            "the tag tag:yaml.org,2002:python/object/apply:os.system is not read",
        ),
        ("a: " + "[" * 30 + "]" * 30 + "\n", "is nested deeper than 20 levels"),
        ("a: " + "[" * 5000, ""),
        ("a: " + "x" * 1_000_001, "at most 1,000,000 are read"),
    ],
)
def test_what_is_no_plain_mapping_is_refused(tmp_path, text, message):
    assert any(message in line for line in faults(tmp_path, text))


def test_a_file_that_is_not_there_or_no_text_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        read_yaml(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="is not UTF-8 text"):
        read_yaml(tmp_path / "binary.yaml")


def test_keys_are_written_as_people_write_them():
    assert dotted(("methods", 1, "rank")) == "methods[1].rank"
    assert dotted(()) == ""


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("names: []", "names: must have at least 1 entry, got 0"),
        ("names: [a, b, c]", "names: must have at most 2 entries, got 3"),
        ("names: a", "names: must be a list, got 'a' (str)"),
        ("names: [a]\nword: x1", "word: string should match pattern '^[a-z]$', got 'x1'"),
    ],
)
def test_a_length_or_a_pattern_that_does_not_fit_is_said_in_words(tmp_path, data, said):
    class Lists(Strict):
        names: tuple[str, ...] = Field(min_length=1, max_length=2)
        word: str = Field("x", pattern="^[a-z]$")

    (tmp_path / "lists.yaml").write_text(data)
    with pytest.raises(BadInput) as error:
        validate(Lists, read_yaml(tmp_path / "lists.yaml"))
    assert str(error.value).endswith(said)
