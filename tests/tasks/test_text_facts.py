"""Lengths, repeats and shared texts, counted by hand."""

from lora_bench.tasks.text_facts import contradicting, longest_with, repeated, shared_texts, spread


def test_the_median_the_95th_percentile_and_the_maximum():
    assert spread([7]) == (7, 7, 7)
    assert spread(range(1, 101)) == (51, 96, 100)
    assert spread([9, 1, 5]) == (5, 9, 9)


def test_a_text_that_comes_a_second_and_a_third_time_is_repeated_twice():
    assert repeated(["a", "b", "a", "a", "c"]) == 2
    assert repeated([]) == 0


def test_a_text_with_two_labels_counts_once():
    assert contradicting(["a", "b", "a", "a", "b"], [0, 1, 1, 2, 1]) == 1


def test_scored_splits_are_compared_with_what_models_are_trained_and_chosen_on():
    splits = {"train": ["a", "b"], "selection": ["b", "c"], "test": ["a", "c", "c", "d"], "unseen": ["a", "c"]}
    assert shared_texts(splits) == {
        ("test", "train"): 1,
        ("selection", "train"): 1,
        ("test", "selection"): 2,
        ("unseen", "train"): 1,
    }
    assert shared_texts({"train": ["a"], "test": ["a"]}) == {("test", "train"): 1}


def test_a_phrase_belongs_to_the_longest_text_with_its_words_in_a_row():
    sentence = "a film of great charm and wit"
    texts = ["great charm", sentence, "of great charm and wit", "great wit", "charming", "film"]
    assert longest_with(texts) == [sentence, sentence, sentence, "great wit", "charming", sentence]


def test_a_phrase_of_two_sentences_belongs_to_the_longer_or_the_first_of_the_alphabet():
    assert longest_with(["very good", "it is very good", "a very good film indeed"])[0] == "a very good film indeed"
    assert longest_with(["good", "so good", "not good"]) == ["not good", "so good", "not good"]
    assert longest_with(["not good", "so good", "good"])[2] == "not good"


def test_a_text_that_stands_twice_belongs_to_itself():
    assert longest_with(["alone", "alone"]) == ["alone", "alone"]
