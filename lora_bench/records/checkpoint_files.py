"""Files of checkpoints, written so that a whole one always remains.

    checkpoint/step-<step>[-<n>]/…             the files of a checkpoint, each flushed to the disk
                                 manifest.json their hashes, written last

Two whole checkpoints are kept, so that damage of one on the disk costs a minute of work and not the run. A folder without a
manifest was left by an interrupted writer. A second checkpoint of the same step is written beside the first, so that the
only one is never removed.
"""

import errno
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from lora_bench.util.atomic_files import (
    QUARANTINE,
    first_new,
    make_folder,
    quarantine,
    remove_tree,
    sync_folder,
    write_atomic,
)
from lora_bench.util.failpoints import reach
from lora_bench.util.regular_files import MIB, read_regular

MANIFEST = "manifest.json"
KEPT = 2
_NAME = re.compile(r"step-(\d{8,})(?:-(\d+))?")


def write_checkpoint(folder: Path, step: int, files: Mapping[str, bytes]) -> None:
    """Write the files of a checkpoint after *step*, flushed to the disk, and remove all but the newest two."""
    reach("checkpoint.begin")
    make_folder(folder)
    further = (folder / f"step-{step:08d}-{number}" for number in itertools.count(2))
    target = first_new(itertools.chain([folder / f"step-{step:08d}"], further))
    try:
        for name, content in files.items():
            with (target / name).open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        sync_folder(target)
        sync_folder(folder)
        manifest = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        reach("checkpoint.manifest")
        write_atomic(target / MANIFEST, json.dumps(manifest).encode("utf-8"))
    except BaseException:
        remove_tree(target)  # free the room of a checkpoint that did not fit
        raise
    reach("checkpoint.written")
    for older in [path for path in _newest_first(folder) if (path / MANIFEST).is_file()][KEPT:]:
        _remove(older)


def newest_checkpoint(
    folder: Path,
    say: Callable[[str], None],
    needed: Collection[str] = (),
    foreign: Callable[[Mapping[str, bytes]], str | None] = lambda files: None,
) -> tuple[Path, dict[str, bytes]] | None:
    """Return the folder and files of the newest checkpoint that matches its manifest, or None.

    Leftovers of an interrupted writer are removed. A damaged or foreign checkpoint is moved to the quarantine beside *folder*,
    since it would otherwise count as one of those that are kept. *say* is called with a sentence for each of these, which says
    what the run resumes from. *needed* are files that every checkpoint of a run has, whatever its manifest lists. *foreign*
    returns the reason why the files of a checkpoint belong to another run, or None.
    """
    passed_over: list[str] = []
    found: tuple[Path, dict[str, bytes]] | None = None
    for path in _newest_first(folder):
        if not (path / MANIFEST).is_file():
            remove_tree(path)
            continue
        files, damage = _read(path, needed)
        reason = f"was damaged ({damage})" if damage is not None else foreign(files)
        if reason is None:
            found = path, files
            break
        place = quarantine(path, f"{path.name}: {damage or reason}", folder.parent / QUARANTINE)
        where = f"{QUARANTINE}/{place.parent.name}" if place is not None else QUARANTINE
        passed_over.append(f"the checkpoint {path.name} {reason} and was moved to {where}")
    resumes = f"the run resumed from {found[0].name}" if found is not None else "the run began anew"
    for said in passed_over:
        say(f"{said}; {resumes}")
    return found


def remove_checkpoints(folder: Path) -> None:
    """Remove every checkpoint of a finished run, with the folder."""
    for path in _newest_first(folder):
        _remove(path)
    remove_tree(folder)


def _newest_first(folder: Path) -> list[Path]:
    """Return the folders of checkpoints, complete or not, the newest first."""
    found = {path: match for path in folder.glob("step-*") if (match := _NAME.fullmatch(path.name))}
    return sorted(found, key=lambda path: (int(found[path][1]), int(found[path][2] or 1)), reverse=True)


def _read(path: Path, needed: Collection[str]) -> tuple[dict[str, bytes], str | None]:
    """Return the files of a checkpoint, and its damage or None."""
    try:
        manifest = json.loads(read_regular(path / MANIFEST, 16 * MIB))
        hashes = {str(name): str(sha256) for name, sha256 in manifest.items()}
    except (ValueError, AttributeError):
        hashes = {}
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EFBIG):  # not a file that a run wrote
            raise
        hashes = {}
    if not hashes:
        return {}, f"{MANIFEST} cannot be read"
    if missing := sorted(set(needed) - hashes.keys()):
        return {}, f"{MANIFEST} does not name {missing[0]}"
    files = {}
    for name, sha256 in hashes.items():
        inside = path / name
        if Path(name).name != name or not inside.is_file():
            return {}, f"{name!r} is missing"
        files[name] = read_regular(inside)
        if hashlib.sha256(files[name]).hexdigest() != sha256:
            return {}, f"{name} does not match {MANIFEST}"
    return files, None


def _remove(path: Path) -> None:
    """Remove a checkpoint, its manifest first, so that an interrupted removal is never taken for damage."""
    (path / MANIFEST).unlink(missing_ok=True)
    sync_folder(path)
    remove_tree(path)
