"""The section of a report on probes."""
