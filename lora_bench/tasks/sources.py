"""Where the rows of a task are: files, an asset or the hub, and the layout in which a set circulates as files."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from lora_bench.documents import Strict
from lora_bench.tasks.tables import Format

UnevenRows = Literal["refuse", "leave_out"]


def file_as_data(given: Any) -> Any:
    """A plain string is a file."""
    return {"file": given} if isinstance(given, str) else given


def _column_as_label(given: Any) -> Any:
    return {"column": given} if isinstance(given, str) else given


def one_or_more(given: Any) -> Any:
    """A plain string is a list of one."""
    return (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else given


def _at_least_one(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("names nothing; give at least one name, or leave the key out")
    return names


def names_as_text(given: Any) -> Any:
    """Class names; `labels: [0, 1]` means the text that the data has."""
    if not isinstance(given, list | tuple):
        return given
    return tuple(str(name) if isinstance(name, int) and not isinstance(name, bool) else name for name in given)


class Label(Strict):
    """Where a row's label is.

    Args:
        column: Its column; for generation that of the text to write, or of a list of such texts.
        rule: "sign" makes two classes of a number, negative and positive, and drops rows with zero.
        where: Of a list of texts to write, only those at whose places the lists of these columns have these values.
    """

    column: str
    rule: Literal["sign"] | None = None
    where: dict[str, str] = Field(default_factory=dict)


Columns = Annotated[tuple[str, ...], BeforeValidator(one_or_more)]
TextKey = Annotated[tuple[str, ...], BeforeValidator(one_or_more, json_schema_input_type=str | tuple[str, str])]
LabelKey = Annotated[Label, BeforeValidator(_column_as_label, json_schema_input_type=str | Label)]
Files = Annotated[
    tuple[str, ...],
    BeforeValidator(one_or_more, json_schema_input_type=str | tuple[str, ...]),
    AfterValidator(_at_least_one),
]


class Part(Strict):
    """One file that describes itself, because its columns are not those of the task's other files.

    Args:
        file: The file.
        columns: Names of its columns where it is csv or tsv without a header.
        text: Its text columns; the task's by default.
        label: Its label's column; the task's by default.
        id: Its column of example ids; by default the number of the row.
        optional: Whether the task does without it where it is not there.
    """

    file: str
    columns: Columns | None = None
    text: TextKey | None = None
    label: LabelKey | None = None
    id: str | None = None
    optional: bool = False


class HubSplits(Strict):
    """The hub's names for the splits; without `selection`, a part of `train` is set aside for it.

    Args:
        train: To learn from.
        selection: To choose by.
        test: To report.
        also: Further splits that are scored, by the name they have here.
    """

    train: str
    selection: str | None = None
    test: str
    also: dict[str, str] = Field(default_factory=dict)


class Data(Strict):
    """Where the rows are: one of `file`, `asset` with `file`, `train` and `test` (and `selection`), or `hub`.

    Args:
        file: One file, to be split; with `asset`, a path inside it.
        asset: A named asset of `lora_bench.util.pip_assets`.
        train: File of the training split.
        selection: File of the selection split.
        test: File of the test split.
        also: Files of further splits that are scored, by name; a mapping where a file has columns of its own.
        hub: A data set on the Hugging Face hub, as `owner/name`.
        name: Its configuration.
        revision: Its commit, or a branch or tag, which may mean other data tomorrow.
        splits: The hub's names for the splits.
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
        """Whether train and test are given apart."""
        return self.hub is not None or self.file is None

    @property
    def has_selection(self) -> bool:
        """Whether the selection split is given."""
        return self.selection is not None or (self.splits is not None and self.splits.selection is not None)

    @property
    def files(self) -> dict[str, str]:
        """Local files by what they hold: a split, or "all" for one that is to be split."""
        if self.asset is not None or self.hub is not None:
            return {}
        if self.file is not None:
            return {"all": self.file}
        given = {"train": self.train, "selection": self.selection, "test": self.test}
        further = {name: part if isinstance(part, str) else part.file for name, part in self.also.items()}
        return {split: file for split, file in given.items() if file is not None} | further

    @property
    def further(self) -> tuple[str, ...]:
        """The names of the further splits."""
        return tuple(self.also) or (tuple(self.splits.also) if self.splits is not None else ())


class Local(Strict):
    """The layout in which a set circulates as files. What is not said is the task's own.

    Args:
        folders: Names that its folder may have inside a data directory.
        train: File (or folder) of the training split, or several names that it may have.
        selection: Of the selection split.
        test: Of the test split.
        also: Files of further splits that are scored, by name.
        unlabelled: Files whose labels are kept secret, by name: no run reads them, `load_unlabelled` does.
        format: Format of the files where their suffix does not tell.
        columns: Names of the columns of csv and tsv files without a header.
        quoting: Whether quotation marks enclose values in csv and tsv.
        uneven_rows: What happens to rows of csv and tsv with too few or too many values.
        text: The text's column, or two columns for a pair of texts.
        label: The label's column, or a rule that makes a label of it.
        label_names: The class names of what stands in the label's column, where that is something else.
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
