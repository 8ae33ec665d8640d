"""Structured values as the input texts of the LoRA paper, and texts in the spelling of its files.

`name[X], eatType[Y]` becomes `name : X | Type : Y`, and triples become `subject : property : object | …`. Each function takes
the value of a row, in any of the shapes that files and the hub give it, and raises ValueError for another shape.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

Linearise = Literal["e2e", "webnlg", "dart", "wikisql", "samsum"]

# What the text columns of each must hold.
INPUT_COLUMNS: dict[Linearise, tuple[str, ...]] = {
    "e2e": ("meaning representations",),
    "webnlg": ("triples",),
    "dart": ("triples",),
    "wikisql": ("the table's header", "the question"),
    "samsum": ("the dialogue",),
}

_ATTRIBUTE = re.compile(r"\s*([^\[\],]+)\[([^\]]*)\]\s*(?:,|$)")

# The paper's names of E2E's attributes, where they are others.
_E2E_NAMES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}


def linearise(kind: Linearise, values: Sequence[Any]) -> str:
    """Return the input text of a row. Raise ValueError, with what was expected, for values of another shape."""
    return _FUNCTIONS[kind](*values)


def e2e(meaning: Any) -> str:
    """Return a meaning representation of E2E as text: `name[X], priceRange[£20-25]` gives `name : X | price : £ 20 - 25`.

    The paper's files have values as words: the pound sign and the hyphen of a price stand alone.
    """
    text = _text(meaning)
    pairs, end = [], 0
    while end < len(text.rstrip()):
        found = _ATTRIBUTE.match(text, end)
        if found is None:
            raise ValueError(f"must be like 'name[X], eatType[Y]', got {_short(text)}")
        pairs.append((found[1].strip(), found[2].strip()))
        end = found.end()
    if not pairs:
        raise ValueError("is empty")
    return " | ".join(f"{_E2E_NAMES.get(name, name)} : {_spaced(value)}" for name, value in pairs)


def webnlg(triples: Any) -> str:
    """Return triples of WebNLG as text: `subject : property : object`, joined by ` | `."""
    return _joined(_triples(triples))


def dart(triples: Any) -> str:
    """Return triples of DART as text, their properties in lower case."""
    return _joined((subject, property.lower(), object) for subject, property, object in _triples(triples))


def wikisql(header: Any, question: Any) -> str:
    """Return the names of a table's columns, joined by ` | `, and below them the question.

    The paper says that the input is the table's schema and the question, but not how they are written.
    """
    if not isinstance(header, Sequence) or isinstance(header, str) or not header:
        raise ValueError(f"must be the list of the table's column names, got {_short(header)}")
    return f"{' | '.join(map(_text, header))}\n{_text(question)}"


def samsum(dialogue: Any) -> str:
    """Return the utterances of a dialogue, one a line, and an empty line; the release has one dialogue without any."""
    lines = _text(dialogue or "").replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    return f"{lines}\n\n"


_FUNCTIONS: dict[str, Callable[..., str]] = {rule.__name__: rule for rule in (e2e, webnlg, dart, wikisql, samsum)}


def _spaced(value: str) -> str:
    """Return a price with its signs as separate words, and other values unchanged."""
    if "£" not in value:
        return value
    return " ".join(value.replace("£", " £ ").replace("-", " - ").split())


def _triples(value: Any) -> list[tuple[str, str, str]]:
    """Return triples from lists of three, or from texts with ` | ` between; the hub has WebNLG's in a list of one."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise ValueError(f"must be a list of triples, got {_short(value)}")
    if len(value) == 1 and not isinstance(value[0], str) and all(_is_written(triple) for triple in value[0]):
        value = value[0]
    found = []
    for triple in value:
        parts = triple.split(" | ") if isinstance(triple, str) else triple
        if not isinstance(parts, Sequence) or len(parts) != 3 or not all(isinstance(part, str) for part in parts):
            raise ValueError(f"must hold triples of subject, property and object, got {_short(triple)}")
        subject, property, object = (part.strip() for part in parts)
        found.append((subject, property, object))
    return found


def _is_written(triple: Any) -> bool:
    return isinstance(triple, str) and triple.count(" | ") == 2


def _joined(triples: Any) -> str:
    return " | ".join(" : ".join(triple) for triple in triples)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, got {_short(value)}")
    return value


def _short(value: Any) -> str:
    shown = repr(dict(value) if isinstance(value, Mapping) else value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"


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
    """Return a text in the spelling of E2E's files beside the LoRA and the prefix-tuning paper: spaces between words and signs.

    "It's a kid-friendly pub." becomes "It 's a kid - friendly pub .". The papers train on such texts and score against them.
    The rules are those of an English tokenizer: signs come off both ends of a word, then contractions, then hyphens between
    letters. They give all 4,693 texts of the papers' test file letter for letter, and all but 70 of the 4,672 of their
    validation file, which another version wrote ("isn 't"). The training file was not at hand.
    """
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
