"""Machine-readable answers: JUnit XML, annotations of a GitHub workflow, a badge, JSON.

Each format has its own escaping rules, and every string here may come from an untrusted record.
"""

import json
import re
from xml.etree import ElementTree

from lora_bench.gate.gate_summary import headline, named
from lora_bench.gate.night_answer import SAID, Answer, Status, Verdict
from lora_bench.report.text import plain
from lora_bench.util.redaction import without_secrets_in
from lora_bench.util.sealed_json import as_json

# GitHub shows ten annotations of a kind and step, and drops the others without a word.
MOST_ANNOTATIONS = 10
COLOURS: dict[Verdict, str] = {"pass": "brightgreen", "regression": "red", "failed": "orange", "undecided": "lightgrey"}
_LEVELS: dict[Status, str] = {
    "regression": "error", "failed": "error", "undecided": "warning", "flaky": "warning", "improved": "notice",
}  # fmt: skip
# Characters that XML 1.0 cannot represent; `plain` has removed the control characters.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_answer_json(answer: Answer) -> bytes:
    """Serialise the answer as JSON; `lora-bench schema answer` prints its schema."""
    return as_json(without_secrets_in(answer.model_dump(mode="json", by_alias=True)))


def to_junit(answer: Answer) -> bytes:
    """Serialise the answer as JUnit XML: a test case a series.

    A regression is a failure; crashed or missing runs are an error; an undecided series is skipped.
    """
    tags: dict[Status, str] = {"regression": "failure", "failed": "error", "undecided": "skipped"}
    numbers = {
        "tests": len(answer.series),
        "failures": len(answer.of_status("regression")),
        "errors": len(answer.of_status("failed")),
        "skipped": len(answer.of_status("undecided")),
    }
    attributes = {name: str(number) for name, number in numbers.items()}
    root = ElementTree.Element("testsuites", {"name": "lora-bench check", **attributes})
    suite = ElementTree.SubElement(root, "testsuite", {"name": _xml(f"{answer.suite} {answer.label}"), **attributes})
    for series in answer.series:
        seconds = {} if series.seconds is None else {"time": f"{series.seconds:.3f}"}
        group = _xml(f"{answer.suite}.{series.name.task or 'probe'}")
        # Two series of a cell on two machines have the same words; the id keeps the cases apart.
        name = _xml(f"{named(series)} [{series.series}]")
        case = ElementTree.SubElement(suite, "testcase", {"classname": group, "name": name, **seconds})
        texts = [_xml(finding.text, 600) for finding in series.findings]
        if (tag := tags.get(series.status)) is not None:
            fault = ElementTree.SubElement(case, tag, {"message": texts[0] if texts else series.status})
            if tag != "skipped":
                fault.set("type", series.findings[0].kind if series.findings else series.status)
                fault.text = "\n".join([*texts, *(_xml(f"again: {command}", 600) for command in series.commands)])
        elif texts:
            ElementTree.SubElement(case, "system-out").text = "\n".join(texts)
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _xml(text: str, limit: int = 300) -> str:
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", plain(text, limit))


def to_badge(answer: Answer) -> bytes:
    """Serialise the answer as JSON for the badge endpoint of shields.io."""
    content = {
        "schemaVersion": 1,
        "label": plain(answer.baseline, 40),
        "message": SAID[answer.verdict],
        "color": COLOURS[answer.verdict],
    }
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def annotation_lines(answer: Answer) -> list[str]:
    """Return workflow commands for at most ten GitHub annotations, worst first; the last one counts those left out."""
    told = [series for series in answer.series if series.status in _LEVELS]
    first = told if len(told) <= MOST_ANNOTATIONS else told[: MOST_ANNOTATIONS - 1]
    lines = []
    for series in first:
        texts = (*(finding.text for finding in series.findings), *(f"again: {one}" for one in series.commands[:1]))
        message = "\n".join(plain(text, 600) for text in texts)
        lines.append(_annotation(_LEVELS[series.status], f"{series.status}: {named(series)}", message))
    if len(first) < len(told):
        lines.append(_annotation("warning", "more series", f"{len(told) - len(first)} more series; {headline(answer)}"))
    return lines


def _annotation(level: str, title: str, message: str) -> str:
    return f"::{level} title={_escaped(title, ':,')}::{_escaped(message)}"


def _escaped(text: str, also: str = "") -> str:
    """Escape *text* for a workflow command; in a property `:` and `,` are escaped too."""
    for character in f"%\r\n{also}":
        text = text.replace(character, f"%{ord(character):02X}")
    return text
