"""Models and data sets by name: from a server of the hub's protocol, through the real huggingface_hub and datasets.

Every command runs in a process of its own, as a user with a cache of their own, HF_ENDPOINT at a server of `tests.hub`, and a
token. Waits between the libraries' own retries are cut to a hundredth of a second; nothing else of them is changed.
"""

import io
import json
import os
import random
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import sentencepiece
from transformers import AutoTokenizer

from lora_bench.errors import LoraBenchError
from lora_bench.models.loading import load_tokenizer
from lora_bench.models.registry import BaseModel, find_model
from lora_bench.models.sentencepiece import normalise_as_trained
from tests.hub import Hub, add_dataset, add_model, serve
from tests.project import BAD, GOOD, WORDS, write_data, write_model
from tests.tiny import tiny_deberta_v2

REPOSITORY = Path(__file__).parents[2]
TOKEN = "hf_" + "secret" * 5
ROBERTA, GLUE = "FacebookAI/roberta-base", "nyu-mll/glue"
CLASSES = ["entailment", "neutral", "contradiction"]
ABSENT_COMMIT = "0123456789" * 4

COMMANDS = """\
import json, os, sys, tempfile, time
wait = time.sleep
time.sleep = lambda seconds: wait(min(seconds, 0.01))
from lora_bench.cli import main

def captured(arguments):
    sys.stdout.flush(), sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        os.dup2(out.fileno(), 1), os.dup2(errors.fileno(), 2)
        try:
            code = main(arguments)
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            for number, copy in zip((1, 2), kept):
                os.dup2(copy, number), os.close(copy)
        texts = [file.seek(0) or file.read().decode() for file in (out, errors)]
    return [code, *texts]

print(json.dumps([captured(arguments) for arguments in json.loads(sys.argv[1])]))
"""

ROWS = """\
import json, sys, time
wait = time.sleep
time.sleep = lambda seconds: wait(min(seconds, 0.01))
from lora_bench.errors import LoraBenchError
from lora_bench.tasks.source_tables import hub_commit, read_hub
found = []
for name, config, split, revision in json.loads(sys.argv[1]):
    try:
        commit = hub_commit(name, revision)
        table = read_hub(name, config, split, commit, {"text", "label"})
        found.append([commit, list(table.columns["text"]), table.class_names.get("label")])
    except LoraBenchError as error:
        found.append(str(error))
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: int
    out: str
    errors: str


@dataclass(frozen=True)
class User:
    """Somebody with a working folder and a cache."""

    folder: Path

    def suite(self, name: str, *, model: str, task: str, more: str = "") -> Path:
        """A suite of one run, written where the user works."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.yaml"
        path.write_text(
            f"suite: {name}\ntasks: [{task}]\nmodels: [{model}]\nmethods: [lora]\nseeds: [0]\n"
            f"budget: {{train_examples: 16}}\n{more}",
            encoding="utf-8",
        )
        return path

    def answers(self, hub: Hub | str, *commands: list[object], **environment: str) -> list[Answer]:
        """Run commands of lora-bench one after another in a process."""
        arguments = [[str(argument) for argument in command] for command in commands]
        done = self._python(COMMANDS, arguments, hub, environment)
        return [Answer(*answer) for answer in done]

    def rows(self, hub: Hub | str, *asked: tuple[str, str | None, str, str], **environment: str) -> list:
        """For each (name, configuration, split, revision): commit, texts and class names, or the error."""
        return self._python(ROWS, asked, hub, environment)

    def _python(self, code: str, asked: object, hub: Hub | str, more: dict[str, str]) -> list:
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not re.match("HF_|.*proxy", name, re.I)}
        environment |= {
            "HF_ENDPOINT": hub if isinstance(hub, str) else hub.endpoint,
            "HF_HOME": str(self.folder / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": TOKEN,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]),
            **more,
        }
        command = [sys.executable, "-c", code, json.dumps(asked)]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


def hub_task(name: str, revision: str, config: str | None = "mnli", test: str = "validation_matched") -> str:
    data = f"hub: {name}, name: {config or 'null'}, revision: {revision}, splits: {{train: train, test: {test}}}"
    return f"{{task: pairs, data: {{{data}}}, text: [premise, hypothesis], label: label}}"


def parquet(rows: int, seed: int = 0) -> bytes:
    """Made pairs, whose label is the integer behind a class name."""
    draw = random.Random(seed)
    made = [" ".join(draw.choices([*WORDS, *GOOD, *BAD], k=6)) for _ in range(2 * rows)]
    table = {"premise": made[:rows], "hypothesis": made[rows:], "label": [row % 3 for row in range(rows)]}
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({**table, "idx": list(range(rows))}), file)
    return file.getvalue()


