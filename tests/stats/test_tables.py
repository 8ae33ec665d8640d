"""Tables of simulations are joined to fewer rows without losing a figure."""

from benchmarks.tables import folded, unfolded

HEAD = ["| world | seeds | share | level |", "| --- | ---: | ---: | ---: |"]


def test_rows_of_one_world_become_one_row_and_come_back():
    rows = ["| calm | 3 | .01 | .05 |", "| calm | 5 | .02 | .05 |", "| wild | 3 | .4 | .05 |"]
    short = list(folded([*HEAD, *rows]))
    assert short == [*HEAD, "| calm | 3/5 | .01/.02 | .05 |", "| wild | 3 | .4 | .05 |"]
    assert unfolded(short[2:]) == [["calm", "3", ".01", ".05"], ["calm", "5", ".02", ".05"], ["wild", "3", ".4", ".05"]]
