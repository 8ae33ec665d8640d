"""The section of a report on probes, and the claims of papers that probes check."""