def glue(rows: int = 60) -> dict[str, bytes | str]:
    """The layout of nyu-mll/glue: a folder for each configuration, and their names, files and classes in the README."""
    names = "".join(f"          '{index}': {name}\n" for index, name in enumerate(CLASSES))
    card = (
        "---\nlicense: other\ndataset_info:\n"
        + "".join(
            f"- config_name: {config}\n  features:\n  - name: premise\n    dtype: string\n  - name: hypothesis\n"
            f"    dtype: string\n  - name: label\n    dtype:\n      class_label:\n        names:\n{names}"
            "  - name: idx\n    dtype: int32\n"
            for config in ("ax", "mnli")
        )
        + "configs:\n- config_name: ax\n  data_files:\n  - split: test\n    path: ax/test-*\n"
        "- config_name: mnli\n  data_files:\n  - split: train\n    path: mnli/train-*\n"
        "  - split: validation_matched\n    path: mnli/validation_matched-*\n---\nMade for a test.\n"
    )
    return {
        ".gitattributes": "*.parquet filter=lfs diff=lfs merge=lfs -text\n",
        "README.md": card,
        "ax/test-00000-of-00001.parquet": parquet(9),
        "mnli/train-00000-of-00001.parquet": parquet(rows),
        "mnli/validation_matched-00000-of-00001.parquet": parquet(12, seed=1),
    }


@pytest.fixture(scope="module")
def roberta(tmp_path_factory) -> dict[str, bytes]:
    """The files of roberta-base, with a tiny model in them: the same weights in four formats, two of them in use here."""
    folder = write_model(tmp_path_factory.mktemp("roberta"))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    others = ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "onnx/model.safetensors")
    return {**files, **dict.fromkeys(others, b"not to be downloaded"), "README.md": b"# made\n"}


@pytest.fixture(scope="module")
def deberta(tmp_path_factory) -> Path:
    """A folder as deberta-v3-base: the pieces in spm.model, and neither tokenizer.json nor special_tokens_map.json."""
    folder = tmp_path_factory.mktemp("deberta")
    model = tiny_deberta_v2(vocab_size=256, pad_token_id=0)
    model.deberta.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "vocab_type": "spm"}')
    draw = random.Random(0)
    sentences = [" ".join(draw.choices([*WORDS, *GOOD, *BAD, "café", "naïve", "12", "34"], k=6)) for _ in range(400)]
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*sentences, "The Q, J; X: V! K? Z. W - Y"] * 2),
        model_writer=trained,
        vocab_size=120,
        hard_vocab_limit=False,
        pad_id=0, bos_id=1, eos_id=2, unk_id=3,
        pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]",
        minloglevel=2,
    )  # fmt: skip
    (folder / "spm.model").write_bytes(trained.getvalue())
    return folder


# A whole suite


@dataclass(frozen=True)
class FirstRun:
    """A suite that was run from the hub."""

    user: User
    suite: Path
    commits: dict[str, str]
    answer: Answer
    requests: list[str]
    tokens: dict[str, set[str]]
    gone: str

    def records(self) -> list[dict]:
        return [json.loads(path.read_text()) for path in sorted(self.user.folder.rglob("record.json"))]


