"""Run one training over several processes."""
