"""One process of a probe: what it measures, what it says of what it cannot, and how it ends."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
import torch

from lora_bench.models.loading import longest_input
from lora_bench.models.registry import find_model
from lora_bench.probe import process
from lora_bench.probe.inference import is_out_of_memory, reason_of
from lora_bench.probe.probe_job import ProbeJob
from lora_bench.probe.process import make_model, probe, random_batch
from lora_bench.records.baseline_folder import accept_probes
from lora_bench.records.environment import CudaDevice
from lora_bench.records.probe_record import ProbeRecord
from lora_bench.records.probe_store import ProbeFolder, read_probe, read_probes
from lora_bench.records.sealed_records import to_json
from tests.probe.suites import SUITE, plan
from tests.tiny import MODELS, VOCABULARY, WRITERS

SCHEMAS = Path(__file__).parents[2] / "lora_bench" / "schemas"
ROWS, LENGTH = 2, 8

CELLS = SUITE.replace("[base]", "[base, writer]").replace("[full, lora]", "[full, lora, bitfit]") + (
    "recipes:\n  - {models: base, latency: [[1, 8], [2, 63]]}\n"
    "  - {models: writer, methods: [full, bitfit], latency: []}\n"
    "  - {models: writer, kind: generation, wide_tokens: 30}\n"
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The records of a RoBERTa classifier by three methods and of a GPT-2 that writes by LoRA, and their folder."""
    folder = tmp_path_factory.mktemp("probes")
    with pytest.MonkeyPatch.context() as here:
        here.setenv("LORA_BENCH_CACHE", str(folder / "cache"))
        here.setenv("HF_HUB_OFFLINE", "1")
        here.setenv("CUDA_VISIBLE_DEVICES", "")
        made = plan(folder, CELLS, processes=1, writer="gpt2")
        wanted = [
            job
            for job in made.jobs
            if not job.twin and (job.base_model.name, job.spec.method.name) != ("writer", "full")
        ]
        records = [probe(job) for job in wanted if (job.base_model.name, job.spec.method.name) != ("writer", "bitfit")]
    assert [record.status for record in records] == ["ok"] * 4, [record.reason for record in records]
    return {f"{record.spec.model.name} {record.spec.method.name}": record for record in records}, made.folder


CASES = ("base full", "base lora", "base bitfit", "writer lora")


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """Makes the jobs of a suite of probes."""
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def make(text: str = SUITE, **families: str) -> list[ProbeJob]:
        return list(plan(tmp_path, text, processes=1, **families).jobs)

    return make


def nulls(part, path: str = "") -> list[str]:
    """The path of every null in a record's JSON."""
    if part is None:
        return [path]
    inner = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    return [found for name, value in inner for found in nulls(value, f"{path}.{name}" if path else str(name))]


def parts_of(record: ProbeRecord) -> dict[str, object]:
    """What was measured of a cell, as JSON."""
    content = record.model_dump(mode="json")
    return {name: value for name, value in content.items() if name not in ("reason", "spec", "settings", "exclusive")}


# What is measured.


@pytest.mark.parametrize("case", CASES)
def test_every_null_has_its_reason_and_every_reason_is_of_a_null(measured, case):
    record = measured[0][case]
    content = {
        name: value
        for name, value in record.model_dump(mode="json").items()
        if name not in ("reason", "spec", "settings")
    }
    missing = set(nulls(content))
    states = {"inference.merged"} if all(one.state != "merged" for one in record.inference.latencies) else set()
    timed = {(one.batch_size, one.length) for one in record.inference.latencies}
    shapes = {
        f"inference.{rows}x{length}" for rows, length in record.spec.latency_shapes if (rows, length) not in timed
    }
    assert set(record.unmeasured) == missing | states | shapes
    assert all(reason.strip() and "\n" not in reason for reason in record.unmeasured.values())


