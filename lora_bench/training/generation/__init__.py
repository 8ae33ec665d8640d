"""Generation with a causal model: training examples, and completions of prompts.

`encode` makes examples of inputs and completions, `decode` writes completions, `beams` has the search that it uses. Importing
this package or `encode` loads no torch; `decode` does.
"""

from lora_bench.training.generation.encode import CompletionCollator, encode_completions, encode_prompts

__all__ = ["CompletionCollator", "encode_completions", "encode_prompts"]
