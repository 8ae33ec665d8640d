"""Strict reading of YAML files written by users.

`read_yaml` keeps the line of every key, refuses what YAML would silently accept (a key given twice, an alias, a tag, a very
large or deep file), and reads `1e-4` as a number. `validate` checks the result with a pydantic model and reports every fault at
once, each with file, line and key.
"""

from __future__ import annotations

import inspect
import json
import math
import re
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from lora_bench.docstrings import described
from lora_bench.errors import BadInput, Fault, did_you_mean

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

# A file of people's is read within a second or two whatever is in it; the largest of ours has some 500 values.
MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_VALUES = 20_000
MAX_KEY_CHARACTERS = 1_000
MAX_INTEGER = 2**63 - 1
SHOWN_FAULTS = 50
SHOWN_CHARACTERS = 100

Key = tuple[str | int, ...]

# Keys of other libraries, each with what does the same here.
ELSEWHERE = {
    "lr": "the rate is `learning_rate`, in an entry of `methods`",
    "early_stopping": "`budget: {epochs: {until: plateau, at_most: 20}}` with `selection_every: 50` ends it at a plateau",
    "stratify": "`split: {stratify: true}` of a task gives each split its share of every class",
    "class_weights": "`training: {class_weights: balanced}` weighs rows by the rarity of their class",
    "class_weight": "`training: {class_weights: balanced}` weighs rows by the rarity of their class",
    "bf16": "`training: {precision: bfloat16}` does this by autocast; `base_precision: bfloat16` stores the base so",
    "fp16": "`training: {base_precision: float16}` stores the base so; `precision: bfloat16` is autocast in the shorter type",
    "torch_dtype": "`training: {base_precision: bfloat16}` stores the base so",
    "dtype": "`training: {base_precision: bfloat16}` stores the base so",
    "optim": "`training_arguments: {optim: paged_adamw_8bit}` does this",
    "optimizer": "`training_arguments: {optim: paged_adamw_8bit}` does this",
    "packing": "`training: {sample_packing: true}` does this, within a batch",
    "padding_free": "`training: {sample_packing: true}` does this, within a batch",
    "gradient_checkpointing": "`training: {gradient_checkpointing: true}` does this",
}


class Strict(BaseModel):
    """A frozen model in which an unknown key is an error and no type is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the JSON Schema, in which the docstring describes each field."""
        schema = handler(core_schema)
        of_class = handler.resolve_ref_schema(schema)
        of_class["description"] = inspect.cleandoc(cls.__doc__ or "").partition("\n\nArgs:\n")[0]
        about, properties = described(cls), of_class.get("properties", {})
        for name, of_field in cls.model_fields.items():
            key = of_field.alias or name
            if key in properties and name in about:
                properties[key] = {**properties[key], "description": about[name]}
        return schema


ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True)
class Document:
    """The data of one YAML file, with the line of each key.

    Args:
        file: The file as the user named it.
        data: Mappings, lists, strings, numbers, booleans and None.
        lines: Line of each key or item, counted from 1, by its path, such as ``("budget", "tolerance")``.
    """

    file: str
    data: dict[str, Any]
    lines: Mapping[Key, int] = field(default_factory=dict)

    def fault(self, key: Key, message: str) -> Fault:
        """Return a fault at *key*, with the line of the nearest key in the file."""
        near = key
        while near and near not in self.lines:
            near = near[:-1]
        return Fault(message, file=self.file, line=self.lines.get(near), key=dotted(key) or None)


