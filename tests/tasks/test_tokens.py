"""Tasks with a label for each word: lists in any form of table, faults with their row, and labels that meet their tokens."""

import csv
import itertools
import json
from types import SimpleNamespace

import datasets
import pytest

from lora_bench.documents import Document, read_yaml
from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.kinds.exercises.generation.encode import NO_LOSS
from lora_bench.kinds.exercises.word_labelling import NO_WORD, Tagging, encode_words, labels_of_words
from lora_bench.tasks import Split, load_data, majority_score, split_scores, task_from_document
from lora_bench.tasks.source_tables import from_datasets
from tests.project import write_tokenizer

SENTENCES = [
    (["Ann", "met", "Bob", "Lee"], ["B-PER", "O", "B-PER", "I-PER"]),
    (["Rome", "is", "far"], ["B-LOC", "O", "O"]),
]
TASK = {"task": "names", "kind": "tokens", "data": {"train": "a.jsonl", "test": "a.jsonl"}, "text": "w", "label": "t"}


def task(**keys):
    return task_from_document(Document("task.yaml", {**TASK, **keys}))


def write(folder, rows, name="a.jsonl"):
    (folder / name).write_text("".join(json.dumps({"w": words, "t": tags}) + "\n" for words, tags in rows))


def write_csv(path, cell):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("w", "t"), *((cell(words), cell(tags)) for words, tags in SENTENCES)])


def load(folder, **keys):
    return load_data(task(**keys), folder, whole_train=True)


# --- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [" ".join, json.dumps, str], ids=["words", "json", "python"])
def test_a_cell_of_a_table_holds_words_or_a_list(tmp_path, cell):
    write_csv(tmp_path / "a.csv", cell)
    test = load(tmp_path, data={"train": "a.csv", "test": "a.csv"}).splits["test"]
    assert test.texts == [tuple(words) for words, _ in SENTENCES]
    assert test.labels == [tuple(tags) for _, tags in SENTENCES]


def test_lists_of_json_lines_and_parquet_are_the_same_examples(tmp_path):
    write(tmp_path, SENTENCES)
    lines = load(tmp_path)
    rows = [{"w": words, "t": tags} for words, tags in SENTENCES]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    assert load(tmp_path, data={"train": "a.parquet", "test": "a.parquet"}).splits == lines.splits
    assert lines.labels == ("B-LOC", "B-PER", "I-PER", "O")
    assert task().metric == "seqeval_f1" and task().higher_is_better


def test_a_file_of_a_word_a_line_has_its_first_and_last_column_or_named_ones(tmp_path):
    lines = ["-DOCSTART- -X- O", ""]
    for words, tags in SENTENCES:
        lines += [*(f"{word} x {tag}" for word, tag in zip(words, tags, strict=True)), ""]
    (tmp_path / "a.conll").write_text("\n".join(lines))
    keys = {"data": {"train": "a.conll", "test": "a.conll"}, "text": "words", "label": "tags"}
    assert load(tmp_path, **keys).splits["test"].labels == [tuple(tags) for _, tags in SENTENCES]
    named = {**keys, "columns": ["word", "part", "ner"], "text": "word", "label": "part", "metric": "token_accuracy"}
    with pytest.raises(BadInput, match=r"has 1 class in column 'part' \['x'\]; at least 2 are needed"):
        load(tmp_path, **named)
    (tmp_path / "a.conll").write_text("Ann x B-PER\nmet\n")
    with pytest.raises(BadInput, match=r"a.conll:2: has 1 value, but needs a word and its label"):
        load(tmp_path, **keys)
    with pytest.raises(BadInput, match=r"a.conll:2: has 1 value, but needs 3 columns \(word, part, ner\)"):
        load(tmp_path, **named)


def test_names_behind_the_numbers_of_a_list_are_known_as_on_the_hub():
    names = datasets.ClassLabel(names=["O", "B-PER", "I-PER"])
    shape = datasets.Features({"w": datasets.List(datasets.Value("string")), "t": datasets.List(names)})
    rows = datasets.Dataset.from_list([{"w": ["Ann", "met"], "t": [1, 0]}], features=shape)
    table = from_datasets(rows, "owner/name", ["w", "t"], own=False)
    assert table.class_names == {"t": ["O", "B-PER", "I-PER"]}


