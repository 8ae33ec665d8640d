"""A run over two processes is the run of one, whatever they hold of the model; and however it ends, no process is left."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from lora_bench.errors import BadInput
from lora_bench.kinds.exercises.generation.encode import CompletionCollator
from lora_bench.plan.make_plan import make_plan
from lora_bench.records.store import RunFolder, read_records
from lora_bench.suite.load_suite import load_suite
from lora_bench.training import callbacks as loop
from lora_bench.training.distributed.ranks import BatchShares
from lora_bench.training.keyed_dropout import StepMasks, with_keyed_masks
from lora_bench.training.run import run_job
from tests.faults.failpoints import STARTUP
from tests.project import SUITE, write_project
from tests.tiny import MODELS, PAD, VOCABULARY

# 40 steps, the last of which has 5 rows.
PLAIN = SUITE.replace("train_examples: 48", "train_examples: 629").replace(
    "[full, lora, bottleneck_adapter, prefix_tuning]",
    "[{method: full, learning_rate: 3e-3}, {method: lora, learning_rate: 2e-3}]",
)
NO_DROPOUT = "base_dropout: 0.0, head_dropout: 0.0"
HOW = {"alone": "", "ddp": ", processes: 2", "fsdp": ", processes: 2, parallelism: fsdp"}


# --- shares ----------------------------------------------------------------------------------------------------------


def rows_of(shares):
    return [[example["input_ids"][0] for example in share.examples] for share in shares]


def test_each_batch_is_shared_in_order_and_so_is_the_last():
    examples = [{"input_ids": [row], "labels": row % 2} for row in range(11)]
    shares = BatchShares(examples, 4, 2)
    assert len(shares) == 6
    assert rows_of(shares) == [[0, 1], [2, 3], [4, 5], [6, 7], [8], [9, 10]]
    assert [share.first_row for share in shares] == [0, 2, 0, 2, 0, 1]
    # Of three rows one counts 2/3 of the mean of two shares, and two count 4/3.
    assert [share.weight for share in shares] == pytest.approx([1, 1, 1, 1, 2 / 3, 4 / 3])


def test_a_rank_for_which_no_row_is_left_takes_one_that_counts_for_nothing():
    shares = BatchShares([{"input_ids": [row], "labels": 0} for row in range(5)], 4, 2)
    assert rows_of(shares)[2:] == [[4], [4]]
    assert [share.weight for share in shares][2:] == [0.0, 2.0]


def test_a_text_counts_by_the_tokens_that_are_predicted():
    labels = ([-100, 7, 8, 9], [-100, -100, 7], [5, 6], [-100, 5])
    shares = BatchShares([{"input_ids": [0], "labels": one} for one in labels], 4, 2)
    # 3 and 1 tokens, 1 and 1: no token predicts the first.
    assert [share.weight for share in shares] == pytest.approx([2 * 4 / 6, 2 * 2 / 6])


@pytest.mark.parametrize("family", ["roberta", "gpt2", "gpt2-lm"])
def test_the_mean_over_shares_is_the_loss_of_the_batch_its_dropout_included(family):
    draw = torch.Generator().manual_seed(0)
    examples = []
    for row, length in enumerate((9, 4, 6, 8, 3, 7, 5)):
        tokens = torch.randint(3, VOCABULARY, (length,), generator=draw).tolist()
        labels = [-100] * (row % 2 + 1) + tokens[row % 2 + 1 :] if family == "gpt2-lm" else row % 3
        examples.append({"input_ids": tokens, "attention_mask": [1] * length, "labels": labels})
    model, masks = MODELS[family]().train(), StepMasks(3)
    with_keyed_masks(model, masks)

    def loss(some, first_row):
        masks.begin(5)
        masks.share = (first_row, len(some))
        with torch.no_grad():
            return model(**collated(some)).loss.item()

    shares = BatchShares(examples, 7, 3)
    parts = [share.weight * loss(share.examples, share.first_row) for share in shares]
    assert sum(parts) / 3 == pytest.approx(loss(examples, 0), abs=1e-6)
    # It would not be with the masks of other rows.
    assert abs(loss(shares[2].examples, 0) - loss(shares[2].examples, shares[2].first_row)) > 1e-3


def collated(examples):
    collator = CompletionCollator.__new__(CompletionCollator)
    collator.fills = {"input_ids": PAD, "attention_mask": 0, "labels": -100}
    if isinstance(examples[0]["labels"], list):
        return collator(examples)
    texts = collator([{**example, "labels": example["input_ids"]} for example in examples])
    return {**texts, "labels": torch.tensor([example["labels"] for example in examples])}


# --- runs ------------------------------------------------------------------------------------------------------------


def jobs(folder, how, runs="runs"):
    """The jobs of a suite by method, and under *runs* another attempt at the same."""
    suite = PLAIN + f"training: {{{NO_DROPOUT}{HOW[how]}}}\nkeep_weights: last\n"
    path = write_project(folder / how, suite) if not (folder / how).exists() else folder / how / "tickets.yaml"
    return {cell.job.spec.method.label: cell.job for cell in make_plan(load_suite(path), folder / runs).cells}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """For each method and way the record, the losses up to the last step, and the trained weights."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LORA_BENCH_CACHE", str(folder / "cache"))
        loop.request_stop(None)
        found = {}
        for how in HOW:
            for label, job in jobs(folder, how).items():
                losses = []
                record = run_job(job, lambda step, steps, loss, losses=losses: losses.append(loss))
                found[label, how] = (record, losses[1:], job)
        yield folder, found


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
@pytest.mark.parametrize("label", ["full", "lora"])
def test_two_processes_have_the_losses_and_scores_of_one(done, label, how):
    (alone, want, _), (record, losses, _) = done[1][label, "alone"], done[1][label, how]
    assert (alone.status, record.status) == ("ok", "ok"), record.reason
    assert (alone.spec.training.processes, record.spec.training.processes) == (1, 2)
    assert alone.run_id != record.run_id
    assert len(want) == len(losses) == 39
    assert losses == pytest.approx(want, abs=1e-6)
    # A curve's losses are rounded to six decimals: 1e-6 apart before it can be 2e-6 apart after.
    assert [point.loss for point in record.curve] == pytest.approx([point.loss for point in alone.curve], abs=2.1e-6)
    assert (record.scores, record.predictions) == (alone.scores, alone.predictions)
    assert record.parameters == alone.parameters
    for name in ("train_steps", "train_examples", "train_real_tokens"):
        assert getattr(record.speed, name) == getattr(alone.speed, name)
    # What is measured is the first process's, which has company.
    assert (record.speed.exclusive, record.memory.exclusive) == (False, False)


