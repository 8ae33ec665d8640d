"""Records, probes and verdicts as pandas frames."""
