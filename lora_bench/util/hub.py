"""Files from the Hugging Face hub, verified against their commit; errors say in one sentence why they are unavailable.

huggingface_hub checks the length of a file, and trusts its cache. Here every file is checked against the hash in its commit
at each use, which costs as much as hashing a local folder. A damaged file is removed from the cache, so that the same command
downloads it again.
"""

import glob
import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lora_bench.errors import LoraBenchError, causes, first_line, typed_line, unknown
from lora_bench.util.redaction import without_secrets

Kind = Literal["model", "data set", "metric"]

REPOSITORY_TYPES: dict[Kind, str] = {"model": "model", "data set": "dataset", "metric": "space"}
# The name of a file in the cache is its hash: git's for small files, plain sha256 for large ones.
GIT_DIGITS, SHA256_DIGITS = 40, 64
COMMIT = re.compile(rf"[0-9a-f]{{{GIT_DIGITS}}}")


@dataclass
class _Answering:
    """Whether the hub answers; None before it was asked."""

    answers: bool | None = None


# Set within `asked_once` and `cache_only`, and None outside of them.
_ASKED: ContextVar[_Answering | None] = ContextVar("asked", default=None)


class HubUnreachable(LoraBenchError):
    """The hub could not be reached, and the cache does not have the files."""


@contextmanager
def asked_once(answers: bool | None = None) -> Iterator[None]:
    """Ask within this block once whether the hub answers, and if not look in the cache alone: each try takes many seconds."""
    token = _ASKED.set(_Answering(answers))
    try:
        yield
    finally:
        _ASKED.reset(token)


def cache_only() -> AbstractContextManager[None]:
    """Look in the cache alone within this block; raise HubUnreachable for what it lacks."""
    return asked_once(answers=False)


def _only_cached() -> bool:
    """Return True if only the cache is to be looked at; within `asked_once` the first call asks the hub."""
    asked = _ASKED.get()
    if asked is None:
        return False
    if asked.answers is None:
        asked.answers = _answers()
    return not asked.answers


def _answers() -> bool:
    """Return True unless there is no connection to the hub. One short request; the hub's own functions repeat theirs."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # the network's errors have no class in common
        return not _is_unreachable(error)
    return True


@dataclass(frozen=True)
class Snapshot:
    """The folder, in the cache of huggingface_hub, with files of a repository at one commit of 40 digits."""

    folder: Path
    commit: str


def snapshot(
    kind: Kind, name: str, revision: str | None, files: Sequence[str], *, leave: Sequence[str] = (), hint: str = ""
) -> Snapshot:
    """Return some files of a repository, downloaded if the cache lacks them.

    *files* and *leave* are patterns of files to take, and to leave out although they match. *hint* is added to the error if
    there is no such repository. Raise LoraBenchError if they are unavailable, with the reason and what to do.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import filter_repo_objects

    only_cached = _only_cached()
    with quiet():
        try:
            folder = Path(
                snapshot_download(
                    name,
                    repo_type=REPOSITORY_TYPES[kind],
                    revision=revision,
                    allow_patterns=list(files),
                    ignore_patterns=list(leave),
                    local_files_only=only_cached,
                )
            )
        except Exception as error:  # the hub's, the network's and the disk's errors have no class in common
            if only_cached or _is_unreachable(error):
                if (asked := _ASKED.get()) is not None:
                    asked.answers = False
                raise HubUnreachable(f"{kind} {name!r} {_not_reached(hint)}") from None
            raise LoraBenchError(f"{kind} {name!r} {why_not(kind, name, revision, error, hint)}") from None
    here = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    asked_for = filter_repo_objects(sorted(here), allow_patterns=list(files), ignore_patterns=list(leave))
    damaged = [path for path in asked_for if _is_damaged(here[path])]
    for path in damaged:
        (folder / path).resolve().unlink(missing_ok=True)
        (folder / path).unlink()
    if damaged:
        raise LoraBenchError(
            f"{kind} {name!r} arrived damaged: {', '.join(damaged)} does not match its commit; run the same "
            "command again to download it anew"
        )
    return Snapshot(folder, folder.name)


def data_set(name: str, config: str | None, commit: str) -> Any:
    """Return the builder of a data set with its splits prepared. Raise LoraBenchError with the reason and what to do."""
    import datasets

    with quiet(), _quiet_datasets():
        builder = None if config is None else _prepared(name, config, commit)
        if builder is None:
            if _only_cached():
                raise HubUnreachable(f"data set {name!r} {_not_reached('')}")
            card = snapshot("data set", name, commit, ["README.md"]).folder / "README.md"
            try:
                config = config or _default_configuration(name, card)
                builder = _prepared(name, config, commit) or datasets.load_dataset_builder(
                    name, config, revision=commit
                )
            except LoraBenchError:
                raise
            except Exception as error:  # of the hub, the network and the repository's configurations
                if f"BuilderConfig '{config}' not found" in str(error):
                    known = datasets.get_dataset_config_names(name, revision=commit)
                    raise LoraBenchError(f"data set {name!r}: {unknown('configuration', str(config), known)}") from None
                raise LoraBenchError(f"data set {name!r} {why_not('data set', name, commit, error)}") from None
            # Without the hub, `datasets` returns what it prepared last, at any commit.
            if builder.hash != commit:
                raise LoraBenchError(
                    f"data set {name!r} is in the cache at another commit than {commit}, and the hub "
                    "could not be reached; run the same command again"
                )
            urls = [url for files in (builder.config.data_files or {}).values() for url in files]
            snapshot("data set", name, commit, [glob.escape(url.partition(f"@{commit}/")[2]) for url in urls])
        try:
            builder.download_and_prepare()
        except Exception as error:  # readers of csv, json and parquet have no base class of errors
            reason = without_secrets(first_line(list(causes(error))[-1]))
            raise LoraBenchError(f"data set {name!r} cannot be read: {reason}") from None
    return builder


