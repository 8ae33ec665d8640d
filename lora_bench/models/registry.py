"""Base models: found by name, on the disk or on the hub, and identified by a hash of their content.

A name is one that lora_bench ships or rewrites (`known_models`), a folder in Hugging Face's layout, or a model on the hub. All
three become a folder and are treated alike from there on. Weights are read only from safetensors, and a model's code never
runs; `lora_bench.models.safety` has the two exceptions that a user can make.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_bench.errors import LoraBenchError, did_you_mean
from lora_bench.families import Family
from lora_bench.models import safety
from lora_bench.models.deberta_mini import deberta_mini_folder
from lora_bench.models.gpt2_mini import gpt2_mini_folder
from lora_bench.models.made_folder import Progress
from lora_bench.models.minilm import deberta_folder, roberta_folder
from lora_bench.models.mpnet import mpnet_folder
from lora_bench.models.shapes import PREFIX, shape_folder
from lora_bench.models.shipped import needed_assets
from lora_bench.util.hashing import content_hash
from lora_bench.util.hub import COMMIT
from lora_bench.util.pip_assets import DEBERTA_MINI, GPT2_MINI, MPNET_PARTS, is_cached
from lora_bench.util.regular_files import check_regular, read_object, sha256_of

# Files that make a model; other files of a folder (cards, logs, other formats) do not change it.
MODEL_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "vocab*", "merges.txt",
               "*.model", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")  # fmt: skip

# Before the name of a known model in a file for other programs: no hub can have such a name.
LOCAL = "lora_bench:"


@dataclass(frozen=True)
class BaseModel:
    """A base model on this machine.

    Args:
        revision: Commit on the hub, if it came from there.
        has_weights: True if its folder has weights; those of a shape are drawn at random.
        remote_code: True if code that comes with it runs.
        family: Its family, if no installed package names one for its type.
        inferred: True if that family was worked out from its structure.
    """

    name: str
    shown: str
    folder: Path
    sha256: str
    revision: str | None
    model_type: str
    has_weights: bool = True
    remote_code: bool = False
    warnings: tuple[str, ...] = ()
    family: Family | None = field(default=None, compare=False)
    inferred: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class KnownModel:
    """A model that lora_bench ships, or rewrites from named assets; its folder is made of these, obtaining missing files."""

    shown: str
    about: str
    assets: tuple[str, ...]
    folder: Callable[[Progress | None], Path]

    @property
    def is_here(self) -> bool:
        """Return True if it is available without the network."""
        return all(map(is_cached, self.assets))


def known_models() -> dict[str, KnownModel]:
    """Return the models that need no hub, by name."""
    return {
        "minilm-l6-roberta": KnownModel(
            shown="MiniLM-L6 in the RoBERTa class",
            about="all-MiniLM-L6-v2 (22.7 M weights) rewritten exactly as a RoBERTa",
            assets=("minilm-l6",),
            folder=roberta_folder,
        ),
        "minilm-l6-deberta": KnownModel(
            shown="MiniLM-L6 as DeBERTa-v2 (relative terms at zero)",
            about="all-MiniLM-L6-v2 rewritten exactly as a DeBERTa-v2, whose relative-position terms are all zero",
            assets=("minilm-l6",),
            folder=deberta_folder,
        ),
        "deberta-mini": KnownModel(
            shown="deberta-mini (22.4 M weights, from MiniLM-L6)",
            about="a DeBERTa-v2 of 22.4 M weights, pretrained from MiniLM-L6 for lora_bench",
            assets=("minilm-l6", *needed_assets(DEBERTA_MINI)),
            folder=deberta_mini_folder,
        ),
        "mpnet-base": KnownModel(
            shown="all-mpnet-base-v2 (109 M weights)",
            about="all-mpnet-base-v2, MPNet-base trained further for sentence vectors: 109 M weights, a download of 404 MB",
            assets=MPNET_PARTS,
            folder=mpnet_folder,
        ),
        "gpt2-mini": KnownModel(
            shown="gpt2-mini (5.4 M weights)",
            about="a GPT-2 of 5.4 M weights pretrained for lora_bench",
            assets=needed_assets(GPT2_MINI),
            folder=gpt2_mini_folder,
        ),
    }


def find_model(
    name: str,
    *,
    base: Path,
    revision: str | None = None,
    shown: str | None = None,
    progress: Progress | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> BaseModel:
    """Return the base model called *name*: a known one, a folder (relative to *base*), a shape, or one on the hub.

    To run code of its repository (*trust_remote_code*), *revision* must be a commit. `lora_bench.models.safety` tells about
    pickles. Raise LoraBenchError if the name is unknown, its weights are not in safetensors, or it needs code that is not
    trusted; AssetUnavailable if a known model's asset is neither cached nor downloadable.
    """
    if name.startswith(PREFIX):
        folder, commit = shape_folder(name, base)
        config = safety.read_config(name, folder)
        safety.check_code(name, folder, config, trusted=False)
        if config.get("quantization_config"):
            raise LoraBenchError(
                f"model {name!r} has quantised weights, which no method here trains or counts: name the checkpoint in "
                "bfloat16, float16 or float32 that it was made from"
            )
        return BaseModel(
            name=name,
            shown=shown or f"{name.removeprefix(PREFIX)} (random weights)",
            folder=folder,
            sha256=_hash_of_files(folder, ("config.json",)),
            revision=commit,
            model_type=safety.check_type(name, config, trusted=False),
            has_weights=False,
        )
    known = known_models().get(name.removeprefix(LOCAL))
    if known is not None:
        name = name.removeprefix(LOCAL)
        folder = known.folder(progress)
        return _base_model(name, shown or known.shown, folder)
    local = _folder(name, base)
    if local is not None:
        if trust_remote_code:
            raise LoraBenchError(
                f"model {name!r} is a folder, whose code no commit pins: trust_remote_code is for a model on the hub"
            )
        return _base_model(name, shown or Path(name).name, local, allow_pickle=allow_pickle)
    if name.startswith(("/", "./", "../", "~", ".\\")) or Path(name).is_absolute():
        raise LoraBenchError(
            f"model {name!r}: there is no such folder{'' if Path(name).is_absolute() else f' in {base}'}"
            f"{did_you_mean(name, _models_beside(name, base)) or did_you_mean(Path(name).name, known_models())}"
        )
    if trust_remote_code and (revision is None or not COMMIT.fullmatch(revision)):
        raise LoraBenchError(f"model {name!r}: trust_remote_code needs a revision of all 40 digits, got {revision!r}")
    beside = _models_beside(name, base)
    folder, commit = _from_hub(name, revision, progress, beside, code=trust_remote_code, pickled=allow_pickle)
    pinned = {"hub": name, "commit": commit, **({"code": True} if trust_remote_code else {})}
    return _base_model(
        name,
        shown or name,
        folder,
        sha256=content_hash(pinned),
        revision=commit,
        trusted=trust_remote_code,
        allow_pickle=allow_pickle,
    )


def _folder(name: str, base: Path) -> Path | None:
    try:
        folder = base / Path(name).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError):  # an overlong name, or the home folder of an unknown user
        return None


def _models_beside(name: str, base: Path) -> list[str]:
    """Return the folders of models beside the one that *name* would be, named like it."""
    before = name[: len(name) - len(Path(name).name)]
    try:
        there = (base / Path(name).expanduser()).parent.iterdir()
        return [before + folder.name for folder in there if (folder / "config.json").is_file()]
    except (OSError, RuntimeError):  # no such folder, or the home folder of an unknown user
        return []


def check_folder(name: str, folder: Path, *, trusted: bool = False) -> str:
    """Return a folder's `model_type`. Raise LoraBenchError if it is no model, or runs code, reads elsewhere or never ends."""
    check_regular(folder, f"model {name!r}")
    if not (folder / "config.json").is_file():
        raise LoraBenchError(f"model {name!r}: the folder has no config.json, so it is not a Hugging Face model")
    config = safety.read_config(name, folder)
    safety.check_code(name, folder, config, trusted=trusted)
    model_type = safety.check_type(name, config, trusted=trusted)
    safety.check_weights(name, folder, config)
    return model_type