@pytest.fixture(scope="module")
def first(tmp_path_factory, roberta) -> FirstRun:
    """A run of roberta-base on mnli, both by name; afterwards the server is gone."""
    folder = tmp_path_factory.mktemp("hub")
    commits = {
        ROBERTA: add_model(folder, ROBERTA, roberta, also="roberta-base"),
        GLUE: add_dataset(folder, GLUE, glue()),
    }
    user = User(tmp_path_factory.mktemp("user"))
    suite = user.suite("by-name", model="roberta-base", task=hub_task(GLUE, commits[GLUE]))
    with serve(folder) as hub:
        (answer,) = user.answers(hub, ["run", suite, "--workers", "0"])
        return FirstRun(user, suite, commits, answer, list(hub.requests), hub.tokens, hub.endpoint)


@pytest.mark.slow
def test_a_suite_by_names_ends_in_a_record_with_its_commits(first):
    assert first.answer.code == 0, first.answer.errors
    (record, *_) = first.records()
    assert record["status"] == "ok"
    # The model's branch was not given: what the main branch stood for is in the record.
    assert record["spec"]["model"]["revision"] == first.commits[ROBERTA]
    assert record["spec"]["task"]["definition"]["data"]["revision"] == first.commits[GLUE]
    assert record["spec"]["task"]["labels"] == CLASSES


def test_of_a_models_weights_only_safetensors_are_downloaded(first):
    files = {line.partition(first.commits[ROBERTA] + "/")[2] for line in first.requests if "/resolve/" in line} - {""}
    assert files == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def test_of_a_data_set_only_the_configuration_is_downloaded(first):
    large = [line.split(f"{GLUE}/")[1] for line in first.requests if line.startswith(f"GET /large/{GLUE}")]
    assert sorted(large) == [
        "mnli/train-00000-of-00001.parquet",
        "mnli/validation_matched-00000-of-00001.parquet",
    ]


def test_the_token_goes_to_the_hub_and_nowhere_else(first):
    assert first.tokens == {"hub": {f"Bearer {TOKEN}"}, "large": set()}
    assert TOKEN not in first.answer.out + first.answer.errors
    written = [path for path in first.user.folder.rglob("*") if path.is_file() and "home" not in path.parts]
    assert len(written) > 3
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="the server is gone"),
        pytest.param({"HF_HUB_OFFLINE": "1"}, id="HF_HUB_OFFLINE"),
    ],
)
def test_a_second_run_needs_no_hub(first, environment):
    series = f"again{len(environment)}"
    command = ["run", first.suite, "--workers", "0", "--series", series]
    (answer,) = first.user.answers(first.gone, command, **environment)
    assert answer.code == 0, answer.errors
    again = [record for record in first.records() if record["spec"]["series"] == series]
    assert [record["status"] for record in again] == ["ok"]
    assert again[0]["spec"]["model"]["revision"] == first.commits[ROBERTA]


# What goes wrong, what is said, and the next try


@dataclass(frozen=True)
class Case:
    """A repository with a fault.

    Args:
        says: What the only line on stderr has to say.
        repository: Its name; the fault is set for it.
        revision: What is asked for, or None for what the repository has.
        mends: Whether the same command succeeds once the fault is gone.
    """

    says: tuple[str, ...]
    repository: str
    revision: str | None = None
    config: str | None = "mnli"
    split: str = "validation_matched"
    mends: bool = True


