"""The command that makes a record again, as far as a reader may paste it.

A record may be a stranger's, and its command any text: it is shown only if it is one that lora_bench writes, and without
consent to code or pickles, for which the command then asks.
"""

import re
import shlex

_VERBS = ("run", "probe", "reproduce", "import")
_OPTIONS = {"--only", "--series", "--data-dir", "--model", "--as", "--revision", "--protocol", "--seeds", "--start-from",
            "--epochs", "--train-examples", "--tasks", "--methods"}  # fmt: skip
_CONSENT = {"--allow-code", "--allow-pickle"}
# A script with a callback; its arguments are never recorded.
_SCRIPT = re.compile(r"python \w[\w.-]*\.py( …)?", re.ASCII)


def again(command: str | None) -> str | None:
    """Return a record's command for a reader, or None if there is none or lora_bench would not write it."""
    if command is None or not command.isprintable():
        return None
    if _SCRIPT.fullmatch(command):
        return command
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    if shlex.join(words) != command or words[:1] != ["lora-bench"] or not {*words[1:2]} & {*_VERBS}:
        return None
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in _CONSENT:
            next(rest, None)
        elif word.startswith("-") and word not in _OPTIONS:
            return None
        else:
            kept.append(word)
    return shlex.join(kept)
