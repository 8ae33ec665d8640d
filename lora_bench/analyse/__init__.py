"""What training did to the weights: the change ΔW of each run that kept its weights, and the directions it takes.

    kept weights + base model → `deltas`: ΔW of each weight → `subspaces`: norms and directions → `analyse_runs` → analysis.json

Reports render `analysis.json` without torch.
"""

from lora_bench.analyse.analyse_runs import analyse_runs

__all__ = ["analyse_runs"]
