"""``hub:NAME`` reaches whatever evaluate finds; here, scripts in local folders."""

import math
from pathlib import Path

import pytest

from lora_bench.errors import LoraBenchError
from lora_bench.metrics import higher_is_better, kind_of, known_metrics, metric, unavailable

SCRIPT = """
import datasets
import evaluate


class Mine(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({{"predictions": text, "references": {references}}})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references, **options):
        {body}
"""


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a metric script of a name and gives its `hub:` name."""
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path / "cache")

    def write(body: str, name: str = "mine", references: str = "datasets.Sequence(text)") -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{name}.py").write_text(SCRIPT.format(body=body, references=references), encoding="utf-8")
        return f"hub:{folder}"

    return write


def test_the_only_number_is_the_metrics_own(written):
    name = written('return {"same": sum(p in r for p, r in zip(predictions, references)) / len(predictions)}')
    values = metric(name).compute(predictions=["a", "b"], references=[["x", "a"], ["c"]])
    assert values == {"same": 0.5, name: 0.5}


def test_of_several_numbers_the_one_called_like_the_metric_is_its_own(written):
    name = written('return {"other": 1.0, "mine": 2, "counts": [1, 2], "version": "1.0"}')
    values = metric(name).compute(predictions=["a"], references=[["a"]])
    assert values == {"other": 1, "mine": 2, name: 2}


def test_of_several_numbers_the_name_says_which(written):
    name = written('return {"left": 1.0, "right": 2.0}')
    values = metric(f"{name}:right").compute(predictions=["a"], references=[["a"]])
    assert values == {"left": 1, "right": 2, f"{name}:right": 2}
    with pytest.raises(LoraBenchError, match=r"returns several numbers \(left, right\); say which, as hub:.*:left"):
        metric(name).compute(predictions=["a"], references=[["a"]])
    with pytest.raises(LoraBenchError, match="'rigth'; did you mean 'right'"):
        metric(f"{name}:rigth").compute(predictions=["a"], references=[["a"]])


def test_what_is_no_number_is_none(written):
    name = written(f'return {{"mine": float("{math.nan}")}}')
    assert metric(name).compute(predictions=["a"], references=[["a"]]) == {"mine": None, name: None}


def test_a_metric_of_one_reference_gets_the_one_there_is(written):
    name = written('return {"same": float(list(predictions) == list(references))}', references="text")
    assert metric(name).compute(predictions=["a", "b"], references=[["a"], ["b"]])[name] == 1
    with pytest.raises(LoraBenchError, match="takes one reference for a prediction, got up to 2"):
        metric(name).compute(predictions=["a"], references=[["a", "b"]])


def test_options_reach_the_script(written):
    name = written('return {"mine": options["factor"] * len(predictions)}')
    assert metric(name).compute(predictions=["a", "b"], references=[["a"], ["b"]], factor=3)[name] == 6


def test_without_script_and_hub_the_error_says_what_there_is(tmp_path):
    with pytest.raises(LoraBenchError, match=r"nowhere' is no folder with a script \(without one: "):
        metric(f"hub:{tmp_path / 'nowhere'}")


def test_a_script_that_fails_is_an_error_of_its_name(written):
    name = written("return {}", name="broken", references="no_such_name")
    with pytest.raises(LoraBenchError, match="broken' cannot be loaded: name 'no_such_name' is not defined"):
        metric(name)


def test_a_name_of_the_hub_fits_any_kind_and_tells_no_direction():
    assert (kind_of("hub:rouge"), higher_is_better("hub:rouge"), unavailable("hub:rouge")) == (None, None, None)
    assert "hub:rouge" not in known_metrics()
    with pytest.raises(LoraBenchError, match="unknown metric 'hub:'"):
        kind_of("hub:")
