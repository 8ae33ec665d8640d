"""The methods PEFT lacks, as real PEFT tuners: bottleneck adapters, key/value prefixes, LoRA on slices of a weight.

Importing this package adds `BOTTLENECK_ADAPTER`, `LORA_BENCH_PREFIX` and `LORA_BENCH_FUSED_LORA` to PEFT and does
nothing else. It needs no other part of lora_bench:

```python
from peft import get_peft_model
from lora_bench.tuners import BottleneckConfig

model = get_peft_model(model, BottleneckConfig(bottleneck_size=64, modules_to_save=["classifier"]))
```
"""

from lora_bench.tuners.bottleneck import BottleneckConfig, BottleneckLayer, BottleneckModel, bottleneck
from lora_bench.tuners.fused_lora import FusedLoraConfig, FusedLoraLayer, FusedLoraModel
from lora_bench.tuners.prefix import PrefixConfig, PrefixLayer, PrefixModel

__all__ = [
    "BottleneckConfig",
    "BottleneckLayer",
    "BottleneckModel",
    "FusedLoraConfig",
    "FusedLoraLayer",
    "FusedLoraModel",
    "PrefixConfig",
    "PrefixLayer",
    "PrefixModel",
    "bottleneck",
]
