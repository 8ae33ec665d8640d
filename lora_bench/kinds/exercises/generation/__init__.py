"""Generation: training examples and texts for inputs.

`encode` makes examples of inputs and texts to write, and `chat_format` those of conversations. `decode` writes texts.
"""