def test_host_and_device_are_one_on_a_cpu(measured):
    record = measured[0]["base lora"]
    for name in ("energy", "phases.device_bytes", "phases.reserved_bytes", "speed.host_bound_share"):
        assert record.unmeasured[name] == "host and device are one"


@pytest.mark.parametrize("case", CASES)
def test_a_prediction_in_the_record_is_what_was_measured(measured, case):
    one, other = measured[0][case].predicted, measured[0][case].measured
    for name in ("weight_bytes", "gradient_bytes", "optimizer_bytes", "activation_bytes"):
        assert getattr(one, name) == getattr(other, name)
    # The mask that a model leaves away where it sees that it hides nothing: see tests/probe/test_step_bytes.py.
    assert 0 <= one.peak_bytes - other.peak_bytes <= 5 * ROWS * LENGTH * LENGTH


@pytest.mark.parametrize("case", CASES)
def test_what_is_stored_is_four_bytes_for_each_stored_weight(measured, case):
    record = measured[0][case]
    kept = record.checkpoint
    assert kept.adapter_bytes + kept.head_bytes == 4 * record.parameters.stored
    # Three labels' head was another task's: the head has 32 × 32 + 32 and 2 × 32 + 2 weights. GPT-2 writes without one.
    assert kept.head_bytes == (4 * (32 * 32 + 32 + 2 * 32 + 2) if record.spec.model.name == "base" else 0)
    assert kept.stored_bytes > kept.adapter_bytes + kept.head_bytes  # names, shapes and the configuration


@pytest.mark.parametrize("family", WRITERS)
def test_a_decoder_behind_an_encoder_is_measured_with_as_many_tokens_in_each(jobs, family):
    cell = SUITE.replace("[full, lora]", "[lora]") + "recipes:\n  - {models: base, kind: generation}\n"
    record = probe(next(job for job in jobs(cell, base=family) if not job.twin))
    assert record.status == "ok", record.reason
    assert {one.state for one in record.inference.latencies} == {"unadapted", "adapted", "merged"}
    assert record.inference.merged_difference < 1e-4 and record.inference.adapters_in_batch == 2
    assert record.predicted.weight_bytes == record.measured.weight_bytes
    # Query and value, in the self-attention of two layers in each stack and in the attention between them.
    assert record.parameters.adapter == (2 + 2 * 2) * 2 * 8 * (32 + 32)


def test_lora_stores_and_trains_two_matrices_for_query_and_value(measured):
    record = measured[0]["base lora"]
    update = 2 * 2 * 2 * 8 * 32  # layers, query and value, A and B, rank, width
    assert record.checkpoint.adapter_bytes == 4 * update
    assert record.measured.gradient_bytes == 4 * record.parameters.trained == 4 * (update + record.parameters.head)


def test_speed_is_of_the_steps_that_were_timed(measured):
    for record in measured[0].values():
        speed = record.speed
        assert (speed.batch_size, speed.warmup_steps) == (ROWS, 2)
        assert 5 <= speed.timed_steps <= 50
        assert 0 < max(speed.forward_seconds, speed.backward_seconds, speed.optimizer_seconds) < speed.step_seconds_p90
        assert speed.step_seconds_median <= speed.step_seconds_p90
        assert speed.real_tokens_per_second == pytest.approx(speed.examples_per_second * LENGTH)


def test_a_wide_step_has_at_least_the_tokens_that_were_asked_for(measured):
    # 30 tokens in rows of 8 are 4 rows, rounded up.
    assert measured[0]["writer lora"].wide.batch_size == 4
    assert measured[0]["base lora"].wide is None


def test_phases_are_peaks_of_the_process(measured):
    for record in measured[0].values():
        phases = record.phases
        assert phases.kind == "resident"
        for name in ("load", "first_step", "steady", "evaluation", "saving"):
            assert getattr(phases, f"{name}_bytes") > 2**20
        assert phases.load_bytes >= phases.start_bytes


