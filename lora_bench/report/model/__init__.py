"""The model of a report: its comparisons, before any of it is text."""
