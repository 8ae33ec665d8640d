"""Whatever a file holds: it is read, or refused with a sentence; nothing is written, and it takes no longer than it should.

The inputs are ours with a few things changed: a value put in the place of another, a key taken away or added, a piece of text
cut out or put in. `LORA_BENCH_FUZZ_EXAMPLES` sets how many a target gets (60 by default); `fuzz/run.py` finds its own.
"""

import copy
import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import run
from fuzz.targets import RUN_FILES, TARGETS, good_config, harmless
from lora_bench.documents import read_yaml
from lora_bench.report.blocks import to_markdown
from tests.probe.records import probe_record
from tests.probe.suites import SUITE as PROBES
from tests.project import SUITE
from tests.report.hostile import STRINGS
from tests.report.test_hostile import LINKED, UNSEEN, blocks_and_inline, inert, pages, structure
from tests.sample_records import record

EXAMPLES = int(os.environ.get("LORA_BENCH_FUZZ_EXAMPLES", "60"))
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,  # the targets look at the time themselves, and at the processor's
    derandomize="LORA_BENCH_FUZZ_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)

WORDS = [
    "", " ", "lora", "full", "peft", "base", "strict", "paper", "accuracy", "bleu", "hub:x", "../../x", "/etc/passwd",
    "~nobody/x", "CON", "a" * 300, "a" * 5000, "é\u202e\u0301", "\x1b[31m", "[red]", "[/]", "{x}", "%s", "${HOME}", "=1+1",
    "1e999", "nan", "\ud800", "\0", "\n", "a\nb", "shape:roberta-base", "shape:../x", "2030-01-01",
    "!!python/object:os.system", *STRINGS.values(),
]  # fmt: skip
NUMBERS = [
    0,
    -1,
    1,
    2**31,
    2**63 - 1,
    2**63,
    -(2**63),
    10**400,
    0.0,
    -0.0,
    1e-320,
    1e308,
    float("inf"),
    float("nan"),
    0.5,
]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.integers(),
    st.floats(),
    st.sampled_from(WORDS),
    st.text(max_size=20),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def places(data, path=()):
    """The path of everything in nested data."""
    yield path
    inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inside:
        yield from places(value, (*path, key))


