"""Adapters of AdapterHub and prefixes of PEFT answer the same once they are folders of our tuners.

AdapterHub's folders and answers were written by its own code: tests/golden/make_adapterhub_folders.py.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaModel

from lora_bench.cli import main
from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.exchange.adapters import import_adapter
from lora_bench.exchange.adapters.adapterhub import refuse_other_mathematics
from tests.tiny import LAYERS, VOCABULARY, tiny_batch, tiny_bert, tiny_gpt2, tiny_roberta, tiny_t5

LENGTH = 3
# Class of transformers that has what the folder holds, and labels of its head.
FOLDERS = {
    "roberta-houlsby": ("RobertaForSequenceClassification", 3),
    "roberta-parallel": ("RobertaForSequenceClassification", 3),
    "bert-pfeiffer": ("BertForSequenceClassification", 3),
    "deberta-v2-houlsby": ("DebertaV2ForTokenClassification", 3),
    "electra-prefix": ("ElectraModel", None),
    "gpt2-houlsby": ("GPT2LMHeadModel", None),
    "gpt2-prefix": ("GPT2LMHeadModel", None),
}


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """AdapterHub's folders."""
    folder = tmp_path_factory.mktemp("adapterhub")
    shutil.unpack_archive(Path(__file__).parents[1] / "golden" / "adapterhub.zip", folder)
    return folder


def base_of(golden, name):
    return str(golden / f"base-{name.rpartition('-')[0]}")


def settings(folder):
    return json.loads((folder / "adapter_config.json").read_text())


def copy_of(golden, name, tmp_path, **changes):
    """A copy of one of AdapterHub's folders with some keys of its config changed."""
    folder = shutil.copytree(golden / name, tmp_path / "changed")
    about = settings(folder)
    about["config"] |= changes
    (folder / "adapter_config.json").write_text(json.dumps(about))
    return folder


def loaded(base, class_name, folder, **options):
    model = getattr(transformers, class_name).from_pretrained(base, **options)
    return PeftModel.from_pretrained(model, folder).eval()


def answer(model, **batch):
    with torch.no_grad():
        output = model(**batch)
    return output.logits if "logits" in output else output.last_hidden_state


# --- AdapterHub ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOLDERS)
def test_an_adapter_of_adapterhub_answers_as_it_did_there(name, tmp_path, golden):
    class_name, labels = FOLDERS[name]
    adapter = import_adapter(golden / name, tmp_path / "ours", base=base_of(golden, name), allow_pickle=True)
    assert (adapter.model_class, adapter.labels) == (class_name, labels)
    model = loaded(base_of(golden, name), class_name, tmp_path / "ours", **({"num_labels": labels} if labels else {}))
    expected = load_file(golden / name / "expected.safetensors")
    batch = {key: expected[key] for key in ("input_ids", "attention_mask")}
    got, want = answer(model, **batch), expected["answer"]
    real = batch["attention_mask"].bool() if want.dim() == 3 else slice(None)
    assert (got - want)[real].abs().max() <= 1e-6 * max(1, want[real].abs().max())
    with model.disable_adapter():
        assert (answer(model, **batch) - want)[real].abs().max() > 0.01


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("roberta-parallel", {"scaling": "learned"}, "trains its scaling"),
        ("roberta-houlsby", {"phm_layer": True}, "options that our tuners lack: phm_layer: True"),
        ("roberta-houlsby", {"inv_adapter": "nice"}, "options that our tuners lack: inv_adapter: 'nice'"),
        ("roberta-houlsby", {"rotation": 3}, "options that our tuners lack: rotation"),
        ("roberta-houlsby", {"mh_adapter": False}, "elsewhere than houlsby, pfeiffer, parallel"),
        ("roberta-houlsby", {"non_linearity": "gelu_new"}, "unknown non-linearity 'gelu_new'"),
        ("roberta-houlsby", {"leave_out": []}, r"encoder\.layer\.0\.attention\.output\.dropout\S* has the shape of no"),
        ("roberta-houlsby", {"architecture": "lora"}, "holds lora of AdapterHub; bottleneck adapters and prefixes"),
        ("gpt2-prefix", {"use_gating": True}, "options that our tuners lack: use_gating: True"),
        ("gpt2-prefix", {"non_linearity": "relu"}, "options that our tuners lack: non_linearity: 'relu'"),
        ("gpt2-houlsby", {"mh_adapter": False, "original_ln_before": True}, "with the residual stream added, ours the"),
        ("gpt2-houlsby", {"mh_adapter": False, "is_parallel": True}, "reads the residual stream, ours its LayerNorm"),
    ],
)
def test_what_our_tuners_do_not_compute_is_refused_with_the_difference(name, changes, said, tmp_path, golden):
    with pytest.raises(LoraBenchError, match=said):
        import_adapter(
            copy_of(golden, name, tmp_path, **changes), tmp_path / "ours", base=base_of(golden, name), allow_pickle=True
        )
    assert not (tmp_path / "ours").exists()