def _base_model(
    name: str,
    shown: str,
    folder: Path,
    *,
    sha256: str | None = None,
    revision: str | None = None,
    trusted: bool = False,
    allow_pickle: bool = False,
) -> BaseModel:
    """Check a model's folder; its files are hashed if no hash is given."""
    model_type = check_folder(name, folder, trusted=trusted)
    warnings = [f"{name} ran code of its repository at commit {revision}, allowed by --allow-code"] if trusted else []
    if not any(folder.glob("*.safetensors")):
        pickled = safety.pickles(folder)
        if not allow_pickle:
            danger = f" ({', '.join(pickled)} can run code when read)" if pickled else ""
            raise LoraBenchError(
                f"model {name!r} has no weights in safetensors{danger}; name a revision that has them, or, if you trust "
                f"its author, add --allow-pickle {shlex.quote(name)}"
            )
        folder = safety.as_safetensors(name, folder)
        warnings.append(f"the weights of {name} were read from a pickle, allowed by --allow-pickle")
    return BaseModel(
        name=name,
        shown=shown,
        folder=folder,
        sha256=sha256 or _hash_of_files(folder),
        revision=revision,
        model_type=model_type,
        remote_code=trusted,
        warnings=tuple(warnings),
    )


def _hash_of_files(folder: Path, files: Sequence[str] = MODEL_FILES) -> str:
    """Return the hash of a model's content, independent of the version of transformers that wrote its configuration."""
    hashes: dict[str, str] = {}
    for path in sorted({path for pattern in files for path in folder.glob(pattern)}):
        if path.suffix == ".json" and path.name == "config.json":
            config = read_object(path, f"{path.name} of a model")
            hashes[path.name] = content_hash(
                {key: value for key, value in config.items() if key not in ("transformers_version", "_name_or_path")}
            )
        else:
            hashes[path.name] = sha256_of(path)
    return content_hash(hashes)


