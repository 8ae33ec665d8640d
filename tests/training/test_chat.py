"""Conversations as tokens: what is trained on is every answer with its end, and a prompt ends where the last answer begins."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_bench.errors import LoraBenchError
from lora_bench.kinds.chat import conversation
from lora_bench.kinds.exercises.generation.chat_format import ChatFormat, Ending, encode_conversations, encode_openings
from lora_bench.kinds.exercises.generation.decode import complete
from lora_bench.kinds.exercises.generation.encode import CompletionCollator
from lora_bench.kinds.exercises.writing import likelihoods
from lora_bench.models.loading import load_tokenizer
from lora_bench.models.registry import find_model
from lora_bench.records.spec import Decoding
from lora_bench.tasks import Split
from tests.chats import CHATML, chat_tokenizer
from tests.tiny import tiny_gpt2, tiny_phi4

THE, A, FILM, WAS, IS, PLOT, GREAT, DULL = 4, 5, 6, 7, 8, 17, 19, 24
USER, ASSISTANT, SYSTEM, START, STOP = 25, 26, 27, 28, 29
NO = -100


def said(*texts):
    """Messages of user and assistant in turn."""
    return [
        {"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(texts)
    ]  # fmt: skip


def split_of(*chats):
    pairs = [conversation(chat) for chat in chats]
    ids = [str(number) for number in range(len(chats))]
    return Split(ids, [(text,) for text, _ in pairs], [(answer,) for _, answer in pairs])


ONE = said("the film", "was great")
TWO = said("the film", "was great", "a plot", "is dull")


@pytest.fixture(scope="module")
def words():
    return chat_tokenizer()


@pytest.fixture(scope="module")
def pieces():
    """The tokenizer of gpt2-mini, of pieces of words, with two marks of turns."""
    tokenizer = load_tokenizer(find_model("gpt2-mini", base=Path()))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer


def test_the_loss_is_over_the_answer_and_its_end(words):
    (example,), cut = encode_conversations(split_of(ONE), words, 32, None)
    assert example == {
        "input_ids": [START, USER, THE, FILM, STOP, START, ASSISTANT, WAS, GREAT, STOP],
        "attention_mask": [1] * 10,
        "labels": [NO] * 7 + [WAS, GREAT, STOP],
    }
    assert cut == 0


def test_every_answer_of_several_turns_counts_and_nothing_between_them(words):
    (example,), _ = encode_conversations(split_of(TWO), words, 32, None)
    first = [START, USER, THE, FILM, STOP, START, ASSISTANT, WAS, GREAT, STOP]
    second = [START, USER, A, PLOT, STOP, START, ASSISTANT, IS, DULL, STOP]
    assert example["input_ids"] == first + second
    assert example["labels"] == [NO] * 7 + [WAS, GREAT, STOP] + [NO] * 7 + [IS, DULL, STOP]


def test_a_prompt_is_what_transformers_makes_of_the_messages_before_the_answer(words):
    (prompt,), cut = encode_openings(split_of(TWO), words, 32, 8, None)
    expected = words.apply_chat_template(TWO[:-1], add_generation_prompt=True, return_dict=False)
    assert prompt["input_ids"] == expected and prompt["attention_mask"] == [1] * 17 and cut == 0


def test_a_conversation_that_is_too_long_loses_its_beginning_and_then_its_answer_its_end(words):
    (example,), cut = encode_conversations(split_of(TWO), words, 13, None)
    assert example["input_ids"] == [WAS, GREAT, STOP, START, USER, A, PLOT, STOP, START, ASSISTANT, IS, DULL, STOP]
    assert example["labels"] == [WAS, GREAT, STOP] + [NO] * 7 + [IS, DULL, STOP] and cut == 1
    (example,), _ = encode_conversations(split_of(TWO), words, 4, None)
    assert (example["input_ids"], example["labels"]) == ([START, ASSISTANT, IS, DULL], [NO, NO, IS, DULL])
    (prompt,), cut = encode_openings(split_of(TWO), words, 12, 8, None)
    assert prompt["input_ids"] == [PLOT, STOP, START, ASSISTANT] and cut == 1
    with pytest.raises(LoraBenchError, match="max_length 8 leaves no room for a prompt before max_new_tokens 8"):
        encode_openings(split_of(TWO), words, 8, 8, None)


# The answer and its end are a generation block, whose tokens transformers marks.
MARKED = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
)
TEXTS = st.text(alphabet="ab .,!é\n日’<|", min_size=1, max_size=12).filter(lambda text: text.strip())


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(TEXTS, min_size=2, max_size=6).filter(lambda texts: len(texts) % 2 == 0))
def test_the_tokens_are_those_that_transformers_marks(pieces, texts):
    chat = said(*texts)
    for message in chat[1::2]:
        message["content"] = message["content"].strip()
    (example,), _ = encode_conversations(split_of(chat), pieces, 1_000, MARKED)
    expected = pieces.apply_chat_template(
        chat, chat_template=MARKED, return_dict=True, return_assistant_tokens_mask=True
    )
    count = len(example["input_ids"])
    assert example["input_ids"] == expected["input_ids"][:count]
    assert [label != NO for label in example["labels"]] == [bool(one) for one in expected["assistant_masks"]][:count]
    assert not any(expected["assistant_masks"][count:])


def test_a_word_that_begins_before_the_answer_is_a_part_of_it(pieces):
    plain = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    (example,), _ = encode_conversations(split_of(said("hello", "yes")), pieces, 100, plain)
    (prompt,), _ = encode_openings(split_of(said("hello", "yes")), pieces, 100, 8, plain)
    ids = example["input_ids"]
    # GPT-2's tokens have the space in front of a word.
    assert pieces.decode(prompt["input_ids"]) == "user: hello\nassistant:"
    assert pieces.decode(ids[len(prompt["input_ids"]) :]) == " yes\n"
    assert ids == pieces("user: hello\nassistant: yes\n")["input_ids"]
    assert ChatFormat(pieces, plain).ending == Ending(pieces.eos_token_id, ("\n",))


def test_the_end_of_an_answer_is_the_mark_of_the_template(words, pieces):
    stop = pieces.convert_tokens_to_ids("<|im_end|>")
    assert (ChatFormat(words, None).ending, ChatFormat(pieces, CHATML).ending) == (Ending(STOP), Ending(stop))


# As published with Phi 3: each turn ends with <|end|>, and <|endoftext|> stands behind the last one.
PHI3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)


@pytest.mark.parametrize("beams", [1, 2])
def test_what_a_phi_3_writes_behind_its_end_of_a_turn_is_no_part_of_the_answer(beams):
    tokenizer = chat_tokenizer(PHI3)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|end|>"]})
    answers, turn, end = tokenizer.convert_tokens_to_ids(["<|assistant|>", "<|end|>", "<|endoftext|>"])
    ending = ChatFormat(tokenizer, None).ending
    assert (ending.token, ending.also) == (end, (turn,))
    model = tiny_phi4(writes=True)
    with torch.no_grad():
        for layer in model.model.layers:  # what it writes next depends on the last token alone
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                projection.weight.zero_()
        model.lm_head.weight.zero_()
        states = model.model.norm(model.model.embed_tokens.weight)
        for last, following in ((answers, WAS), (WAS, GREAT), (GREAT, turn), (turn, FILM), (FILM, end), (end, end)):
            model.lm_head.weight[following] += 10 * states[last]
    (prompt,), _ = encode_openings(split_of(ONE), tokenizer, 32, 8, None)
    decoding = Decoding(max_new_tokens=8, beams=beams)
    assert prompt["input_ids"][-1] == answers
    assert complete(model, [prompt], tokenizer, decoding, seed=0, ending=ending) == ["was great"]
    # Without the end of a turn it would write on to the end of text.
    assert complete(model, [prompt], tokenizer, decoding, seed=0, ending=Ending(end)) == ["was great film"]


def test_an_answer_may_end_otherwise_within_a_conversation_than_at_its_end(words):
    """As Phi 3's and GPT-OSS's."""
    other = CHATML.replace("<|im_end|>\n{% endfor %}", "{{ '</s>' if loop.last else '<|im_end|>' }}{% endfor %}")
    (example,), _ = encode_conversations(split_of(TWO), words, 32, other)
    assert example["labels"] == [NO] * 7 + [WAS, GREAT, STOP] + [NO] * 7 + [IS, DULL, 2]
    assert ChatFormat(words, other).ending == Ending(2)


def test_what_a_template_writes_before_the_last_answer_alone_is_given_and_not_learned(words):
    """As Qwen 3's empty thoughts."""
    thinking = CHATML.replace(
        "{{ message['content'] }}",
        "{% if loop.last and message['role'] == 'assistant' %}a scene {% endif %}{{ message['content'] }}",
    )
    (example,), _ = encode_conversations(split_of(TWO), words, 32, thinking)
    (prompt,), _ = encode_openings(split_of(TWO), words, 32, 8, thinking)
    assert example["labels"] == [NO] * 7 + [WAS, GREAT, STOP] + [NO] * 9 + [IS, DULL, STOP]
    assert prompt["input_ids"][-4:] == [START, ASSISTANT, A, 15]