def test_numbers_of_a_parquet_file_have_the_names_of_its_metadata(tmp_path):
    names = datasets.ClassLabel(names=["O", "B-PER", "I-PER"])
    shape = datasets.Features({"w": datasets.List(datasets.Value("string")), "t": datasets.List(names)})
    rows = [{"w": ["Ann", "met"], "t": [1, 0]}]
    datasets.Dataset.from_list(rows, features=shape).to_parquet(tmp_path / "a.parquet")
    data = load(tmp_path, data={"train": "a.parquet", "test": "a.parquet"})
    assert data.labels == ("O", "B-PER", "I-PER") and data.splits["test"].labels == [("B-PER", "O")]
    assert any("no training example has the label 'I-PER'" in said for said in data.warnings)


def test_labels_can_be_renamed_and_counted_by_another_metric(tmp_path):
    write(tmp_path, [(["a", "b"], ["1", "2"]), (["c"], ["1"])])
    renamed = load(tmp_path, label_names={"1": "B-x", "2": "O"})
    assert renamed.labels == ("B-x", "O")
    parts = load(tmp_path, metric="token_accuracy")
    assert parts.labels == ("1", "2")
    # "1" is the label of two words of three.
    assert majority_score(task(metric="token_accuracy"), parts, "test") == pytest.approx(2 / 3)
    assert majority_score(task(), renamed, "test") == pytest.approx(0.8)  # 2 of 2 entities right, and 1 too many


def test_scores_are_of_each_split_and_subset():
    split = Split(["1", "2"], [("a", "b"), ("c",)], [("B-x", "O"), ("B-x",)], {"short": (1,)})
    found = split_scores(task(metrics=["token_accuracy"]), split, [["B-x", "O"], ["O"]])
    assert found == {
        "seqeval_f1": pytest.approx(2 / 3),
        "token_accuracy": pytest.approx(2 / 3),
        "short/seqeval_f1": 0.0,
        "short/token_accuracy": 0.0,
    }


# --- faults ----------------------------------------------------------------------------------------------------------

GOOD = [(["x", str(number)], ["O", "B-x"]) for number in range(5)]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            (["a", "b", "c"], ["O", "O"]),
            r"has other numbers of labels than of words, such as 2 in column 't' for 3 in column 'w', in 1 row \(line 6\); "
            "give one label for each word: two lists, or two texts separated by spaces",
        ),
        (("a b", ["O"]), r"such as 1 in column 't' for 2 in column 'w', in 1 row \(line 6\)"),
        ((["a", "b"], ["O", None]), r"has words without a label in column 't' in 1 row \(line 6\)"),
        ((["a"], None), r"has no list of labels in column 't' in 1 row \(line 6\); `unlabelled_rows: leave_out`"),
        ((["a", {"b": 1}], ["O", "O"]), r"has values in column 'w' that are no list of words in 1 row \(line 6\)"),
        ((7, ["O"]), "that are no list of words in 1 row .*; give a list, JSON text of one, or words separated by spaces"),
        (([], []), r"has no words in column 'w' in 1 row \(line 6\)"),
    ],
)  # fmt: skip
def test_a_row_that_is_no_tagged_sentence_is_named_with_what_would_be_one(tmp_path, row, said):
    write(tmp_path, [*GOOD, row])
    with pytest.raises(BadInput, match=said):
        load(tmp_path)


def test_an_unknown_label_is_named_with_the_nearest_one(tmp_path):
    write(tmp_path, [*GOOD, (["a", "b"], ["O", "B-PRE"])])
    with pytest.raises(BadInput, match=r"not among O, B-x, B-PER: 'B-PRE'; did you mean 'B-PER'\? in 1 row \(line 6\)"):
        load(tmp_path, labels=["O", "B-x", "B-PER"])


