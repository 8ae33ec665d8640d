"""PEFT tuners for the methods that PEFT lacks.

They are bottleneck adapters, key/value prefixes, activations and embeddings of virtual tokens, LoRA on slices of a fused
weight, tuning of some of the base's own weights, and combinations of adapters. Importing this package adds
`BOTTLENECK_ADAPTER`, `LORA_BENCH_PREFIX`, `LORA_BENCH_PREFIX_LAYER`, `LORA_BENCH_PREFIX_EMBEDDING`, `LORA_BENCH_FUSED_LORA`,
`LORA_BENCH_SELECTED` and `LORA_BENCH_COMBINED` to PEFT, and does nothing else. It needs no other part of lora_bench:

```python
from peft import get_peft_model
from lora_bench.tuners import BottleneckConfig

model = get_peft_model(model, BottleneckConfig(bottleneck_size=64, modules_to_save=["classifier"]))
```
"""

from lora_bench.tuners.activations import PrefixActivationConfig, PrefixActivationLayer, PrefixActivationModel
from lora_bench.tuners.bottleneck import BottleneckConfig, BottleneckLayer, BottleneckModel, bottleneck
from lora_bench.tuners.combination import CombinedConfig, CombinedModel
from lora_bench.tuners.embeddings import PrefixEmbeddingConfig, PrefixEmbeddingLayer, PrefixEmbeddingModel
from lora_bench.tuners.fused_lora import FusedLoraConfig, FusedLoraLayer, FusedLoraModel
from lora_bench.tuners.mixed_batches import mix_adapters
from lora_bench.tuners.prefix import PrefixConfig, PrefixLayer, PrefixModel, fold
from lora_bench.tuners.registration import register as register_tuner
from lora_bench.tuners.selected import SelectedConfig, SelectedModel
from lora_bench.tuners.sites import Tuner, TunerConfig, TunerLayer
from lora_bench.tuners.words import prefix_from_words

__all__ = [
    "BottleneckConfig", "BottleneckLayer", "BottleneckModel", "CombinedConfig", "CombinedModel", "FusedLoraConfig",
    "FusedLoraLayer", "FusedLoraModel", "PrefixActivationConfig", "PrefixActivationLayer", "PrefixActivationModel",
    "PrefixConfig", "PrefixEmbeddingConfig", "PrefixEmbeddingLayer", "PrefixEmbeddingModel", "PrefixLayer", "PrefixModel",
    "SelectedConfig", "SelectedModel", "Tuner", "TunerConfig", "TunerLayer", "bottleneck", "fold", "mix_adapters",
    "prefix_from_words", "register_tuner",
]  # fmt: skip
