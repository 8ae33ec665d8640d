"""Files of the models that were pretrained for this project.

A checkout has them, and so has a package that is installed from one. The wheel of a release leaves them out, because they are
nearly all of it; there they come from files of the release, which benchmarks/model_wheels.py writes.
"""

from collections.abc import Iterable
from pathlib import Path

from lora_bench.errors import AssetUnavailable
from lora_bench.models.made_folder import Progress
from lora_bench.util.paths import PACKAGE
from lora_bench.util.pip_assets import members
from lora_bench.version import REPOSITORY, __version__

DATA = PACKAGE / "data"


def shipped_folder(model: str) -> Path | None:
    """Return the folder in the package with a model's files, or None if the package leaves them out."""
    folder = DATA / model
    return folder if folder.is_dir() else None


def needed_assets(model: str) -> tuple[str, ...]:
    """Return the assets that the model's files come from here: none if the package has them."""
    return () if shipped_folder(model) else (model,)


def shipped_files(model: str, names: Iterable[str], progress: Progress | None = None) -> dict[str, bytes]:
    """Return files of a model by name, from the package or the release. Raise AssetUnavailable as `members` does."""
    folder = shipped_folder(model)
    if folder is not None:
        return {name: (folder / name).read_bytes() for name in names}
    inside = {f"{model.replace('-', '_')}/{name}": name for name in names}
    try:
        return {inside[path]: content for path, content in members(model, inside, progress).items()}
    except AssetUnavailable as error:
        source = f"lora_bench @ git+{REPOSITORY}@v{__version__}"
        raise AssetUnavailable(
            f'{error}\nor install from the repository, which has it: pip install "{source}"'
        ) from None
