"""The first screen of a report: the headline, the picture, the small table and the next step.

A further section, such as that of a published table, gives its answer to the headline; that of weights does so where scores
decide nothing. It is also text and a piece of HTML by itself, for a notebook.
"""

from collections.abc import Callable, Sequence

from lora_bench.report import text
from lora_bench.report.blocks import Block, Figure, Lead, TextTable, known_columns
from lora_bench.report.figures import differences
from lora_bench.report.figures.plan import Form
from lora_bench.report.html import render_card
from lora_bench.report.model.judged import Judged
from lora_bench.report.model.overview import DECIDED, Contrast, Line, Overview, Ratio, contrasts_of, verdict_name
from lora_bench.report.model.report import Report
from lora_bench.report.sections.advice import comparisons_of, times
from lora_bench.report.sections.chosen_rates import rates_table
from lora_bench.report.sections.forgetting import kept_of_base
from lora_bench.report.sections.headline import Headline, headline_blocks, headline_of
from lora_bench.report.sections.method_tables import OF_RESUMED, RESUMED, SHARED, metric_name, setting_name
from lora_bench.report.sections.verdicts import place_words
from lora_bench.report.text import MISSING, code, inert, plural, unmarked
from lora_bench.stats.power import POWER

PICTURE, BY_TASK, NARROW = "differences.svg", "differences-by-task.svg", "-narrow.svg"
PICTURE_TEXT, BY_TASK_TEXT = "Difference of {which} to the reference", "Differences to the reference on each task"

# A first screen has no room for more methods; all are under Scores.
MOST_LINES = 10

# So many metrics are named in a heading.
MOST_METRICS = 4

ESTIMATED = "≈"
# A mean step so many times the middle one is said: some steps do what the others need not, such as features computed once.
FAR_MEAN = 2

PLACES = "Places{some}: those that the shown differences leave open, all of them right at once with {percent} %."


def first_screen(seen: Overview, headline: Headline, folder: str, answers: Sequence[str]) -> list[Block]:
    """Return the first screen; *answers* of sections stand before the headline."""
    before: list[Block] = [*map(Lead, answers), *kept_of_base(seen.comparison), *headline_blocks(headline)]
    return [*before, *_below(seen, headline, f"{folder}/{PICTURE}")]


def _below(seen: Overview, headline: Headline, picture: str) -> list[Block]:
    """Return the picture, the small table of methods or of the rates that a search chooses, and the next step."""
    table = summary_table(seen) or rates_table(seen.comparison)
    shown = picture_contrasts(seen)
    drawn, every = (len({one.label for one in contrasts}) for contrasts in (shown, seen.contrasts))
    which = "each method" if drawn == every else f"{drawn} of {every} methods"
    return [*_picture(PICTURE_TEXT.format(which=which), picture, shown), *table, *next_step(headline.next)]


def picture_contrasts(seen: Overview) -> list[Contrast]:
    """Return the comparisons of the picture: those of the methods in the small table, if they have one scale."""
    labels = {line.label for line in shown_lines(seen)}
    found = [contrast for contrast in seen.contrasts if contrast.label in labels]
    return found if differences.can_draw(found) else []


def by_task_contrasts(judged: Judged) -> list[Contrast]:
    """Return the comparisons of each task, where the picture above shows means over tasks."""
    found = contrasts_of(judged, of_tasks=True) if judged.over_tasks else []
    return found if differences.can_draw(found) else []


def by_task_picture(judged: Judged, folder: str) -> list[Block]:
    """Return the picture of each task; nothing where the first screen has it."""
    return _picture(BY_TASK_TEXT, f"{folder}/{BY_TASK}", by_task_contrasts(judged))


def _picture(alt: str, path: str, contrasts: Sequence[Contrast]) -> list[Block]:
    return [Figure(alt, path, differences.caption(contrasts))] if contrasts else []


