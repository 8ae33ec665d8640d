"""Base models: find them, load them, check their files, and rewrite them where a model family needs it."""
