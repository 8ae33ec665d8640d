"""Generation with a causal model: examples to learn from, and the texts that the model completes its prompts with.

`encode` makes examples of inputs and completions, `decode` writes completions, `beams` holds the search that it uses.
Importing this package or `encode` loads no torch; `decode` does.
"""

from lora_bench.training.generation.encode import CompletionCollator, encode_completions, encode_prompts

__all__ = ["CompletionCollator", "encode_completions", "encode_prompts"]