def why_not(kind: Kind, name: str, revision: str | None, error: BaseException, hint: str = "") -> str:
    """Return why a repository is unavailable, to follow "model 'owner/name' …"."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    chain = list(causes(error))

    def first(*classes: type[BaseException]) -> Any:
        return next((link for link in chain if isinstance(link, classes)), None)

    nowhere = "is no folder here, and" if kind == "model" else "is"  # a model may be meant as a folder
    if first(errors.HFValidationError):
        return f"{nowhere} no valid name on the hub (owner/name){hint}"
    if first(errors.GatedRepoError):
        page = f"{_endpoint()}/{'' if kind == 'model' else f'{REPOSITORY_TYPES[kind]}s/'}{name}"
        return f"is gated: ask for access at {page}, then log in with `hf auth login`, or set HF_TOKEN"
    if first(errors.RevisionNotFoundError):
        return f"has no revision {revision!r} on the hub: give a branch, a tag or a full commit of 40 digits"
    if first(errors.RepositoryNotFoundError):
        return f"{nowhere} not on the hub, or private: check the name, or log in with `hf auth login`{hint}"
    if answer := first(errors.HfHubHTTPError):
        status = answer.response.status_code
        if status == httpx.codes.UNAUTHORIZED:
            return "was refused: the hub does not accept the token of `hf auth login` or HF_TOKEN"
        later = "; try again later" if status >= 500 or status == httpx.codes.TOO_MANY_REQUESTS else ""
        return f"is unavailable: the hub ({_endpoint()}) answered {status} {answer.response.reason_phrase}{later}"
    if first(errors.OfflineModeIsEnabled):
        return f"is missing or incomplete in the cache, and HF_HUB_OFFLINE forbids downloads{hint}"
    if _is_unreachable(error):
        return _not_reached(hint)
    if first(httpx.TransportError) or "Consistency check failed" in str(error):
        return "arrived incomplete: the connection broke off; run the same command again"
    return f"is unavailable: {without_secrets(typed_line(error))}"


def _is_unreachable(error: BaseException) -> bool:
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    chain = list(causes(error))
    said = (errors.HFValidationError, errors.HfHubHTTPError, errors.OfflineModeIsEnabled)
    if any(isinstance(link, said) for link in chain):
        return False  # the hub, or its settings, had an answer
    return any(isinstance(link, httpx.ConnectError | httpx.TimeoutException) for link in chain)


def _not_reached(hint: str) -> str:
    return f"is not in the cache, and the hub ({_endpoint()}) could not be reached{hint}"


def _endpoint() -> str:
    """Return the hub's address without secrets: a mirror's may hold a password."""
    from huggingface_hub import constants

    return without_secrets(constants.ENDPOINT)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings of the hub's library that repeat ours, and progress bars in files."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    without_bars = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if without_bars:
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if without_bars:
            enable_progress_bars()


def _default_configuration(name: str, card: Path) -> str:
    """Return the default configuration of a data set, from its README."""
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    if not card.is_file():
        return "default"
    configurations = MetadataConfigs.from_dataset_card_data(DatasetCard.load(card).data)
    if not configurations:
        return "default"
    chosen = configurations.get_default_config_name()
    if chosen is None:
        raise LoraBenchError(
            f"data set {name!r} has several configurations: say its `name:`, one of {', '.join(configurations)}"
        )
    return str(chosen)


def _prepared(name: str, config: str, commit: str) -> Any | None:
    """Return the builder of a data set that `datasets` has prepared at this commit, found by its cache folders."""
    import datasets
    from datasets.naming import camelcase_to_snakecase
    from datasets.packaged_modules.cache.cache import Cache

    owner, slash, last = name.rpartition("/")
    folder = Path(datasets.config.HF_DATASETS_CACHE, owner + slash.replace("/", "___") + camelcase_to_snakecase(last))
    found = sorted(folder.glob(f"{glob.escape(config)}/*/{commit}"))
    if not found:
        return None
    config_name, version, commit = found[-1].parts[-3:]
    return Cache(repo_id=name, dataset_name=last, config_name=config_name, version=version, hash=commit)


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    from datasets.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _is_damaged(path: Path) -> bool:
    """Return True if a file of a snapshot differs from its commit; without links in the cache this cannot be told."""
    if not path.is_symlink():
        return False
    said = path.readlink().name
    if not path.exists() or len(said) not in (GIT_DIGITS, SHA256_DIGITS):
        return not path.exists()
    digest = hashlib.sha256() if len(said) == SHA256_DIGITS else hashlib.sha1(usedforsecurity=False)
    if len(said) == GIT_DIGITS:
        digest.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: digest).hexdigest() != said
