"""Keep the predictions and probabilities of all runs of a suite in one compressed file.

`answers.jsonl.xz` has a line a file that a run wrote, with its bytes as they were:

    {"run_id":"0d8f45b947d1ca26","file":"predictions.json","content":{"ids_sha256":...,"predictions":[...],...}}

Records name these by their hashes, so the hashes in `runs.json` seal this file too, however it is compressed.
"""

import hashlib
import lzma
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from lora_bench.errors import BadInput, Fault, LoraBenchError
from lora_bench.util.atomic_files import write_atomic
from lora_bench.util.regular_files import MIB, read_regular

# Our largest has 0.6 MB, and 4 MB of text. A decoder of ours needs 9 MiB.
MAX_COMPRESSED_BYTES, MAX_BYTES, MAX_DECODER_BYTES = 256 * MIB, 1024 * MIB, 128 * MIB

_LINE = re.compile(rb'\{"run_id":"([\w.-]+)","file":"([\w.-]+)","content":(.*)\}')


class Kept(NamedTuple):
    """A file of answers that a run wrote."""

    run_id: str
    file: str
    content: bytes


def write_answers(path: Path, answers: Iterable[Kept]) -> None:
    """Write the answers of runs, by run id. Raise LoraBenchError if one has more than one line."""
    lines = []
    for run_id, file, content in sorted(set(answers)):
        if content[-1:] != b"\n" or b"\n" in content[:-1]:
            raise LoraBenchError(f"{file} of run {run_id} is not one line of JSON, as lora_bench writes it")
        lines.append(b'{"run_id":"%s","file":"%s","content":%s}\n' % (run_id.encode(), file.encode(), content[:-1]))
    write_atomic(path, lzma.compress(b"".join(lines)))


def read_answers(path: Path) -> dict[str, Kept]:
    """Return each file of answers by its SHA-256. Raise BadInput if the file is missing, damaged or too large."""

    def refused(message: str) -> BadInput:
        return BadInput([Fault(message, file=str(path))])

    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_DECODER_BYTES)
    try:
        text = decoder.decompress(read_regular(path, MAX_COMPRESSED_BYTES), MAX_BYTES + 1)
    except OSError as error:
        raise refused(f"the answers of its runs cannot be read: {error.strerror}") from None
    except (lzma.LZMAError, EOFError) as error:
        raise refused(f"is damaged: {error}") from None
    if len(text) > MAX_BYTES:
        raise refused(f"is larger than {MAX_BYTES // MIB:,} MiB")
    *lines, rest = text.split(b"\n")
    if not decoder.eof or decoder.unused_data or rest:
        raise refused("is damaged: its end is missing, or more follows it")
    found = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise refused(f"is damaged: line {number} is no answers of a run")
        kept = Kept(match[1].decode("ascii"), match[2].decode("ascii"), match[3] + b"\n")
        found[hashlib.sha256(kept.content).hexdigest()] = kept
    return found