def _from_hub(
    name: str, revision: str | None, progress: Progress | None, beside: Sequence[str], *, code: bool, pickled: bool
) -> tuple[Path, str]:
    """Return folder and commit of a model on the hub, with its code if asked for, and with pickles if it has nothing else.

    *beside* are folders of models that the name may stand for.
    """
    from lora_bench.util.hub import snapshot

    if progress is not None:
        progress(f"looking for {name} on the Hugging Face hub")
    hint = (
        f"{did_you_mean(name, [*known_models(), *beside])} (without the hub: {', '.join(known_models())}, or a folder)"
    )
    # Folders of a repository contain other formats of the same model, such as onnx/.
    files = (*MODEL_FILES, "*.py") if code else MODEL_FILES
    copy = snapshot("model", name, revision, files, leave=("*/*",), hint=hint)
    if (copy.folder / "config.json").is_file() and not any(copy.folder.glob("*.safetensors")):
        if pickled:
            copy = snapshot(
                "model", name, copy.commit, (*files, safety.PICKLED_WEIGHTS, safety.PICKLED_INDEX), leave=("*/*",)
            )
            return copy.folder, copy.commit
        raise LoraBenchError(
            f"model {name!r} has no weights in safetensors on the hub at revision {revision or 'main'}, and others can run "
            "code when read: name a `revision:` that has them (the hub's converter often offers one as refs/pr/N), or, if "
            f"you trust its author, add --allow-pickle {shlex.quote(name)}"
        )
    return copy.folder, copy.commit
