"""The methods PEFT lacks, as real PEFT tuners: bottleneck adapters and key/value prefixes.

Importing this package adds `BOTTLENECK_ADAPTER` and `LORA_BENCH_PREFIX` to PEFT and does nothing else. It needs no
other part of lora_bench:

```python
from peft import get_peft_model
from lora_bench.tuners import BottleneckConfig

model = get_peft_model(model, BottleneckConfig(bottleneck_size=64, modules_to_save=["classifier"]))
```
"""

from lora_bench.tuners.bottleneck import BottleneckConfig, BottleneckLayer, BottleneckModel, bottleneck
from lora_bench.tuners.prefix import PrefixConfig, PrefixLayer, PrefixModel

__all__ = [
    "BottleneckConfig",
    "BottleneckLayer",
    "BottleneckModel",
    "PrefixConfig",
    "PrefixLayer",
    "PrefixModel",
    "bottleneck",
]