def dotted(key: Key) -> str:
    """Return a key path as text: ``methods[1].rank``."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_yaml(path: Path, *, shown: str | None = None) -> Document:
    """Read one YAML file with a mapping at the top.

    Args:
        path: The file.
        shown: Name of the file in messages; its path by default.

    Raises:
        BadInput: If the file cannot be read, is no YAML mapping, gives a key twice, has values that JSON cannot hold, or is too
            large or too deep.
    """
    name = shown or str(path)
    if path.exists() and not path.is_file():  # a pipe or a device would be read without end
        raise BadInput([Fault("cannot be read: not a regular file", file=name)])
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise BadInput(
                [Fault(f"has more bytes than a suite or task needs; at most {MAX_BYTES:,} are read", file=name)]
            )
        node = yaml.compose(raw.decode("utf-8"), Loader=_Loader)
    except OSError as error:
        raise BadInput([Fault(f"cannot be read: {error.strerror}", file=name)]) from None
    except UnicodeDecodeError as error:
        raise BadInput([Fault(f"is not UTF-8 text (byte {error.start})", file=name)]) from None
    except yaml.YAMLError as error:
        raise BadInput([_yaml_fault(error, name)]) from None
    except (ValueError, OverflowError) as error:  # an escape for a character that Unicode does not have
        raise BadInput([Fault(f"is no valid YAML: {error}", file=name)]) from None
    if not isinstance(node, yaml.MappingNode):
        content = "nothing" if node is None else "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
        raise BadInput([Fault(f"must be a mapping of keys to values, got {content}", file=name)])
    lines: dict[Key, int] = {}
    faults: list[Fault] = []
    data = _plain(node, (), lines, faults, name)
    if faults:
        raise BadInput(faults[:SHOWN_FAULTS])
    return Document(file=name, data=data, lines=lines)


def validate(model: type[ModelT], document: Document, at: Key = (), without: Collection[str] = ()) -> ModelT:
    """Build *model* from the part *at* of a document, less the keys *without*. Raise BadInput with every wrong key."""
    data: Any = document.data
    for part in at:
        data = data[part]
    data = {key: value for key, value in data.items() if key not in without}
    try:
        # JSON mode lets a list stand for a tuple while every other type stays strict.
        return model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        details = error.errors(include_url=False)
        faults = [_fault(model, document, at, detail, without) for detail in details]
        raise BadInput(_told(faults, [detail["type"].endswith("_type") for detail in details])[:SHOWN_FAULTS]) from None


def _told(faults: Sequence[Fault], of_form: Sequence[bool]) -> list[Fault]:
    """Return the faults without those that ask for another form of a value whose own form fits, but not what it holds."""

    def fits(key: str) -> bool:
        deeper = any(str(fault.key).startswith((f"{key}.", f"{key}[")) for fault in faults)
        return deeper or any(fault.key == key and not form for fault, form in zip(faults, of_form, strict=True))

    return [fault for fault, form in zip(faults, of_form, strict=True) if not (form and fits(str(fault.key)))]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's numbers and booleans: `1e-4` is a number; `yes` and dates are text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.values = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # A dozen lines of aliases can stand for gigabytes, and no file of ours needs one.
        if self.check_event(yaml.AliasEvent):
            raise self._refusal("aliases (*name) are not read")
        self.depth, self.values = self.depth + 1, self.values + 1
        if self.depth > MAX_DEPTH + 1:
            raise self._refusal(f"is nested deeper than {MAX_DEPTH} levels")
        if self.values > MAX_VALUES:
            raise self._refusal(f"has more than {MAX_VALUES:,} keys and values")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _refusal(self, problem: str) -> yaml.YAMLError:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        return yaml.composer.ComposerError(problem=problem, problem_mark=mark)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag.rsplit(":")[-1] not in ("float", "bool", "int", "timestamp")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+)$"
    ),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
# Without YAML 1.1's 1:30 for ninety and 010 for eight.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"(?:[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+|[-+]?0b[01_]+)$"),
    list("-+0123456789"),
)


def _plain(node: yaml.Node, key: Key, lines: dict[Key, int], faults: list[Fault], name: str) -> Any:
    """Return the data of a node; note the line of each key and every repeated key."""
    line = node.start_mark.line + 1
    lines.setdefault(key, line)
    if not isinstance(node, yaml.ScalarNode) and node.tag.rsplit(":")[-1] not in ("map", "seq"):
        faults.append(Fault(f"the tag {node.tag} is not read", name, line, dotted(key)))
        return None
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or _no_text(key_node.value):
                faults.append(Fault("a key must be a single word or text", name, line, dotted(key) or None))
                continue
            inner = str(key_node.value)
            if len(inner) > MAX_KEY_CHARACTERS:
                message = f"a key has {len(inner):,} characters; at most {MAX_KEY_CHARACTERS:,} are read"
                faults.append(Fault(message, name, line, dotted(key) or None))
                continue
            if inner in result:
                first = lines[(*key, inner)]
                faults.append(Fault(f"is given twice, first in line {first}", name, line, dotted((*key, inner))))
            lines[(*key, inner)] = line
            result[inner] = _plain(value_node, (*key, inner), lines, faults, name)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*key, index), lines, faults, name) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode), "a node is a mapping, a list or a scalar"
    value, problem = _scalar(node)
    if problem is not None:
        faults.append(Fault(problem, name, line, dotted(key)))
    return value


def _scalar(node: yaml.ScalarNode) -> tuple[Any, str | None]:
    """Return the value of a scalar, and what is wrong with it or None."""
    shown = _shown(node.value)
    if node.tag not in _READ_TAGS:
        return None, f"the tag {node.tag} is not read"
    try:
        # A constructor keeps all that it ever made, so each value has its own.
        value = yaml.constructor.SafeConstructor().construct_object(node)
    except (yaml.YAMLError, ValueError, LookupError):
        return None, f"{shown} cannot be read as {node.tag}"
    if isinstance(value, float) and not math.isfinite(value):
        return None, f"{shown} cannot be read as {node.tag}"
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return None, f"{shown} is a whole number of more than 64 bits"
    return value, _no_text(value) if isinstance(value, str) else None


def _shown(value: Any) -> str:
    """Return a value for a message, cut if it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _no_text(value: str) -> str | None:
    """Return why a string cannot be text in a file or a path, or None."""
    strange = next((character for character in value if character == "\0" or "\ud800" <= character <= "\udfff"), None)
    return None if strange is None else f"has the character {ord(strange):#06x}, which is no text"


