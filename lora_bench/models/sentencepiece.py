"""Load SentencePiece tokenizers with the normalisation of their model files.

DeBERTa-v2 and v3 come with `spm.model`, which has the rules to normalise text before it is split into pieces (NFKC and more: a
full-width letter becomes a letter, an ellipsis three full stops, a no-break space a space). transformers 5 reads the pieces
from it and normalises by NFC alone, so that such characters become unknown tokens. Here the file's own rules are restored.
"""

from pathlib import Path
from typing import Any

from lora_bench.errors import LoraBenchError
from lora_bench.util.regular_files import read_regular


def check_readable(owner: str, folder: Path) -> None:
    """Raise LoraBenchError if the tokenizer of *owner* has only a SentencePiece file, and its readers are not installed."""
    pieces = sorted(folder.glob("*.model"))
    if not pieces or (folder / "tokenizer.json").is_file():
        return
    try:
        import google.protobuf  # noqa: F401  # transformers reads by both
        import sentencepiece  # noqa: F401
    except ImportError:
        raise LoraBenchError(
            f"the tokenizer of {owner} is {pieces[0].name}, which needs SentencePiece: "
            "pip install 'lora_bench[sentencepiece]'"
        ) from None


def normalise_as_trained(tokenizer: Any, folder: Path) -> None:
    """Give a DeBERTa tokenizer the normalisation in its `tokenizer.json` or `spm.model`; any other stays as it is."""
    from tokenizers import Regex, Tokenizer, normalizers
    from transformers import DebertaV2Tokenizer

    if not isinstance(tokenizer, DebertaV2Tokenizer):
        return
    if (folder / "tokenizer.json").is_file():
        tokenizer.backend_tokenizer.normalizer = Tokenizer.from_file(str(folder / "tokenizer.json")).normalizer
        return
    rules = _rules(folder / "spm.model")
    steps: list[Any] = [normalizers.Lowercase()] if tokenizer.do_lower_case else []
    if rules.precompiled_charsmap:
        steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(steps)


def _rules(path: Path) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(read_regular(path))
    return model.normalizer_spec
