"""FLOPs of steps: counted from shapes, interpolated only where that is exact, and equal to those of the real steps."""

import itertools
from pathlib import Path

import pytest

from lora_bench.methods import known_methods
from lora_bench.models.registry import find_model
from lora_bench.training.measure.step_costs import at_lengths, batch_flops, step_flops
from tests.project import write_model, write_tokenizer
from tests.tiny import tiny_deberta


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))


class Counted:
    """A count that notes where it was asked for."""

    def __init__(self, count):
        self.count, self.asked = count, []

    def __call__(self, length):
        self.asked.append(length)
        return self.count(length)


def test_a_parabola_is_counted_at_five_lengths():
    counted = Counted(lambda length: 7 + 5 * length + 3 * length**2)
    lengths = [4, 5, 9, 11, 20, 33, 40, 64, 100]
    assert at_lengths(counted, lengths) == {length: 7 + 5 * length + 3 * length**2 for length in lengths}
    assert counted.asked == [4, 20, 100, 9, 40]


def test_where_the_parabola_ends_each_side_has_its_own():
    def count(length):
        return 3 * length**2 if length <= 37 else 3 * 37 * length

    for ends in range(30, 60):
        lengths = [*range(1, ends), 200, 201]
        assert at_lengths(count, lengths) == {length: count(length) for length in lengths}


def test_what_is_no_parabola_is_counted_everywhere():
    counted = Counted(lambda length: length**3)
    assert at_lengths(counted, range(1, 9)) == {length: length**3 for length in range(1, 9)}
    assert sorted(counted.asked) == [*range(1, 9)]


def test_a_batch_is_taken_in_parts_that_are_padded_to_their_own_longest():
    examples = [{"input_ids": [0] * length} for length in (3, 5, 2, 4)]
    # So many rows, padded to so many tokens: as tokens, padding included.
    of_batch = batch_flops(lambda rows, length: rows * length, examples, batch_size=4, accumulation=2)
    assert of_batch(examples) == 2 * 5 + 2 * 4
    assert of_batch(examples[:3]) == 2 * 5 + 1 * 2
    assert batch_flops(lambda rows, length: rows * length, examples, 4, 1)(examples) == 4 * 5


def folder_of(tmp_path: Path, family: str) -> Path:
    if family != "deberta":
        return write_model(tmp_path / family, family)
    # Relative positions end at 8 tokens, so its parabola does too.
    tiny_deberta(max_relative_positions=8).base_model.save_pretrained(tmp_path / family)
    write_tokenizer(tmp_path / family)
    return tmp_path / family


def flops_of(tmp_path, family, method, rows, length, kind="classification", labels=2):
    model = find_model(str(folder_of(tmp_path, family)), base=tmp_path)
    return step_flops(model, known_methods()[method](), kind=kind, labels=labels, rows=rows, length=length)


def test_full_fine_tuning_of_a_gpt2_takes_what_arithmetic_says(tmp_path):
    # Width 32, 2 layers, vocabulary 100, 3 rows of 7 tokens; 2 operations a multiplication.
    rows, length, width = 3, 7, 32
    tokens = rows * length
    weights = 12 * width**2 * 2  # attention 4 d^2 and feed-forward 8 d^2 in each layer
    attention = 2 * (2 * length * width) * 2 * tokens  # scores and values, in each layer
    head = 2 * 100 * width * tokens
    forward = 2 * weights * tokens + attention + head
    # Backward is twice that: for the weights and for what comes in.
    assert flops_of(tmp_path, "gpt2", "full", rows, length, "generation", 0) == 3 * forward


def test_several_labels_take_the_products_of_as_many_classes(tmp_path):
    of_classes = flops_of(tmp_path, "roberta", "lora", 3, 7, labels=5)
    assert flops_of(tmp_path, "roberta", "lora", 3, 7, "multilabel", 5) == of_classes


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("gpt2", "prefix_tuning"),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in itertools.product(["roberta", "deberta", "deberta-v2", "gpt2"], ["lora", "prefix_tuning"])
            if pair != ("gpt2", "prefix_tuning")
        ),
    ],
)
def test_what_is_interpolated_is_what_would_be_counted(tmp_path, family, method):
    model = find_model(str(folder_of(tmp_path, family)), base=tmp_path)

    def count(length):
        return step_flops(model, known_methods()[method](), kind="classification", labels=2, rows=2, length=length)

    counted = Counted(count)
    lengths = [*range(3, 14), 20, 31]
    found = at_lengths(counted, lengths)
    assert len(counted.asked) < len(lengths)
    rest = [length for length in lengths if length not in counted.asked][::2]
    assert {length: found[length] for length in rest} == {length: count(length) for length in rest}


def test_a_count_is_kept(tmp_path, monkeypatch):
    first = flops_of(tmp_path, "gpt2", "lora", 2, 5)
    monkeypatch.setattr(
        "lora_bench.training.measure.step_costs.load_model", lambda *_, **__: pytest.fail("counted again")
    )
    assert flops_of(tmp_path, "gpt2", "lora", 2, 5) == first
