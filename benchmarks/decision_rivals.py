"""The rivals of `benchmarks.decisions`: each reads labelled rows and returns a model that answers others.

Settings are those of the libraries' own pages:

* transformers, `docs/source/en/tasks/sequence_classification.md`: rate 2e-5, batches of 16, weight decay .01; three epochs are
  the default of `TrainingArguments`;
* PEFT, `examples/sequence_classification/LoRA.ipynb`: r 8, alpha 16, dropout .1, on query and value, PEFT's own choice for
  RoBERTa; `docs/source/quicktour.md`: rate 1e-3, batches of 32, weight decay .01;
* tf-idf as in `lora_bench.tasks.word_model`, with the penalty that five folds choose, as for the linear probe.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lora_bench.errors import LoraBenchError
from lora_bench.metrics import find, metric
from lora_bench.tasks.word_model import STRENGTHS
from lora_bench.util.seeding import distinct_rows

Texts = Sequence[tuple[str, ...]]
Labels = Sequence[Any]
Answerer = Callable[[Texts], list[Any]]

EPOCHS, WEIGHT_DECAY = 3, 0.01
FULL, LORA = (2e-5, 16), (1e-3, 32)
# Where Optuna looks for a rate.
RATES = {"full": (1e-5, 5e-4), "lora": (1e-4, 1e-2)}
LEARNED_SHARE = 0.8
GROUP = "group"


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a rival is given beside its table.

    Args:
        model: Folder of the base model.
        model_name: Its name for `lora-bench`.
        columns: Columns of the texts.
        numbers: True if the labels are numbers.
        metric: Name of the metric; higher is better.
        minutes: Time to use, for rivals that read it.
        begun: When the process was started, in seconds since the epoch.
    """

    rival: str
    model: str
    model_name: str
    columns: Sequence[str]
    numbers: bool
    metric: str
    minutes: float
    seed: int
    begun: float


@dataclass(frozen=True)
class Delivered:
    """A model that answers, and what the rival says of its choice, if it made one.

    Args:
        chosen: Method of the model.
        compared: Methods that it chose from.
        expected_loss: Stated loss of the chosen one to the best of these, in points of 100.
        at_most: Stated 90 % bound of that loss.
    """

    answers: Answerer
    chosen: str | None = None
    compared: Sequence[str] = ()
    expected_loss: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class Rival:
    """A rival.

    Args:
        deliver: Its work.
        about: Its description on the page.
        package: Package that it needs beside ours.
        timed: True if it uses the minutes that it is given.
    """

    deliver: Callable[[Given, Texts, Labels], Delivered]
    about: str
    package: str | None = None
    timed: bool = False


def columns_of(texts: tuple[str, ...]) -> list[str]:
    """Return the names of the columns of such texts."""
    return ["text"] if len(texts) == 1 else ["sentence1", "sentence2"]


def score(name: str, right: Labels, answers: Labels) -> float:
    """Return the metric of answers; without an answer a class is wrong and a number is the mean of the others."""
    if isinstance(right[0], float):
        known = [float(one) for one in answers if one not in (None, "")]
        mean = sum(known) / max(len(known), 1)
        answers = [mean if one in (None, "") else float(one) for one in answers]
    else:
        number = {label: index for index, label in enumerate(sorted(set(right)))}
        right, answers = [number[label] for label in right], [number.get(str(one), len(number)) for one in answers]
    declared = find(name)
    assert declared is not None
    value = metric(name).compute(references=list(right), predictions=answers, **declared.options(len(set(right))))[name]
    return 0.0 if value is None else float(value)  # a correlation with a constant


def table_options(given: Given) -> list[str]:
    """Return the table and its options for `lora-bench try`."""
    pair = ["--text-pair", given.columns[1]] if len(given.columns) > 1 else []
    kind = "regression" if given.numbers else "classification"
    return [
        "train.csv", "--text", given.columns[0], *pair, "--label", "label", "--group", GROUP, "--kind", kind,
        "--metric", given.metric, "--model", given.model_name, "--minutes", f"{given.minutes:g}",
    ]  # fmt: skip


def ours(given: Given, texts: Texts, labels: Labels) -> Delivered:
    """`lora-bench try` reads the table; `lora-bench predict` answers with its model, or the best of runs if time held none."""
    # Here, as other rivals may have an environment with few packages.
    from lora_bench.cli.help import SOME_FAILED
    from lora_bench.training.winner import find_winner

    del texts, labels
    lora_bench("try", *table_options(given), may_end=(0, SOME_FAILED))
    runs, model = Path("runs", "train"), Path("train-model")
    try:
        choice = find_winner(runs).choice
    except LoraBenchError as error:
        raise SystemExit(f"try has no winner: {error}") from None
    assert choice is not None

    def answers(texts: Texts) -> list[Any]:
        write_csv(Path("asked.csv"), given.columns, texts)
        lora_bench("predict", str(model if model.exists() else runs), "asked.csv", "--out", "answered.csv")
        return [row["predicted"] for row in read_csv(Path("answered.csv"))]

    loss, compared = choice.loss, [row.label for row in choice.rows]
    if loss is None:
        return Delivered(answers, choice.method, compared)
    return Delivered(answers, choice.method, compared, round(100 * loss.expected, 3), round(100 * loss.at_most, 3))


