"""The cache of a process between runs: the data, its tokens, the tokenizer, and the unmodified base model.

A further run of the same task and base model reads and tokenises nothing again. A run gets copies of the modules over the
weights of the cached model. These are hashed again before the next run, so a method that wrote into the base model costs a
reload and changes no score.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
import xxhash
from torch import nn
from transformers import PreTrainedTokenizerBase

from lora_bench import kinds
from lora_bench.models import sentencepiece as pieces
from lora_bench.models.deberta_positions import cut_to_reach
from lora_bench.models.loading import load_model, load_tokenizer
from lora_bench.models.registry import BaseModel
from lora_bench.models.shared_copy import copy_sharing
from lora_bench.tasks import TaskData, definition, load_data
from lora_bench.tasks import task_scores as scoring
from lora_bench.training.job import MAY_DIFFER, Fields, Job, in_common
from lora_bench.training.measure.counters import bytes_of
from lora_bench.training.token_cache import LEAST_EXAMPLES, Example, shared_examples
from lora_bench.util.hashing import content_hash
from lora_bench.util.paths import cache_folder
from lora_bench.version import __version__

MadeT = TypeVar("MadeT")
Loaded = tuple[Any, list[str]]
"""A base model with the objects of its kind of task, and the names of its head's modules."""

BASE_MAY_DIFFER: Fields = {
    **MAY_DIFFER,
    "method": True,
    "training": {
        **MAY_DIFFER["training"],
        "train_seconds": True, "batch_size": True, "max_length": True, "precision": True, "threads": True,
        "arguments": True, "label_smoothing": True, "masks": True, "order": True, "last_layer": True,
        "processes": True, "parallelism": True,
        "deterministic": True, "class_weights": True, "gradient_checkpointing": True, "sample_packing": True,
    },
}  # fmt: skip
"""Fields in which runs of one base model may differ: a model is loaded before any method or step."""


@dataclass
class _Kept:
    key: Any = None
    made: Any = None


class Warm:
    """The cache of this process: one data set with its folds, and one base model, as the next run likely uses the same."""

    def __init__(self) -> None:
        self._data = _Kept()
        self._encoded: dict[Any, Any] = {}
        self._base = _Kept()
        self._base_hash = ""
        self._tokenizer = _Kept()

    def data(self, job: Job) -> TaskData:
        """Return the examples of a run's task."""
        whole_train = not job.spec.rules.selection_from_train
        key = (job.task.model_dump_json(), job.task_base, whole_train, job.spec.task.data_sha256)
        if self._data.key != key:
            self._data, self._encoded = _Kept(), {}
        folds: dict[int | None, TaskData] = self._data.made or {}
        if job.fold not in folds:
            made = load_data(job.task, job.task_base, whole_train=whole_train, fold=job.fold)
            if made.sha256 != job.spec.task.data_sha256:
                return made  # the run refuses it, and the next one must read it again
            self._data = _Kept(key, {**folds, job.fold: made})
            return made
        return folds[job.fold]

    def encoded(self, job: Job, what: str, make: Callable[[], MadeT]) -> MadeT:
        """Return examples of the cached data, encoded for the run's model; *what* names the examples and their use."""
        spec = job.spec
        decoding = spec.decoding.max_new_tokens if spec.decoding is not None else None
        key = (what, job.fold, spec.model.sha256, spec.training.max_length, decoding, self._data.key)
        if self._data.key is None:
            return make()
        if key not in self._encoded:
            self._encoded[key] = make()
        found: MadeT = self._encoded[key]
        return found

    def shared(
        self, job: Job, split: str, what: str, make: Callable[[], tuple[list[Example], float]]
    ) -> tuple[Sequence[Example], float]:
        """Return the encoded examples of a split; all workers of this machine share those of a large one."""
        data, spec = (self._data.made or {}).get(job.fold), job.spec
        if data is None or len(data.splits[split].ids) < LEAST_EXAMPLES:
            return self.encoded(job, what, make)
        try:
            folder = cache_folder("tokens")
        except OSError:
            return self.encoded(job, what, make)
        of = {
            "made_by": _encoders(),
            "task": definition(job.task),
            "data": spec.task.data_sha256,
            "split": [what, spec.rules.selection_from_train, job.fold],
            "model": spec.model.sha256,
            "max_length": spec.training.max_length,
            "max_new_tokens": spec.decoding.max_new_tokens if spec.decoding is not None else None,
            "versions": [__version__, version("tokenizers"), version("transformers")],
        }
        return self.encoded(job, what, lambda: shared_examples(folder, content_hash(of), make))

    def base(self, job: Job) -> Loaded:
        """Return a copy of the base model for a run, over the cached weights."""
        key = _base_key(job)
        if self._base.key != key or _hash(self._base.made[0]) != self._base_hash:
            self._base = _Kept()
            self._base = _Kept(key, load_for(job))
            # If the table's projections are trained, unreached rows still change the last bit of a gradient.
            if job.cut:
                cut_to_reach(self._base.made[0])
            self._base_hash = _hash(self._base.made[0])
        model, head = self._base.made
        # PEFT appends to the list given as `modules_to_save`.
        return copy_sharing(model, head), list(head)

    def tokenizer(self, base_model: BaseModel) -> PreTrainedTokenizerBase:
        """Return the tokenizer of a base model; callers must not change it."""
        key = (base_model.sha256, base_model.folder)
        if self._tokenizer.key != key:
            self._tokenizer = _Kept(key, load_tokenizer(base_model))
        found: PreTrainedTokenizerBase = self._tokenizer.made
        return found

    def keep_base_for(self, job: Job | None) -> None:
        """Drop the cached base model, unless it is that of the next run; None if that run loads one of its own."""
        if job is None or self._base.key != _base_key(job):
            self._base = _Kept()

    @property
    def base_bytes(self) -> int:
        """Bytes of the cached base model's weights in the memory of this process, 0 if none is cached."""
        return 0 if self._base.made is None else sum(map(bytes_of, self._base.made[0].parameters()))


def _base_key(job: Job) -> Any:
    """Return what two runs must have in common to use one base model."""
    return job.base_model, in_common(job, BASE_MAY_DIFFER)


@functools.cache
def _encoders() -> str:
    """Return a hash of the code that makes tokens: a checkout of another commit may have the same version."""
    files = [Path(str(scoring.__file__)), Path(str(pieces.__file__)), *Path(str(kinds.__file__)).parent.rglob("*.py")]
    return content_hash([file.read_text(encoding="utf-8") for file in sorted(files)])


def load_for(job: Job) -> Loaded:
    """Load the base model of a run from the disk, as its recipe needs it."""
    recipe = job.spec.training
    return load_model(
        job.base_model,
        kind=job.task.kind_of.model_kind,
        labels=len(job.spec.task.labels),
        base_dropout=recipe.base_dropout,
        head_dropout=recipe.head_dropout,
        precision=recipe.base_precision,
    )


def _hash(model: nn.Module) -> str:
    """Return the hash of every weight and buffer in memory."""
    found = xxhash.xxh3_128()
    for tensor in (*model.parameters(), *model.buffers()):
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return str(found.hexdigest())


WARM = Warm()
"""Of this process."""
