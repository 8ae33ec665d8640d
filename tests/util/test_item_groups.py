"""Groups of items are written shortly and read back, whoever wrote them."""

import numpy as np
import pytest

from lora_bench.util.item_groups import groups_as_text, groups_of_text


def test_only_items_that_share_a_group_are_written():
    assert groups_as_text([]) is None and groups_as_text([4, 2, 7]) is None
    assert groups_as_text([5, 5, 5, 1, 8, 2, 2, 8]) == "0-2 4,7 5-6"
    assert groups_of_text("0-2 4,7 5-6", 8) == [0, 0, 0, 3, 4, 5, 5, 4]


def test_groups_are_the_same_after_writing_and_reading():
    groups = np.random.default_rng(0).integers(60, size=300).tolist()
    read = groups_of_text(groups_as_text(groups), 300)
    assert len(set(zip(groups, read, strict=True))) == len(set(groups)) == len(set(read))
    # Documents of twenty rows, one after the other.
    assert len(groups_as_text([item // 20 for item in range(2000)])) < 1000


@pytest.mark.parametrize("text", ["0-99999999999", "0,4", "1,1", "0-2 2-3", "2-1,0,0"])
def test_groups_that_do_not_fit_the_items_are_refused(text):
    with pytest.raises(ValueError, match="group"):
        groups_of_text(text, 4)