def lora_bench(*words: str, may_end: Sequence[int] = (0,)) -> None:
    """Run a command of this package; where it ends in no way that it may, its last line is the reason."""
    code = subprocess.run([sys.executable, "-P", "-m", "lora_bench.cli", *words], check=False).returncode
    if code not in may_end:
        raise SystemExit(code)


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def write_train(path: Path, rows: Sequence[tuple[tuple[str, ...], Any]]) -> None:
    """Write labelled rows, with a number that equal texts share.

    `try` deals rows out by a hash of their text. So were the rows of most tables, and by that hash all would be train again.
    """
    numbers: dict[tuple[str, ...], int] = {}
    header = [*columns_of(rows[0][0]), "label", GROUP]
    write_csv(path, header, [[*texts, label, numbers.setdefault(texts, len(numbers))] for texts, label in rows])


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table."""
    csv.field_size_limit(2**31 - 1)
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def fine_tuned(
    given: Given, texts: Texts, labels: Labels, *, method: str, rate: float, batch: int, each_epoch: Any = None
) -> Answerer:
    """Train with transformers' Trainer, and call *each_epoch* with the model that answers and the epoch."""
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        set_seed,
    )

    set_seed(given.seed)
    names = [] if given.numbers else sorted(set(labels))
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForSequenceClassification.from_pretrained(
        given.model, num_labels=len(names) or 1, dtype=torch.float32
    )
    length = min(tokenizer.model_max_length, model.config.max_position_embeddings - 2)
    if method == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, lora_dropout=0.1))

    def encoded(texts: Texts) -> list[dict[str, Any]]:
        return [dict(tokenizer(*row, truncation=True, max_length=length)) for row in texts]

    right = labels if given.numbers else [names.index(label) for label in labels]
    rows = [{**row, "labels": label} for row, label in zip(encoded(texts), right, strict=True)]
    arguments = TrainingArguments(
        "trainer", learning_rate=rate, per_device_train_batch_size=batch, per_device_eval_batch_size=64,
        num_train_epochs=EPOCHS, weight_decay=WEIGHT_DECAY, seed=given.seed, report_to="none", save_strategy="no",
        disable_tqdm=True, label_names=["labels"], use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    trainer = Trainer(model, args=arguments, train_dataset=rows, processing_class=tokenizer)

    def answers(texts: Texts) -> list[Any]:
        logits = trainer.predict(encoded(texts)).predictions
        return logits[:, 0].tolist() if given.numbers else [names[index] for index in logits.argmax(axis=1)]

    class EachEpoch(TrainerCallback):
        def on_epoch_end(self, arguments: Any, state: Any, control: Any, **more: Any) -> None:
            each_epoch(answers, round(state.epoch))

    if each_epoch is not None:
        trainer.add_callback(EachEpoch())
    trainer.train()
    return answers


def documented(given: Given, texts: Texts, labels: Labels, *, method: str) -> Delivered:
    """A method at the settings of its documentation, on all rows."""
    rate, batch = LORA if method == "lora" else FULL
    return Delivered(fine_tuned(given, texts, labels, method=method, rate=rate, batch=batch))


def searched(given: Given, texts: Texts, labels: Labels) -> Delivered:
    """Optuna over method and rate, judged on a fifth of the rows; the last run, on all rows, ends within the minutes."""
    import optuna

    order = distinct_rows(given.seed, len(labels), len(labels))
    cut = round(LEARNED_SHARE * len(order))
    learned, kept = (
        ([texts[row] for row in part], [labels[row] for row in part]) for part in (order[:cut], order[cut:])
    )
    longest = 0.0

    def objective(trial: Any) -> float:
        nonlocal longest
        begun, values = time.time(), []
        method = trial.suggest_categorical("method", [*RATES])
        rate = trial.suggest_float(f"{method}_rate", *RATES[method], log=True)

        def judge(answers: Answerer, epoch: int) -> None:
            values.append(score(given.metric, kept[1], answers(kept[0])))
            trial.report(values[-1], epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        fine_tuned(given, *learned, method=method, rate=rate, batch=FULL[1], each_epoch=judge)
        longest = max(longest, time.time() - begun)
        return values[-1]

    def stop_in_time(study: Any, trial: Any) -> None:
        if time.time() + longest * (1 + 1 / LEARNED_SHARE) > given.begun + 60 * given.minutes:
            study.stop()

    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=given.seed), pruner=optuna.pruners.MedianPruner()
    )
    study.optimize(objective, callbacks=[stop_in_time])
    method = study.best_params["method"]
    rate = study.best_params[f"{method}_rate"]
    return Delivered(fine_tuned(given, texts, labels, method=method, rate=rate, batch=FULL[1]), method)