RANK = """\
import json, pickle
from pathlib import Path
import torch
from lora_bench.training.attempt import Facts
from lora_bench.training.distributed.ranks import WorkerRank
from lora_bench.training.run import as_rank
torch.distributed.init_process_group("gloo")
job, losses = pickle.loads(Path("job").read_bytes()), []
shards = job.spec.training.parallelism == "fsdp"
rank = WorkerRank(torch.distributed.get_rank(), torch.distributed.get_world_size(), shards=shards)
record = as_rank(job, rank, Facts(), lambda step, steps, loss: losses.append(loss))
if rank.first:
    Path("found").write_text(json.dumps([losses, record.scores]))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_ranks_that_torchrun_starts_have_the_losses_of_one_process(done, tmp_path, how):
    folder, found = done
    (tmp_path / "job").write_bytes(pickle.dumps(jobs(folder, how, runs="torchrun")["lora"]))
    (tmp_path / "rank.py").write_text(RANK)
    env = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "rank.py"]
    subprocess.run(command, cwd=tmp_path, env=env, check=True)
    losses, scores = json.loads((tmp_path / "found").read_text())
    alone, want, _ = found["lora", "alone"]
    assert losses[1:] == pytest.approx(want, abs=1e-6) and len(want) == 39
    assert scores == alone.scores


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_the_weights_that_are_kept_are_whole(done, how):
    for label in ("full", "lora"):
        (alone, _, job), (record, _, theirs) = done[1][label, "alone"], done[1][label, how]
        assert record.weights.stored_bytes == alone.weights.stored_bytes
        (file,) = [path.name for path in job.folder.weights.glob("*.safetensors")]
        one, two = (load_file(each.folder.weights / file) for each in (job, theirs))
        assert one.keys() == two.keys()
        for name, weight in one.items():
            # AdamW makes a step of any gradient, and that of a key's bias is nothing but rounding.
            if not name.endswith("key.bias"):
                assert torch.allclose(weight, two[name], atol=1e-4), name
        if label == "full":  # transformers writes the name of the model's class, which `fully_shard` changes
            configs = [json.loads((each.folder.weights / "config.json").read_text()) for each in (job, theirs)]
            assert [config["architectures"] for config in configs] == [["RobertaForSequenceClassification"]] * 2


def beside_one(folder, how, training, rest="", method="full"):
    """A short run by one process and by two: its record, the losses and the job of each."""
    found = {}
    for way in ("alone", how):
        suite = PLAIN.replace("train_examples: 629", "train_examples: 160")
        suite += f"training: {{{training}{HOW[way]}}}\n{rest}"
        plan = make_plan(load_suite(write_project(folder / way, suite)), folder / way / "runs")
        (job,) = (cell.job for cell in plan.cells if cell.job.spec.method.label == method)
        losses = []
        record = run_job(job, lambda step, steps, loss, losses=losses: losses.append(loss))
        assert record.status == "ok", record.reason
        found[way] = record, losses[1:], job
    return found["alone"], found[how]


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_two_processes_keep_the_weights_that_one_would(tmp_path, how):
    """Under FSDP each process scores, and they bring the best weights together, and put them back, at the same steps."""
    rest = "selection_every: 1\nkeep_weights: best\n"
    (alone, _, job), (record, _, theirs) = beside_one(tmp_path, how, NO_DROPOUT, rest)
    scored = [[(point.step, point.scores) for point in each.curve if point.scores] for each in (alone, record)]
    assert scored[0] == scored[1] and len(scored[0]) == 10
    # Weights of another step than the last were put back.
    assert record.weights.step == alone.weights.step < 10
    assert (record.scores, record.predictions) == (alone.scores, alone.predictions)
    one, two = (load_file(each.folder.weights / "model.safetensors") for each in (job, theirs))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        if not name.endswith("key.bias"):
            assert torch.allclose(weight, two[name], atol=1e-4), name


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
@pytest.mark.parametrize(
    ("training", "rest"),
    [
        ("masks: keyed", ""),
        (NO_DROPOUT, "training_arguments: {gradient_accumulation_steps: 2}\n"),
        ("masks: keyed", "training_arguments: {gradient_accumulation_steps: 4}\n"),
        (
            "masks: keyed, order: grouped, last_layer: read_position",
            "training_arguments: {gradient_accumulation_steps: 2}\n",
        ),
    ],
)
def test_two_processes_drop_and_accumulate_what_one_does(tmp_path, how, training, rest):
    (_, want, _), (_, losses, _) = beside_one(tmp_path, how, training, rest, method="lora")
    assert len(want) == 9 and losses == pytest.approx(want, abs=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_two_processes_in_bfloat16_are_one_but_for_its_rounding(tmp_path, how):
    (_, want, _), (_, losses, _) = beside_one(tmp_path / "bfloat16", how, f"{NO_DROPOUT}, precision: bfloat16")
    (_, exact, _), _ = beside_one(tmp_path / "float32", how, NO_DROPOUT)
    # The first steps have bfloat16's own rounding, which is not float32's; then steps that differ in it add up.
    assert losses[:2] == pytest.approx(want[:2], abs=1e-6)
    assert abs(losses[0] - exact[0]) > 2e-6
    assert losses == pytest.approx(want, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("label", "how"), [("lora", "ddp"), ("full", "fsdp")])
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(done, label, how):
    folder, found = done
    job = jobs(folder, how, runs="stopped")[label]

    def stop_at_five(step, steps, loss):
        if step == 5:
            loop.request_stop("SIGTERM")

    stopped = run_job(job, stop_at_five)
    loop.request_stop(None)
    assert stopped.status == "interrupted" and stopped.reason.startswith("stopped by SIGTERM after step")
    record, undisturbed = run_job(job), found[label, how][0]
    assert record.status == "ok" and record.resumed and not undisturbed.resumed
    assert (record.curve, record.scores) == (undisturbed.curve, undisturbed.scores)
    assert record.predictions == undisturbed.predictions


@pytest.fixture
def listening(monkeypatch):
    """Processes that start from here listen to failpoints."""
    monkeypatch.setenv("PYTHONPATH", str(STARTUP), prepend=os.pathsep)


@pytest.mark.slow
@pytest.mark.usefixtures("listening")
def test_a_rank_that_is_killed_is_the_runs_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LORA_BENCH_FAILPOINT", "run.step:kill@4")
    monkeypatch.setenv("LORA_BENCH_FAILPOINT_ONCE", str(tmp_path / "once"))
    others = psutil.Process().children(recursive=True)
    record = run_job(jobs(tmp_path, "ddp")["lora"])
    assert record.status == "failed" and record.reason.startswith("signal SIGKILL: it ended rank ")
    assert record.reason.split(": ")[1].startswith(("it ended rank 0 of 2", "it ended rank 1 of 2"))
    assert [child for child in psutil.Process().children(recursive=True) if child not in others] == []
    assert RunFolder(tmp_path / "runs" / record.run_id).record() == record


@pytest.mark.slow
@pytest.mark.usefixtures("listening")
def test_no_process_outlives_a_harness_that_is_killed(tmp_path):
    (job, *_) = jobs(tmp_path, "ddp").values()
    mark = str(tmp_path / "cache")
    env = {
        **os.environ, "LORA_BENCH_CACHE": mark, "LORA_BENCH_FAILPOINT": "run.step:hang@4",
        "LORA_BENCH_FAILPOINT_ONCE": str(tmp_path / "once"),
    }  # fmt: skip
    command = [sys.executable, "-m", "lora_bench.cli", "run", "tickets.yaml", "--runs", str(tmp_path / "runs")]
    harness = subprocess.Popen(
        [*command, "--only", job.run_id, "--workers", "1"], cwd=tmp_path / "ddp", env=env, stdout=subprocess.DEVNULL
    )
    try:
        assert within(600, (tmp_path / "once").exists), "no rank came to its fourth step"
        # The harness, the process that forks workers, a worker, and two ranks.
        assert len(processes_with(mark)) == 5
    finally:
        harness.send_signal(signal.SIGKILL)
        harness.wait()
    assert within(600, lambda: not processes_with(mark))


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache", "listening")
def test_where_every_rank_stands_is_in_the_log_when_one_hangs(tmp_path):
    (job, *_) = jobs(tmp_path, "ddp").values()
    env = {
        **os.environ, "LORA_BENCH_FAILPOINT": "run.step:hang@4", "LORA_BENCH_FAILPOINT_ONCE": str(tmp_path / "once"),
    }  # fmt: skip
    command = [sys.executable, "-m", "lora_bench.cli", "run", "tickets.yaml", "--runs", str(tmp_path / "runs")]
    command += ["--only", job.run_id, "--workers", "1", "--timeout", "60"]
    assert subprocess.run(command, cwd=tmp_path / "ddp", env=env, stdout=subprocess.DEVNULL).returncode == 3
    (record,) = read_records(tmp_path / "runs" / "tickets")
    assert record.status == "timeout" and "workers.log has its stack" in record.reason
    (log,) = (tmp_path / "runs").rglob("workers.log")
    # The worker waits for a word, one rank hangs, and the other waits for its gradients.
    assert (
        log.read_text().count("in be_rank") == 2 and "in _record" in log.read_text() and "in _hang" in log.read_text()
    )


def processes_with(mark):
    """The processes of this machine in whose environment a folder stands."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("LORA_BENCH_CACHE") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def within(seconds, is_so):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so():
            return True
        time.sleep(0.1)
    return False


