"""Strings from records are shown and do nothing; numbers have the units that their column says."""

import pytest

from lora_bench.report.text import (
    code,
    fenced,
    inert,
    learning_rate,
    listed,
    mebibytes,
    milliseconds,
    plain,
    prose,
    score,
)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("two\nlines\tand\r\nmore", "two lines and more"),
        ("red \x1b[31mtext\x00", "red [31mtext"),
        ("turned \u202earound", "turned around"),
        ("lone \ud800 surrogate", "lone \N{REPLACEMENT CHARACTER} surrogate"),
        ("No such file: '/home/alice/my data/train.csv'", "No such file: '…/train.csv'"),
        ("see /home/alice/train.csv.", "see …/train.csv."),
        ("see ~/secret/train.csv", "see …/train.csv"),
        (r"see C:\Users\alice\train.csv", "see …/train.csv"),
        ("file:///home/alice/train.csv", "…/train.csv"),
        ("no space left in /home/alice", "no space left in …"),
        ("nyu-mll/glue ./data/a.csv 3/4 [/red] </b>", "nyu-mll/glue ./data/a.csv 3/4 [/red] </b>"),
    ],
)
def test_plain_text_is_one_line_without_folders(given, shown):
    assert plain(given) == shown
    assert plain(plain(given)) == shown


def test_plain_text_has_an_end():
    assert plain("word " * 1000, limit=20) == "word word word word…"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a|b", r"a\|b"),
        ("`code`", r"\`code\`"),
        ("<img src=x>", "&lt;img src=x&gt;"),
        ("[text](target)", r"\[text\](target)"),
        ("*bold* _it_", r"\*bold\* \_it\_"),
        ("@octocat", "@&#8203;octocat"),
        ("https://evil.example", "https:&#8203;//evil.example"),
        ("www.evil.example", "www.&#8203;evil.example"),
        ("#12", r"\#&#8203;12"),
        ("$x$", r"\$x\$"),
        ("- item", r"\- item"),
        ("1. item", r"1\. item"),
        ("0.4% of it", "0.4% of it"),
        ("\\| \\`", r"\\\| \\\`"),
    ],
)
def test_inert_text_is_escaped(given, shown):
    assert inert(given) == shown


def test_prose_has_identifiers_between_backticks_as_code_and_all_else_inert():
    shown = r"as `glue_small`: \*why\*, see \`a b\` and http:&#8203;//x"
    assert prose("as `glue_small`: *why*, see `a b` and http://x") == shown


def test_identifiers_are_code_and_all_else_is_inert():
    assert code("prefix_tuning") == "`prefix_tuning`"
    assert code("a`b|c") == r"a\`b\|c"


def test_a_fence_is_longer_than_the_backticks_inside():
    assert fenced(["run ```` x"]) == ["`````sh", "run ```` x", "`````"]


def test_numbers():
    assert score(0.73126) == "0.7313"
    assert score(-0.5) == "−0.5000"
    assert score(None) == "–"
    assert mebibytes(300 * 2**20) == "300"
    assert milliseconds(0.05) == "50.0"
    assert learning_rate(3e-4) == "3e-4"
    assert learning_rate(1.5e-5) == "1.5e-5"
    assert listed(["a", "b", "c"]) == "a, b and c"
