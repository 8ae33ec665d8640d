"""Small inputs that once took minutes, or were taken for something else, are refused in a sentence."""

import gzip
import json
import os
import sys
import unicodedata
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_bench.cli import main
from lora_bench.errors import BadInput, LoraBenchError, UnsupportedPair
from lora_bench.kinds.exercises.generation.chat_format import ChatFormat
from lora_bench.kinds.support.row_values import normal
from lora_bench.methods.contract import with_size
from lora_bench.methods.peft import Peft
from lora_bench.models.loading import load_model
from lora_bench.models.registry import find_model
from lora_bench.tasks import files
from lora_bench.tasks.files import Layout, read_file
from lora_bench.tuners.inferred_family import family_of_model
from lora_bench.util.redaction import without_secrets
from tests.chats import write_chat_model
from tests.project import SUITE, write_model

ONE = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]")
NONE = "[full, lora, bottleneck_adapter, prefix_tuning]"


def planned(suite, capsys):
    Path("tickets.yaml").write_text(suite)
    code = main(["plan", "tickets.yaml"])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_long_names_of_dots_are_redacted():
    long = "a." * 50_000
    assert without_secrets(long) == long
    assert without_secrets(f"{long}token=verysecret") == f"{long}token=***"
    assert without_secrets(f"{long}x://me:pass@host") == f"{long}x://***@host"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no timers of a process")
@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        pytest.param(
            "{% for a in 'x' * 99999 %}{% for b in 'x' * 99999 %}{% endfor %}{% endfor %}", marks=pytest.mark.slow
        ),
    ],
)
def test_a_chat_template_of_nested_loops_ends(tmp_path, template):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(write_chat_model(tmp_path / "base", "llama"))
    with pytest.raises(LoraBenchError, match="the chat template takes more than 5 s"):
        ChatFormat(tokenizer, template)


def test_a_file_of_gzip_unpacks_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_UNPACKED_BYTES", 2**20)
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"text,label\n" + b"a,b\n" * 2**19))
    with pytest.raises(BadInput, match="unpacks to more than 1 MiB"):
        read_file(tmp_path / "x.csv", Layout(format="csv"))


def test_a_parquet_file_has_a_limit_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_PARQUET_ROWS", 1_000)
    for rows, refused in ((1_000, False), (1_001, True)):
        table = pyarrow.table({"text": ["a"] * rows, "label": ["b"] * rows})
        pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
        if refused:
            with pytest.raises(BadInput, match="has 1,001 rows; at most 1,000"):
                read_file(tmp_path / "x.parquet", Layout(format="parquet"))
        else:
            read_file(tmp_path / "x.parquet", Layout(format="parquet"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes and devices among its files")
def test_a_text_for_retention_is_a_regular_file(project, capsys):
    write_model(project / "base", "gpt2")
    os.mkfifo(project / "pipe")
    for text in ("pipe", "/dev/zero"):
        code, _, said = planned(f"{ONE}retention: {{text: {text}}}\n", capsys)
        assert code == 2 and "retention" in said and "not a regular file" in said


def test_a_setting_that_fails_in_the_run_is_refused_before_it(project, capsys):
    code, _, said = planned(f"{ONE}training_arguments: {{dataloader_num_workers: -1}}\n", capsys)
    assert code == 2 and "training_arguments.dataloader_num_workers: must be 0" in said


@pytest.mark.parametrize(
    "options",
    ['{target_modules: "^(([a-z0-9_.])+)+$X"}', "{init_lora_weights: pissa_niter_100000000, target_modules: [query]}"],
)
def test_options_of_peft_that_never_end_are_refused(project, capsys, options):
    code, _, said = planned(ONE.replace("[lora]", f"[{{method: peft, type: LORA, options: {options}}}]"), capsys)
    assert code == 2 and "options may not have" in said


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", ["1e-300", "0", ".inf", ".nan"])
def test_a_margin_that_no_number_of_seeds_reaches_is_refused(project, capsys, margin):
    looks = ONE.replace("[lora]", "[full, lora]").replace(
        "seeds: [0]",
        f"seeds: {{until: decided, at_least: 3, at_most: 8}}\nanalysis: {{reference: full, margin: {margin}}}",
    )
    code, _, said = planned(looks, capsys)
    assert code == 2 and "analysis.margin" in said and "Traceback" not in said
    code, _, said = planned(looks.replace(f"margin: {margin}", "margin: 1e-9"), capsys)
    assert code == 0 and "Traceback" not in said


def test_a_margin_of_an_option_has_the_same_limit(project, capsys):
    for command in (["choose", "runs"], ["compare", "a", "b"], ["check", "runs", "--baseline", "a"]):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--margin", "1e-300"])
        assert ended.value.code == 2 and "must be at least 1e-09" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["./none", "/none", "../none", "~/none"])
def test_a_name_of_a_folder_is_not_looked_up_on_the_hub(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(LoraBenchError, match="there is no such folder"):
        find_model(name, base=tmp_path)


@pytest.mark.parametrize(
    ("name", "near"),
    [("./my-modle", "./my-model"), ("models/my-modle", "models/my-model"), ("./gpt2-mnii", "gpt2-mini")],
)
def test_a_mistyped_folder_of_a_model_names_the_nearest(tmp_path, monkeypatch, name, near):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for folder in ("my-model", "models/my-model", "my-modle-notes"):
        (tmp_path / folder).mkdir(parents=True)
        if "notes" not in folder:
            (tmp_path / folder / "config.json").write_text("{}")
    with pytest.raises(LoraBenchError, match=f"did you mean '{near}'"):
        find_model(name, base=tmp_path)


def changed(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def test_a_configuration_with_fewer_layers_than_weights_is_refused(tmp_path):
    changed(write_model(tmp_path / "base"), num_hidden_layers=1)
    with pytest.raises(LoraBenchError, match="has too few layers for 16 of its weights"):
        load_model(find_model("base", base=tmp_path), kind="classification", labels=2)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.complex64])
def test_weights_that_are_no_floating_point_numbers_are_refused(tmp_path, dtype):
    folder = write_model(tmp_path / "base")
    weights = {name: weight.to(dtype) for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LoraBenchError, match=r"weights of the type .* are not read"):
        find_model("base", base=tmp_path)


@pytest.mark.parametrize(("key", "value"), [("num_attention_heads", -2), ("layer_norm_eps", -1), ("vocab_size", -5)])
def test_numbers_that_no_model_has_are_refused(tmp_path, key, value):
    changed(write_model(tmp_path / "base"), **{key: value})
    with pytest.raises(LoraBenchError, match=f"its config.json has {key} .*must be 0 or more"):
        find_model("base", base=tmp_path)


def test_a_tiny_model_may_have_more_rotary_positions_than_weights(tmp_path):
    changed(write_chat_model(tmp_path / "base", "llama"), max_position_embeddings=131_072)
    load_model(find_model("base", base=tmp_path), kind="generation", labels=0)


def test_the_sites_of_a_type_are_those_of_the_structure():
    """Falcon with one key for all heads was once given the sites of another Falcon in the same process."""
    from transformers import FalconConfig, FalconForSequenceClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64, "pad_token_id": 0}
    several = FalconForSequenceClassification(FalconConfig(**sizes, multi_query=False, new_decoder_architecture=False))
    single = FalconForSequenceClassification(FalconConfig(**sizes, multi_query=True, new_decoder_architecture=False))
    for _ in range(2):
        assert family_of_model(several).name == "falcon"
        with pytest.raises(UnsupportedPair):
            family_of_model(single)