MODELS = {
    "unknown": Case(
        ("'absent/model' is no folder here, and not on the hub, or private", "hf auth login"),
        "absent/model",
        mends=False,
    ),
    "no name": Case(("'a/b/c' is no folder here, and no valid name on the hub", "owner/name"), "a/b/c", mends=False),
    "revision": Case(("has no revision 'v9' on the hub", "a branch, a tag"), ROBERTA, "v9", mends=False),
    "commit": Case((f"has no revision '{ABSENT_COMMIT}'",), ROBERTA, ABSENT_COMMIT, mends=False),
    "pickled": Case(
        ("no weights in safetensors", "at revision main", "refs/pr/N", "--allow-pickle microsoft/deberta-v3-base"),
        "microsoft/deberta-v3-base",
        mends=False,
    ),
    "gated": Case(("'gated/model' is gated: ask for access at", "/gated/model,", "HF_TOKEN"), "gated/model"),
    "down": Case(("the hub (", "answered 500", "try again later"), "down/model"),
    "with pieces": Case(("answered 500", "try again later"), "down/deberta-v3"),
    "broken": Case(("the connection broke off; run the same command again",), "broken/model"),
    "truncated": Case(("the connection broke off; run the same command again",), "truncated/model"),
    "short": Case(("the connection broke off; run the same command again",), "short/model"),
    "damaged": Case(("arrived damaged: model.safetensors", "run the same command again"), "damaged/model"),
}
DATA = {
    "unknown": Case(("data set 'absent/data' is not on the hub, or private",), "absent/data", "main", mends=False),
    "revision": Case(("has no revision 'v9' on the hub",), GLUE, "v9", mends=False),
    "commit": Case((f"has no revision '{ABSENT_COMMIT}'",), GLUE, ABSENT_COMMIT, mends=False),
    "configuration": Case(
        ("unknown configuration 'mnil'; did you mean 'mnli'? (known: ax, mnli)",), GLUE, config="mnil", mends=False
    ),
    "no configuration": Case(
        ("has several configurations: say its `name:`, one of ax, mnli",), GLUE, config=None, mends=False
    ),
    "split": Case(
        ("unknown split 'validation'", "did you mean 'validation_matched'?"), GLUE, split="validation", mends=False
    ),
    "gated": Case(("is gated: ask for access at", "/datasets/gated/data,"), "gated/data"),
    "down": Case(("answered 500", "try again later"), "down/data"),
    "down on a branch": Case(("answered 500", "try again later"), "down/branch", "main"),
    "broken": Case(("the connection broke off; run the same command again",), "broken/data"),
    "truncated": Case(("the connection broke off; run the same command again",), "truncated/data"),
    "short": Case(("the connection broke off; run the same command again",), "short/data"),
    "damaged": Case(("arrived damaged: mnli/train-00000-of-00001.parquet",), "damaged/data"),
}
CASES = {("model", name): case for name, case in MODELS.items()} | {("data", name): case for name, case in DATA.items()}


@pytest.fixture(scope="module")
def told(tmp_path_factory, roberta, deberta) -> tuple[dict[tuple[str, str], Answer], dict[tuple[str, str], Answer]]:
    """What every case said with its fault, and afterwards without."""
    folder = tmp_path_factory.mktemp("faulty")
    user = User(tmp_path_factory.mktemp("unlucky"))
    write_model(user.folder / "base")
    write_data(user.folder / "tickets.csv")
    commits = {case.repository: add_model(folder, case.repository, roberta)
               for case in MODELS.values() if case.repository not in ("absent/model", "a/b/c")}  # fmt: skip
    add_model(folder, "down/deberta-v3", deberta)
    pickled = {name: content for name, content in roberta.items() if not name.endswith(".safetensors")}
    add_model(folder, "microsoft/deberta-v3-base", {**pickled, "spm.model": b"pieces"})
    commits |= {case.repository: add_dataset(folder, case.repository, glue())
                for case in DATA.values() if case.repository != "absent/data"}  # fmt: skip
    suites = {}
    for (kind, name), case in CASES.items():
        label = f"{kind}-{name.replace(' ', '-')}"
        if kind == "model":
            model = f"{{model: {case.repository}, revision: '{case.revision or 'main'}'}}"
            task = "{task: tickets, data: tickets.csv, text: subject, label: queue}"
            suites[kind, name] = user.suite(label, model=model, task=task)
        else:
            revision = f"'{case.revision or commits[case.repository]}'"
            task = hub_task(case.repository, revision, case.config, case.split)
            suites[kind, name] = user.suite(label, model="base", task=task)
    with serve(folder) as hub:
        hub.faults.gated = {"gated/model", "gated/data"}
        hub.faults.status = {"down/*": 500}
        hub.faults.broken = {"broken/model/*.safetensors": 5000, "broken/data/mnli/*": 500}
        hub.faults.truncated = {"truncated/model/*.safetensors": 5000, "truncated/data/mnli/*": 500}
        hub.faults.short = {"short/model/*.safetensors": 5000, "short/data/mnli/*": 500}
        hub.faults.damaged = {"damaged/model/*.safetensors", "damaged/data/mnli/train*"}
        answers = user.answers(hub, *(["plan", suite] for suite in suites.values()))
        hub.faults.clear()
        hub.faults.gated, hub.faults.granted = {"gated/model", "gated/data"}, {TOKEN}
        mended = [key for key, case in CASES.items() if case.mends]
        again = user.answers(hub, *(["plan", suites[key]] for key in mended))
    return dict(zip(suites, answers, strict=True)), dict(zip(mended, again, strict=True))


