"""Executors take units, which are lists of jobs, and return records in any order: here, from workers, or from Ray."""
