"""A table for `lora-bench fleet`: is a passage from this volume or from another novel? A group for each third of 94 novels.

    python -m benchmarks.novel_filters english_novels_94.tar.xz novels.csv
    lora-bench fleet novels.csv --by volume --text text --text-pair volume --label from

It stands for a filter that each of many customers has: the label means something else in each group, and every passage comes
with the name of its group, so that a shared adapter is told who asks. A passage is sentences of 16 to 28 words together. A
volume has 50 to 500 rows by a log-uniform draw from a hash of its name, so that some adapters have few training rows and others
many. Half are its own, half of other novels; no passage stands in two rows.
"""

import csv
import hashlib
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

PARTS = 3
FEWEST, MOST = 50, 500
WORDS = range(16, 29)
_SENTENCE = re.compile(r"(?<=[a-z][.!?])[\"'”’]*\s+(?=[\"'“‘]*[A-Z])")


def draw(text: str) -> float:
    """Return a number in [0, 1) that depends on the text alone."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:13], 16) / 16**13


def passages(text: str) -> Iterator[str]:
    """Yield the passages of a text, in its order."""
    words: list[str] = []
    for sentence in _SENTENCE.split(" ".join(text.split())):
        words += sentence.split()
        if len(words) >= WORDS.start:
            if len(words) in WORDS:
                yield " ".join(words)
            words = []


def volumes(archive: Path) -> dict[tuple[str, str], list[str]]:
    """Return the passages of each novel's volumes, shuffled."""
    found = {}
    with tarfile.open(archive) as files:
        for member in sorted(files.getmembers(), key=lambda member: member.name):
            file = files.extractfile(member) if member.name.endswith(".txt") else None
            if file is not None:
                text, novel = file.read().decode("utf-8", "replace"), Path(member.name).stem.rpartition("_")[0]
                for part in range(PARTS):
                    own = text[part * len(text) // PARTS : (part + 1) * len(text) // PARTS]
                    found[novel, f"{novel}, volume {part + 1}"] = sorted(dict.fromkeys(passages(own)), key=draw)
    return found


def rows(archive: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the rows of the table: passage, label and volume."""
    found = volumes(archive)
    # No passage of these is another volume's own.
    rest = [(novel, text) for (novel, _), own in found.items() for text in own[MOST // 2 :]]
    rest.sort(key=lambda one: draw(one[1]))
    for (novel, volume), own in found.items():
        wanted = round(FEWEST * (MOST / FEWEST) ** draw(volume)) // 2
        others = [place for place, (theirs, _) in enumerate(rest[: 2 * wanted]) if theirs != novel][:wanted]
        yield from ((text, "here", volume) for text in own[:wanted])
        yield from ((rest[place][1], "elsewhere", volume) for place in others)
        taken = {*others}
        rest = [one for place, one in enumerate(rest[: 2 * wanted]) if place not in taken] + rest[2 * wanted :]


def main() -> None:
    """Write the table."""
    archive, out = map(Path, sys.argv[1:])
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "from", "volume"])
        writer.writerows(rows(archive))


if __name__ == "__main__":
    main()