def test_forward_passes_are_timed_in_every_state_that_there_is(measured):
    states = {
        case: [(one.batch_size, one.length, one.state) for one in record.inference.latencies]
        for case, record in measured[0].items()
    }
    assert states["base full"] == [(1, 8, "unadapted"), (1, 8, "adapted")]
    assert states["base lora"] == [(1, 8, "unadapted"), (1, 8, "adapted"), (1, 8, "merged")]
    for record in measured[0].values():
        for one in record.inference.latencies:
            assert 3 <= one.passes <= 50 and 0 < one.seconds_median <= one.seconds_p90


def test_merging_changes_outputs_by_rounding_alone(measured):
    for case in ("base lora", "base bitfit", "writer lora"):
        assert 0 <= measured[0][case].inference.merged_difference < 1e-5


def test_two_adapters_share_a_batch_where_their_rows_can_be_mixed(measured):
    for case in ("writer lora", "base lora"):
        shared = measured[0][case].inference
        assert shared.adapters_in_batch == 2 and shared.mixed_batch_seconds > 0 and shared.one_adapter_seconds > 0
    refused = measured[0]["base bitfit"]
    assert refused.inference.adapters_in_batch is None
    assert "cannot be mixed in a batch" in refused.unmeasured["inference.mixed_batch_seconds"]


def test_a_shape_that_the_model_has_no_positions_for_is_left_out(measured):
    assert measured[0]["base full"].unmeasured["inference.2x63"] == "the model takes at most 62 tokens"


def test_a_method_with_room_for_one_adapter_is_stored_all_the_same(measured):
    record = measured[0]["base bitfit"]
    assert record.checkpoint.restore_seconds is None and record.checkpoint.stored_bytes > 0
    assert "one adapter of a model" in record.unmeasured["checkpoint.restore_seconds"]


def test_the_record_says_where_it_was_made_and_how(measured):
    record = measured[0]["base full"]
    assert record.command == "lora-bench probe costs.yaml"
    assert record.settings.keys() == {"float32_matmul_precision", "cpu_capability"}
    assert record.environment.device == "cpu" and record.environment.packages["torch"] == torch.__version__


# Records and files.


def test_records_are_valid_by_their_schema_and_read_as_they_were_written(measured, tmp_path):
    schema = json.loads((SCHEMAS / "probe.schema.json").read_text())
    records, folder = measured
    for record in records.values():
        jsonschema.validate(json.loads(to_json(record)), schema)
        assert read_probe(folder / f"{record.run_id}.json") == record
    kept = accept_probes(folder.parent, tmp_path / "baseline")
    assert kept == read_probes(tmp_path / "baseline") == sorted(records.values(), key=lambda record: record.run_id)


def test_a_record_is_written_once(measured, tmp_path):
    record = measured[0]["base full"]
    folder = ProbeFolder(tmp_path)
    assert folder.publish(record) == record
    other = record.model_copy(update={"status": "failed", "reason": "later"})
    assert folder.publish(other) == record == folder.record(record.run_id)
    folder.retry(record.run_id)
    assert folder.record(record.run_id) is None
    assert folder.publish(other) == other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "was written with probe schema 99, and this lora_bench reads up to 1; upgrade it"),
        ({"twin": "yes"}, "is no probe record: twin: Input should be a valid boolean"),
        ({"colour": 1}, "is no probe record that this lora_bench knows: it has colour, which a newer one may have"),
    ],
)
def test_a_record_that_cannot_be_read_says_what_is_wrong_with_it(measured, tmp_path, change, message):
    content = {**json.loads(to_json(measured[0]["base full"])), **change}
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "a.json").write_text(json.dumps(content))
    with pytest.raises(Exception, match=r"a\.json") as error:
        read_probes(tmp_path)
    assert message in str(error.value)


# How it ends.


