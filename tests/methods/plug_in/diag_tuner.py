"""Diagonal LoRA as a tuner of PEFT: y = W x + B (d * (A x)), with a trained vector d between the factors of LoRA."""

from dataclasses import dataclass, field

import torch
from torch import nn

from lora_bench.errors import UnsupportedPair
from lora_bench.tuners import Tuner, TunerConfig, TunerLayer, register_tuner


@dataclass(kw_only=True)
class DiagConfig(TunerConfig):
    """Settings, as adapter_config.json keeps them."""

    r: int = field(default=8)

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = DIAG_LORA


class DiagLayer(TunerLayer):
    """A linear module with the weights of any number of adapters beside it, by their names."""

    adapter_layer_names = ("diag_A", "diag_B", "diag_d")

    def __init__(self, base_layer):
        super().__init__(base_layer)
        self.diag_A, self.diag_B, self.diag_d = (nn.ParameterDict() for _ in range(3))

    def update_layer(self, name, config, device):
        """Add an adapter without effect yet: B is zero."""
        outputs, inputs = self.base_layer.weight.shape
        self.diag_A[name] = nn.Parameter(torch.randn(config.r, inputs, device=device) / inputs**0.5)
        self.diag_B[name] = nn.Parameter(torch.zeros(outputs, config.r, device=device))
        self.diag_d[name] = nn.Parameter(torch.ones(config.r, device=device))

    def forward(self, x):
        """Return the output of the module with the updates of the active adapters."""
        y = self.base_layer(x)
        for name in self.live_adapters():
            y = y + (x @ self.diag_A[name].T * self.diag_d[name]) @ self.diag_B[name].T
        return y


class DiagModel(Tuner):
    """A base model with `DiagLayer` in place of queries and values."""

    prefix = "diag_"  # of the weights that PEFT frees and saves
    tuner_layer_cls = DiagLayer
    title = "diagonal LoRA"

    def site_pattern(self, config, family, model_config):
        """Return a regular expression of the modules to replace; refuse what the method cannot adapt."""
        if family.fused:
            raise UnsupportedPair(
                f"diagonal LoRA is not written for query, key and value in one weight ({family.name})"
            )
        return family.targets("query", "value")

    def new_layer(self, base_layer, config, family, model_config, path):
        """Return the new module."""
        return DiagLayer(base_layer)


DIAG_LORA = register_tuner("DIAG_LORA", DiagConfig, DiagModel)
