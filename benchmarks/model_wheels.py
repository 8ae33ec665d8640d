"""Write each model that was pretrained for this project as a wheel, a file of a release, for packages that leave it out.

    python benchmarks/model_wheels.py FOLDER

An archive is the same to the byte on every machine, because `lora_bench/util/pip_assets.py` pins its hash: files are stored
uncompressed and carry no times. Only the standard library is needed.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from pathlib import Path

DATA = Path(__file__).parents[1] / "lora_bench" / "data"
# Another version for each change of a released model, beside `VERSION` in its module of lora_bench/models and its name in
# lora_bench/util/pip_assets.py.
VERSIONS = {"gpt2-mini": "1", "deberta-mini": "1"}


def write_wheel(model: str, folder: Path) -> Path:
    """Write a model's wheel to a folder, and return its path."""
    inside = model.replace("-", "_")
    name, version = f"lora_bench_{inside}", VERSIONS[model]
    about = f"{name}-{version}.dist-info"
    files = {f"{inside}/{path.name}": path.read_bytes() for path in sorted((DATA / model).iterdir())}
    files[f"{about}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    files[f"{about}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: lora_bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    rows = [f"{path},sha256={_digest(content)},{len(content)}" for path, content in files.items()]
    files[f"{about}/RECORD"] = "\n".join([*rows, f"{about}/RECORD,,", ""]).encode()
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, content)
    return wheel


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    for model in VERSIONS:
        print(write_wheel(model, Path(sys.argv[1])))
