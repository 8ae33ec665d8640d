"""From a suite to its records: scheduling, executors, probes, shared folders."""
