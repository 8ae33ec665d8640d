"""Generation: `encode` makes examples of texts and `chat_format` of conversations; `decode` writes texts."""