# --- data ------------------------------------------------------------------------------------------------------------


def test_two_forms_of_one_text_are_one():
    composed = "Café"
    assert normal((composed,)) == normal((unicodedata.normalize("NFD", composed),))
    assert normal((composed,)) != normal(("Cafe",))


def test_a_test_split_of_one_class_is_a_warning(project, capsys):
    lines = (project / "tickets.csv").read_text().splitlines()
    praise = [line for line in lines if line.endswith(",praise")]
    (project / "test.csv").write_text("\n".join([lines[0], *praise[:40]]) + "\n")
    suite = ONE.replace("data: tickets.csv", "data: {train: tickets.csv, test: test.csv}")
    code, said, _ = planned(suite, capsys)
    assert code == 0 and "test has the class praise alone" in " ".join(said.split())


def test_one_label_in_two_forms_of_unicode_is_a_warning(project, capsys):
    composed, apart = "é", unicodedata.normalize("NFD", "é")
    text = (project / "tickets.csv").read_text().replace("praise", composed)
    half = len(text) // 2
    (project / "tickets.csv").write_text(text[:half] + text[half:].replace(composed, apart), encoding="utf-8")
    code, said, _ = planned(ONE, capsys)
    assert code == 0 and "is two labels, in two forms of Unicode" in " ".join(said.split())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
def test_records_have_the_permissions_that_the_user_asks_for(tmp_path):
    """In a process of its own, since the mask is read once."""
    import subprocess

    code = (
        "import os, sys; os.umask(0o077); from pathlib import Path; from lora_bench.util.atomic_files import write_atomic; "
        "path = Path(sys.argv[1]); write_atomic(path, b'x'); print(oct(path.stat().st_mode & 0o777), oct(os.umask(0)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0o600", "0o77"]


# --- methods ---------------------------------------------------------------------------------------------------------


def test_a_size_of_peft_keeps_the_ratio_of_alpha():
    assert with_size(Peft(type="LORA", size_option="r", size_value=8), 12).options["lora_alpha"] == 12
    given = Peft(type="LORA", size_option="r", size_value=8, options={"lora_alpha": 16})
    assert with_size(given, 12).options["lora_alpha"] == 24 and with_size(given, 8) == given
    rooted = Peft(type="LORA", size_option="r", size_value=4, options={"lora_alpha": 16, "use_rslora": True})
    assert with_size(rooted, 16).options["lora_alpha"] == 32


def test_prompts_are_refused_for_tokens_before_a_run(tmp_path, monkeypatch):
    from transformers import RobertaForTokenClassification

    from tests.tiny import tiny_roberta

    model = RobertaForTokenClassification(tiny_roberta().config)
    with pytest.raises(UnsupportedPair, match="answers its own prompts as words too"):
        Peft(type="PROMPT_TUNING", size_option="num_virtual_tokens", size_value=4).apply(model, head=["classifier"])


def test_a_model_without_a_class_of_the_kind_is_a_row_with_its_reason(project, capsys):
    """It once ended the plan of the whole suite."""
    from transformers import MambaConfig, MambaModel

    from tests.project import write_tokenizer

    config = MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4, pad_token_id=1)
    MambaModel(config).save_pretrained(project / "mamba")
    write_tokenizer(project / "mamba")
    code, said, err = planned(ONE.replace("[base]", "[base, mamba]"), capsys)
    assert code == 0, err
    assert "transformers has no mamba of the kind SequenceClassification" in " ".join(said.split())