_READ_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}


def _yaml_fault(error: yaml.YAMLError, name: str) -> Fault:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return Fault(f"is no valid YAML: {problem}", file=name, line=mark.line + 1 if mark else None)


def _fault(model: type[BaseModel], document: Document, at: Key, detail: Any, without: Collection[str]) -> Fault:
    """Return one pydantic error in our words; keys of *without* stand beside the model's own."""
    # pydantic puts the names of union members and validators into the location: keep what the file has.
    key: Key = at
    for place, part in enumerate(detail["loc"], start=1):
        named = place == len(detail["loc"]) and detail["type"] in ("missing", "extra_forbidden")
        if named or (*key, part) in document.lines:
            key = (*key, part)
    given = detail["input"]
    kind = detail["type"]
    if kind == "missing":
        message = "is missing"
    elif kind == "extra_forbidden":
        beside = without if len(detail["loc"]) == 1 else ()
        known = [*_keys(model, detail["loc"][:-1]), *beside]
        other = ELSEWHERE.get(str(key[-1]))
        message = f"unknown key{did_you_mean(str(key[-1]), known) if other is None else f'; {other}'}"
    elif kind == "value_error":
        message = str(detail["ctx"]["error"])
    elif kind in ("too_short", "too_long"):
        bound, number = ("at least", "min_length") if kind == "too_short" else ("at most", "max_length")
        given_number = detail["ctx"]["actual_length"]
        message = f"must have {bound} {_entries(detail['ctx'][number])}, got {given_number}"
    elif not detail["msg"].startswith("Input should be "):
        message = f"{detail['msg'][0].lower()}{detail['msg'][1:]}, got {_shown(given)}"
    else:
        expected = detail["msg"].removeprefix("Input should be ").removeprefix("a valid ")
        expected = {"array": "a list", "object": "a mapping"}.get(expected, expected)
        shown = "a mapping" if isinstance(given, dict) else "a list" if isinstance(given, list) else _shown(given)
        message = f"must be {expected}, got {shown} ({type(given).__name__})"
    return document.fault(key, message)


def _entries(number: int) -> str:
    return "1 entry" if number == 1 else f"{number} entries"


def _keys(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    candidates: list[Any] = [model]
    for part in loc:
        step: list[Any] = []
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                if part in candidate.model_fields:
                    step += _models(candidate.model_fields[str(part)].annotation)
                elif candidate.__name__ == part:
                    step.append(candidate)
        candidates = step or candidates
    return [name for candidate in candidates if hasattr(candidate, "model_fields") for name in candidate.model_fields]


def _models(annotation: Any) -> list[Any]:
    """Return the pydantic models inside an annotation such as ``tuple[str | Entry, ...]``."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models(part)]
