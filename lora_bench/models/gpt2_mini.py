"""gpt2-mini: a GPT-2 of 5.4 M weights, pretrained for this project.

A checkout has its files, and so has a package that is installed from one. The wheel of a release leaves them out, because they
are four fifths of it; there the model is made from a file of the release.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lora_bench.errors import AssetUnavailable
from lora_bench.models.made_folder import made_folder
from lora_bench.util.paths import PACKAGE
from lora_bench.util.pip_assets import GPT2_MINI, members
from lora_bench.version import REPOSITORY, __version__

Progress = Callable[[str], None]

# Raised with the version of the wheel in benchmarks/gpt2_mini_wheel.py.
VERSION = 1

IN_PACKAGE = PACKAGE / "data" / "gpt2-mini"

_FILES = (
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


def gpt2_mini_folder(progress: Progress | None = None) -> Path:
    """Return the folder of gpt2-mini: the package's, or one in the cache that is made on first use.

    Raises:
        AssetUnavailable: If the package leaves it out, and it is neither cached nor downloadable.
    """
    if IN_PACKAGE.is_dir():
        return IN_PACKAGE
    try:
        return made_folder(f"gpt2-mini-{VERSION}", "gpt2-mini", lambda folder: _write(folder, progress), progress)
    except AssetUnavailable as error:
        source = f"lora_bench @ git+{REPOSITORY}@v{__version__}"
        raise AssetUnavailable(
            f'{error}\nor install from the repository, which has it: pip install "{source}"'
        ) from None


def _write(folder: Path, progress: Progress | None) -> None:
    inside = {f"gpt2_mini/{name}": name for name in _FILES}
    for path, content in members(GPT2_MINI, inside, progress).items():
        (folder / inside[path]).write_bytes(content)