def test_a_prefix_on_t5_is_refused_as_its_text_would_move():
    with pytest.raises(UnsupportedPair, match="moves the positions of the text by the length of the prefix"):
        refuse_other_mathematics("prefix", tiny_t5())


def test_a_pickle_is_read_only_if_it_is_allowed(tmp_path, golden):
    with pytest.raises(LoraBenchError, match="can run code when read; if you trust its author, add --allow-pickle"):
        import_adapter(golden / "bert-pfeiffer", tmp_path / "ours", base=base_of(golden, "bert-pfeiffer"))


def test_a_head_that_no_model_of_transformers_has_is_refused(tmp_path, golden):
    folder = shutil.copytree(golden / "roberta-parallel", tmp_path / "changed")
    head = json.loads((folder / "head_config.json").read_text())
    head["config"]["use_pooler"] = True
    (folder / "head_config.json").write_text(json.dumps(head))
    with pytest.raises(LoraBenchError, match=r"has its head \(classification\) on roberta; remove head_config.json"):
        import_adapter(folder, tmp_path / "ours", base=base_of(golden, "roberta-parallel"))
    (folder / "head_config.json").unlink()
    assert import_adapter(folder, tmp_path / "ours", base=base_of(golden, "roberta-parallel")).head == {}


def test_an_adapter_of_another_base_model_is_refused(tmp_path, golden):
    tiny_roberta().base_model.save_pretrained(tmp_path / "wider")
    with pytest.raises(LoraBenchError, match=r"does not fit roberta as its config.json describes it: .*\(4, 16\)"):
        import_adapter(golden / "roberta-parallel", tmp_path / "ours", base=str(tmp_path / "wider"))


# --- PEFT's own prefix tuning ----------------------------------------------------------------------------------------


def prefix_of_peft(model, folder, task_type, **options):
    """A model with a trained prefix of PEFT, saved in a folder."""
    theirs = get_peft_model(model, PrefixTuningConfig(task_type=task_type, num_virtual_tokens=LENGTH, **options)).eval()
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in theirs.prompt_encoder.parameters():
            weight.normal_()
    theirs.save_pretrained(folder)
    return theirs


@pytest.mark.parametrize(
    "options", [{}, {"prefix_projection": True, "encoder_hidden_size": 5}], ids=["plain", "computed"]
)
@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_a_prefix_of_peft_on_gpt2_answers_and_writes_as_it_did(padding_side, options, tmp_path):
    tiny_gpt2().save_pretrained(tmp_path / "base")
    theirs = prefix_of_peft(tiny_gpt2(), tmp_path / "theirs", "CAUSAL_LM", **options)
    adapter = import_adapter(tmp_path / "theirs", tmp_path / "ours", base=str(tmp_path / "base"))
    assert adapter.model_class == "GPT2LMHeadModel"
    ours = loaded(tmp_path / "base", "GPT2LMHeadModel", tmp_path / "ours")
    batch = tiny_batch(padding_side=padding_side)
    real = batch["attention_mask"].bool()
    assert (answer(ours, **batch) - answer(theirs, **batch))[real].abs().max() <= 2e-6
    # PEFT 0.21 leaves the prefix out of what transformers 5.24 generates, so its forward pass writes.
    written = prompt = tiny_batch((7, 7))["input_ids"]
    for _ in range(6):
        written = torch.cat([written, answer(theirs, input_ids=written)[:, -1:].argmax(-1)], dim=1)
    how = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    assert torch.equal(ours.generate(prompt, **how), written)
    with ours.disable_adapter():
        assert torch.equal(answer(ours, **batch), answer(tiny_gpt2(), **batch))


