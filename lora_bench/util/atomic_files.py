"""Files that are whole whenever anybody looks, and on the disk when a function returns.

A file is written beside its name, flushed, and put in its place in one step. Then its folder is flushed: a power cut might
keep the file otherwise and lose its name. New folders are flushed in the same way, and those above them. What a writer that
was killed left behind is known by the name of its temporary file, which tells the process.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from lora_bench.errors import LoraBenchError
from lora_bench.util.failpoints import reach
from lora_bench.util.process_identity import tag_is_gone, this_process

QUARANTINE = "quarantine"
REASON = "reason.txt"

TEMPORARY = ".lora_bench-"
# A temporary file may be taken away while its writer lives, by a machine of the same name or somebody's clean-up: it is written
# again.
_TRIES = 3
# Folders above a written file that may be new: of the run, of the series, of the suite, and that of all runs.
_ABOVE = 4
# What a system says that has no such thing as flushing a folder, or does not let this user do it.
_NOT_FLUSHED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM, errno.ENOSYS, errno.EISDIR)
_LOCAL = ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs")
_OCTAL = re.compile(r"\\([0-7]{3})")
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


def write_once(path: Path, content: bytes) -> bool:
    """Write *content* to *path* whole and on the disk, unless *path* is there already; whether it was written.

    Raises:
        LoraBenchError: If the file system has no hard links.
    """
    for _ in range(_TRIES):
        temporary = None
        try:
            temporary = _written_beside(path, content)
            reach("write.link")
            if link_once(temporary, path):
                reach("write.linked")
                return True
            return False
        except FileNotFoundError:
            continue
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            # Also where another process was first: it may not have got so far as to flush the name.
            sync_folder(path.parent)
    raise FileNotFoundError(errno.ENOENT, "its temporary files are taken away", str(path))


def link_once(file: Path, path: Path) -> bool:
    """Give a file the name *path* too, unless that is there already; whether it was given.

    Raises:
        LoraBenchError: If the file system has no hard links, without which two writers might both believe to be the first.
    """
    try:
        os.link(file, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise LoraBenchError(
            f"{path.parent} is on a file system without hard links, by which a record is written once; "
            "name a folder on another one"
        ) from None
    return True


def write_atomic(path: Path, content: bytes) -> None:
    """Write *content* to *path* whole and on the disk, replacing what is there."""
    for remaining in reversed(range(_TRIES)):
        temporary = None
        try:
            temporary = _written_beside(path, content)
            reach("write.replace")
            temporary.replace(path)
            break
        except FileNotFoundError:
            if not remaining:
                raise
        except BaseException:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            raise
    reach("write.replaced")
    sync_folder(path.parent)


def _written_beside(path: Path, content: bytes) -> Path:
    """A temporary file in the folder of *path* with *content*, flushed to the disk."""
    make_folder(path.parent)
    descriptor, name = tempfile.mkstemp(prefix=f"{TEMPORARY}{this_process().tag}-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            let_others_read(descriptor)
            reach("write.temporary")
            file.write(content)
            file.flush()
            reach("write.written")
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def let_others_read(descriptor: int) -> None:
    """Make a temporary file as readable as any other: those of `mkstemp` are private."""
    if sys.platform != "win32":
        os.fchmod(descriptor, 0o644)  # not by its name, which may be taken away meanwhile


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, on the disk when this returns.

    Raises:
        LoraBenchError: If it, or one above it, is a link to what is not there.
    """
    for one in reversed(_missing(folder)):
        one.mkdir(exist_ok=True)
        sync_folder(one.parent)
    _flush_above(folder)


def _missing(folder: Path) -> list[Path]:
    """The folders that are not there yet, from *folder* upwards.

    Raises:
        LoraBenchError: As `make_folder`.
    """
    missing = []
    above = folder
    while not above.is_dir():
        if above.is_symlink() and not above.exists():
            raise LoraBenchError(f"{above} is a link to {above.readlink()}, which is not there")
        missing.append(above)
        above = above.parent
    return missing


@functools.lru_cache(maxsize=4096)
def _flush_above(folder: Path) -> None:
    """Flush the names of a folder and of those above it, once a process: whoever made them may have been killed before."""
    for one in (folder, *folder.parents)[:_ABOVE]:
        sync_folder(one.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, where the system can."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        _flush(os.open(folder, os.O_RDONLY))


def _flush(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_FLUSHED:
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush every file under a folder, and the folders, to the disk: what a library wrote that flushes nothing."""
    make_folder(folder)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            _flush(os.open(path, os.O_RDONLY))
    sync_folder(folder)


def quarantine(path: Path, reason: str, folder: Path) -> Path | None:
    """Move what is damaged into *folder*, under a number of its own and with the reason beside it.

    Returns:
        Its new place, or None where another process was faster.
    """
    make_folder(folder)
    number = len(list(folder.iterdir())) + 1
    while True:
        place = folder / str(number)
        try:
            place.mkdir()
            break
        except FileExistsError:
            number += 1
    write_atomic(place / REASON, f"{reason}\n".encode())
    try:
        path.rename(place / path.name)
    except FileNotFoundError:
        remove_tree(place)
        return None
    # First the new name, then the end of the old one.
    for changed in (place, folder, path.parent):
        sync_folder(changed)
    return place / path.name


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it; what cannot be removed stays."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_orphans(folder: Path) -> int:
    """Remove the temporary files in a folder, and in those below it, whose writers are gone; how many there were.

    Those of this machine are asked for, and those of this machine before it was started anew are known to be gone. One of
    another machine, or of another container, stays: its writer may be at work.
    """
    removed = 0
    # Unlike a glob, a walk does not mind that a folder goes away meanwhile.
    for place, _, names in os.walk(folder):
        for name in names:
            tag = name.removeprefix(TEMPORARY).rpartition("-")[0]
            if name.startswith(TEMPORARY) and tag_is_gone(tag):
                with contextlib.suppress(OSError):
                    Path(place, name).unlink()
                    removed += 1
    return removed


def check_writable(folder: Path, option: str) -> None:
    """Refuse a folder that cannot be written or made, before any work; nothing is left of the try.

    Raises:
        LoraBenchError: With the reason, and the option that names another.
    """
    try:
        _missing(folder)  # which says of a link that it leads nowhere
        there = next(path for path in (folder, *folder.parents) if path.exists())
        descriptor, name = tempfile.mkstemp(prefix=f"{TEMPORARY}{this_process().tag}-", dir=there)
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise LoraBenchError(f"{folder} cannot be written: {error.strerror}; {option} names another folder") from None


def is_local(folder: Path) -> bool:
    """Whether a folder is on a file system of this kernel's own, so that no process of another machine reaches it."""
    path = folder.resolve()
    found = Path(), ""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    for line in mounts:
        # proc(5): the fifth field is the mount point, with spaces as \\040, and the first after the dash the type.
        left, _, right = line.partition(" - ")
        point = Path(_OCTAL.sub(lambda digits: chr(int(digits[1], 8)), left.split()[4]))
        if path.is_relative_to(point) and len(point.parts) >= len(found[0].parts):
            found = point, right.split()[0]
    return found[1] in _LOCAL


def free_bytes(path: Path) -> int:
    """Free space on the file system that *path* is or will be on."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
