"""Redact text from outside before it is shown or stored: no secrets, and nothing that controls a terminal or a CI runner.

Names, reasons and messages of exceptions may come from a downloaded file, a server or other people's records. Exceptions of
HTTP libraries often repeat the requested address, with the password before its @.
"""

import functools
import os
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"

# Patterns begin where a secret is announced: one that begins at each word takes quadratic time.
# The part of an address before the @, and tokens of the hub and of services that people use beside it.
_IN_ADDRESS = re.compile(r"(?P<scheme>[a-zA-Z0-9+.-]://)[^\s/?#'\"<>]*@")
_TOKEN = re.compile(
    r"hf_[A-Za-z0-9]{20,}|\b(?:hf_oauth_|api_org_|ghp_|gho_|ghs_|github_pat_|glpat-|pypi-|sk-)[A-Za-z0-9_-]{8,}"
)
_HEADER = re.compile(
    r"(?i)(?P<name>\bbearer\s+|\bauthorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic|token)\s+)?)"
    r"(?!(?:bearer|basic|token)\b)[\w.~+/=-]{6,}"
)
_IN_QUERY = re.compile(r"(?i)(?P<name>(?:token|secret|password|passwd|api_?key|signature|credential)=)[^\s&;,'\"<>]+")
# Variables whose value is a secret, by the end of their names.
_SECRET_NAMES = re.compile(r"(?i).*(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIALS?)")
_COMMAND = re.compile(r"##\[|^[^\S\n]*::", re.MULTILINE)
# Shorter values occur in innocent text too.
_SECRET_CHARACTERS = 8


def without_secrets(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Return *text* with passwords, tokens and the values of secret variables replaced by `***`."""
    if len(text) < _SECRET_CHARACTERS:
        return text
    environment = os.environ if environment is None else environment
    values = {environment[name].strip() for name in environment if _is_secret(name)}
    # The longest first, because one may be part of another.
    for value in sorted((value for value in values if len(value) >= _SECRET_CHARACTERS), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    text = _IN_ADDRESS.sub(rf"\g<scheme>{HIDDEN}@", text)
    text = _TOKEN.sub(HIDDEN, text)
    text = _HEADER.sub(rf"\g<name>{HIDDEN}", text)
    return _IN_QUERY.sub(rf"\g<name>{HIDDEN}", text)


def without_secrets_in(value: Any) -> Any:
    """Return plain data, such as JSON, with `without_secrets` applied to every text and key in it."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {without_secrets_in(key): without_secrets_in(inner) for key, inner in value.items()}
    return [without_secrets_in(inner) for inner in value] if isinstance(value, list | tuple) else value


# A report needs these for each of its texts.
@functools.lru_cache(maxsize=4096)
def _is_secret(name: str) -> bool:
    return _SECRET_NAMES.fullmatch(name) is not None


def visible(text: str, *, lines: bool = False) -> str:
    """Return *text* without terminal controls: control characters become spaces, marks of text direction are removed.

    GitHub's runner takes `##[error]` for a command anywhere in a line, and `::error::` at its beginning. *lines* keeps line
    ends.
    """
    if not text.isprintable():
        text = "".join(character if lines and character == "\n" else _visible(character) for character in text)
    # Last, because removed characters may have stood in between.
    return _COMMAND.sub(lambda match: f"{match[0][:-1]} {match[0][-1]}", text)


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Cc", "Zl", "Zp"):
        return " "
    # Cf holds the marks of text direction; a lone surrogate (Cs) cannot be encoded as UTF-8.
    return "" if category == "Cf" else "\N{REPLACEMENT CHARACTER}" if category == "Cs" else character


def message(text: str) -> str:
    """Redact a message for a terminal or a log, of one line or several."""
    return visible(without_secrets(text), lines=True)
