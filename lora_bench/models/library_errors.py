"""Turn any exception of a library about a model's folder into one sentence that names the file.

A configuration can hold any value, and each library fails on a wrong one in its own way. A user can mend the folder, so every
such failure is a `LoraBenchError`. Only a full disk or memory is left as it is: it says nothing about the folder.
"""

import contextlib
from collections.abc import Iterator

from lora_bench.errors import SHOWN_CHARACTERS, LoraBenchError
from lora_bench.records.outcomes import is_disk_full, is_out_of_memory

# Errors whose message is a sentence; that of any other, such as a KeyError, needs its type to be understood.
_SAY_IT_ALL = (ValueError, TypeError, OSError, RuntimeError, ImportError)


@contextlib.contextmanager
def in_a_sentence(fault: str) -> Iterator[None]:
    """Raise a library's error within this block as a `LoraBenchError`: *fault*, on model and file, and then its message."""
    try:
        yield
    except LoraBenchError:
        raise
    except Exception as error:  # a library meets a file that may hold anything
        if is_out_of_memory(error) or is_disk_full(error):
            raise
        raise LoraBenchError(f"{fault}: {sentence(error)}") from error


def sentence(error: BaseException) -> str:
    """Return an error's message in one line of bounded length, with its type where the message needs it."""
    said = " ".join(str(error).split())
    if len(said) > SHOWN_CHARACTERS:
        said = f"{said[:SHOWN_CHARACTERS]}…"
    if not said:
        return type(error).__name__
    return said if isinstance(error, _SAY_IT_ALL) else f"{type(error).__name__}: {said}"