def draw_pictures(seen: Overview, form: Form = "svg") -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return the pictures by file name, and those for telephones, which only a page has."""
    wide, narrow = {}, {}
    by_task = by_task_contrasts(seen.judged) if seen.judged is not None else []
    for file, found in ((PICTURE, picture_contrasts(seen)), (BY_TASK, by_task)):
        if found:
            wide[file] = differences.draw_differences(found, seen.reference, form=form)
        if found and form == "svg":
            narrow[file.replace(".svg", NARROW)] = differences.draw_differences(found, seen.reference, narrow=True)
    return wide, narrow


def answer_text(report: Report) -> str:
    """Return the headline as paragraphs of plain text."""
    blocks = headline_blocks(headline_of(report), alone=True)
    return "\n\n".join(unmarked(block.text if isinstance(block, Lead) else str(block)) for block in blocks)


def answer_card(report: Report) -> str:
    """Return the headline, the picture, the small table and the next step, as HTML that runs no script."""
    headline, seen = headline_of(report), report.overview
    contrasts = picture_contrasts(seen)
    figures = {PICTURE: differences.draw_differences(contrasts, seen.reference)} if contrasts else {}
    return render_card([*headline_blocks(headline, alone=True), *_below(seen, headline, PICTURE)], figures)


def summary_table(seen: Overview) -> list[Block]:
    """Return the table, or one for each group of settings; columns without any known value are left out."""
    shown = shown_lines(seen)
    blocks: list[Block] = []
    groups = [*dict.fromkeys(line.group for line in shown)]
    for group in groups:
        of_group = [line for line in shown if line.group == group]
        columns = _columns(seen, of_group)
        header, rows = [head for head, _ in columns], [[cell(line) for _, cell in columns] for line in of_group]
        settings = (setting_name(place.setting, seen.comparison) for line in of_group for place in line.places)
        blocks += [f"{text.listed([*dict.fromkeys(settings)])}:"] if len(groups) > 1 else []
        blocks.append(TextTable(*known_columns(header, rows, optional=header)))
    return [*blocks, *notes(seen)] if shown else []


def shown_lines(seen: Overview) -> list[Line]:
    """Return the lines of the table: those of settings with verdicts, else of the first group of settings.

    Of very many it is the reference and those with the highest scores, on its tasks first.
    """
    groups = {line.group for line in seen.lines if line.contrasts} or {line.group for line in seen.lines[:1]}
    lines = [line for line in seen.lines if line.group in groups]
    if len(lines) <= MOST_LINES:
        return lines
    higher = all(place.setting.spec.task.higher_is_better is not False for line in lines for place in line.places)
    sign = -1 if higher else 1

    met = {id(place.table) for line in lines if line.reference for place in line.places}

    def place(line: Line) -> tuple[object, ...]:
        apart = bool(met) and met.isdisjoint(id(place.table) for place in line.places)
        return not (line.reference and seen.contrasts), apart, line.score is None, sign * (line.score or 0.0)

    return sorted(lines, key=place)[:MOST_LINES]


def notes(seen: Overview, *, short: bool = False) -> list[str]:
    """Return one paragraph that explains the marks and the numbers, if any; *short* is as in `verdict_of`."""
    shown = shown_lines(seen)
    said = []
    groups = {line.group for line in shown}
    among = [line for line in seen.lines if line.group in groups]
    others = len({line.group for line in seen.lines}) - len(groups)
    if len(shown) < len(among):
        first = shown[0].reference and bool(seen.contrasts)
        best = f"The reference and the {len(shown) - 1} others" if first else f"The {len(shown)}"
        said.append(f"{best} with the best means of {len(among)}; [all scores](#scores).")
    if others:
        said.append(f"Runs of {plural(others, 'other setting')} are not compared with these: [all scores](#scores).")
    if seen.comparison.scores_alone and any(place_of(line, seen) != MISSING for line in shown):
        some = (
            " of the methods with a score on all tasks of the reference"
            if seen.judged and seen.judged.over_tasks
            else ""
        )
        percent = f"{100 * (1 - 2 * seen.judged.analysis.alpha):g}" if seen.judged else ""
        said.append(PLACES.format(some=some, percent=percent))
    if any(" seeds for " in verdict_of(line, short=short, needed=not seen.learned_little) for line in shown):
        supposed = "the difference and the spread seen are the true ones, and no run collapses"
        said.append(f"{ESTIMATED} seeds: they decide with a probability of {text.percent(POWER, 0)} if {supposed}.")
    if any(line.cost is not None for line in shown):
        said.append(f"{code(seen.cost_name)}: the mean of a method's runs, as given.")
    if any(line.step is not None or line.memory is not None for line in shown):
        said.append(f"Time and memory are multiples of {code(seen.reference)}'s.")
    means = [
        f"{ratio(line.mean_step, line.reference)} for {code(line.label)}"
        for line in shown
        if line.step is not None and line.mean_step is not None and line.mean_step.value > FAR_MEAN * line.step.value
    ]
    said += [f"Step times are medians over a run's steps; means are {text.listed(means)}."] if means else []
    if any(line.counted and line.file_bytes for line in shown):
        said.append(f"{ESTIMATED} file: 4 bytes a stored parameter.")
    if any(ratio is not None and not ratio.exclusive for line in shown for ratio in (line.step, line.memory)):
        said.append(f"{SHARED} Other work ran on the machine at the time.")
    if any(ratio is not None and ratio.resumed for line in shown for ratio in (line.step, line.memory)):
        said.append(OF_RESUMED)
    if any(place.setting.spec.task.metric == "bleu" for line in shown for place in line.places):
        said.append("BLEU is on a scale of 0 to 1.")
    return [" ".join(said)] if said else []


def _columns(seen: Overview, shown: Sequence[Line]) -> list[tuple[str, Callable[[Line], str]]]:
    reference = code(seen.reference)
    on = comparisons_of(shown)
    return [
        ("method", lambda line: _name(line, seen)),
        (_score_name(shown), lambda line: score_of(line, shown)),
        (inert(seen.cost_name), lambda line: text.cost(line.cost)),
        (f"difference to {reference}", difference_of),
        # More seeds decide nothing where runs learn nothing.
        (f"verdict on {on}" if on else "verdict", lambda line: verdict_of(line, needed=not seen.learned_little)),
        ("place", lambda line: place_of(line, seen) if seen.comparison.scores_alone else MISSING),
        ("file to ship, MiB", file_of),
        ("step time", lambda line: ratio(line.step, line.reference)),
        ("peak memory", lambda line: ratio(line.memory, line.reference)),
    ]


def _name(line: Line, seen: Overview) -> str:
    rates = [place.row.learning_rate for place in line.places if place.row.learning_rate is not None]
    rate = f"rate {text.span(rates, text.learning_rate)}" if rates else ""
    said = [part for part in (code(line.label), size_of(line), *_number_of(line, seen), rate) if part]
    several = len({one.target for one in seen.lines if one.group == line.group}) > 1
    budget = f" at {line.target[1]:,} parameters" if several and line.target is not None else ""
    return ", ".join(said) + (f" (reference{budget})" if line.reference and seen.contrasts else "")


def size_of(line: Line) -> str:
    """Return the size of a method, from the smallest to the largest over base models."""
    sizes = [(place.row.size, place.row.size_value) for place in line.places if place.row.size is not None]
    values = [value for _, value in sizes if isinstance(value, int | float)]
    if not values or len({size for size, _ in sizes}) > 1:
        return ""
    return f"{inert(str(sizes[0][0]).replace('_', ' '))} {inert(text.span(values))}"


def _number_of(line: Line, seen: Overview) -> list[str]:
    """The one number, beside size and rate, in which a method's lines differ, such as LoRA's scaling; nothing if several do."""
    rows = [place.row for place in line.places]
    group = [place.row for one in seen.lines if one.group == line.group for place in one.places]
    said = []
    for name, value in rows[0].options.items() if rows else ():
        if name == rows[0].size or not isinstance(value, int | float) or isinstance(value, bool):
            continue
        others = [row.options.get(name) for row in group if row.method == rows[0].method]
        if all(row.options.get(name) == value for row in rows) and any(other != value for other in others):
            said.append(f"{inert(name.replace('_', ' '))} {text.swept(value)}")
    return said if len(said) == 1 else []


def _score_name(shown: Sequence[Line]) -> str:
    places = [place for line in shown for place in line.places]
    metrics = dict.fromkeys(metric_name(place.setting) for place in places)
    models = {(place.table.model.shown, place.table.weights) for place in places}
    tasks = {place.setting.spec.task.name for place in places}
    over = [plural(len(tasks), "task")] if len(tasks) > 1 else []
    over += [plural(len(models), "base model")] if len(models) > 1 else []
    if 1 < len(metrics) <= MOST_METRICS:
        words = [name.replace("\\_", "_").replace("_", " ") for name in metrics]
        return f"mean of {text.listed(words)} ({' × '.join(over)})"
    name = next(iter(metrics)) if len(metrics) == 1 else "score"
    return f"{name} (mean of {' × '.join(over)})" if over else name


def score_of(line: Line, among: Sequence[Line] = ()) -> str:
    """Return the mean score, with its number of places if others *among* which it stands have more, or how the runs ended."""
    if line.score is None:
        ended = dict.fromkeys(code(status) for place in line.places for status in place.row.statuses if status != "ok")
        return ", ".join(ended) if ended and not line.scored else MISSING
    places = {(place.setting.spec.task.name, place.table.model.shown) for one in among for place in one.places}
    some = f" ({line.scored} of {len(places)})" if line.scored < len(places) else ""
    return text.score(line.score) + some


def verdict_of(line: Line, *, short: bool = False, needed: bool = True) -> str:
    """Return the verdicts on a method in a few words, such as "better in all 6" or "undecided (≈ 76 seeds for a difference)".

    If *short*, what all comparisons share is left out; if *needed*, the seeds that would likely decide are named.
    """
    if not line.contrasts:
        return MISSING
    number = len(line.contrasts)
    said = []
    for word, found in line.by_verdict.items():
        name = f"**{word}**" if word in DECIDED else verdict_name(word, (one.verdict for one in found))
        name = "undecided" if word == "inconclusive" else name
        would = [one.verdict.needed for one in found if one.verdict.needed is not None]
        all_known = needed and not short and word == "inconclusive" and len(would) == len(found)
        most = max(would, key=lambda one: one.seeds) if all_known else None
        seeds = (
            f" ({ESTIMATED} {most.seeds} seeds for a{'n' * (most.by == 'equivalence')} {most.by})"
            if most is not None
            else ""
        )
        counted = "" if short and len(found) == number else times(len(found), number)
        said.append(f"{name}{counted}{seeds}")
    return ", ".join(said)


def place_of(line: Line, seen: Overview) -> str:
    """Return the places that a method may have among all, as intervals that hold together."""
    rows = [place.row for place in line.places]
    return MISSING if seen.judged is None else place_words(seen.judged.ranks_of(line.label, rows))


def difference_of(line: Line) -> str:
    """Return the mean difference, in points of 100 where the scores are shares, as the headline and the picture have it."""
    if line.difference is None or not all(contrast.shares for contrast in line.contrasts):
        return text.difference(line.difference)
    return f"{text.points(line.difference)} points"


def file_of(line: Line) -> str:
    """Return the files to ship in MiB, from the smallest to the largest over base models."""
    sizes = text.span(line.file_bytes, text.mebibytes)
    return f"{ESTIMATED} {sizes}" if line.counted else sizes


def ratio(found: Ratio | None, reference: bool) -> str:
    """Return a cost as a multiple of the reference's, marked where it was not measured alone."""
    if found is None:
        return MISSING
    marks = {SHARED: not found.exclusive and not reference, RESUMED: found.resumed and not reference}
    return f"{found.value:.2g} ×" + "".join(mark for mark, holds in marks.items() if holds)


def next_step(following: Sequence[str]) -> list[Block]:
    """Return the next step as a paragraph."""
    return [f"**Next:** {'; or '.join(following)}."] if following else []
