"""Rows of chats, in every form and format, are the same conversations; what is none is said with its line."""

import csv
import json

import datasets
import pytest

from lora_bench.documents import Document
from lora_bench.errors import BadInput
from lora_bench.kinds.chat import NoAnswer, conversation, messages_of
from lora_bench.tasks import definition, load_data, task_from_definition, task_from_document


def said(role, content, **others):
    return {"role": role, "content": content, **others}


TALK = [said("system", "be brief"), said("user", "hello"), said("assistant", "hi"), said("user", "bye")]
CHATS = [[*TALK, said("assistant", f"see you {number}")] for number in range(40)]
BEFORE = json.dumps(TALK, separators=(",", ":"))


def task_of(file, **keys):
    given = {"task": "talk", "kind": "chat", "data": file, "text": "messages", **keys}
    return task_from_document(Document("talk.yaml", given))


def load(folder, file, **keys):
    """The data of a task in which one file is every split."""
    return load_data(task_of({"train": file, "selection": file, "test": file}, **keys), folder)


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def pairs_in(data):
    return {
        (text, answer)
        for split in data.splits.values()
        for (text,), answers in zip(split.texts, split.labels, strict=True)
        for answer in answers
    }


def test_the_last_answer_is_the_text_to_write_and_all_before_it_the_input():
    text, answer = conversation([*CHATS[7], said("user", "wait")])
    assert (text, answer) == (BEFORE, "see you 7")
    assert messages_of(text, answer) == CHATS[7]


def test_a_prompt_and_a_completion_are_a_user_and_an_answer():
    whole = ('[{"role":"user","content":"one"}]', "two")
    assert conversation("one", " two\n") == whole
    assert conversation([said("user", "one")], [said("assistant", "two")]) == whole
    assert conversation('[{"role": "user", "content": "one"}]', '[{"role": "assistant", "content": "two"}]') == whole
    # A text that only looks like JSON is a text.
    assert conversation("[1]", "[2]") == ('[{"role":"user","content":"[1]"}]', "[2]")


def test_a_call_of_a_tool_is_no_answer():
    call = said("assistant", None, tool_calls=[{"function": {"name": "clock"}}])
    text, answer = conversation([said("user", "when?"), call, said("tool", "noon"), said("assistant", "now")])
    assert messages_of(text, answer)[1] == {"role": "assistant", "content": "", "tool_calls": call["tool_calls"]}


def test_spaces_around_an_answer_are_left_out_and_those_of_others_kept():
    text, answer = conversation(
        [said("user", " a "), said("assistant", " b "), said("user", "c"), said("assistant", "\nd")]
    )
    assert [message["content"] for message in messages_of(text, answer)] == [" a ", "b", "c", "d"]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([said("user", "a")], "no message of the role 'assistant' (roles: user)"),
        ([], "no message of the role 'assistant' (roles: none)"),
        ("a", "no list of messages but str"),
        (None, "no list of messages but nothing"),
        ([said("assistant", "a")], "no message before the answer"),
        ([said("user", "a"), said("assistant", " ")], "an empty answer"),
        ([said("user", None)], "a message of the role 'user' whose content is no text but NoneType"),
        ([{"from": "human", "value": "a"}], "a message without a role (keys: from, value); each has `role` and `content`"),
        (["a"], "a message that is no object but str"),
        ([said("user", "\ud800"), said("assistant", "a")], "a message that is no JSON"),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_said(given, why):
    with pytest.raises(ValueError) as error:
        conversation(given)
    assert str(error.value).startswith(why)
    assert isinstance(error.value, NoAnswer) == ("no message of the role" in why)


def test_every_format_gives_the_same_conversations(tmp_path):
    rows = [{"messages": chat} for chat in CHATS]
    write_jsonl(tmp_path / "talk.jsonl", rows)
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "talk.parquet")
    with (tmp_path / "talk.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["messages"], *([json.dumps(chat)] for chat in CHATS)])
    with (tmp_path / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["prompt", "completion"], *([json.dumps(chat[:-1]), chat[-1]["content"]] for chat in CHATS)]
        )
    expected = {(BEFORE, f"see you {number}") for number in range(40)}
    for name in ("talk.jsonl", "talk.parquet", "talk.csv"):
        assert pairs_in(load(tmp_path, name)) == expected
    assert pairs_in(load(tmp_path, "pairs.csv", text="prompt", label="completion")) == expected


def test_equal_inputs_are_one_input_with_several_answers_where_they_are_scored(tmp_path):
    write_jsonl(tmp_path / "talk.jsonl", [{"messages": chat} for chat in CHATS])
    splits = load(tmp_path, "talk.jsonl").splits
    assert len(splits["train"].ids) == 40 and splits["test"].texts == [(BEFORE,)]
    assert splits["test"].labels == [tuple(f"see you {number}" for number in range(40))]


def test_rows_that_are_no_conversation_are_said_with_their_lines(tmp_path):
    rows = [{"messages": chat} for chat in CHATS]
    rows[1], rows[4], rows[5] = {"messages": TALK[:2]}, {"messages": "hello"}, {"messages": TALK[:2]}
    write_jsonl(tmp_path / "talk.jsonl", rows)
    with pytest.raises(BadInput) as error:
        load(tmp_path, "talk.jsonl")
    assert "has no message of the role 'assistant' (roles: system, user) in messages in 2 rows (lines 2, 6)" in str(
        error.value
    )
    assert "has no list of messages but str in messages in 1 row (line 5)" in str(error.value)
    rows[4] = rows[0]
    write_jsonl(tmp_path / "talk.jsonl", rows)
    data = load(tmp_path, "talk.jsonl", unlabelled_rows="leave_out")
    assert len(data.splits["train"].ids) == 38
    assert any("has 2 rows without a label, which are left out" in warning for warning in data.warnings)


def test_a_column_that_is_not_there_is_said(tmp_path):
    write_jsonl(tmp_path / "talk.jsonl", [{"message": chat} for chat in CHATS])
    with pytest.raises(BadInput, match="has no column 'messages'; did you mean 'message'"):
        load(tmp_path, "talk.jsonl", unlabelled_rows="leave_out")


def test_a_chat_is_scored_by_its_loss_and_by_metrics_of_texts():
    assert task_of("a.jsonl").metric == "loss" and not task_of("a.jsonl").higher_is_better
    assert not task_of("a.jsonl").completes and task_of("a.jsonl", metrics=["bleu"]).completes
    with pytest.raises(BadInput, match="'accuracy' is for classification, and the task's kind is chat"):
        task_of("a.jsonl", metric="accuracy")


def test_a_template_is_text_or_a_file_whose_text_a_record_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chat.jinja").write_text("{{ messages }}", encoding="utf-8")
    one, other = task_of("a.jsonl", chat_template="chat.jinja"), task_of("a.jsonl", chat_template="{{ messages }}")
    assert one == other and one.chat_template == "{{ messages }}"
    assert task_from_definition(definition(one)).chat_template == "{{ messages }}"
    assert "chat_template" not in definition(task_of("a.jsonl"))
    with pytest.raises(BadInput, match=r"must be a template with .* or its file, and other\.jinja cannot be read"):
        task_of("a.jsonl", chat_template="other.jinja")
    (tmp_path / "secret").write_text("letters", encoding="utf-8")
    with pytest.raises(BadInput, match="secret cannot be read: it has no"):
        task_of("a.jsonl", chat_template="secret")
    with pytest.raises(BadInput, match="chat_template: is only for chat and preference; the kind is generation"):
        task_of("a.jsonl", kind="generation", label="b", metric="exact_match", chat_template="{{ messages }}")
