"""Java programs for ROUGE-L, CIDEr and METEOR: the Penn Treebank tokenizer, and METEOR 1.5.

pycocoevalcap ships both jars. Its wrappers are not used: they write into the installed package, read texts in the machine's
encoding, and wait without end for a Java process that died.
"""

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from pathlib import Path

from lora_bench.errors import LoraBenchError

# Signs that the COCO captions' scorer leaves out. Brackets stay, as there: its list has them in capitals (-LRB-), and
# they come out of the tokenizer in lower case.
SIGNS = {"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"}

# Without it Java before 18 reads and writes in the encoding of the machine's locale.
UTF8 = "-Dfile.encoding=UTF-8"


def missing_java() -> str | None:
    """Return what is wrong with this machine's Java, and what to do; None if it runs."""
    path = shutil.which("java")
    if path is None:
        return "needs Java 8 or newer, and no `java` is on the PATH; install one"
    return None if _runs(path) else f"needs Java 8 or newer, and {path!r} does not run; install one"


@cache
def _runs(path: str) -> bool:
    # macOS has a `java` that only says where to get one, and exits with 1.
    try:
        return subprocess.run([path, "-version"], capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


# ROUGE-L, CIDEr and METEOR of the same texts, or of the same references again, start Java once.
@lru_cache(maxsize=4)
def words_of(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return texts in lower case as the Penn Treebank tokenizer splits them, joined by single spaces, without punctuation.

    The texts pass the tokenizer together and in order, as in the COCO captions' scorer: it looks past the end of a line, as
    from "etc." to a capital letter.
    """
    # One line a text: to Java, a form feed or a line separator inside one would begin another.
    lines = "".join(" ".join(text.split()) + "\n" for text in texts)
    command = ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    done = subprocess.run(
        ["java", UTF8, "-cp", str(_jar("tokenizer", "stanford-corenlp-*.jar")), *command],
        input=lines.encode("utf-8", "replace"),
        capture_output=True,
        check=False,
    )
    split = done.stdout.decode("utf-8").split("\n")[:-1]
    if done.returncode or len(split) != len(texts):
        raise _failed("the tokenizer", done.stderr, f"made {len(split)} lines of {len(texts)} texts")
    return tuple(" ".join(word for word in line.split() if word not in SIGNS) for line in split)


def split_all(predictions: list[str], references: list[list[str]]) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Return predictions and references for pycocoevalcap: by number, each a list of texts split into words."""
    split = iter(words_of(tuple(text for each in references for text in each)))
    right = {number: [next(split) for _ in each] for number, each in enumerate(references)}
    return {number: [text] for number, text in enumerate(words_of(tuple(predictions)))}, right


def meteor(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return METEOR 1.5 of all predictions together, from texts split into words, with English paraphrases and weights."""
    jar = _jar("meteor", "meteor-*.jar")
    command = ["java", UTF8, "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    answers: list[str] = []
    with tempfile.TemporaryFile() as errors:
        try:
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors) as process:
                # The statistics of each prediction, then the scores of each, and last the one of all together.
                pairs = zip(predictions, references, strict=True)
                statistics = [_answer(process, ["SCORE", *each, text]) for text, each in pairs]
                answers = [_answer(process, ["EVAL", *statistics]), *(_line(process) for _ in predictions)]
                process.kill()
            return float(answers[-1])
        except (OSError, ValueError) as error:
            errors.seek(0)
            raise _failed("METEOR", errors.read(), f"answered {answers[-1:]}") from error


def _answer(process: subprocess.Popen[bytes], parts: Iterable[str]) -> str:
    """Return METEOR's answer to a line of parts, which are joined by bars and contain none."""
    assert process.stdin is not None
    line = " ||| ".join(" ".join(part.replace("|||", " ").split()) for part in parts)
    process.stdin.write(line.encode("utf-8", "replace") + b"\n")
    process.stdin.flush()
    return _line(process)


def _line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode("utf-8").strip()


def _jar(folder: str, pattern: str) -> Path:
    spec = importlib.util.find_spec("pycocoevalcap")
    places = spec.submodule_search_locations if spec is not None else None
    found = [jar for place in places or () for jar in Path(place, folder).glob(pattern)]
    if not found:
        raise LoraBenchError(f"pycocoevalcap has no {folder}/{pattern}; install lora_bench[nlg] anew")
    return found[0]


def _failed(program: str, errors: bytes, otherwise: str) -> LoraBenchError:
    """Return the error for a Java program that failed, with the last line of its complaint."""
    complaints = errors.decode("utf-8", "replace").strip().splitlines()
    return LoraBenchError(f"{program} failed in Java: {complaints[-1] if complaints else otherwise}")
