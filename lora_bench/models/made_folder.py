"""Model folders in the cache that lora_bench makes from named assets.

A folder is written under a temporary name and renamed, so that it is never half written. Its files are checked against their
hashes at every use (0.2 s for MiniLM), because a changed byte would make another base model. A damaged folder is moved to
`quarantine/` and made again.
"""

import json
from collections.abc import Callable
from pathlib import Path

from lora_bench.util.atomic_files import QUARANTINE, quarantine, sync_folder, sync_tree, whole_folder
from lora_bench.util.paths import cache_folder
from lora_bench.util.regular_files import sha256_of
from lora_bench.util.sealed_json import as_json

Progress = Callable[[str], None]

MANIFEST = "manifest.json"


def made_folder(name: str, shown: str, write: Callable[[Path], None], progress: Progress | None = None) -> Path:
    """Return a model's folder in the cache. On first use *write* writes it, the same bytes every time; messages say *shown*."""
    say = progress or (lambda message: None)
    folder = cache_folder("models") / name
    if folder.is_dir():
        damage = _damage(folder)
        if damage is None:
            return folder
        place = quarantine(folder, damage, folder.parent / QUARANTINE)
        say(f"{folder}: {damage}; it was moved to {place}, and is written again")
    say(f"writing {shown} to {folder}")
    try:
        with whole_folder(folder) as part:
            write(part)
            (part / MANIFEST).write_bytes(as_json(_hashes(part)))
            sync_tree(part)
        sync_folder(folder.parent)
    except OSError:
        if not folder.is_dir():  # otherwise another process was first, with the same content
            raise
    return folder


def _hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.iterdir() if path.name != MANIFEST and not path.name.startswith("."))
    return {path.name: sha256_of(path) for path in files}


def _damage(folder: Path) -> str | None:
    found = _hashes(folder)
    try:
        said = json.loads((folder / MANIFEST).read_bytes())
        differ = sorted(name for name in found.keys() | said.keys() if found.get(name) != said.get(name))
    except (OSError, ValueError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return f"{differ[0]} does not match {MANIFEST}" if differ else None
