"""Published tables: what papers printed, as data, and what our records say to each number.

Reading and judging need records and no torch.
"""

from lora_bench.published.comparable import Differing, expected_from, fields
from lora_bench.published.reading import known_tables, load_table, read_cells, read_table
from lora_bench.published.table import PublishedCell, PublishedTable
from lora_bench.published.verdict import Measured, Verdict, judge, judge_average, judge_table

__all__ = [
    "Differing",
    "Measured",
    "PublishedCell",
    "PublishedTable",
    "Verdict",
    "expected_from",
    "fields",
    "judge",
    "judge_average",
    "judge_table",
    "known_tables",
    "load_table",
    "read_cells",
    "read_table",
]
