"""Published tables: numbers that papers printed, and verdicts of our records on each. Judging them needs no torch."""

from lora_bench.published.cell_verdict import CellVerdict, Measured, judge, judge_average, judge_table
from lora_bench.published.comparable import Differing, expected_from, fields
from lora_bench.published.reading import Disagreement, disagreements, known_tables, load_table, read_cells, read_table
from lora_bench.published.table import PublishedCell, PublishedTable

__all__ = [
    "CellVerdict", "Differing", "Disagreement", "Measured", "PublishedCell", "PublishedTable", "disagreements",
    "expected_from", "fields", "judge", "judge_average", "judge_table", "known_tables", "load_table", "read_cells",
    "read_table",
]  # fmt: skip