def test_a_template_that_writes_the_date_writes_the_same_on_every_day(words):
    dated = "{{ strftime_now('%d %b %Y') }} " + CHATML
    assert ChatFormat(words, dated).turns(ONE).text.startswith("26 Jul 2024 <|im_start|>")


def refuse(tokenizer, template, chat=TWO):
    with pytest.raises(LoraBenchError) as error:
        encode_conversations(split_of(chat), tokenizer, 32, template)
    return str(error.value)


def test_templates_that_cannot_be_trained_on_are_refused(words):
    assert "its tokenizer has no chat template; give the task `chat_template: FILE`" in refuse(
        chat_tokenizer(None), None
    )
    endless = "{% for message in messages %} {{ message['content'] }}{% endfor %}"
    assert "puts nothing behind an answer" in refuse(words, endless)
    assert "does not write each answer once" in refuse(words, CHATML.replace("messages %}", "messages[:1] %}", 1))
    shouting = CHATML.replace("{{ message['content'] }}", "{{ message['content'] | replace('dull', 'fine') }}")
    assert refuse(words, shouting).startswith("conversation '0': the chat template changes an answer")
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + CHATML
    refused = refuse(words, strict, [{"role": "system", "content": "a"}, *ONE])
    assert (
        refused.startswith("conversation '0': the chat template refuses the messages") and "no system here" in refused
    )
    assert "the chat template refuses the messages" in refuse(words, "{% for %}")


def test_the_losses_of_answers_are_those_of_their_tokens_in_any_batch(words):
    rows, _ = encode_conversations(
        split_of(ONE, TWO, said("a", "plot was great and the film is dull")), words, 32, None
    )
    model = tiny_gpt2()
    expected = []
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            logs = model(input_ids=ids).logits[0].log_softmax(-1)
        places = [place for place, label in enumerate(row["labels"]) if label != NO]
        expected.append((-sum(logs[place - 1, ids[0, place]].item() for place in places), len(places)))
    for batch_rows in (1, 2, 3):
        found = likelihoods(model, rows, CompletionCollator(words), batch_rows=batch_rows)
        assert [one.tokens for one in found] == [tokens for _, tokens in expected] == [3, 6, 9]
        assert [one.nats for one in found] == pytest.approx([nats for nats, _ in expected], abs=1e-4)
