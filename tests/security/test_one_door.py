"""Files of strangers are read by `lora_bench.util.regular_files`: every other reading of a file in the package has a reason."""

import ast
import os
import re
import sys
from pathlib import Path

import pytest

import lora_bench
from lora_bench.errors import LoraBenchError
from lora_bench.families import FAMILIES
from lora_bench.util.endless_work import slow_part
from lora_bench.util.regular_files import read_object, tensor_headers

PACKAGE = Path(lora_bench.__file__).parent

# Calls that open a file themselves, by the last part of their name. `json.loads` and `yaml.compose` read what was read.
READERS = {
    "open", "fdopen", "FileIO", "read_text", "read_bytes", "safe_open", "load_file", "from_pretrained", "from_file",
    "load_peft_weights", "fromfile", "memmap", "ZipFile", "copyfile", "copytree", "read_csv", "iterparse",
}  # fmt: skip
MODULES = {"json": {"load"}, "np": {"load"}, "torch": {"load"}, "pickle": {"load"}, "yaml": {"load", "load_all"}}

OURS = "a file of the package"
SYSTEM = "a file of the operating system"
WRITTEN = "written, or made by this process"
CHECKED = "read by a library after the checks of the door"
CACHE = "the user's own cache, checked by hash"

ALLOWED = {
    "cli/gate_commands.py": {"Path(summary).open": WRITTEN},
    "cli/parser.py": {"os.open": SYSTEM},
    "documents.py": {"path.open": "the door of YAML: regular files of at most 1 MB"},
    "exchange/adapters/portable_adapter.py": {"load_file": CHECKED},
    "execute/executors/fork_server.py": {"os.open": SYSTEM},
    "execute/executors/local.py": {"self.log.open": WRITTEN},
    "util/processes.py": {"Path('/proc/self/cgroup').read_text": SYSTEM, "place.read_text": SYSTEM},
    "execute/executors/ray.py": {"self._log.open": WRITTEN},
    "execute/progress.py": {"os.open": SYSTEM},
    "gate/other_environments.py": {"log.open": WRITTEN, "log.read_text": WRITTEN},
    "training/predict.py": {"made.open": WRITTEN, "made.read_bytes": WRITTEN},
    "gate/rerun.py": {"log.open": WRITTEN},
    "methods/prefix_tuning.py": {"AutoTokenizer.from_pretrained": CHECKED},
    "models/find_family.py": {"AutoConfig.from_pretrained": CHECKED},
    "models/loading.py": {
        "AutoConfig.from_pretrained": CHECKED,
        "AutoTokenizer.from_pretrained": CHECKED,
        "_automatic(kind, base_model.model_type).from_pretrained": CHECKED,
    },
    "models/made_folder.py": {"(folder / MANIFEST).read_bytes": CACHE},
    "models/minilm.py": {"(PACKAGE / 'data/minilm-l6/README.md').read_text": OURS},
    "models/mpnet.py": {
        "zipfile.ZipFile": CACHE, "archive.open": CACHE, "(folder / name).open": WRITTEN, "shutil.copyfile": OURS,
    },
    "models/safety.py": {"shutil.copyfile": CHECKED, "torch.load": "the one pickle that the command line names"},
    "models/sentencepiece.py": {"Tokenizer.from_file": CHECKED},
    "models/shipped.py": {"(folder / name).read_bytes": OURS},
    "plan/fit_minutes.py": {"os.fdopen": WRITTEN},
    "plan/what_fits.py": {"AutoConfig.from_pretrained": CHECKED},
    "plugin/infer_spec.py": {"Path(file).read_bytes": "the user's own script"},
    "probe/inference.py": {"safe_open": WRITTEN},
    "records/checkpoint_files.py": {"(target / name).open": WRITTEN},
    "records/environment.py": {"Path('/proc/cpuinfo').read_text": SYSTEM, "file.read_text": SYSTEM},
    "records/run_lock.py": {"(folder / LOCK).open": WRITTEN, "os.fdopen": WRITTEN, "os.open": WRITTEN},
    "report/html.py": {f"(ASSETS / '{name}').read_text": OURS for name in ("card.css", "page.css", "page.js")},
    "suite/from_table.py": {"_TEMPLATE.read_text": OURS},
    "testing.py": {"PeftModel.from_pretrained": WRITTEN, "type(base).from_pretrained": WRITTEN},
    "training/kept_weights.py": {"PeftModel.from_pretrained": CHECKED, "loaded.from_pretrained": CHECKED},
    "training/measure/counters.py": {"Path('/proc/self/status').read_text": SYSTEM},
    "training/process_cache.py": {"file.read_text": OURS},
    "training/token_cache.py": {"lock.open": WRITTEN},
    "training/warm_start.py": {"load_file": CHECKED, "load_peft_weights": CHECKED},
    "training/winner.py": {"shutil.copyfile": CHECKED},
    "tuners/sites.py": {"readme.read_text": WRITTEN},
    "util/atomic_files.py": {
        "Path('/proc/self/mountinfo').read_text": SYSTEM, "os.fdopen": WRITTEN, "os.open": WRITTEN,
    },
    "util/hub.py": {"path.open": "the hub's own cache, checked by hash"},
    "util/pip_assets.py": {"log.open": WRITTEN, "log.read_text": WRITTEN, "zipfile.ZipFile": CACHE, "tarfile.open": CACHE},
    "util/process_identity.py": {"path.read_text": SYSTEM},
    "util/regular_files.py": {"io.FileIO": "the door", "os.open": "the door", "safe_open": "the door"},
}  # fmt: skip


