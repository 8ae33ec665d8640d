"""Base models: find them, load them, check their files, and rewrite them where a family needs it."""
