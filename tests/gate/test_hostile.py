"""No string of a record is anything but text in what the gate writes, whatever it is written as."""

import functools
import json
import re
from collections import Counter
from xml.etree import ElementTree

from markdown_it import MarkdownIt

from benchmarks.gate_selftests import replay, replay_lines
from lora_bench.gate import judge, night_of
from lora_bench.gate.accepting import diff_lines, show_lines
from lora_bench.gate.baseline import to_text
from lora_bench.gate.gate_summary import summary_lines, terminal_lines
from lora_bench.gate.outputs import annotation_lines, to_answer_json, to_badge, to_junit
from lora_bench.gate.plot import draw
from lora_bench.gate.series import Night
from tests.gate.histories import number_of
from tests.report.hostile import HOSTILE, WORDS, anywhere, hostile_probes, hostile_records, in_markdown
from tests.sample_records import ENVIRONMENT

# What GitHub makes links of once a page is rendered: mentions, numbers of issues, addresses.
LINKED = re.compile(r"@\w|#\d|\w://\w|\bwww\.\w", re.IGNORECASE)
UNSEEN = {"\x00", "\x07", "\x1b", "\x9b", "\u202e", "\u2066"}


def hostile_night(text, label, *, score=0.75):
    records = [
        one.model_copy(update={"scores": {text: score + int(label[1:]) % 3 / 1000} if one.scores else None})
        for one in hostile_records(text)
    ]
    return night_of(records, label, [one for one in hostile_probes(text) if one.status == "ok"])


@functools.cache
def history(text):
    return [number_of(hostile_night(text, f"n{n}"), n, reason=text) for n in range(1, 13)]


@functools.cache
def answer(text):
    """Series that crashed, are suspect, newly on another machine and missing; every string of theirs is *text*."""
    tonight = hostile_night(text, "n13", score=0.5)
    environment = ENVIRONMENT.model_copy(update={"cpu": f"{text} 2", "packages": {text: "2", f"{text} new": text}})
    cells = []
    for cell in tonight.cells:
        if cell.name.method == "full" and cell.name.task is None:
            continue  # missing
        place = len(tonight.environments) if cell.name.method == "full" else cell.environment
        cells.append(cell.model_copy(update={"environment": place}))
    moved = tonight.model_copy(update={"cells": tuple(cells), "environments": (*tonight.environments, environment)})
    # A baseline is a folder of the user's; its name is one all the same.
    return judge(moved, history(text), text)


def test_the_hostile_answer_has_one_of_everything():
    kinds = {finding.kind for one in answer(HOSTILE).series for finding in one.findings}
    assert kinds >= {"crash", "level", "missing", "history"}
    assert answer(HOSTILE).environment_changes and any(one.opened for one in answer(HOSTILE).series)


def blocks_and_inline(markdown):
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(markdown)
    return tokens, [child for token in tokens for child in token.children or []]


def structure(markdown):
    """How often Markdown has each kind of block and mark."""
    blocks, inline = blocks_and_inline(markdown)
    marks = ("strong_open", "em_open", "s_open", "image", "link_open", "html_inline")
    return Counter(token.type for token in (*blocks, *(token for token in inline if token.type in marks)))


@in_markdown
def test_a_step_summary_has_the_structure_of_an_inert_one(text):
    markdown = "\n".join(summary_lines(answer(text)))
    assert structure(markdown) == structure("\n".join(summary_lines(answer(WORDS))))
    _, inline = blocks_and_inline(markdown)
    shown = "\n".join(token.content for token in inline if token.type == "text")
    assert not LINKED.search(shown.replace("\u200b", "|"))
    assert not UNSEEN & set(markdown) and "alice" not in markdown
    assert not re.search(r"(?<!\\)\$", re.sub(r"^`{3,}.*?^`{3,}", "", markdown, flags=re.DOTALL | re.MULTILINE))


@anywhere
def test_junit_has_the_elements_of_an_inert_one(text):
    root, plain_root = (ElementTree.fromstring(to_junit(answer(one))) for one in (text, WORDS))
    of_each, of_plain = (Counter((one.tag, *sorted(one.attrib)) for one in tree.iter()) for tree in (root, plain_root))
    assert of_each == of_plain
    shown = " ".join([*root.itertext(), *(value for one in root.iter() for value in one.attrib.values())])
    assert not UNSEEN & set(shown) and "alice" not in shown


@anywhere
def test_an_annotation_is_one_command_whatever_it_says(text):
    lines = annotation_lines(answer(text))
    assert len(lines) == len(annotation_lines(answer(WORDS)))
    for line in lines:
        _, title, said = re.fullmatch(r"::(error|warning|notice) title=([^:,\r\n]*)::([^\r\n]*)", line).groups()
        assert not re.search(r"%(?!0A|0D|25|2C|3A)", title + said)
        assert not UNSEEN & set(said) and "alice" not in said
    # GitHub takes a command from every line, and from nowhere else in it.
    assert sum(line.startswith("::") for line in "\n".join(lines).split("\n")) == len(lines)


@anywhere
def test_a_figure_has_the_elements_of_an_inert_one(text):
    figure = ElementTree.fromstring(draw(answer(text).suspects[0], text))
    assert {one.tag.rpartition("}")[2] for one in figure.iter()} <= {
        "svg", "metadata", "RDF", "Work", "title", "defs", "style", "g", "path", "use", "text", "clipPath", "rect", "tspan",
    }  # fmt: skip
    for one in figure.iter():
        assert one.get("{http://www.w3.org/1999/xlink}href", "#").startswith("#")
        assert not any(name.startswith("on") for name in one.attrib)


@anywhere
def test_a_badge_and_an_answer_are_json(text):
    badge = json.loads(to_badge(answer(text)))
    assert badge["message"] == "regression" or badge["message"] == "runs failed or are missing"
    assert len(badge["label"]) <= 40 and not UNSEEN & set(badge["label"])
    # The answer is data: strings are as they are.
    assert json.loads(to_answer_json(answer(text)))["baseline"] == text


@anywhere
def test_a_terminal_gets_lines_of_text(text):
    nights = history(text)
    lines = [
        *terminal_lines(answer(text)),
        *show_lines(nights),
        *diff_lines(nights[0], nights[1]),
        *replay_lines(replay(nights[:9], text)),
    ]
    inert = [*terminal_lines(answer(WORDS)), *show_lines(history(WORDS)), *diff_lines(*history(WORDS)[:2])]
    assert len(lines) == len(inert) + len(replay_lines(replay(history(WORDS)[:9], WORDS)))
    shown = "\n".join(lines)
    assert not UNSEEN & set(shown) and "alice" not in shown and len(shown.splitlines()) == len(lines)
    # What a runner of GitHub would take for a command, as its log has these lines.
    assert "##[" not in shown and not any(line.lstrip().startswith("::") for line in lines)


@anywhere
def test_an_accepted_night_keeps_every_string_as_it_is(text):
    one = history(text)[0]
    again = Night.model_validate_json(to_text(one))
    assert again.suite == text and again.reason == text
    assert [cell.name for cell in again.cells] == [cell.name for cell in one.cells]
