"""Shared parts of the metrics: their declaration, their form for `evaluate`, and the libraries they use."""
