"""Mean difference of two methods over places: tasks and base models, drawn at random like seeds and test items.

A place has one difference d of task t and base model m: that of its runs, paired by seed. Tasks weigh alike, and so do the base
models of a task. With task effects of variance τ², those of base models μ², and the rest ε² (their interaction, seeds, items),

    variance of the mean = τ² · Σ_t w_t² + μ² · Σ_m w_m² + ε² · Σ w²,   w: weights of tasks, base models and places

The three come from sums of squares: of tasks adjusted for base models, of base models adjusted for tasks, and of the rest
(Henderson 1953's third method, https://doi.org/10.2307/3001853); with one base model, from the spread of tasks alone. Where
every task has every base model, this is A + B − E of `crossed` with tasks for seeds and base models for items: exact, with
Satterthwaite's degrees of freedom. Test items of a task are the same for all its base models, so their error is in τ². The
errors of the places themselves, from seeds and items, bound the error from below: few tasks may agree by chance.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lora_bench.stats.estimate import Estimate, Uncertainty
from lora_bench.stats.items import Floats

# Variances below this share of the squared values are rounding.
ROUNDING = 1e-20


@dataclass(frozen=True, kw_only=True)
class PlaceDifference:
    """The difference of two methods on one task and base model, positive if the first is better.

    *error* is its standard error over seeds and test items, above 0.
    """

    value: float
    error: float
    freedom: float


@dataclass(frozen=True, kw_only=True)
class OverPlaces:
    """The mean difference over places, with the error over tasks and base models and with that of seeds and items alone.

    *tasks* has the mean of each. *task_sd* is the standard deviation of the tasks' true differences, without the noise of seeds
    and items; None for one task.
    """

    estimate: Estimate
    tasks: dict[str, float]
    task_sd: float | None


def over_places(places: Mapping[tuple[str, str], PlaceDifference]) -> OverPlaces:
    """Pool the differences of two methods, by task and base model, at least one."""
    keys = sorted(places)
    tasks, models = sorted({task for task, _ in keys}), sorted({model for _, model in keys})
    of_task = {task: [places[key] for key in keys if key[0] == task] for task in tasks}
    means = {task: statistics.fmean(place.value for place in found) for task, found in of_task.items()}
    values = np.array([places[key].value for key in keys])
    of_tasks = np.array([[task == other for other in tasks] for task, _ in keys], float)
    of_models = np.array([[model == other for other in models] for _, model in keys], float)
    weights = np.array([1 / (len(tasks) * len(of_task[task])) for task, _ in keys])
    spread = _spread(values, of_tasks, of_models, weights, [*means.values()])
    noise = _noise([*of_task.values()])
    errors = [Uncertainty(source="bootstrap", standard_error=math.sqrt(noise[0]), freedom=noise[1])]
    if spread is not None and spread[0] > float((values**2).max()) * ROUNDING:
        errors.insert(0, Uncertainty(source="t", standard_error=math.sqrt(spread[0]), freedom=spread[1]))
    task_sd = None
    if len(tasks) > 1:
        # The noise of a task's mean has, on average, T times the variance of the noise of the mean over T tasks.
        task_sd = math.sqrt(max(0.0, statistics.variance(means.values()) - noise[0] * len(tasks)))
    estimate = Estimate(value=statistics.fmean(means.values()), uncertainties=tuple(errors))
    return OverPlaces(estimate=estimate, tasks=means, task_sd=task_sd)


def _noise(of_tasks: list[list[PlaceDifference]]) -> tuple[float, float]:
    """Return the variance of the mean from seeds and items alone, with its degrees of freedom."""
    # Places of one task share test items: their errors are added as if they were one.
    parts = [(statistics.fmean(place.error for place in found) / len(of_tasks)) ** 2 for found in of_tasks]
    freedom = [min(place.freedom for place in found) for found in of_tasks]
    variance = math.fsum(parts)
    return variance, variance**2 / math.fsum(part**2 / of for part, of in zip(parts, freedom, strict=True))


def _spread(
    values: Floats, tasks: Floats, models: Floats, weights: Floats, means: list[float]
) -> tuple[float, float] | None:
    """Return the variance of the mean over tasks and base models, with its degrees of freedom; None for one place of each.

    *values* has the shape (places,); *tasks*, (places, tasks), is 1 where a place is of a task, and *models* likewise. *means*
    are those of the tasks.
    """
    every = np.ones((len(values), 1))
    task_squares, task_freedom, in_tasks = _beyond(values, tasks, np.hstack([every, models]))
    model_squares, model_freedom, in_models = _beyond(values, models, np.hstack([every, tasks]))
    if not (task_freedom and model_freedom):
        # One factor alone, or one inside the other: independent means of the tasks, else of the base models.
        found = means if len(means) > 1 else values.tolist()
        return (statistics.variance(found) / len(found), len(found) - 1) if len(found) > 1 else None
    rest, rest_freedom, _ = _beyond(values, np.eye(len(values)), np.hstack([tasks, models]))
    rest = rest / rest_freedom if rest_freedom else 0.0
    task_factor = float(((weights @ tasks) ** 2).sum()) / in_tasks
    model_factor = float(((weights @ models) ** 2).sum()) / in_models
    of_tasks, of_models = task_factor * task_squares, model_factor * model_squares
    shared = rest * (task_factor * task_freedom + model_factor * model_freedom - float((weights**2).sum()))
    if shared >= min(of_tasks, of_models):
        # A component is estimated as negative: the larger alone, as in `crossed.combined`.
        return (of_tasks, task_freedom) if of_tasks >= of_models else (of_models, model_freedom)
    variance = of_tasks + of_models - shared
    noise = of_tasks**2 / task_freedom + of_models**2 / model_freedom + shared**2 / max(rest_freedom, 1)
    return variance, variance**2 / noise


def _beyond(values: Floats, effects: Floats, given: Floats) -> tuple[float, int, float]:
    """Return the squares of *effects* beyond those *given*, their degrees of freedom, and how often these have the variance."""
    rest = effects - given @ np.linalg.lstsq(given, effects, rcond=None)[0]
    fitted = rest @ np.linalg.lstsq(rest, values, rcond=1e-9)[0]
    return float(fitted @ fitted), int(np.linalg.matrix_rank(rest, tol=1e-9)), float(np.square(rest).sum())
