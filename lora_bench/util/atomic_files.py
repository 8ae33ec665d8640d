"""Write files atomically, and flush them to the disk before a function returns.

A file is written to a temporary name, flushed, and renamed in one step. Then its folder is flushed: otherwise a power cut may
keep the file and lose its name. New folders and those above them are flushed too. The name of a temporary file tells the
process that writes it, so the leftovers of a killed writer can be recognised.
"""

import contextlib
import errno
import functools
import itertools
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from lora_bench.errors import LoraBenchError
from lora_bench.util.failpoints import reach
from lora_bench.util.process_identity import tag_is_gone, this_process

QUARANTINE = "quarantine"
REASON = "reason.txt"

TEMPORARY = ".lora_bench-"
# A machine of the same name, or a clean-up job, may remove a temporary file while its writer lives. It is written again.
_TRIES = 3
# Folders above a written file that may be new: of the run, the series, the suite, and all runs.
_ABOVE = 4
# Errors of systems that cannot flush a folder, or forbid it to this user.
_NOT_FLUSHED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM, errno.ENOSYS, errno.EISDIR)
_LOCAL = ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs")
_OCTAL = re.compile(r"\\([0-7]{3})")
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


def write_once(path: Path, content: bytes) -> bool:
    """Write *content* to *path* atomically, as `link_once` does. Return True if it was written."""
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
            # Needed even if another process was first: it may not have flushed the name yet.
            sync_folder(path.parent)
    raise FileNotFoundError(errno.ENOENT, "its temporary files are taken away", str(path))


def link_once(file: Path, path: Path) -> bool:
    """Give a file a second name; return False if that exists. Raise LoraBenchError if the file system has no hard links."""
    try:
        os.link(file, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise LoraBenchError(
            f"{path.parent} is on a file system without hard links, which records need to be written once; "
            "choose a folder on another file system"
        ) from None
    return True


def write_atomic(path: Path, content: bytes) -> None:
    """Write *content* to *path* atomically and flush it, replacing any file there."""
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
    """Return a temporary file in the folder of *path* with *content*, flushed to the disk."""
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
    """Give a temporary file the usual read permissions; files of `mkstemp` are private."""
    if sys.platform != "win32":
        os.fchmod(descriptor, 0o666 & ~_umask())  # the name may be gone by now


@functools.cache
def _umask() -> int:
    """Return the mask of this process, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder to fill, which takes its name after the block; nothing stays if the block raises."""
    make_folder(folder.absolute().parent)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder.absolute().parent) as temporary:
        made = Path(temporary, folder.name)
        made.mkdir()
        yield made
        if folder.is_dir():
            folder.rmdir()  # an empty one, else it was refused
        made.rename(folder)


def let_all_read(path: Path) -> None:
    """Give a file the usual permissions, as `let_others_read` does."""
    path.chmod(0o666 & ~_umask())


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, flushed to the disk. Raise LoraBenchError if one is a dangling link."""
    for one in reversed(_missing(folder)):
        one.mkdir(exist_ok=True)
        sync_folder(one.parent)
    _flush_above(folder)


def _missing(folder: Path) -> list[Path]:
    """Return the missing folders, from *folder* upwards; refuse a dangling link."""
    missing = []
    above = folder
    while not above.is_dir():
        if above.is_symlink() and not above.exists():
            raise LoraBenchError(f"{above} is a link to {above.readlink()}, which does not exist")
        missing.append(above)
        above = above.parent
    return missing


@functools.lru_cache(maxsize=4096)
def _flush_above(folder: Path) -> None:
    """Flush the names of a folder and those above it, once per process: their maker may have been killed before it did."""
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
    """Flush every file and folder under *folder* to the disk, for libraries that do not flush."""
    make_folder(folder)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            _flush(os.open(path, os.O_RDONLY))
    sync_folder(folder)


def first_new(folders: Iterable[Path]) -> Path:
    """Make the first of endlessly many folders that does not exist, and return it."""
    for folder in folders:
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("the folders have an end")


def quarantine(path: Path, reason: str, folder: Path) -> Path | None:
    """Move a damaged file or folder, with the reason, into *folder*; return its new path, or None if another process did."""
    make_folder(folder)
    place = first_new(folder / str(number) for number in itertools.count(len(list(folder.iterdir())) + 1))
    write_atomic(place / REASON, f"{reason}\n".encode())
    try:
        path.rename(place / path.name)
    except FileNotFoundError:
        remove_tree(place)
        return None
    # The new name is flushed before the end of the old one.
    for changed in (place, folder, path.parent):
        sync_folder(changed)
    return place / path.name


def remove_tree(folder: Path) -> None:
    """Remove a folder with its content; files that cannot be removed stay."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_orphans(folder: Path) -> None:
    """Remove the temporary files below a folder whose writers have ended.

    Writers of this machine are looked up; those from before its last start are known to have ended. Temporary files of
    another machine or container stay: their writers may still run.
    """
    # Unlike a glob, a walk tolerates that a folder disappears meanwhile.
    for place, _, names in os.walk(folder):
        for name in names:
            tag = name.removeprefix(TEMPORARY).rpartition("-")[0]
            if name.startswith(TEMPORARY) and tag_is_gone(tag):
                with contextlib.suppress(OSError):
                    Path(place, name).unlink()


def check_writable(folder: Path, option: str) -> None:
    """Raise LoraBenchError if a folder cannot be written or made, with the *option* for another; nothing stays behind."""
    try:
        _missing(folder)  # raises for a dangling link
        there = next(path for path in (folder, *folder.parents) if path.exists())
        descriptor, name = tempfile.mkstemp(prefix=f"{TEMPORARY}{this_process().tag}-", dir=there)
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise LoraBenchError(
            f"{folder} cannot be written: {error.strerror}; choose another folder with {option}"
        ) from None


def is_local(folder: Path) -> bool:
    """Return True if a folder is on a local file system, which no process of another machine reaches."""
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
    """Return the free space on the file system that *path* is or will be on."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
