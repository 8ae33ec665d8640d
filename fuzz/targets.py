"""What is fuzzed: each target reads one input that may be anything.

A target returns where the input is good and raises `LoraBenchError` where it is not. Anything else that it raises, any file
that it leaves, and more than `SECONDS` of processor time is a fault of ours.
"""

from __future__ import annotations

import functools
import hashlib
import json
import lzma
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lora_bench.documents import read_yaml
from lora_bench.errors import LoraBenchError
from lora_bench.exchange import data_files
from lora_bench.execute.prepared_folder import FILE, read_prepared
from lora_bench.published.reading import read_cells
from lora_bench.records.answers_file import read_answers
from lora_bench.records.layout import ANSWERS_FILE, PREDICTIONS, PROBABILITIES, RECORD, RUNS_FILE
from lora_bench.records.probe_store import read_probe
from lora_bench.records.record import Record
from lora_bench.records.sealed_records import to_json
from lora_bench.records.store import answers_in, files_in, read_record, read_records
from lora_bench.records.suite_about import about_in
from lora_bench.records.weight_analysis import FILE as FILE_OF_ANALYSIS
from lora_bench.records.weight_analysis import read_analysis
from lora_bench.report import Report, render_files
from lora_bench.report.frames.record_frame import to_frame
from lora_bench.report.model.choose_method import choose_among
from lora_bench.report.terminal import terminal_answer
from lora_bench.suite.load_suite import load_suite
from lora_bench.suite.probe_suite import load_probe_suite
from lora_bench.tasks import task_from_document
from lora_bench.tasks.files import read_bytes
from lora_bench.tasks.source_tables import FORMATS, Layout
from lora_bench.util.sealed_json import SEAL

if TYPE_CHECKING:
    from transformers import RobertaConfig

SECONDS = 20.0
BASELINES = Path(__file__).parents[1] / "baselines"

Target = Callable[[bytes], None]


def harmless(target: Target, raw: bytes) -> bool:
    """Whether *raw* is good input for a target; a fault of ours is an exception.

    Raises:
        AssertionError: If something was written, or it took too long.
        Exception: Whatever else the target raises.
    """
    began = time.process_time()
    try:
        target(raw)
        good = True
    except LoraBenchError as error:
        assert str(error), "a refusal says why"
        good = False
    taken = time.process_time() - began
    assert taken < SECONDS, f"took {taken:.1f} s"
    return good


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fuzz-")


def _in_a_file(name: str, raw: bytes, read: Callable[[Path], object]) -> None:
    """Have an input read from a file, beside which nothing may be written."""
    folder = Path(_folder().name)
    path = folder / name
    path.write_bytes(raw)
    try:
        read(path)
    finally:
        left = {entry.name for entry in folder.iterdir()}
        path.unlink()
        assert left == {name}, f"{left - {name}} were written"


def suite(raw: bytes) -> None:
    """A suite."""
    _in_a_file("suite.yaml", raw, load_suite)


def probe_suite(raw: bytes) -> None:
    """A suite, or a suite of probes."""
    _in_a_file("suite.yaml", raw, load_probe_suite)


def task(raw: bytes) -> None:
    """The declaration of a task."""
    _in_a_file("task.yaml", raw, lambda path: task_from_document(read_yaml(path)))


def record(raw: bytes) -> None:
    """A record, and where it is one, what is written and shown of it."""

    def read_and_render(path: Path) -> None:
        found = read_record(path)
        assert Record.model_validate_json(to_json(found)) == found
        render(found)

    _in_a_file("record.json", raw, read_and_render)


def render(found: Record) -> None:
    """A record through every renderer of reports."""
    report = Report([found])
    render_files(report)
    terminal_answer(report)
    to_frame([found])


def probe(raw: bytes) -> None:
    """A record of a probe."""
    _in_a_file("probe.json", raw, read_probe)


def records(raw: bytes) -> None:
    """A file of many records."""
    _in_a_file(RUNS_FILE, raw, read_records)


def answers(raw: bytes) -> None:
    """The text of a file of answers, compressed."""
    _in_a_file(ANSWERS_FILE, lzma.compress(raw), read_answers)


def work(raw: bytes) -> None:
    """What a prepared folder says to its workers."""
    _in_a_file(FILE, raw, lambda path: read_prepared(path.parent))


def published(raw: bytes) -> None:
    """A published table's cells."""
    read_cells(raw.decode("utf-8", "replace"), "published.csv")


def data(raw: bytes) -> None:
    """A file of data: its first byte chooses the format."""
    formats = [name for name in FORMATS if name != "wikisql"]
    chosen = formats[raw[0] % len(formats)] if raw else formats[0]
    layout = Layout(format=chosen, wanted=frozenset({"text", "label", "a.b"}))
    read_bytes(raw[1:], f"train.{chosen}", layout)


@functools.cache
def _model_folder() -> tempfile.TemporaryDirectory[str]:
    """The folder of a tiny RoBERTa."""
    from transformers import RobertaModel

    folder = tempfile.TemporaryDirectory(prefix="fuzz-model-")
    RobertaModel(_roberta(), add_pooling_layer=False).save_pretrained(folder.name)
    return folder


def _roberta() -> RobertaConfig:
    from transformers import RobertaConfig

    return RobertaConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, pad_token_id=1,
    )  # fmt: skip


