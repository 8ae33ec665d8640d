"""A model of a disk that loses power: what a sequence of real file operations may leave behind.

`Recorder` watches a folder while real code works in it, and notes every change of an entry or of a file's bytes, and every
fsync, in order. `crashes` then gives what may be found after a power cut behind any of these operations, by the weakest
promise that a file system makes: a change of an entry is on the disk when its folder was flushed after it, and bytes are when
their file was; of what was not flushed, any part may be there and any may not, in any order. Bytes may be absent, cut, or half
zeros. A rename is whole or not at all.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = 0
# Of operations that were not flushed, all subsets are tried up to this many combinations; of more, those that are named below.
MOST_COMBINATIONS = 600
SAMPLED = 100

Tree = dict[str, bytes | None]  # by relative path; None is a folder


@dataclass(frozen=True)
class Entries:
    """Names that changed in one operation: (folder, name, what it names now or None)."""

    changes: tuple[tuple[int, str, int | None], ...]


@dataclass(frozen=True)
class Bytes:
    """A file's content changed."""

    file: int
    content: bytes


@dataclass(frozen=True)
class Sync:
    """A file or folder was flushed."""

    item: int


@dataclass(frozen=True)
class Acknowledged:
    """The code returned, and whoever called it relies on something."""

    what: Any


Operation = Entries | Bytes | Sync | Acknowledged


class Recorder:
    """Records what happens in a folder, which is on the disk as it is when the recording begins."""

    WATCHED = ("link", "rename", "replace", "unlink", "remove", "mkdir", "rmdir", "fsync", "truncate", "ftruncate")

    def __init__(self, root: Path) -> None:
        self.root = root
        self.operations: list[Operation] = []
        self.contents: dict[int, bytes | None] = {}
        self.entries: dict[int, dict[str, int]] = {}
        self._ids = {root.stat().st_ino: ROOT}
        self._next = itertools.count(1)
        self._look()
        self.start = ({item: dict(names) for item, names in self.entries.items()}, dict(self.contents))
        self.operations.clear()

    def acknowledge(self, what: Any) -> None:
        """From here on somebody relies on *what*."""
        self._look()
        self.operations.append(Acknowledged(what))

    @contextlib.contextmanager
    def recording(self, monkeypatch: Any) -> Iterator[Recorder]:
        """Within this block the folder is watched."""
        with monkeypatch.context() as patched:
            for name in self.WATCHED:
                patched.setattr(os, name, self._watching(name, getattr(os, name)))
            yield self
        self._look()

    def _watching(self, name: str, call: Any) -> Any:
        def watched(*arguments: Any, **options: Any) -> Any:
            self._look()
            if name == "fsync":
                item = self._ids.get(os.fstat(arguments[0]).st_ino)
                if item is not None:
                    self.operations.append(Sync(item))
            result = call(*arguments, **options)
            self._look()
            return result

        return watched

    def _look(self) -> None:
        """Note what changed since the last look."""
        folders: dict[int, dict[str, int]] = {}
        files: dict[int, bytes | None] = {}
        seen = {self.root.stat().st_ino}
        todo = [(ROOT, self.root)]
        while todo:
            item, path = todo.pop()
            folders[item] = {}
            for entry in os.scandir(path):
                seen.add(entry.inode())
                inner = self._ids.setdefault(entry.inode(), -1)
                if inner == -1:
                    inner = self._ids[entry.inode()] = next(self._next)
                folders[item][entry.name] = inner
                if entry.is_dir(follow_symlinks=False):
                    todo.append((inner, Path(entry.path)))
                else:
                    files[inner] = Path(entry.path).read_bytes()
        changes: list[tuple[int, str, int | None]] = []
        for item in folders.keys() | self.entries.keys():
            before, now = self.entries.get(item, {}), folders.get(item, {})
            changes += [(item, name, None) for name in before.keys() - now.keys() if item in folders]
            changes += [(item, name, now[name]) for name in now if before.get(name) != now[name]]
        # Bytes first: a name of nothing would be taken for a folder.
        self.operations += [Bytes(file, data or b"") for file, data in files.items() if self.contents.get(file) != data]
        if any(change[2] is None for change in changes):
            self.operations.append(Entries(tuple(changes)))  # a removal, or a rename: one operation
        else:
            self.operations += [Entries((change,)) for change in changes]
        self.entries, self.contents = folders, files
        self._ids = {inode: item for inode, item in self._ids.items() if inode in seen}


