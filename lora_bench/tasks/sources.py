"""Sources of a task's rows: files, an asset or the hub, and the layout in which a set is distributed as files."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from lora_bench.documents import Strict
from lora_bench.kinds.support.row_values import Columns, Label, one_or_more
from lora_bench.tasks.source_tables import Format

UnevenRows = Literal["refuse", "leave_out"]
Encoding = Literal[
    "utf-8", "utf-16", "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "latin-1", "mac-roman",
    "shift_jis", "euc_jp", "euc_kr", "gb18030", "big5", "koi8_r",
]  # fmt: skip


def file_as_data(given: Any) -> Any:
    """Return a string as the `data` of one file."""
    return {"file": given} if isinstance(given, str) else given


def _column_as_label(given: Any) -> Any:
    if isinstance(given, list | tuple):
        return {"columns": tuple(given)}
    return {"column": given} if isinstance(given, str) else given


def _at_least_one(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("names nothing; give at least one name, or leave the key out")
    return names


def names_as_text(given: Any) -> Any:
    """Return class names as text; `labels: [0, 1]` means the text in the data."""
    if not isinstance(given, list | tuple):
        return given
    return tuple(str(name) if isinstance(name, int) and not isinstance(name, bool) else name for name in given)


TextKey = Annotated[tuple[str, ...], BeforeValidator(one_or_more, json_schema_input_type=str | tuple[str, ...])]
LabelKey = Annotated[Label, BeforeValidator(_column_as_label, json_schema_input_type=str | tuple[str, ...] | Label)]
Files = Annotated[
    tuple[str, ...],
    BeforeValidator(one_or_more, json_schema_input_type=str | tuple[str, ...]),
    AfterValidator(_at_least_one),
]


class Part(Strict):
    """A file whose columns differ from those of the task's other files.

    Args:
        file: Path of the file.
        columns: Column names, for csv or tsv without a header.
        text: Text columns; the task's by default.
        label: Column of the label; the task's by default.
        id: Column of example ids; the row number by default.
        optional: True if the file may be missing.
    """

    file: str
    columns: Columns | None = None
    text: TextKey | None = None
    label: LabelKey | None = None
    id: str | None = None
    optional: bool = False


def _with_validation(schema: dict[str, Any]) -> None:
    """Let an editor accept the other name too."""
    said = {"title": "Validation", "description": "Another name of `selection`."}
    schema["properties"]["validation"] = schema["properties"]["selection"] | said


class _InSplits(Strict):
    """Names or files of splits, in which `validation` means `selection`."""

    model_config = ConfigDict(json_schema_extra=_with_validation)

    @model_validator(mode="before")
    @classmethod
    def _validation_as_selection(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "validation" not in given:
            return given
        if "selection" in given:
            raise ValueError("selection and validation are the same split: give one of them")
        return {"selection" if name == "validation" else name: value for name, value in given.items()}


class HubSplits(_InSplits):
    """Names of the splits on the hub; without `selection`, a share of `train` is set aside.

    Args:
        train: Name of this split.
        selection: Name of this split; `validation` means the same.
        test: Name of this split.
        also: Further splits to score, by their name here.
    """

    train: str
    selection: str | None = None
    test: str
    also: dict[str, str] = Field(default_factory=dict)

    @property
    def named(self) -> dict[str, str]:
        """Names on the hub, by their name here."""
        given = {"train": self.train, "selection": self.selection, "test": self.test}
        return {split: name for split, name in given.items() if name is not None} | self.also


class Data(_InSplits):
    """Source of the rows: `file`, `train` and `test` (and `selection`), an `asset` with either, or `hub`.

    Args:
        file: File to split.
        asset: Named asset of `lora_bench.util.pip_assets`, inside which the files are.
        train: File of this split.
        selection: File of this split; `validation` means the same.
        test: File of this split; it may be missing beside `selection`.
        also: Files of further splits to score, by name; a mapping for a file with other columns.
        hub: Data set on the Hugging Face hub, as `owner/name`.
        name: Configuration of the data set.
        revision: Commit; or a branch or tag, whose data may change.
        splits: Names on the hub of `train`, `test`, maybe `selection` (else set aside from `train`), and in `also` of further
            splits to score.
    """

    file: str | None = None
    asset: str | None = None
    train: str | None = None
    selection: str | None = None
    test: str | None = None
    also: dict[str, str | Part] = Field(default_factory=dict)
    hub: str | None = None
    name: str | None = None
    revision: str | None = None
    splits: HubSplits | None = None

    @property
    def has_splits(self) -> bool:
        """True if training rows are apart from those of another split."""
        return self.hub is not None or self.file is None

    @property
    def has_selection(self) -> bool:
        """True if the data has a selection split."""
        return self.selection is not None or (self.splits is not None and self.splits.selection is not None)

    @property
    def has_all_splits(self) -> bool:
        """True if no split is to be dealt out of other rows."""
        return self.has_selection and (self.hub is not None or self.test is not None)

    @property
    def files(self) -> dict[str, str]:
        """Local files by split; "all" for one that is to be split."""
        return {} if self.asset is not None else self.named_files

    @property
    def named_files(self) -> dict[str, str]:
        """Local files, or those inside the asset, by split; "all" for one that is to be split."""
        if self.hub is not None:
            return {}
        if self.file is not None:
            return {"all": self.file}
        given = {"train": self.train, "selection": self.selection, "test": self.test}
        further = {name: part if isinstance(part, str) else part.file for name, part in self.also.items()}
        return {split: file for split, file in given.items() if file is not None} | further

    @property
    def further(self) -> tuple[str, ...]:
        """Names of the further splits."""
        return tuple(self.also) or (tuple(self.splits.also) if self.splits is not None else ())


class Local(Strict):
    """Layout in which a set is distributed as files; missing keys are the task's own.

    Args:
        folders: Names of the folder inside a data directory.
        train: File or folder of this split, or its possible names.
        selection: File or folder of this split, or its possible names.
        test: File or folder of this split, or its possible names.
        also: Files of further splits to score, by name.
        unlabelled: Files with secret labels, by name; only `load_unlabelled` reads them.
        format: Format of the files, if their suffix does not give it.
        columns: Column names of csv and tsv files without a header.
        quoting: False if quotation marks in csv and tsv belong to the text.
        uneven_rows: Csv and tsv rows with too few or too many values: "refuse" or "leave_out".
        text: Column of the text, or two for a pair.
        label: Column of the label, or a rule.
        label_names: Class name of each value of the label, if they differ.
        id: Column of example ids.
    """

    folders: Files
    train: Files
    selection: Files | None = None
    test: Files
    also: dict[str, str | Part] = Field(default_factory=dict)
    unlabelled: dict[str, str | Part] = Field(default_factory=dict)
    format: Format | None = None
    columns: Columns | None = None
    quoting: bool | None = None
    uneven_rows: UnevenRows | None = None
    text: TextKey | None = None
    label: LabelKey | None = None
    label_names: dict[str, str] | None = None
    id: str | None = None


class Release(Strict):
    """Facts of the data as released, by which a verdict on a published number knows it. No part of a run's id.

    Args:
        examples: Examples of each split before any is set aside; for generation, texts of `train` and inputs of other splits.
        sha256: Known hashes of the files of the layout, all together; empty if unknown.
    """

    examples: dict[str, int]
    sha256: Columns = ()
