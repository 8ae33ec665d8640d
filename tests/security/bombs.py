"""Files that leave a sign where they run code: what must never be run is proved not to have been by the sign's absence."""

import os
import pickle
from pathlib import Path

import torch


class Bomb:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self):
        return os.mkdir, (str(self.sign),)


def pickle_bomb(path: Path, sign: Path) -> Path:
    """A plain pickle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(Bomb(sign)))
    return path


def torch_bomb(path: Path, sign: Path) -> Path:
    """A pickle as torch writes them: an archive with one inside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weight": torch.zeros(2), "more": Bomb(sign)}, path)
    return path


def code_bomb(sign: Path) -> str:
    """Python source that makes a folder when it is imported."""
    return f"import pathlib\npathlib.Path({str(sign)!r}).mkdir(exist_ok=True)\n"
