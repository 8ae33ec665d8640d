"""Plan the jobs of a suite: inputs, fitted sizes, chosen learning rates, estimated cost."""
