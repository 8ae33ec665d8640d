"""ROUGE-L, CIDEr and METEOR by hand, and what becomes of them where Java is missing or fails."""

import subprocess
from pathlib import Path

import pytest

from lora_bench.errors import LoraBenchError
from lora_bench.metrics import metric, unavailable
from lora_bench.metrics.support import java

needs_java = pytest.mark.skipif(java.missing_java() is not None, reason="needs Java 8 or newer")


def value(name: str, predictions: list[str], references: list[list[str]]) -> float | None:
    return metric(name).compute(predictions=predictions, references=references)[name]


@needs_java
def test_rouge_l_weighs_recall_more():
    # The subsequence is all 3 predicted words, 3 of the 5 expected: 2.44 * 1 * 0.6 / (0.6 + 1.44 * 1).
    assert value("rouge_l", ["Green cats sang."], [["green cats sang to us"]]) == pytest.approx(2.44 * 0.6 / 2.04)


@needs_java
def test_rouge_l_takes_precision_and_recall_from_different_references():
    # All of the prediction is in the first reference, all of the second is in the prediction.
    assert value("rouge_l", ["green cats sang"], [["green cats sang to us now", "cats"]]) == 1


@needs_java
def test_cider_by_hand():
    # In the first, the only run of one word has similarity 1, and there are none of two to four: 10 * (1 + 0 + 0 + 0) / 4.
    # The second is 0.
    assert value("cider", ["red", "green"], [["red"], ["blue"]]) == pytest.approx((2.5 + 0) / 2)


@needs_java
def test_cider_of_one_input_is_undefined():
    assert value("cider", ["red"], [["red"]]) is None
    assert value("cider", ["red", "blue"], [["."], ["!"]]) is None


@pytest.mark.slow
@needs_java
def test_meteor_is_one_for_the_same_and_zero_for_nothing_in_common():
    assert value("meteor", ["The green cats sang."], [["unlike", "the green cats sang"]]) == pytest.approx(1)
    assert value("meteor", ["", "x ||| y"], [["green"], ["cats"]]) == 0


@needs_java
def test_words_are_lower_case_and_without_signs_one_text_a_line(monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    texts = ("Isn't it (GREEN)?", "", "one\ntwo\x0cthree\u2028four\u0085five", 'Café -- "so" ...')
    assert java.words_of(texts) == ("is n't it -lrb- green -rrb-", "", "one two three four five", "café so")


@needs_java
def test_the_same_texts_are_split_once(monkeypatch):
    started = []
    run = subprocess.run

    def counted(command, **options):
        started.append(command)
        return run(command, **options)

    monkeypatch.setattr(java.subprocess, "run", counted)
    java.words_of.cache_clear()
    predictions, references = ["a green cat", "two dogs"], [["the green cat", "cats"], ["a dog"]]
    for name in ("rouge_l", "cider", "rouge_l"):
        assert value(name, predictions, references) > 0
    assert len(started) == 2  # predictions, references


@pytest.mark.parametrize("name", ["rouge_l", "cider", "meteor"])
def test_without_java_the_reason_is_given_and_raised(name, monkeypatch):
    monkeypatch.setenv("PATH", "")
    reason = unavailable(name)
    assert reason == f"metric '{name}' needs Java 8 or newer, and no `java` is on the PATH; install one"
    with pytest.raises(LoraBenchError) as caught:
        value(name, ["a"], [["a"]])
    assert str(caught.value) == reason


def fake_java(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "java"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    java.words_of.cache_clear()


def test_a_java_that_does_not_run_is_none(tmp_path, monkeypatch):
    fake_java(tmp_path, "exit 1", monkeypatch)
    assert "needs Java 8 or newer, and" in unavailable("meteor")
    assert "does not run" in unavailable("meteor")


@pytest.mark.parametrize("name", ["rouge_l", "meteor"])
def test_what_java_complains_of_is_passed_on(name, tmp_path, monkeypatch):
    fake_java(tmp_path, '[ "$1" = -version ] && exit 0; echo "out of paper" >&2; exit 3', monkeypatch)
    with pytest.raises(LoraBenchError, match="the tokenizer failed in Java: out of paper"):
        value(name, ["a"], [["a"]])


def test_a_meteor_that_dies_is_no_wait_without_end(tmp_path, monkeypatch):
    fake_java(tmp_path, 'echo "out of paper" >&2; exit 3', monkeypatch)
    with pytest.raises(LoraBenchError, match="METEOR failed in Java: out of paper"):
        java.meteor(["a"], [["a"]])