def test_labels_that_are_no_tags_name_the_metric_that_counts_them(tmp_path):
    write(tmp_path, [(["a", "b"], ["NOUN", "VERB"])])
    said = "no tags of entities such as B-PER, I-PER and O, which seqeval_f1 counts: 'NOUN', 'VERB'; say `metric: token_accur"
    with pytest.raises(BadInput, match=said):
        load(tmp_path)
    assert load(tmp_path, metric="token_accuracy").labels == ("NOUN", "VERB")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"text": ["a", "b"]}, "text: must be one column for tokens, got 2"),
        ({"metric": "accuracy"}, "'accuracy' is for classification, and the task's kind is tokens"),
        ({"label": {"column": "t", "rule": "sign"}}, "makes classes, but the kind is tokens"),
        ({"linearise": "e2e"}, "linearise: is only for generation; the kind is tokens"),
    ],
)
def test_keys_that_fit_no_words_are_refused(tmp_path, keys, said):
    (tmp_path / "task.yaml").write_text(json.dumps({**TASK, **keys}))
    with pytest.raises(BadInput, match=said):
        task_from_document(read_yaml(tmp_path / "task.yaml", shown="task.yaml"))


# --- tokens ----------------------------------------------------------------------------------------------------------


def byte_level(*, space_in_token):
    """A byte-level BPE such as those of RoBERTa and GPT-2, in which a token holds the space before its word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<pad>"]
    )
    made.train_from_iterator(["the film was lovely and the film was long"] * 5, trainer)
    made.post_processor = processors.ByteLevel(trim_offsets=not space_in_token)
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>")


@pytest.mark.parametrize("space_in_token", [True, False])
def test_the_first_token_of_a_word_has_its_label_and_the_others_none(space_in_token):
    tokenizer = byte_level(space_in_token=space_in_token)
    words = ("the", "unknown", "film", "çà", "was")
    ((example,), cut) = encode_words(Split(["1"], [words], []), tokenizer, 100)
    assert cut == 0.0 and example["words"] == 5
    begins = example["begins"]
    assert [word for word in begins if word != NO_WORD] == [0, 1, 2, 3, 4] and len(begins) == len(example["input_ids"])
    # Each word's tokens, from where it begins to where the next one does, spell it.
    starts = [begins.index(word) for word in range(5)] + [len(begins)]
    ids = example["input_ids"]
    spelt = [tokenizer.decode(ids[first:behind]).strip() for first, behind in itertools.pairwise(starts)]
    assert tuple(spelt) == words
    spec = SimpleNamespace(task=SimpleNamespace(labels=list("abcde")), training=SimpleNamespace(max_length=100))
    ((lesson,), _) = Tagging(None, tokenizer, spec, 0).lessons(Split(["1"], [words], [list("edcba")]))
    assert lesson["labels"] == [4 - word if word != NO_WORD else NO_LOSS for word in begins]


def test_words_with_spaces_inside_and_special_tokens_are_met_too(tmp_path):
    from transformers import AutoTokenizer

    write_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    split = Split(["1"], [("the film", "was", "great")], [])
    ((example,), _) = encode_words(split, tokenizer, 100)
    assert tokenizer.convert_ids_to_tokens(example["input_ids"]) == ["<s>", "the", "film", "was", "great", "</s>"]
    assert example["begins"] == [NO_WORD, 0, NO_WORD, 1, 2, NO_WORD]


def test_a_word_that_is_cut_off_is_outside_of_entities(tmp_path):
    from transformers import AutoTokenizer

    write_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    splits = Split(["1", "2"], [("the", "film", "was", "great"), ("fine",)], [])
    (long, short), cut = encode_words(splits, tokenizer, 4)
    assert cut == 0.5 and len(long["input_ids"]) == 4 and long["words"] == 4
    said = ["x", "B-x", "B-x", "x"]
    assert labels_of_words(long["begins"], 4, said, ["B-x", "O"]) == ["B-x", "B-x", "O", "O"]
    assert labels_of_words(short["begins"], 1, ["x", "B-x", "x"], ["B-x", "O"]) == ["B-x"]
    # Without a label for what is outside, it is the first.
    assert labels_of_words(long["begins"], 4, said, ["NOUN", "B-x"])[2:] == ["NOUN", "NOUN"]


def test_a_tokenizer_without_characters_of_its_tokens_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(LoraBenchError, match=r"\(Slow\) does not tell which characters a token stands for"):
        encode_words(Split(["1"], [("a",)], []), Slow(), 8)
