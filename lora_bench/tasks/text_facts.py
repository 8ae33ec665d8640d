"""Facts about texts and their labels, before anything is trained: lengths, repeats, and texts that splits share.

Texts come as `normal` writes them: two are the same if they are equal but for case and spaces, as where rows are dealt out.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence


def spread(counts: Iterable[int]) -> tuple[int, int, int]:
    """Return the median, the 95th percentile and the maximum of at least one count."""
    numbers = sorted(counts)
    return numbers[len(numbers) // 2], numbers[min(len(numbers) - 1, int(0.95 * len(numbers)))], numbers[-1]


def repeated(texts: Sequence[str]) -> int:
    """Return the number of rows whose text stands in an earlier row."""
    return len(texts) - len(set(texts))


def contradicting(texts: Sequence[str], labels: Sequence[object]) -> int:
    """Return the number of texts that stand there with different labels."""
    first: dict[str, object] = {}
    return len({text for text, label in zip(texts, labels, strict=True) if first.setdefault(text, label) != label})


def longest_with(texts: Sequence[str]) -> list[str]:
    """Return for each text the longest that has its words in a row; of equally long ones the first of the alphabet."""
    known = {text: len(text.split()) for text in texts}
    lengths = sorted(set(known.values()))
    holders: dict[str, str] = {}
    for text in sorted(known, key=lambda text: (-known[text], text)):
        if text in holders:
            continue  # the words of this one too are among its holder's
        words = text.split()
        for length in lengths[: bisect_right(lengths, len(words))]:
            for start in range(len(words) - length + 1):
                phrase = " ".join(words[start : start + length])
                if phrase in known:
                    holders.setdefault(phrase, text)
    return [holders.get(text, text) for text in texts]


def shared_texts(splits: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], int]:
    """Return, by two splits, the rows of the first whose text stands in the second: in train, and for test in selection."""
    pairs = [("test", "train"), ("selection", "train"), ("test", "selection")]
    pairs += [(name, "train") for name in splits if name not in ("train", "selection", "test")]
    seen = {name: set(splits[name]) for name in ("train", "selection") if name in splits}
    return {
        (scored, known): sum(text in seen[known] for text in splits[scored])
        for scored, known in pairs
        if scored in splits and known in seen
    }
