"""Count of rows read of each split of the shipped tasks; tests compare them with the real files.

For generation, texts, with the distinct inputs in brackets where the files were at hand.
"""

COUNTS: dict[str, dict[str, str]] = {
    "cola": {"train": "8,551", "test": "1,043"},
    "sst2": {"train": "67,349", "test": "872"},
    "sst2_by_sentence": {"train": "67,349", "test": "872"},
    "mrpc": {"train": "3,668", "test": "408"},
    "stsb": {"train": "5,749", "test": "1,500"},
    "qqp": {"train": "363,846", "test": "40,430"},
    "mnli": {"train": "392,702", "test": "9,815", "mismatched": "9,832", "diagnostic": "1,104"},
    "qnli": {"train": "104,743", "test": "5,463"},
    "rte": {"train": "2,490", "test": "277"},
    "wnli": {"train": "635", "test": "71"},
    "e2e": {"train": "42,061", "selection": "4,672 (547)", "test": "4,693 (630)"},
    "e2e_tokens": {"train": "42,061", "selection": "4,672 (547)", "test": "4,693 (630)"},
    "webnlg": {
        "train": "18,025",
        "selection": "2,258 (870)",
        "test": "4,928 (1,862)",
        "seen": "2,495 (971)",
        "unseen": "2,433 (891)",
    },
    "dart": {"train": "62,659", "selection": "6,980 (2,721)", "test": "12,551 (4,159)"},
    "samsum": {"train": "14,732", "selection": "818", "test": "819"},
    "wikisql": {"train": "56,355", "test": "8,421"},
    "squad": {"train": "87,599", "test": "10,570"},
    "squad_v2": {"train": "130,319", "test": "11,873"},
    "newsgroups": {"train": "11,293", "test": "7,528"},
    "reuters_r8": {"train": "5,485", "test": "2,189"},
    "movie_reviews": {"all": "10,568"},
    "editorials": {"all": "5,190"},
    "product_reviews": {"all": "3,708"},
    "tweets": {"all": "4,200"},
}