@pytest.mark.parametrize("key", CASES, ids=" ".join)
def test_a_fault_is_one_line_with_what_to_do(told, key):
    answer = told[0][key]
    lines = [line for line in answer.errors.splitlines() if not line.startswith("looking for ")]
    assert answer.code == 2, answer
    assert len(lines) == 1 and lines[0].startswith("lora-bench: "), answer.errors
    assert CASES[key].repository in lines[0]
    for part in CASES[key].says:
        assert part in lines[0]
    assert "Traceback" not in answer.errors and TOKEN not in answer.errors + answer.out


@pytest.mark.parametrize("key", [key for key, case in CASES.items() if case.mends], ids=" ".join)
def test_the_same_command_succeeds_once_the_fault_is_gone(told, key):
    assert told[1][key].code == 0, told[1][key].errors


# Data sets


PLAIN_CSV = "text,label\n" + "".join(f"row {row},{row % 2}\n" for row in range(50))
LINES = "".join(json.dumps({"text": f"line {row}", "label": "ab"[row % 2]}) + "\n" for row in range(20))


@pytest.mark.slow
def test_csv_and_jsonl_repositories_whose_configuration_is_not_named(tmp_path):
    csv = add_dataset(tmp_path / "hub", "owner/PlainCsv", {"train.csv": PLAIN_CSV, "test.csv": PLAIN_CSV[:40]})
    lines = add_dataset(tmp_path / "hub", "owner/lines", {"README.md": "# made\n", "data/train.jsonl": LINES})
    card = "---\nconfigs:\n- config_name: plain\n  data_files: part/*.jsonl\n---\n"
    named = add_dataset(
        tmp_path / "hub", "owner/named", {"README.md": card, "part/1.jsonl": LINES, "part/2.jsonl": LINES}
    )
    user = User(tmp_path / "user")
    asked = [
        ("owner/PlainCsv", None, "train", csv),
        ("owner/lines", None, "train", "main"),
        ("owner/named", None, "train", named),
    ]
    expected = [
        [csv, [f"row {row}" for row in range(50)], None],
        [lines, [f"line {row}" for row in range(20)], None],
        [named, [f"line {row}" for row in range(20)] * 2, None],
    ]
    with serve(tmp_path / "hub") as hub:
        hub.faults.slow_seconds = 0.05
        assert user.rows(hub, *asked) == expected
        asked_before = len(hub.requests)
        assert user.rows(hub, asked[0], asked[2]) == [expected[0], expected[2]]
        said = [line for line in hub.requests[asked_before:] if "owner/" in line]
        assert said == []  # a commit that has been prepared is not asked for again
    assert user.rows(hub, *asked, HF_HUB_OFFLINE="1") == expected


