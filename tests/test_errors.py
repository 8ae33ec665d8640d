"""An error of another library is told in one line."""

from lora_bench.errors import first_line, typed_line


def test_an_error_of_a_library_is_told_by_its_first_line_or_its_type():
    error = ValueError("\nrank must be positive\nsee the manual")
    assert first_line(error) == "rank must be positive"
    assert typed_line(error) == "ValueError: rank must be positive"
    assert (first_line(EOFError()), first_line(EOFError(), "nothing"), typed_line(EOFError())) == (
        "EOFError",
        "nothing",
        "EOFError",
    )
