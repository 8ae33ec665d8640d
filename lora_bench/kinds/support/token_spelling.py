"""Texts in the spelling of E2E's files beside the LoRA and the prefix-tuning paper: words and signs with spaces between.

"It's a kid-friendly pub." becomes "It 's a kid - friendly pub .". The papers train on such texts and score against them. The
rules are those of an English tokenizer: signs come off both ends of a word, then contractions, then hyphens between letters.
They give all 4,693 texts of the papers' test file letter for letter, and all but 70 of the 4,672 of their validation file,
which another version wrote ("isn 't"). The training file was not at hand.
"""

from __future__ import annotations

import re

_QUOTES = "'\"’‘“”`´"
_LETTER = r"[^\W\d_]"
_AFTER_LETTER = rf"(?<={_LETTER})"

_FIRST = re.compile(rf"\.\.+|…|[{_QUOTES}£$€,:;!?()\[\]{{}}<>_#*&§%=—–]|\+(?![0-9])")
_LAST = re.compile(
    rf"(?:['’][sS]|\.\.+|…|[{_QUOTES},:;!?()\[\]{{}}<>_#*&—–]|(?<=[0-9])[+£$€%]"
    # A full stop stays with a single capital, as in "J."
    rf"|(?:(?<=[^\W_A-Z])|(?<=[%²+\-)\]{_QUOTES}])|(?<=[A-Z][A-Z]))\.)$"
)
_BETWEEN = re.compile(
    rf"(\.\.+|…|(?<=[0-9])[+\-*^](?=[0-9-])|(?:(?<=[^\W\d_A-Z])|(?<=[{_QUOTES}]))\.(?=[A-Z{_QUOTES}])"
    rf"|{_AFTER_LETTER}(?:,|--+|[-—–~:<>=/])(?={_LETTER}))"
)
_CONTRACTION = re.compile(r"(.+?)(n['’]t|['’](?:ll|re|ve|d|m))|(that)(s)|(can)(not)", flags=re.IGNORECASE)


def as_tokens(text: str) -> str:
    """Return a text with a space between words and signs."""
    return " ".join(part for word in text.split() for part in _parts(word))


def _parts(word: str) -> list[str]:
    before: list[str] = []
    after: list[str] = []
    while word:
        contraction = _CONTRACTION.fullmatch(word)
        if contraction is not None:
            return [*before, *(part for part in contraction.groups() if part), *after]
        first, last = _FIRST.match(word), _LAST.search(word)
        if first is not None:
            before.append(first[0])
            word = word[first.end() :]
        elif last is not None:
            after.insert(0, last[0])
            word = word[: last.start()]
        else:
            break
    return [*before, *(part for part in _BETWEEN.split(word) if part), *after]
