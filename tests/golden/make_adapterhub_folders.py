"""Write the adapters that `test_adapters.py` imports, as AdapterHub's own `save_adapter` writes them.

Run it in an environment of its own, since `adapters` pins an older transformers than this project uses:

    python -m venv oracle && oracle/bin/pip install adapters==1.3.0 torch
    oracle/bin/python tests/golden/make_adapterhub_folders.py

In `adapterhub.zip`, `base-TYPE` is a base model, and each other folder an adapter on one, with `expected.safetensors` beside
it: a batch and what the model with the adapter answers.
"""

import os
import shutil
import tempfile
from pathlib import Path

import adapters
import torch
import transformers
from adapters import DoubleSeqBnConfig, ParBnConfig, PrefixTuningConfig, SeqBnConfig
from safetensors.torch import save_file

HERE = Path(__file__).parent
WIDTH, SIZE, LABELS = 16, 4, 3
ENCODER = {
    "vocab_size": 40, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 24, "pad_token_id": 1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
CONFIGS = {
    "roberta": transformers.RobertaConfig(**ENCODER),
    "bert": transformers.BertConfig(**ENCODER),
    "electra": transformers.ElectraConfig(**ENCODER, embedding_size=WIDTH),
    "deberta-v2": transformers.DebertaV2Config(
        **ENCODER, type_vocab_size=0, relative_attention=True, pos_att_type=["p2c", "c2p"], share_att_key=True,
        position_buckets=4, norm_rel_ebd="layer_norm", position_biased_input=False,
    ),
    "gpt2": transformers.GPT2Config(
        vocab_size=40, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=24, bos_token_id=1, eos_token_id=1
    ),
}  # fmt: skip
REDUCTION = WIDTH // SIZE
# Folder: type and class of the model, head that AdapterHub adds, adapter, and whether weights are safetensors.
CASES = {
    "roberta-houlsby": (
        "roberta", "RobertaForSequenceClassification", None,
        DoubleSeqBnConfig(reduction_factor=REDUCTION, leave_out=[0]), True,
    ),
    "roberta-parallel": (
        "roberta", "RobertaAdapterModel", ("classification", {}), ParBnConfig(reduction_factor=REDUCTION), True,
    ),
    "bert-pfeiffer": (
        "bert", "BertAdapterModel", ("classification", {"layers": 1, "use_pooler": True}),
        SeqBnConfig(reduction_factor=REDUCTION), False,
    ),
    "deberta-v2-houlsby": (
        "deberta-v2", "DebertaV2AdapterModel", ("tagging", {}),
        DoubleSeqBnConfig(reduction_factor=REDUCTION, non_linearity="gelu"), True,
    ),
    # AdapterHub 1.3.0 fails to write a prefix as safetensors: the layers share it.
    "electra-prefix": ("electra", "ElectraModel", None, PrefixTuningConfig(flat=True, prefix_length=3), False),
    "gpt2-houlsby": ("gpt2", "GPT2LMHeadModel", None, DoubleSeqBnConfig(reduction_factor=REDUCTION), True),
    "gpt2-prefix": (
        # With sdpa, AdapterHub 1.3.0 leaves the prefix out of padded batches.
        "gpt2", "GPT2LMHeadModel", None, PrefixTuningConfig(prefix_length=3, bottleneck_size=5), False,
    ),
}  # fmt: skip


def perturb(weights, seed, std):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in weights:
            weight.add_(torch.randn(weight.shape, generator=generator) * std)


def write_base(model_type):
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(CONFIGS[model_type])
    perturb(model.parameters(), 0, 0.2)
    model.save_pretrained(f"base-{model_type}")


def write(name, model_type, class_name, head, config, safe):
    base, folder = f"base-{model_type}", name
    torch.manual_seed(1)
    model_class = getattr(transformers, class_name, None) or getattr(adapters, class_name)
    options = {"num_labels": LABELS} if class_name.endswith("SequenceClassification") else {}
    model = model_class.from_pretrained(base, attn_implementation="eager", **options)
    if class_name in dir(transformers):
        adapters.init(model)
    model.add_adapter("a", config=config)
    if head is not None:
        kind, keys = head
        getattr(model, f"add_{kind}_head")("a", num_labels=LABELS, **keys)
    model.train_adapter("a")
    model.set_active_adapters("a")
    model.eval()
    perturb((weight for weight in model.parameters() if weight.requires_grad), 2, 0.3)
    model.save_adapter(folder, "a", use_safetensors=safe)
    generator = torch.Generator().manual_seed(3)
    ids, mask = torch.randint(3, 40, (2, 8), generator=generator), torch.ones(2, 8, dtype=torch.long)
    ids[1, 5:], mask[1, 5:] = 1, 0
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=mask)
    answer = output.logits if "logits" in output else output.last_hidden_state
    content = {"input_ids": ids, "attention_mask": mask, "answer": answer.contiguous()}
    save_file(content, f"{folder}/expected.safetensors", metadata={"adapters": adapters.__version__})


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the files name the base model as it is named here
        for model_type in CONFIGS:
            write_base(model_type)
        for name, case in CASES.items():
            write(name, *case)
        shutil.make_archive(str(HERE / "adapterhub"), "zip", folder)
