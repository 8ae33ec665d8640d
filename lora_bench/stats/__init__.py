"""Statistics of comparisons of scores over seeds and test items.

    difference = paired_difference(lora, full, draw_seed=seed_from(*run_ids), items=(lora_items, full_items))
    verdicts = judge({"lora": difference, ...}, margin=0.005)

Input is plain numbers, dictionaries from seeds to scores, and numpy arrays; records are not used here. docs/statistics.md
explains the computations and verdicts, and gives the coverage found in simulations.
"""

from lora_bench.stats.across import MacroDifference, macro_difference
from lora_bench.stats.crossed import Crossed, crossed_bootstrap, seed_from
from lora_bench.stats.estimate import ChoiceError, Estimate, Interval, Summary, Uncertainty, clopper_pearson, summarise
from lora_bench.stats.failures import Cancelling, Rate, Risk, collapsed, rate, with_failures_at_floor
from lora_bench.stats.family import Adjusted, MarginClaims, holm, margin_claims
from lora_bench.stats.gate import Confirmation, History, JudgedSeries, Shift, confirm, judge_night
from lora_bench.stats.groups import tie_letters
from lora_bench.stats.items import ItemMetric, Items, ItemScores, in_groups, item_difference
from lora_bench.stats.paired import Difference, PairedDifference, SignFlip, paired_difference, sign_flip
from lora_bench.stats.power import Needed, seeds_needed
from lora_bench.stats.rates import Trials, trials_of
from lora_bench.stats.trials import expected_best
from lora_bench.stats.verdict import UNDECLARED, FixedSeeds, JudgeSettings, Verdict, grade, judge

__all__ = [
    "UNDECLARED", "Adjusted", "Cancelling", "ChoiceError", "Confirmation", "Crossed", "Difference", "Estimate",
    "FixedSeeds", "History", "Interval", "ItemMetric", "ItemScores", "Items", "JudgeSettings", "JudgedSeries",
    "MacroDifference", "MarginClaims", "Needed", "PairedDifference", "Rate", "Risk", "Shift", "SignFlip",
    "Summary", "Trials", "Uncertainty", "Verdict", "clopper_pearson", "collapsed", "confirm", "crossed_bootstrap",
    "expected_best", "grade", "holm", "in_groups", "item_difference", "judge", "judge_night", "macro_difference",
    "margin_claims", "paired_difference", "rate", "seed_from", "seeds_needed", "sign_flip", "summarise",
    "tie_letters", "trials_of", "with_failures_at_floor",
]  # fmt: skip