@st.composite
def changed(draw, originals):
    """One of *originals* with one to four of its values changed."""
    data = copy.deepcopy(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        *outer, last = draw(st.sampled_from([path for path in places(data) if path] or [()])) or (None,)
        if last is None:
            break
        inside = data
        for key in outer:
            inside = inside[key]
        what = draw(st.sampled_from(["put", "put", "remove", "add", "repeat"]))
        if what == "put":
            inside[last] = draw(values)
        elif what == "remove":
            del inside[last]
        elif what == "repeat" and isinstance(inside, list):
            inside.append(copy.deepcopy(inside[last]))
        elif isinstance(inside, dict):
            inside[draw(st.sampled_from(WORDS) | st.text(max_size=8))] = draw(values)
    return data


def as_bytes(data):
    """Data as JSON, which YAML is a superset of."""
    return json.dumps(data).encode()


PIECES = [
    b"", b"&a ", b"*a", b"? ", b"- ", b": ", b"[", b"{", b"!!", b'"', b"'", b"|\n", b"#", b"\t", b"\0", b"\xff", b"<<: ",
    b"\\uFFFFFFFF", b"---\n", b"%YAML 9.9\n", b"\r", b",", b"\n", b"1e",
]  # fmt: skip


@st.composite
def cut(draw, originals):
    """One of *originals* with pieces cut out, doubled and put in."""
    raw = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        end = min(len(raw), at + draw(st.sampled_from([0, 1, 2, 10, 100])))
        piece = draw(st.sampled_from([*PIECES, raw[at:end] * 3]) | st.binary(max_size=8))
        raw = raw[:at] + piece + raw[end:]
    return raw


def plain(name, tmp_path_factory):
    """The project's own files of a kind, as data."""
    folder = tmp_path_factory.mktemp("own")
    found = []
    for number, raw in enumerate(run.seeds(name)):
        path = folder / f"{number}.yaml"
        path.write_bytes(raw)
        found.append(read_yaml(path).data)
    return found


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Good inputs of each target, as bytes and, where they are nested data, as that."""
    as_data = {
        "suite": [*plain("suite", tmp_path_factory), *from_text(SUITE, tmp_path_factory)],
        "probe-suite": [*plain("probe-suite", tmp_path_factory), *from_text(PROBES, tmp_path_factory)],
        "task": plain("task", tmp_path_factory),
        "record": [
            made.model_dump(mode="json", by_alias=True) for made in (record(), record(status="failed", reason="x"))
        ],
        "probe": [probe_record("lora", 0).model_dump(mode="json", by_alias=True)],
        "work": list(map(json.loads, run.seeds("work"))),
        "config": [json.loads(good_config())],
    }
    as_data["records"] = [json.loads(run.seeds("records")[0])]
    as_text = {name: run.seeds(name) or list(map(as_bytes, as_data.get(name, []))) for name in TARGETS}
    return as_data, as_text


def from_text(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "x.yaml"
    path.write_text(text)
    return [read_yaml(path).data]


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_good_is_read(originals, name):
    read = [harmless(TARGETS[name], raw) for raw in originals[1][name][:6]]
    assert any(read)


@pytest.mark.parametrize("name", ["suite", "probe-suite", "task", "record", "probe", "records", "work", "config"])
def test_changed_data_are_read_or_refused(originals, name):
    @fuzzed
    @given(changed(originals[0][name]).map(as_bytes))
    def one(raw):
        harmless(TARGETS[name], raw)

    one()


@pytest.mark.slow
@pytest.mark.parametrize("file", [file for file in RUN_FILES if file.endswith(".json")])
def test_a_folder_of_runs_with_changed_data_is_read_or_refused(originals, file):
    number = RUN_FILES.index(file)
    (good,) = (json.loads(raw[1:]) for raw in originals[1]["runs"] if raw[0] == number)

    @settings(fuzzed, max_examples=max(5, EXAMPLES // 3))
    @given(changed([good]).map(as_bytes))
    def one(raw):
        harmless(TARGETS["runs"], bytes([number]) + raw)

    one()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "runs" else name for name in TARGETS]
)
def test_cut_files_are_read_or_refused(originals, name):
    @fuzzed
    @given(cut(originals[1][name]))
    def one(raw):
        harmless(TARGETS[name], raw)

    one()


# What longer runs have found.
FOUND = {
    "a layout without a name of its file": ("task", "local", "train"),
    "nor of its folder": ("task", "local", "folders"),
}


@pytest.mark.parametrize(("name", "outer", "key"), FOUND.values(), ids=FOUND)
def test_what_was_found_is_refused_now(originals, name, outer, key):
    data = copy.deepcopy(next(data for data in originals[0][name] if outer in data))
    assert harmless(TARGETS[name], as_bytes(data))
    data[outer][key] = []
    assert not harmless(TARGETS[name], as_bytes(data))


@pytest.mark.parametrize("row", [[None, 0.9], [], ["0.5", 0.5], [1.5, -0.5], 0.5])
def test_probabilities_that_are_no_table_of_shares_are_refused(originals, row):
    number = RUN_FILES.index("probabilities.json")
    (good,) = (json.loads(raw[1:]) for raw in originals[1]["runs"] if raw[0] == number)
    assert harmless(TARGETS["runs"], bytes([number]) + as_bytes(good))
    good["probabilities"][0] = row
    assert not harmless(TARGETS["runs"], bytes([number]) + as_bytes(good))


MARKS = st.sampled_from("<>&'\"`*_~#|[](){}!\\/$%@:;.,-+=^? \n\t\r\x1b\x9b\0\u202e\u200b1aA")


@pytest.mark.slow
@settings(fuzzed, max_examples=max(5, EXAMPLES // 12))
@given(
    st.text(MARKS, min_size=1, max_size=60)
    | st.lists(st.sampled_from(list(STRINGS.values())), min_size=2, max_size=4).map("".join)
)
def test_no_text_of_a_record_changes_the_structure_of_a_report(text):
    if not text.strip():
        return
    for name, blocks in pages.__wrapped__(text).items():
        markdown = to_markdown(blocks)
        # Rows are sorted by their names, so what a setting has may stand elsewhere; but it is of the same kinds.
        (counts, html), (expected, expected_html) = structure(markdown), inert(name)[0]
        assert set(counts) <= set(expected) and set(html) <= set(expected_html)
        assert counts["image"] == expected["image"] and counts["fence"] == expected["fence"]
        assert not UNSEEN & set(markdown)
        _, inline = blocks_and_inline(markdown)
        shown = "\n".join(token.content for token in inline if token.type == "text")
        assert not LINKED.search(shown.replace("\u200b", "|"))