def readings(source):
    """The calls of a module that open a file."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            owner, _, name = ast.unparse(node.func).rpartition(".")
            own = owner == "" and name not in ("open", "safe_open", "load_file", "load_peft_weights")
            if (name in READERS and not own) or name in MODULES.get(owner, ()):
                found.add(ast.unparse(node.func))
    return found


def test_every_other_reading_has_a_reason():
    found = {
        path.relative_to(PACKAGE).as_posix(): readings(path.read_text(encoding="utf-8"))
        for path in PACKAGE.rglob("*.py")
    }
    assert {name: calls for name, calls in found.items() if calls} == {
        name: set(reasons) for name, reasons in ALLOWED.items()
    }


def test_a_new_reading_is_found():
    assert readings("json.load(x)\nPath(a).read_text()\nwith open(b) as c: pass\nnp.load(d)") == {
        "json.load", "Path(a).read_text", "open", "np.load",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[1]", "must be an object, got list"),
        (b"{", "cannot be read"),
        (b'{"a": NaN}', "NaN is no JSON"),
        (b'{"a": 1e999}', "beyond the greatest number"),
        (b'{"a": ' + b"9" * 400 + b"}", "beyond the greatest number"),
        (b'{"a": ' + b"[" * 100_000 + b"}", "nested too deeply"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b" " * 200, "larger than"),
    ],
    ids=["list", "cut", "NaN", "infinite", "digits", "deep", "half a character", "binary", "long"],
)
def test_an_object_is_read_or_refused_in_one_sentence(tmp_path, content, said):
    (tmp_path / "x.json").write_bytes(content)
    limit = 100 if said == "larger than" else 2**20
    with pytest.raises(LoraBenchError, match=said) as refused:
        read_object(tmp_path / "x.json", "x.json", limit)
    assert str(refused.value).startswith("x.json") and "\n" not in str(refused.value)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes among its files")
def test_pipes_folders_and_missing_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("pipe", "not a regular file"), ("", "directory"), ("none", "No such file")):
        for read in (read_object, tensor_headers):
            with pytest.raises(LoraBenchError, match=f"(?i){said}"):
                read(tmp_path / name, "it")


SLOW = [
    "^(([a-z0-9_.])+)+$X", "(.*)*x", r"(\w+\.)+X", ".*.*.*.*.*X", "(a|a)" * 40, "(.?){30}X", ".?" * 40, "(" * 5000,
    "(s|se|sel)(e|el|elf)" * 20, "pissa_niter_999999", f"pissa_niter_{'9' * 5000}",
]  # fmt: skip


@pytest.mark.parametrize("text", SLOW, ids=range(len(SLOW)))
def test_settings_that_may_take_for_ever_are_found(text):
    assert slow_part({"target_modules": text}) is not None
    assert slow_part({"rank_pattern": {text: 8}}) is not None


@pytest.mark.parametrize(
    "text",
    [
        "all-linear", "q_proj", r".*\.(q|v)_proj", r"model\.layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)",
        r"^(?!.*vision).*\.layers\.([0-9]|1[0-9])\..*(query|value)$", "pissa_niter_16", "(", "owner/na(me", "x" * 100_000,
    ],
)  # fmt: skip
def test_usual_settings_are_not(text):
    assert slow_part({"target_modules": text, "r": 8, "layers": [1, 2]}) is None


def test_patterns_of_families_are_not():
    for family in FAMILIES:
        pattern = family.pattern(family.self_attention)
        assert re.compile(pattern) and slow_part(pattern) is None
