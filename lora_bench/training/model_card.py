"""The model card that lies beside kept weights."""

from __future__ import annotations

import json
import re

from lora_bench.models.registry import known_models
from lora_bench.records.budget import amount_of
from lora_bench.records.spec import PlannedSpec
from lora_bench.util.redaction import visible
from lora_bench.version import __version__


def model_card(spec: PlannedSpec, step: int) -> str:
    """Markdown that says what the weights are and how to load them."""
    options = _code(json.dumps(spec.method.options, sort_keys=True))
    labels = _words(", ".join(spec.task.labels))
    if spec.method.name == "full":
        load = 'AutoModelForSequenceClassification.from_pretrained("THIS FOLDER")'
        imports = "from transformers import AutoModelForSequenceClassification"
    else:
        load = (
            f"base = AutoModelForSequenceClassification.from_pretrained({_base(spec)}, "
            f"num_labels={max(1, len(spec.task.labels))})\n"
            'tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")\n'
            "base.config.pad_token_id = tokenizer.pad_token_id\n"
            'model = PeftModel.from_pretrained(base, "THIS FOLDER")'
        )
        imports = (
            "import lora_bench.tuners  # makes PEFT know the methods that lora_bench adds\n"
            "from peft import PeftModel\n"
            "from transformers import AutoModelForSequenceClassification, AutoTokenizer"
        )
        if spec.model.name in known_models():
            imports = f"from lora_bench.models.registry import known_models\n{imports}"
    metadata = ["---", "library_name: " + ("transformers" if spec.method.name == "full" else "peft"), "---"]
    return "\n".join(
        [
            *metadata,
            "",
            f"# {_words(spec.method.label)} on {_words(spec.model.shown)} for {_words(spec.task.name)}",
            "",
            f"Trained by lora_bench {__version__} (run `{spec.run_id}`): method `{spec.method.name}` with `{options}`, "
            f"learning rate {spec.training.learning_rate:g}, {amount_of(*spec.training.target)}, "
            f"seed {spec.seed}, weights after step {step}. Labels in order: {labels or 'a number'}.",
            "",
            f"Base model: `{_code(spec.model.name)}`"
            + (f" at revision `{spec.model.revision}`" if spec.model.revision else "")
            + f" (content {spec.model.sha256[:16]}).",
            "",
            "```python",
            imports,
            "",
            load,
            "```",
            "",
        ]
    )


def _base(spec: PlannedSpec) -> str:
    """The base model as an expression: a known model is made by lora_bench, any other is named."""
    if spec.model.name in known_models():
        return f'known_models()["{spec.model.name}"].folder(None)'
    return json.dumps(visible(spec.model.name))


def _words(text: str) -> str:
    """A name as words of a page, whatever marks are in it."""
    line = " ".join(visible(text).split())
    return re.sub(r"([\\`*_\[\]<>|#~$&!@])", r"\\\1", line)


def _code(text: str) -> str:
    """A text between backticks."""
    return " ".join(visible(text).split()).replace("`", "'")