def good_config() -> bytes:
    """The configuration that fits the weights beside a fuzzed one, with every default written out."""
    return _roberta().to_json_string(use_diff=False).encode()


def config(raw: bytes) -> None:
    """A base model's configuration, beside the weights of a RoBERTa, as far as a plan looks at it."""
    from lora_bench.methods import known_methods
    from lora_bench.models.registry import find_model
    from lora_bench.plan.size_fitting import count_method
    from lora_bench.records.budget import Budget

    folder = Path(_model_folder().name)
    (folder / "config.json").write_bytes(raw)
    before = {path.name for path in folder.iterdir()}
    base_model = find_model(folder.name, base=folder.parent)
    count_method(known_methods()["lora"](), base_model, "classification", 2, Budget(train_examples=16))
    assert {path.name for path in folder.iterdir()} == before, "files were written beside the weights"


ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "tokenizer_config.json", "tokenizer.json")


@functools.cache
def good_adapter() -> dict[str, bytes]:
    """The files of an adapter on the fuzzed model."""
    from peft import LoraConfig, get_peft_model
    from transformers import RobertaModel

    with tempfile.TemporaryDirectory() as folder:
        model = RobertaModel(_roberta(), add_pooling_layer=False)
        get_peft_model(model, LoraConfig(r=2, target_modules=["query"])).save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name in ADAPTER_FILES}


def adapter(raw: bytes) -> None:
    """A folder of kept weights, opened for use: its first byte chooses the file that has the rest as its content."""
    from transformers import RobertaModel

    from lora_bench.models.loading import open_tokenizer
    from lora_bench.training.kept_weights import open_adapter

    chosen = ADAPTER_FILES[raw[0] % len(ADAPTER_FILES)] if raw else ADAPTER_FILES[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in {**good_adapter(), chosen: raw[1:]}.items():
            (folder / file).write_bytes(content)
        if chosen.startswith("tokenizer"):
            open_tokenizer(name, folder)
        else:
            open_adapter(RobertaModel(_roberta(), add_pooling_layer=False), folder)


RUN_FILES = (RECORD, PREDICTIONS, PROBABILITIES, FILE_OF_ANALYSIS, "suite.yaml")


@functools.cache
def good_runs() -> dict[str, bytes]:
    """The files of a folder of runs by their paths: two seeds of two methods of the quickstart, with an analysis of weights."""
    baseline = BASELINES / "quickstart"
    of_suite = (
        one for one in read_records(baseline)
        if one.spec.model.name == "minilm-l6-roberta" and one.spec.method.label in ("full", "lora") and one.spec.seed in (0, 1)
    )  # fmt: skip
    kept = sorted(of_suite, key=lambda one: one.run_id)
    answers_of = files_in(baseline)
    files = {"suite.yaml": (baseline / "suite.yaml").read_bytes()}
    for one in kept:
        files[f"{one.run_id}/{RECORD}"] = unsealed(to_json(one))
        for named in (one.predictions, one.probabilities):
            if named is not None:
                files[f"{one.run_id}/{named.file}"] = answers_of(one.run_id, named) or b""
    analysis = json.loads((BASELINES / "subspaces" / FILE_OF_ANALYSIS).read_bytes())
    for model in analysis["models"]:
        model |= {"runs": model["runs"][:2], "overlaps": model["overlaps"][:2]}
    files[FILE_OF_ANALYSIS] = unsealed(json.dumps(analysis).encode())
    return files


def unsealed(raw: bytes) -> bytes:
    """JSON without its seal, which no change would match."""
    return json.dumps({key: value for key, value in json.loads(raw).items() if key != SEAL}).encode()


def with_changed(raw: bytes) -> dict[str, bytes]:
    """The files of `good_runs` with one changed: its first byte chooses the file that has the rest as its content."""
    files = dict(good_runs())
    chosen = RUN_FILES[raw[0] % len(RUN_FILES)] if raw else RECORD
    run_id = min(path.partition("/")[0] for path in files if path.endswith(RECORD))
    path = chosen if chosen in files else f"{run_id}/{chosen}"
    files[path] = raw[1:]
    if chosen in (PREDICTIONS, PROBABILITIES):  # of a stranger, whose record has the hash of what is there
        record = json.loads(files[f"{run_id}/{RECORD}"])
        record[chosen.removesuffix(".json")]["sha256"] = hashlib.sha256(raw[1:]).hexdigest()
        files[f"{run_id}/{RECORD}"] = json.dumps(record).encode()
    return files


def runs(raw: bytes) -> None:
    """A folder of runs from elsewhere, as `report`, `choose` and `export` read it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = with_changed(raw)
        for path, content in files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(content)
        try:
            found = read_records(folder)
            answers = answers_in(folder, found)
            report = Report(found, answers=answers, about=about_in(folder), analysis=read_analysis(folder))
            data_files(report)
            render_files(report)
            choose_among(found, answers)
        finally:
            left = {
                path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()
            }
            assert left == files, "files of the folder were written"


TARGETS: dict[str, Target] = {
    "suite": suite,
    "probe-suite": probe_suite,
    "task": task,
    "record": record,
    "probe": probe,
    "records": records,
    "answers": answers,
    "work": work,
    "published": published,
    "data": data,
    "config": config,
    "adapter": adapter,
    "runs": runs,
}
