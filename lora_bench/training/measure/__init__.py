"""Costs of a step and a run: FLOPs, bytes, seconds, tokens."""
