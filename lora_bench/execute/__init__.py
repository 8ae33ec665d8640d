"""Do a suite and return its records: scheduling, executors, probes, shared folders."""
