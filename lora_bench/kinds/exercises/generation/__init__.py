"""Generation: training examples, texts for inputs, and losses on right texts.

`encode` makes examples of inputs and completions for a causal model, `encode_pairs` those for a model with an encoder and a
decoder, and `chat_format` those of conversations. `decode` writes texts, `beams` has the search that it uses, and `likelihood`
the losses. Importing this package, or what makes examples, loads no torch; the others do.
"""
