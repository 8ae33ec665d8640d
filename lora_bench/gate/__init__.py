"""Nightly gate: compare a suite's results with the accepted nights of its baseline.

A night is one repeat of a suite under its own series label (`lora-bench run SUITE --series LABEL`). It is compared series by
series with the baseline, whose accepted nights are small files in git. The answer separates regressions from failed runs and
from too little history. The gate reads records only and loads no torch. See `docs/gate.md`.
"""

from lora_bench.gate.baseline import read_nights, tonight_in, write_night
from lora_bench.gate.judge import judge
from lora_bench.gate.night_answer import Answer
from lora_bench.gate.read_night import night_of, read_night
from lora_bench.gate.series import Night

__all__ = ["Answer", "Night", "judge", "night_of", "read_night", "read_nights", "tonight_in", "write_night"]