@pytest.mark.parametrize(
    ("text", "families", "reason"),
    [
        (SUITE.replace("seconds: 0.1", "attention: sdpa"), {"base": "deberta-v2"}, "does not support an attention"),
        (SUITE.replace("seconds: 0.1", "attention: flash_attention_2"), {}, "FlashAttention2"),
        (SUITE.replace("length: 8", "length: 63"), {}, "the model takes at most 62 tokens, and 63 are asked for"),
    ],
)
def test_what_a_model_cannot_do_is_unsupported_with_its_reason(jobs, text, families, reason):
    record = probe(jobs(text, **families)[0])
    assert (record.status, record.speed) == ("unsupported", None)
    assert reason in record.reason and "\n" not in record.reason


def test_a_batch_that_does_not_fit_is_out_of_memory_with_what_its_step_would_hold(jobs):
    # 80 trillion tokens of 8 bytes are more than a process can address.
    rows = 10**13
    record = probe(jobs(SUITE.replace("batch_size: 2", f"batch_size: {rows}"))[0])
    assert record.status == "out_of_memory" and "allocate" in record.reason
    assert record.parameters.total > 0 and record.speed is None
    # Embeddings, 32 numbers of 4 bytes a token, are the least of it.
    assert record.predicted.activation_bytes > rows * LENGTH * 32 * 4
    assert record.flops.forward > rows * LENGTH * 2 * 32 * 32


def test_an_error_is_a_failed_record_with_its_kind(jobs, monkeypatch):
    def broken(spec):
        raise KeyError("no such weight")

    monkeypatch.setattr(process, "method_of", broken)
    record = probe(jobs()[0])
    assert (record.status, record.reason) == ("failed", "KeyError: 'no such weight'")
    assert record.environment is not None and record.predicted is None


def test_a_part_that_fails_takes_nothing_from_the_others(jobs, monkeypatch):
    def broken(*anything):
        raise OSError("the disk is full")

    monkeypatch.setattr(process, "checkpoint", broken)
    record = probe(jobs()[0])
    assert record.status == "ok" and record.inference is not None and record.predicted is not None
    for name in ("checkpoint", "phases.saving_bytes"):
        assert record.unmeasured[name] == "OSError: the disk is full"


@pytest.mark.parametrize(("seen", "exclusive"), [([], True), (["make (process 7)"], False), (None, None)])
def test_company_is_noted_and_not_known_is_not_none(jobs, monkeypatch, seen, exclusive):
    monkeypatch.setattr(process.ProbeAtWork, "measure", lambda self: None)
    monkeypatch.setattr(process.ProbeAtWork, "predict", lambda self: None)
    monkeypatch.setattr(process, "Company", lambda device: type("Alone", (), {"seen": lambda self: seen})())
    assert probe(jobs()[0]).exclusive is exclusive


@pytest.mark.skipif(torch.cuda.is_available(), reason="has the device that is to be missing")
def test_a_device_that_is_not_there_is_a_failed_record(jobs):
    job = jobs()[0]
    card = CudaDevice("0", "Card", 80 * 2**30, "1f2e3d4c-5b6a-7988-9aab-bbccddeeff00")
    record = probe(replace(job, spec=job.spec.model_copy(update={"device": "cuda"}), card=card))
    assert record.status == "failed" and record.reason
    assert record.exclusive is None


@pytest.mark.parametrize(
    ("error", "out_of_memory", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"), True, "OutOfMemoryError: CUDA out of memory. Tried"),
        (MemoryError(), True, "MemoryError"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True,
         "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried"),
        (RuntimeError("shapes differ"), False, "RuntimeError: shapes differ"),
        (ValueError("no adapters"), False, "no adapters"),
        (ValueError(""), False, "ValueError"),
        (OSError("can't allocate memory"), False, "OSError: can't allocate memory"),
    ],
)  # fmt: skip
def test_errors_are_told_apart_and_fit_in_a_line(error, out_of_memory, reason):
    assert (is_out_of_memory(error), reason_of(error)) == (out_of_memory, reason)


# Batches and models.