def linear(given: Given, features: Any, labels: Labels) -> Any:
    """Return logistic or ridge regression on features, its penalty chosen in five folds."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import GridSearchCV

    model = Ridge() if given.numbers else LogisticRegression(max_iter=1_000)
    strengths = {"alpha": STRENGTHS["ridge"]} if given.numbers else {"C": STRENGTHS["logistic"]}
    return GridSearchCV(model, strengths, cv=5).fit(features, labels)


def tf_idf(given: Given, texts: Texts, labels: Labels) -> Delivered:
    """Words alone."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b").fit(
        [text for row in texts for text in row]
    )

    def features(texts: Texts) -> Any:
        first, *more = (words.transform(column) for column in zip(*texts, strict=True))
        return hstack([abs(first - more[0]), first.multiply(more[0])], format="csr") if more else first

    model = linear(given, features(texts), labels)
    return Delivered(lambda asked: model.predict(features(asked)).tolist())


def linear_probe(given: Given, texts: Texts, labels: Labels) -> Delivered:
    """Frozen features: token vectors of the base model, averaged over a text."""
    import numpy as np
    import torch
    from sklearn.preprocessing import StandardScaler
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(given.model), AutoModel.from_pretrained(given.model).eval()
    length = min(tokenizer.model_max_length, model.config.max_position_embeddings - 2)

    @torch.no_grad()
    def vectors(column: Sequence[str]) -> Any:
        found = []
        for start in range(0, len(column), 64):
            batch = tokenizer(
                list(column[start : start + 64]), truncation=True, max_length=length, padding=True, return_tensors="pt"
            )
            mask = batch["attention_mask"][..., None]
            found.append((model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1))
        return torch.cat(found).numpy()

    def features(texts: Texts) -> Any:
        first, *more = (vectors(column) for column in zip(*texts, strict=True))
        return np.hstack([abs(first - more[0]), first * more[0]]) if more else first

    trained = features(texts)
    scaler = StandardScaler().fit(trained)
    fitted = linear(given, scaler.transform(trained), labels)
    return Delivered(lambda asked: fitted.predict(scaler.transform(features(asked))).tolist())


def setfit(given: Given, texts: Texts, labels: Labels) -> Delivered:
    """SetFit with 20 pairs a row, as in its paper."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    if given.numbers or len(given.columns) > 1:
        raise SystemExit("SetFit classifies single texts")
    names = sorted(set(labels))
    rows = Dataset.from_dict({"text": [row[0] for row in texts], "label": [names.index(label) for label in labels]})
    model = SetFitModel.from_pretrained(given.model)
    Trainer(model, args=TrainingArguments(num_iterations=20, seed=given.seed), train_dataset=rows).train()
    return Delivered(lambda asked: [names[int(index)] for index in model.predict([row[0] for row in asked])])


def autogluon(given: Given, texts: Texts, labels: Labels) -> Delivered:
    """AutoGluon's predictor of texts, on the same base model."""
    import pandas as pd
    from autogluon.multimodal import MultiModalPredictor

    def frame(texts: Texts) -> Any:
        return pd.DataFrame(list(texts), columns=list(given.columns))

    predictor = MultiModalPredictor(label="label", problem_type="regression" if given.numbers else "classification")
    predictor.fit(
        frame(texts).assign(label=list(labels)), time_limit=60 * given.minutes, seed=given.seed,
        hyperparameters={"model.hf_text.checkpoint_name": given.model},
    )  # fmt: skip
    return Delivered(lambda asked: predictor.predict(frame(asked)).tolist())


RIVALS = {
    "try": Rival(
        ours,
        "the model that `lora-bench try` delivers; it is told the columns, the kind and the equal texts",
        timed=True,
    ),
    "trainer": Rival(
        partial(documented, method="full"), "transformers' Trainer, all weights, at its documentation's settings"
    ),
    "peft": Rival(
        partial(documented, method="lora"), "PEFT's LoRA in the same Trainer, at its documentation's settings"
    ),
    "optuna": Rival(
        searched, "Optuna over method and learning rate of these two, TPE with a pruner", package="optuna", timed=True
    ),
    "tf-idf": Rival(tf_idf, "logistic or ridge regression on weighted counts of words"),
    "linear probe": Rival(linear_probe, "the same regression on vectors of the base model, which is not trained"),
    "setfit": Rival(setfit, "SetFit with 20 pairs a row, for single texts with classes", package="setfit"),
    "autogluon": Rival(
        autogluon, "AutoGluon's predictor of texts, on the same base model", package="autogluon.multimodal", timed=True
    ),
}


def answer(given_json: str) -> None:
    """Let a rival read `train.csv` of the working folder, and write its answers to `test.csv` into `answers.json`."""
    given = Given(**json.loads(given_json))
    train, test = (read_csv(Path(name)) for name in ("train.csv", "test.csv"))
    texts = [tuple(row[column] for column in given.columns) for row in train]
    labels = [float(row["label"]) if given.numbers else row["label"] for row in train]
    delivered = RIVALS[given.rival].deliver(given, texts, labels)
    seconds = time.time() - given.begun
    answers = delivered.answers([tuple(row[column] for column in given.columns) for row in test])
    found = {**vars(delivered), "answers": answers, "seconds": round(seconds, 1)}
    Path("answers.json").write_text(json.dumps(found), encoding="utf-8")
