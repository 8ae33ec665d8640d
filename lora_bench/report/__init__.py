"""x."""
from lora_bench.report.frame import to_frame
