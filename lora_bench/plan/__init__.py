"""From a suite to its jobs: inputs, fitted sizes, chosen learning rates, estimated cost."""
