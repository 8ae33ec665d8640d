"""Rows of data sets with release formats of their own: WebNLG's and DART's triples, WikiSQL, tagged words, and SQuAD.

Each reader returns the names of the columns, the rows, and the place of each row, counted from 1 within its file.
"""

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

Rows = tuple[tuple[str, ...], list[list[Any]], list[int]]

TRIPLE_COLUMNS = ("triples", "category", "text", "id")
WIKISQL_COLUMNS = ("header", "question", "sql", "id")
SQUAD_COLUMNS = ("id", "title", "question", "context", "answers")
WORD_COLUMNS = ("words", "tags")

# The positions of sql's numbers in the release.
_AGGREGATES = ("", "MAX", "MIN", "COUNT", "SUM", "AVG")
_OPERATORS = ("=", ">", "<", "OP")


class NotThisForm(Exception):
    """Content that does not have the form, with what is wrong and the line if it is known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


def webnlg(raw: bytes, stem: str) -> Rows:
    """Return a row for each text of the challenge's XML that is marked as good; the others need correction."""
    return _numbered(_entries(raw, stem, only_good=True), TRIPLE_COLUMNS)


def dart(raw: bytes, stem: str) -> Rows:
    """Return a row for each text of DART's release, in JSON or XML."""
    if raw.lstrip()[:1] == b"<":
        return _numbered(_entries(raw, stem, only_good=False), TRIPLE_COLUMNS)
    return _numbered(_dart_json(raw), TRIPLE_COLUMNS)


def wikisql(raw: bytes, tables: bytes) -> Rows:
    """Return a row for each question of WikiSQL's release, with the header of its table and its query as text."""
    headers = {}
    for line, table in _json_lines(tables):
        try:
            headers[table["id"]] = table["header"]
        except (KeyError, TypeError):
            raise NotThisForm("is no table of WikiSQL: it needs id and header", line) from None
    rows = []
    for line, row in _json_lines(raw):
        try:
            header = headers[row["table_id"]]
            rows.append([header, row["question"], _query(header, row["sql"]), f"{row['table_id']}/{line}"])
        except KeyError as error:
            raise NotThisForm(f"has no {error}, or a table that is not among the tables", line) from None
        except (TypeError, IndexError, ValueError):
            raise NotThisForm("is no question of WikiSQL: its sql does not fit its table", line) from None
    return WIKISQL_COLUMNS, rows, list(range(1, len(rows) + 1))


def conll(text: str, columns: tuple[str, ...] | None) -> Rows:
    """Return a row for each sentence: a line for each word with its columns, and an empty line behind the sentence.

    *columns* names all of them; by default the first is `words` and the last `tags`.
    """
    names = columns or WORD_COLUMNS
    sentences: list[list[Any]] = []
    places: list[int] = []
    words: list[list[str]] = []
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        cells = [cell.strip() for cell in line.split("\t")] if "\t" in line.strip() else line.split()
        if not cells or cells[0] == "-DOCSTART-":
            if words:
                sentences.append([list(column) for column in zip(*words, strict=True)])
            words = []
            continue
        if len(cells) < 2 or (columns is not None and len(cells) != len(columns)):
            expected = (
                f"{len(columns)} columns ({', '.join(columns)})" if columns is not None else "a word and its label"
            )
            raise NotThisForm(f"has {len(cells)} value{'s' if len(cells) > 1 else ''}, but needs {expected}", number)
        if not words:
            places.append(number)
        words.append(cells if columns is not None else [cells[0], cells[-1]])
    if not sentences:
        raise NotThisForm("is empty")
    return names, sentences, places


def squad(raw: bytes) -> Rows:
    """Return a row for each question of a release of SQuAD, with its answers as they stand there."""
    try:
        articles = json.loads(raw)["data"]
        rows = [
            [question["id"], article.get("title"), question["question"], paragraph["context"], question["answers"]]
            for article in articles
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except json.JSONDecodeError as error:
        raise NotThisForm(f"is no valid JSON: {error.msg}", error.lineno) from None
    except KeyError as error:
        raise NotThisForm(f"is no release of SQuAD: it has no {error} where one has it") from None
    except (TypeError, AttributeError, UnicodeError, RecursionError):
        raise NotThisForm("is no release of SQuAD: data, paragraphs and qas must be lists of objects") from None
    return SQUAD_COLUMNS, rows, list(range(1, len(rows) + 1))


def _query(header: list[str], sql: dict[str, Any]) -> str:
    """Return a query in the release's words, such as `SELECT COUNT Year FROM table WHERE Place = Rome`."""
    aggregate = _AGGREGATES[sql["agg"]]
    selected = f"{aggregate} {header[sql['sel']]}" if aggregate else header[sql["sel"]]
    conditions = " AND ".join(
        f"{header[column]} {_OPERATORS[operator]} {value}" for column, operator, value in sql["conds"]
    )
    query = f"SELECT {selected} FROM table" + (f" WHERE {conditions}" if conditions else "")
    return " ".join(query.split())


def _entries(raw: bytes, stem: str, *, only_good: bool) -> Iterator[list[Any]]:
    try:
        root = ElementTree.fromstring(raw)
    except ElementTree.ParseError as error:
        raise NotThisForm(f"is no valid XML: {error}", error.position[0]) from None
    found = False
    for entry in root.iter("entry"):
        found = True
        triples = [tuple((triple.text or "").split(" | ")) for triple in entry.iter("mtriple")]
        for text in entry.iter("lex"):
            if _is_written(text.text) and (not only_good or text.get("comment") == "good"):
                name = f"{stem}/{entry.get('eid')}/{text.get('lid')}"
                yield [triples, entry.get("category"), text.text, name]
    if not found:
        raise NotThisForm("has no entry")


def _dart_json(raw: bytes) -> Iterator[list[Any]]:
    try:
        sets = json.loads(raw)
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else None
        raise NotThisForm("is no valid JSON", line) from None
    try:
        for number, entry in enumerate(sets, start=1):
            triples = [tuple(triple) for triple in entry["tripleset"]]
            for index, annotation in enumerate(entry["annotations"], start=1):
                if _is_written(annotation["text"]):
                    yield [triples, annotation["source"], annotation["text"], f"{number}/{index}"]
    except (KeyError, TypeError, AttributeError):
        raise NotThisForm("must be a list of objects with tripleset and annotations") from None


def _is_written(text: str | None) -> bool:
    """Return True if there is text: DART's test split has an entry for one that was never written."""
    return text is not None and bool(text.strip())


def _json_lines(raw: bytes) -> Iterator[tuple[int, Any]]:
    for line, content in enumerate(raw.split(b"\n"), start=1):
        if content.strip():
            try:
                yield line, json.loads(content)
            except (ValueError, RecursionError):
                raise NotThisForm("is no valid JSON", line) from None


def _numbered(rows: Iterator[list[Any]], columns: tuple[str, ...]) -> Rows:
    listed = list(rows)
    return columns, listed, list(range(1, len(listed) + 1))
