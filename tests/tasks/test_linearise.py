"""Inputs of the LoRA paper: what holds for every value."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_bench.kinds.support.linearise import linearise

WORDS = st.text("abcXYZ 0123456789é'&", min_size=1, max_size=12).map(lambda text: " ".join(text.split())).filter(bool)
NAMES = st.sampled_from(["name", "food", "area", "near", "customer rating", "eatType", "priceRange", "familyFriendly"])
PARTS = st.text("abcXYZ_0123456789é\"'(),", min_size=1, max_size=12)
PROPERTIES = st.text("abcXYZ_", min_size=1, max_size=12)
TRIPLES = st.lists(st.tuples(PARTS, PROPERTIES, PARTS), min_size=1, max_size=7)


@given(st.lists(st.tuples(NAMES, WORDS), min_size=1, max_size=8))
def test_every_attribute_of_e2e_is_there_in_its_order(pairs):
    text = linearise("e2e", [", ".join(f"{name}[{value}]" for name, value in pairs)])
    written = [part.partition(" : ") for part in text.split(" | ")]
    assert [value for _, _, value in written] == [value for _, value in pairs]
    assert len({name for name, _, _ in written}) == len({name for name, _ in pairs})


@given(TRIPLES)
def test_every_triple_is_there_in_its_order_whatever_the_shape(triples):
    as_texts = [" | ".join(triple) for triple in triples]
    text = linearise("webnlg", [triples])
    assert text == linearise("webnlg", [as_texts]) == linearise("webnlg", [[list(triple) for triple in triples]])
    assert [tuple(part.split(" : ")) for part in text.split(" | ")] == triples


@given(TRIPLES)
def test_dart_differs_from_webnlg_in_the_case_of_its_properties_only(triples):
    webnlg, dart = linearise("webnlg", [triples]), linearise("dart", [triples])
    assert dart == " | ".join(f"{one} : {name.lower()} : {other}" for one, name, other in triples)
    assert dart.lower() == webnlg.lower()


@given(st.lists(WORDS, min_size=1, max_size=6), st.sampled_from(["\n", "\r\n"]))
def test_a_dialogue_has_a_line_for_each_utterance_and_an_empty_one(utterances, line_end):
    text = linearise("samsum", [line_end.join(utterances)])
    assert text.split("\n") == [*utterances, "", ""]


@given(st.lists(WORDS, min_size=1, max_size=6), WORDS)
def test_a_question_stands_below_the_names_of_the_columns(header, question):
    assert linearise("wikisql", [header, question]).split("\n") == [" | ".join(header), question]


def test_the_signs_of_a_price_stand_alone():
    assert linearise("e2e", ["name[A-B], priceRange[£20-25]"]) == "name : A-B | price : £ 20 - 25"
    assert linearise("e2e", ["priceRange[less than £20]"]) == "price : less than £ 20"


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("e2e", ["name[X] food[Y]"], "must be like 'name[X], eatType[Y]', got 'name[X] food[Y]'"),
        ("e2e", [""], "is empty"),
        ("e2e", [3], "must be text, got 3"),
        ("webnlg", [[]], "must be a list of triples, got []"),
        ("webnlg", ["A | b | C"], "must be a list of triples, got 'A | b | C'"),
        ("webnlg", [["A | b"]], "must hold triples of subject, property and object, got 'A | b'"),
        ("dart", [[["A", 1, "C"]]], "must hold triples of subject, property and object, got ['A', 1, 'C']"),
        ("wikisql", ["Place", "Where?"], "must be the list of the table's column names, got 'Place'"),
        ("samsum", [["Ann: Hello"]], "must be text, got ['Ann: Hello']"),
    ],
)
def test_another_shape_is_said(kind, values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        linearise(kind, values)