@dataclass
class _Disk:
    """What is on the disk for sure, and what may be."""

    entries: dict[int, dict[str, int]]
    files: dict[int, bytes]
    pending: list[tuple[Entries, frozenset[int]]]
    unsynced: dict[int, bytes]

    def apply(self, operation: Operation) -> None:
        if isinstance(operation, Entries):
            self.pending.append((operation, frozenset(change[0] for change in operation.changes)))
        elif isinstance(operation, Bytes):
            self.unsynced[operation.file] = operation.content
        elif isinstance(operation, Sync):
            if operation.item in self.unsynced:
                self.files[operation.item] = self.unsynced.pop(operation.item)
            waiting = []
            for one, unflushed in self.pending:
                # Each folder that a rename touches is to be flushed.
                unflushed = unflushed - {operation.item}
                if unflushed:
                    waiting.append((one, unflushed))
                else:
                    _change(self.entries, one.changes)
            self.pending = waiting


def _change(entries: dict[int, dict[str, int]], changes: tuple[tuple[int, str, int | None], ...]) -> None:
    for folder, name, item in changes:
        names = entries.setdefault(folder, {})
        if item is None:
            names.pop(name, None)
        else:
            names[name] = item


def crashes(recorder: Recorder) -> Iterator[tuple[int, list[Any], list[Tree]]]:
    """For each prefix of the operations: its length, what was acknowledged, and every tree that may be found afterwards."""
    entries, contents = recorder.start
    disk = _Disk(
        {item: dict(names) for item, names in entries.items()},
        {item: data for item, data in contents.items() if data is not None},
        [],
        {},
    )
    acknowledged: list[Any] = []
    for length in range(len(recorder.operations) + 1):
        if length:
            operation = recorder.operations[length - 1]
            if isinstance(operation, Acknowledged):
                acknowledged.append(operation.what)
            disk.apply(operation)
        yield length, list(acknowledged), [_tree(disk, *chosen) for chosen in _combinations(disk, length)]


def _states(disk: _Disk, file: int) -> list[bytes]:
    """What may be left of a file that was not flushed."""
    before, now = disk.files.get(file, b""), disk.unsynced[file]
    half = len(now) // 2
    return list(dict.fromkeys([before, now[:half], now[:half] + bytes(len(now) - half), now]))


def _combinations(disk: _Disk, seed: int) -> Iterator[tuple[tuple[bool, ...], dict[int, bytes]]]:
    """Which of the pending operations are there, and what is left of each file: all, or many where all are too many."""
    number = len(disk.pending)
    options = {file: _states(disk, file) for file in disk.unsynced}
    size = 2**number
    for states in options.values():
        size *= len(states)
    if size <= MOST_COMBINATIONS:
        for there in itertools.product((False, True), repeat=number):
            for chosen in itertools.product(*options.values()):
                yield there, dict(zip(options, chosen, strict=True))
        return
    # The first so many, all but one, one alone, and a sample of the rest, each with all bytes, none, and a draw of them.
    subsets = [tuple(index < count for index in range(number)) for count in range(number + 1)]
    subsets += [tuple(index != one for index in range(number)) for one in range(number)]
    subsets += [tuple(index == one for index in range(number)) for one in range(number)]
    draw = random.Random(seed)
    subsets += [tuple(draw.random() < 0.5 for _ in range(number)) for _ in range(SAMPLED)]
    for there in dict.fromkeys(subsets):
        yield there, {file: states[0] for file, states in options.items()}
        yield there, {file: states[-1] for file, states in options.items()}
        yield there, {file: draw.choice(states) for file, states in options.items()}


def _tree(disk: _Disk, there: tuple[bool, ...], chosen: dict[int, bytes]) -> Tree:
    entries = {item: dict(names) for item, names in disk.entries.items()}
    for (operation, _), is_there in zip(disk.pending, there, strict=True):
        if is_there:
            _change(entries, operation.changes)
    tree: Tree = {}
    todo = [(ROOT, "")]
    while todo:
        item, path = todo.pop()
        for name, inner in entries.get(item, {}).items():
            where = f"{path}{name}"
            if inner in chosen or inner in disk.files:
                tree[where] = chosen.get(inner, disk.files.get(inner, b""))
            else:
                tree[where] = None
                todo.append((inner, f"{where}/"))
    return tree


def lay(tree: Tree, folder: Path) -> None:
    """Make a tree of real files."""
    for path in sorted(tree):
        content = tree[path]
        if content is None:
            (folder / path).mkdir(parents=True, exist_ok=True)
        else:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
