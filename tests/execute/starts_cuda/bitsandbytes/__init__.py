"""Stand-in for a package that starts CUDA when it is imported: torch then refuses CUDA in every fork of the process."""

import os
from types import SimpleNamespace

import torch

nn = SimpleNamespace()


def refuse(*_):
    raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")


def in_fork():
    torch.cuda._is_in_bad_fork = lambda: True
    torch.cuda.is_available = refuse


os.register_at_fork(after_in_child=in_fork)
