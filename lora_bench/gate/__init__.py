"""The nightly gate: has what this suite measures changed since the accepted nights of its baseline?

A night is one repeat of a suite under a series label of its own (`lora-bench run SUITE --series LABEL`). It is held against the
accepted nights of a baseline, small files in git, series by series; the answer tells a regression from runs that failed and
from too little history. Everything here is made of records and loads no torch. See `docs/gate.md`.
"""

from lora_bench.gate.baseline import read_nights, tonight_in, write_night
from lora_bench.gate.judge import judge
from lora_bench.gate.night_answer import Answer
from lora_bench.gate.read_night import night_of, read_night
from lora_bench.gate.series import Night

__all__ = ["Answer", "Night", "judge", "night_of", "read_night", "read_nights", "tonight_in", "write_night"]
