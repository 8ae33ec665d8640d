"""A run over several processes."""