# --- suites ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "rest", "line", "message"),
    [
        ("train_examples: 48", "training: {batch_size: 16, processes: 3}", 11, "must divide the batch of 16"),
        ("train_examples: 48", "training: {processes: 0}", 11, "training.processes"),
        ("train_examples: 48", "training: {parallelism: fsdp}", 11, "give their number, such as `processes: 2`"),
        ("train_examples: 48", "training: {processes: 2, parallelism: dpp}", 11, "'dpp'"),
        ("train_seconds: 5", "training: {processes: 2}", 11, "train_seconds cannot end it"),
        ("train_examples: 48, caps: {train_seconds: 5}", "training: {processes: 2}", 11, "train_seconds cannot end it"),
        ("train_examples: 48, peak_memory_bytes: 100000", "training: {processes: 2}", 11, "leave one of the two out"),
        (
            "train_examples: 48",
            "training: {batch_size: 18, processes: 2}\ntraining_arguments: {gradient_accumulation_steps: 6}",
            11,
            "must divide the 3 examples of a part",
        ),
    ],
)
def test_what_processes_do_not_go_with_is_refused_with_its_line(tmp_path, budget, rest, line, message):
    path = write_project(tmp_path, SUITE.replace("train_examples: 48", budget) + f"{rest}\n")
    with pytest.raises(BadInput) as refused:
        load_suite(path)
    (fault,) = refused.value.faults
    assert fault.line == line and message in str(fault)


def test_processes_of_a_recipe_are_held_against_its_batch(tmp_path):
    path = write_project(tmp_path, SUITE + "recipes:\n  - {methods: lora, processes: 3}\n")
    with pytest.raises(BadInput, match="lora on base for tickets: processes must divide the batch of 16"):
        make_plan(load_suite(path), tmp_path / "runs")