def test_a_file_cut_short_that_nothing_but_its_hash_betrays_is_not_used(tmp_path):
    """A csv file of half the rows is valid, and its announced length is the one that arrives."""
    commit = add_dataset(tmp_path / "hub", "owner/name", {"train.csv": PLAIN_CSV})
    user, asked = User(tmp_path / "user"), ("owner/name", None, "train", commit)
    with serve(tmp_path / "hub") as hub:
        hub.faults.short["owner/name/train.csv"] = PLAIN_CSV.index("row 25")
        assert "arrived damaged: train.csv" in user.rows(hub, asked)[0]
        hub.faults.clear()
        assert len(user.rows(hub, asked)[0][1]) == 50


@pytest.mark.slow
def test_without_the_hub_a_commit_is_never_answered_with_another(tmp_path):
    old = add_dataset(tmp_path / "hub", "owner/name", {"README.md": "# made\n", "train.csv": "text,label\nold,1\n"})
    new = add_dataset(tmp_path / "hub", "owner/name", {"README.md": "# made\n", "train.csv": "text,label\nnew,1\n"})
    both, late = User(tmp_path / "both"), User(tmp_path / "late")
    with serve(tmp_path / "hub") as hub:
        first, second = both.rows(hub, *[("owner/name", None, "train", commit) for commit in (old, "main")])
        late.rows(hub, ("owner/name", None, "train", new))
        hub.faults.broken["owner/name/train.csv"] = 3
        (answer,) = late.rows(hub, ("owner/name", None, "train", old))
        assert "the connection broke off" in answer
    assert (first[:2], second[:2]) == ([old, ["old"]], [new, ["new"]])
    asked = [("owner/name", None, "train", revision) for revision in (old, "main", ABSENT_COMMIT)]
    *again, answer = both.rows(hub, *asked)
    assert again == [first, second]
    assert f"'owner/name' is not in the cache, and the hub ({hub.endpoint}) could not be reached" in answer
    begun, answer = late.rows(hub, asked[0], asked[2], HF_HUB_OFFLINE="1")
    # Here `datasets` alone would give the rows of the commit that it has.
    assert f"'owner/name' is in the cache at another commit than {old}" in begun
    assert "HF_HUB_OFFLINE forbids downloads" in answer


# SentencePiece


@pytest.mark.parametrize(
    "text",
    [
        "The film was quite lovely.",
        "a  story\twith\nspaces ",
        "naïve café",
        "cafe\u0301",
        "ＴＨＥ ｆｉｌｍ １２",
        "ﬁne… 34™",
        "the\u00a0end\u3000was\u200bpoor",
        "the 😀 映画",
        "",
    ],
)
def test_a_deberta_tokenizer_gives_the_ids_of_the_sentencepiece_library(deberta, text):
    tokenizer = load_tokenizer(_found(deberta))
    normalise_as_trained(tokenizer, deberta)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(deberta / "spm.model"))
    cls, sep = pieces.piece_to_id(["[CLS]", "[SEP]"])
    assert tokenizer(text)["input_ids"] == [cls, *pieces.encode(text), sep]
    assert tokenizer(text, "the end")["input_ids"] == [cls, *pieces.encode(text), sep, *pieces.encode("the end"), sep]


@pytest.mark.parametrize("package", ["sentencepiece", "google.protobuf"])
def test_a_tokenizer_that_only_sentencepiece_reads_names_the_extra_that_is_missing(deberta, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        LoraBenchError, match=r"is spm\.model, which needs SentencePiece: pip install .*\[sentencepiece\]"
    ):
        load_tokenizer(_found(deberta))


def test_a_deberta_tokenizer_normalises_alike_from_its_saved_json(deberta, tmp_path):
    tokenizer = load_tokenizer(_found(deberta))
    normalise_as_trained(tokenizer, deberta)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    normalise_as_trained(again, tmp_path)
    assert (tmp_path / "tokenizer.json").exists() and not (tmp_path / "spm.model").exists()
    assert (
        again("ﬁne… １２")["input_ids"] == tokenizer("ﬁne… １２")["input_ids"] == tokenizer("fine... 12")["input_ids"]
    )


def _found(folder: Path) -> BaseModel:
    return find_model(folder.name, base=folder.parent)
