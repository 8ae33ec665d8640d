"""Write the reference values that `test_adapterhub.py` compares with, by AdapterHub's own code.

Run it in an environment of its own, since `adapters` pins an older transformers than this project uses:

    python -m venv oracle && oracle/bin/pip install adapters==1.3.0 torch
    oracle/bin/python tests/golden/make_adapterhub.py

A file for each base model has its weights under `base.` and, under the name of each kind of adapter, that one's weights under
our names, the batch, the last hidden states, and the gradients of their sum weighted with random numbers (0 at padding). The
versions are in the files' metadata.
"""

from pathlib import Path

import adapters
import torch
import transformers
from adapters import DoubleSeqBnConfig, ParBnConfig, PrefixTuningConfig, SeqBnConfig
from safetensors.torch import save_file
from transformers import (
    BartConfig,
    BartModel,
    DebertaV2Config,
    DebertaV2Model,
    GPT2Config,
    GPT2Model,
    RobertaConfig,
    RobertaModel,
)

HERE = Path(__file__).parent
WIDTH, LAYERS, HEADS, SIZE, PREFIX, UNITS = 16, 2, 2, 4, 3, 5
VERSIONS = {"adapters": adapters.__version__, "transformers": transformers.__version__, "torch": torch.__version__}

ENCODER = {
    "vocab_size": 40, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "intermediate_size": 24, "max_position_embeddings": 24, "pad_token_id": 1,
}  # fmt: skip
MODELS = {
    "roberta": (RobertaModel, RobertaConfig(**ENCODER, attn_implementation="eager")),
    "deberta-v3": (
        DebertaV2Model,
        DebertaV2Config(
            **ENCODER, type_vocab_size=0, relative_attention=True, pos_att_type=["p2c", "c2p"], share_att_key=True,
            position_buckets=4, norm_rel_ebd="layer_norm", position_biased_input=False,
        ),
    ),
    "gpt2": (
        # With sdpa, AdapterHub 1.3.0 leaves the prefix out of padded batches.
        GPT2Model,
        GPT2Config(
            vocab_size=40, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=24, attn_implementation="eager"
        ),
    ),
    "bart": (
        BartModel,
        BartConfig(
            vocab_size=40, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_attention_heads=HEADS,
            decoder_attention_heads=HEADS, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=24,
            pad_token_id=1, attn_implementation="eager",
        ),
    ),
}  # fmt: skip
REDUCTION = WIDTH // SIZE
KINDS = {
    "houlsby": DoubleSeqBnConfig(reduction_factor=REDUCTION),
    "pfeiffer": SeqBnConfig(reduction_factor=REDUCTION),
    "parallel": ParBnConfig(reduction_factor=REDUCTION),
    "prefix": PrefixTuningConfig(flat=True, prefix_length=PREFIX),
    "computed_prefix": PrefixTuningConfig(prefix_length=PREFIX, bottleneck_size=UNITS),
}
# On GPT-2, AdapterHub puts pfeiffer and parallel at another place than this project does, which has no parallel on BART.
LEFT_OUT = {"gpt2": ("pfeiffer", "parallel"), "bart": ("parallel", "prefix", "computed_prefix")}

SITES = {
    "attention.output.adapters.a.": "attention.output.dropout.",
    "output.adapters.a.": "output.dropout.",
    "attention_adapters.adapters.a.": "attn.resid_dropout.",
    "output_adapters.adapters.a.": "mlp.dropout.",
}
BART_SITES = {
    "houlsby": {"attention_adapters.adapters.a.": "self_attn.out_proj.", "output_adapters.adapters.a.": "fc2."},
    "pfeiffer": {"output_adapters.adapters.a.": "final_layer_norm."},
}


def ours(name, kind, path, tensor):
    """An adapter's tensor under the names of this project's tuners; one of AdapterHub's may be several of ours."""
    attention = "h.{}.attn" if name == "gpt2" else "encoder.layer.{}.attention.self"
    if kind in ("houlsby", "pfeiffer", "parallel"):
        sites = BART_SITES[kind] if name == "bart" else SITES
        theirs = next(site for site in sites if site in path)
        here = path.replace(theirs, sites[theirs] if kind == "houlsby" or name == "bart" else "output.")
        return {here.replace("adapter_down.0", "bottleneck_down").replace("adapter_up", "bottleneck_up"): tensor}
    if kind == "prefix":
        table = tensor.view(PREFIX, 2 * LAYERS, WIDTH)
        parts = [
            (f"{attention.format(n // 2)}.prefix_{('key', 'value')[n % 2]}", table[:, n]) for n in range(2 * LAYERS)
        ]
        return dict(parts)
    part = path.partition("self_prefix.")[2]
    if part.startswith("control_trans.2."):
        rows = tensor.unflatten(0, (LAYERS, 2 * WIDTH))
        return {f"{attention.format(n)}.prefix_projection.{part.rpartition('.')[2]}": rows[n] for n in range(LAYERS)}
    part = part.replace("wte.weight", "prefix_embedding").replace("control_trans.0", "prefix_hidden")
    return {f"{attention.format(0)}.{part}": tensor}


def under(prefix, tensors):
    return {f"{prefix}.{path}": tensor.detach().contiguous().clone() for path, tensor in tensors.items()}


def batch_of(name, generator):
    ids = torch.randint(3, 40, (2, 8), generator=generator)
    mask = torch.ones_like(ids)
    ids[1, 5:], mask[1, 5:] = (0 if name == "gpt2" else 1), 0
    return ids, mask


def base(name):
    model_class, config = MODELS[name]
    torch.manual_seed(0)
    model = model_class(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return model


def with_adapter(name, kind):
    model = base(name)
    adapters.init(model)
    model.add_adapter("a", config=KINDS[kind])
    model.train_adapter("a")
    model.set_active_adapters("a")
    model.eval()
    trained = {path: weight for path, weight in model.named_parameters() if weight.requires_grad}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in trained.values():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.4)
    ids, mask = batch_of(name, generator)
    states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    weighting = torch.randn(states.shape, generator=generator) * mask[..., None]
    (states * weighting).sum().backward()
    weights, gradients = {}, {}
    for path, weight in trained.items():
        weights |= ours(name, kind, path, weight.detach())
        gradients |= ours(name, kind, path, weight.grad)
    content = {"input_ids": ids, "attention_mask": mask, "weighting": weighting, "states": states.detach()}
    return under(kind, content | under("adapter", weights) | under("gradient", gradients))


if __name__ == "__main__":
    for name in MODELS:
        content = under("base", base(name).state_dict())
        for kind in KINDS:
            if kind not in LEFT_OUT.get(name, ()):
                content |= with_adapter(name, kind)
        save_file(content, HERE / f"{name}.safetensors", metadata=VERSIONS)
