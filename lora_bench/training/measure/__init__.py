"""What a step and a run cost: FLOPs, bytes, seconds, tokens."""
