"""Pairs of rows: computed at once they are what they are one by one, and alone where something belongs to single rows."""

import numpy as np
import pytest

from lora_bench import judge
from lora_bench.records.analysis import Analysis
from lora_bench.report.model.ranking import each_pair
from lora_bench.report.model.seed_scores import all_gains_and_p, gain_and_p, scored


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("missing", [0, 2, 5])
def test_pairs_at_once_are_those_one_by_one(apart, missing):
    generator = np.random.default_rng(missing)
    # The last method lacks seeds; the losses of another are all the same.
    table = [
        {"method": method, "seed": seed, "loss": 1.0 if method == "d" else 1 + place / 50 + generator.normal(0, 0.02)}
        for place, method in enumerate("abcde")
        for seed in range(8 - (missing if method == "e" else 0))
    ]
    (setting,) = judge(table).report.comparison.results
    rows = [scored(row, setting, lambda run_id: None) for row in setting.tables[0].rows]
    analysis = Analysis(reference="a")
    one_by_one = each_pair(5, lambda one, other: gain_and_p(rows[one], rows[other], analysis, apart=apart))
    gains, p_values = all_gains_and_p(rows, analysis, apart=apart)
    assert gains == pytest.approx(one_by_one[0]) and p_values == pytest.approx(one_by_one[1], nan_ok=True)
    assert np.isnan(p_values).sum() == (4 if missing == 5 else 0)
