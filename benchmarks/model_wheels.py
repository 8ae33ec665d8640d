"""Write gpt2-mini as a wheel: the file of a release from which a package without the model obtains it.

    python benchmarks/gpt2_mini_wheel.py FOLDER

The archive is the same to the byte on every machine, because `lora_bench/util/pip_assets.py` pins its hash: files are stored
uncompressed and carry no times. Only the standard library is needed.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from pathlib import Path

MODEL = Path(__file__).parents[1] / "lora_bench" / "data" / "gpt2-mini"
# Another version for each change of the model, beside `VERSION` in lora_bench/models/gpt2_mini.py.
NAME, VERSION = "lora_bench_gpt2_mini", "1"


def write_wheel(folder: Path) -> Path:
    """Write the wheel to a folder, and return its path."""
    about = f"{NAME}-{VERSION}.dist-info"
    files = {f"gpt2_mini/{path.name}": path.read_bytes() for path in sorted(MODEL.iterdir())}
    files[f"{about}/METADATA"] = f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n".encode()
    files[f"{about}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: lora_bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    rows = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
    files[f"{about}/RECORD"] = "\n".join([*rows, f"{about}/RECORD,,", ""]).encode()
    wheel = folder / f"{NAME}-{VERSION}-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, content)
    return wheel


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    print(write_wheel(Path(sys.argv[1])))
