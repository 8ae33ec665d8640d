"""Run specs, records, budgets and protocols; the store that publishes records, and the locks of runs."""