@pytest.mark.parametrize("make", [tiny_roberta, tiny_bert])
def test_a_prefix_of_peft_on_an_encoder_answers_as_it_did(make, tmp_path):
    make().save_pretrained(tmp_path / "base")
    theirs = prefix_of_peft(make().base_model, tmp_path / "theirs", "FEATURE_EXTRACTION")
    adapter = import_adapter(tmp_path / "theirs", tmp_path / "ours", base=str(tmp_path / "base"))
    ours = loaded(tmp_path / "base", adapter.model_class, tmp_path / "ours")
    batch = tiny_batch()
    real = batch["attention_mask"].bool()
    assert (answer(ours, **batch) - answer(theirs, **batch))[real].abs().max() <= 2e-6


@pytest.mark.parametrize("make", [tiny_roberta, tiny_bert])
def test_a_prefix_of_peft_on_a_classifier_brings_its_head(make, tmp_path):
    make().base_model.save_pretrained(tmp_path / "base")
    theirs = prefix_of_peft(make(), tmp_path / "theirs", "SEQ_CLS")
    adapter = import_adapter(tmp_path / "theirs", tmp_path / "ours", base=str(tmp_path / "base"))
    ours = loaded(tmp_path / "base", adapter.model_class, tmp_path / "ours", num_labels=adapter.labels)
    batch = tiny_batch()
    # PEFT looks for an argument that transformers 5.24 renamed, so the prefix goes into the cache by hand.
    classifier = theirs.get_base_model()
    mask = torch.cat([torch.ones(2, LENGTH, dtype=torch.long), batch["attention_mask"]], dim=1)
    with torch.no_grad():
        outputs = classifier.base_model(batch["input_ids"], attention_mask=mask, cache=theirs.get_prompt(2))
        read = outputs[1] if make is tiny_bert else outputs[0]
        want = classifier.classifier(read)
    assert (answer(ours, **batch) - want).abs().max() <= 2e-6


def test_a_prefix_of_peft_in_a_model_with_rotated_positions_is_refused(tmp_path):
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4
    )
    LlamaModel(config).save_pretrained(tmp_path / "base")
    prefix_of_peft(LlamaModel(config), tmp_path / "theirs", "FEATURE_EXTRACTION")
    with pytest.raises(UnsupportedPair, match=r"a text starts at the position of its length.*LlamaModel has none"):
        import_adapter(tmp_path / "theirs", tmp_path / "ours", base=str(tmp_path / "base"))


# --- folders and commands --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"peft_type": "LORA"}', "holds LORA, which PEFT loads as it is"),
        ('{"config": {}}', "does not name its base model: give --base MODEL"),
        ('{"config": {}, "model_name": "x"}', "was saved by adapter-transformers"),
        ("{}", "is neither AdapterHub's nor PEFT's"),
        ("[]", "must be an object, got list"),
        ("{", "cannot be read"),
    ],
)
def test_other_folders_are_refused(content, said, tmp_path, golden):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(content)
    base = base_of(golden, "roberta-houlsby") if "model_name" in content else None
    with pytest.raises(LoraBenchError, match=said):
        import_adapter(tmp_path / "adapter", tmp_path / "ours", base=base)


def test_a_folder_with_files_is_not_written_over(tmp_path, golden):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "mine.txt").touch()
    with pytest.raises(LoraBenchError, match="is there already: give --out a new folder"):
        import_adapter(golden / "gpt2-houlsby", tmp_path / "ours", base=base_of(golden, "gpt2-houlsby"))


def test_weights_that_no_adapter_has_are_refused(tmp_path, golden):
    folder = copy_of(golden, "gpt2-houlsby", tmp_path)
    tensors = load_file(folder / "adapter.safetensors")
    save_file(tensors | {"transformer.h.0.gate.weight": torch.zeros(1)}, folder / "adapter.safetensors")
    with pytest.raises(LoraBenchError, match=r"h\.0\.gate\.weight is no weight of a houlsby adapter on gpt2"):
        import_adapter(folder, tmp_path / "ours", base=base_of(golden, "gpt2-houlsby"))


def test_the_commands_print_the_folder_and_lines_that_load_it(tmp_path, capsys, monkeypatch, golden):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base_of(golden, "roberta-houlsby"), "base")
    assert main(["import", "adapter", str(golden / "roberta-houlsby"), "--out", "ours", "--base", "base"]) == 0
    folder, _, *lines = capsys.readouterr().out.splitlines()
    assert folder == "ours" and "num_labels=3" in "".join(lines)
    made: dict[str, object] = {}
    exec("\n".join(lines), made)
    assert made["model"].peft_config["default"].skip_layers == [0]