@pytest.mark.parametrize("pad", [0, 1, VOCABULARY - 1])
@pytest.mark.parametrize(
    ("kind", "shape", "dtype"),
    [
        ("classification", (4,), torch.long),
        ("regression", (4,), torch.float32),
        ("generation", (4, 500), torch.long),
        ("tokens", (4, 500), torch.long),
        ("multilabel", (4, 2), torch.float32),
    ],
)
def test_random_tokens_are_of_the_vocabulary_and_none_is_padding(jobs, pad, kind, shape, dtype):
    spec = jobs()[0].spec.model_copy(update={"kind": kind, "labels": 2})
    model = SimpleNamespace(config=SimpleNamespace(vocab_size=VOCABULARY, pad_token_id=pad))
    batch = random_batch(model, spec, 4, 500, torch.device("cpu"))
    ids = batch["input_ids"]
    assert set(ids.flatten().tolist()) == set(range(VOCABULARY)) - {pad}
    assert torch.equal(batch["attention_mask"], torch.ones(4, 500, dtype=torch.long))
    assert (tuple(batch["labels"].shape), batch["labels"].dtype) == (shape, dtype)
    assert torch.equal(random_batch(model, spec, 4, 500, torch.device("cpu"))["input_ids"], ids)


@pytest.mark.parametrize(
    ("family", "longest"), [("roberta", 62), ("bert", 64), ("gpt2", 64), ("deberta-v3", None), ("deberta", None)]
)
def test_the_longest_input_is_that_of_the_learned_positions(family, longest):
    model = MODELS[family]()
    assert longest_input(model) == longest

    def forward(length: int) -> None:
        model(input_ids=torch.full((1, length), 5))

    forward(longest or 100)
    if longest is not None:
        with pytest.raises((IndexError, RuntimeError)):
            forward(longest + 1)


def test_a_causal_model_without_padding_gets_its_end_of_text(jobs):
    job = replace(jobs()[0], base_model=find_model("shape:gpt2", base=Path()))
    model, head = make_model(job, on_meta=True)
    assert model.config.pad_token_id == model.config.eos_token_id == 50256
    assert head == ["score"]


# On a CUDA device.


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["full", "lora", "bottleneck_adapter", "prefix_tuning"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_on_a_gpu_the_same_facts_hold(tmp_path, monkeypatch, method, precision):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    text = (
        f"suite: costs\nmodels: ['shape:roberta-base']\nmethods: [{method}]\n"
        f"cell: {{batch_size: 16, length: 128, precision: {precision}}}\n"
        "probe: {latency: [[1, 128], [16, 256]], seconds: 3.0}\n"
    )
    (job,) = (job for job in plan(tmp_path, text, processes=1).jobs if not job.twin)
    assert job.spec.device == "cuda"
    record = probe(job)
    assert record.status == "ok", record.reason
    phases, one, other = record.phases, record.measured, record.predicted
    assert phases.kind == "allocated"
    assert 0 <= record.speed.host_bound_share <= 1
    assert phases.reserved_bytes >= phases.steady_bytes >= one.weight_bytes + one.optimizer_bytes
    assert phases.first_step_bytes <= phases.reserved_bytes
    # Exactly what a weight takes; the allocator rounds each tensor up to 512 bytes, and kernels have room of their own.
    assert (one.weight_bytes, one.gradient_bytes) == (other.weight_bytes, other.gradient_bytes)
    assert one.optimizer_bytes == other.optimizer_bytes
    assert one.peak_bytes == pytest.approx(other.peak_bytes, rel=0.15)
    assert one.activation_bytes == pytest.approx(other.activation_bytes, rel=0.25)
    assert record.speed.warmup_steps >= 20 and 5 <= record.speed.timed_steps <= 100
    parts = record.speed.forward_seconds + record.speed.backward_seconds + record.speed.optimizer_seconds
    assert parts == pytest.approx(record.speed.step_seconds_median, rel=0.1)
    if record.energy is not None:
        assert record.energy.joules > 0
    else:
        assert record.unmeasured["energy"]
    assert set(nulls(parts_of(record))) <= set(record.unmeasured)
