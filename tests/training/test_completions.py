"""Examples of inputs and completions, and texts that are the same in any batch and by an independent search."""

import copy
import inspect
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationMixin, Trainer, TrainingArguments

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.kinds.exercises.generation.decode import complete
from lora_bench.kinds.exercises.generation.encode import CompletionCollator, encode_completions, encode_prompts
from lora_bench.kinds.exercises.generation.steps import Draw, End, NoRepeat
from lora_bench.methods import known_methods
from lora_bench.models.loading import load_tokenizer
from lora_bench.models.registry import find_model
from lora_bench.records.spec import Decoding
from lora_bench.tasks import Split
from tests.project import GOOD, WORDS, write_tokenizer
from tests.tiny import tiny_gpt2, tiny_gpt2_classifier

END, PAD = 2, 1  # </s> and <pad>
THE, FILM, WAS, IS, GREAT = 4, 6, 7, 8, 19
NEW_TOKENS = 10


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def gpt2_mini():
    """The model that comes with the package, in float32, and its tokenizer of pieces of words."""
    found = find_model("gpt2-mini", base=Path())
    model = AutoModelForCausalLM.from_pretrained(found.folder, dtype=torch.float32).eval()
    return model, load_tokenizer(found)


def split_of(*pairs):
    """A split of inputs, each with its references."""
    return Split(
        ids=[str(number) for number in range(len(pairs))],
        texts=[(text,) for text, *_ in pairs],
        labels=[tuple(references) for _, *references in pairs],
    )


# --- examples --------------------------------------------------------------------------------------------------------


def test_an_example_is_input_end_completion_end_and_its_labels_are_the_completion(tokenizer):
    (example,), cut = encode_completions(split_of(("the film", "was great")), tokenizer, 16)
    assert example == {
        "input_ids": [THE, FILM, END, WAS, GREAT, END],
        "attention_mask": [1, 1, 1, 1, 1, 1],
        "labels": [-100, -100, -100, WAS, GREAT, END],
    }
    assert cut == 0


def test_a_prompt_is_the_input_and_its_end(tokenizer):
    examples, cut = encode_prompts(split_of(("the film", "was great", "is great")), tokenizer, 16, 8)
    assert examples == [{"input_ids": [THE, FILM, END], "attention_mask": [1, 1, 1]}]
    assert cut == 0


def test_a_completion_is_encoded_as_words_inside_a_text_are(gpt2_mini):
    _, tokenizer = gpt2_mini
    split = split_of(("the man", " was there. "))
    (example,), _ = encode_completions(split, tokenizer, 16)
    assert tokenizer.decode(example["input_ids"]) == "the man<|endoftext|> was there.<|endoftext|>"
    assert example["input_ids"][3:-1] == tokenizer(" was there.")["input_ids"]


def test_an_input_that_is_too_long_loses_its_beginning_first(tokenizer):
    split = split_of(("the film was the film is", "was great"), ("film", "was great"))
    (example, whole), cut = encode_completions(split, tokenizer, 6)
    assert example["input_ids"] == [FILM, IS, END, WAS, GREAT, END]
    assert whole["input_ids"] == [FILM, END, WAS, GREAT, END]
    assert cut == 0.5


def test_a_completion_that_is_too_long_loses_its_end_when_the_input_is_down_to_half(tokenizer):
    split = split_of(("the film was the film is", "was great is great the film"))
    (example,), cut = encode_completions(split, tokenizer, 8)
    assert example["input_ids"] == [THE, FILM, IS, END, WAS, GREAT, IS, END]
    assert example["labels"] == [-100] * 4 + [WAS, GREAT, IS, END]
    assert cut == 1


def test_a_prompt_leaves_room_for_its_completion(tokenizer):
    (prompt,), cut = encode_prompts(split_of(("the film was the film is", "was")), tokenizer, 8, 4)
    assert prompt["input_ids"] == [THE, FILM, IS, END]
    assert cut == 1


@settings(max_examples=200, deadline=None)
@given(
    source=st.lists(st.sampled_from(WORDS), min_size=1, max_size=12),
    target=st.lists(st.sampled_from(WORDS), min_size=1, max_size=12),
    max_length=st.integers(4, 30),
)
def test_a_cut_example_has_all_the_room_and_no_more_and_a_part_of_both(tokenizer, source, target, max_length):
    (example,), cut = encode_completions(split_of((" ".join(source), " ".join(target))), tokenizer, max_length)
    whole = len(source) + len(target) + 2
    ids, labels = example["input_ids"], example["labels"]
    assert len(ids) == min(whole, max_length) == len(labels) == len(example["attention_mask"])
    assert cut == (whole > max_length)
    start = labels.count(-100)
    assert labels == [-100] * start + ids[start:]
    assert ids[start - 1] == ids[-1] == END
    words = tokenizer.convert_tokens_to_ids
    assert 1 <= start - 1 <= len(source) and words(source)[len(source) - start + 1 :] == ids[: start - 1]
    kept = len(ids) - start - 1
    assert kept >= 1 and words(target)[:kept] == ids[start:-1]


def test_lengths_that_leave_nothing_are_refused(tokenizer):
    with pytest.raises(LoraBenchError, match="max_length 64 leaves no room for a prompt before max_new_tokens 64"):
        encode_prompts(split_of(("the", "film")), tokenizer, 64, 64)
    with pytest.raises(LoraBenchError, match="max_length must be at least 4 for generation, got 3"):
        encode_completions(split_of(("the", "film")), tokenizer, 3)


def test_a_tokenizer_without_an_end_of_text_is_refused(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(LoraBenchError, match="no end-of-text token"):
        encode_prompts(split_of(("the", "film")), tokenizer, 16, 4)


def test_a_batch_is_padded_on_the_right(tokenizer):
    examples, _ = encode_completions(split_of(("the", "film"), ("the film", "was great")), tokenizer, 16)
    batch = CompletionCollator(tokenizer)(examples)
    assert batch["input_ids"].tolist() == [[THE, END, FILM, END, PAD, PAD], [THE, FILM, END, WAS, GREAT, END]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6]
    assert batch["labels"].tolist() == [[-100, -100, FILM, END, -100, -100], [-100, -100, -100, WAS, GREAT, END]]


# --- loss ------------------------------------------------------------------------------------------------------------


def completion_log_probabilities(model, batch):
    """Log probabilities of the vocabulary at each token that the loss is over, and these tokens, row by row."""
    found, tokens = [], []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        real = ids[: mask.sum()]
        log_probabilities = model(input_ids=real[None]).logits[0].log_softmax(-1)
        start = real.tolist().index(END) + 1
        found.append(log_probabilities[start - 1 : -1])
        tokens.append(real[start:])
        assert labels[start : len(real)].tolist() == tokens[-1].tolist()
    return torch.cat(found), torch.cat(tokens)


@pytest.fixture
def examples(tokenizer):
    split = split_of(("the film", "was great"), ("the", "film is fine"), ("story and plot", "poor"))
    return encode_completions(split, tokenizer, 16)[0]


def test_the_loss_is_the_mean_over_the_completions_and_their_ends(examples, tokenizer):
    model = tiny_gpt2()
    batch = CompletionCollator(tokenizer)(examples)
    log_probabilities, tokens = completion_log_probabilities(model, batch)
    assert len(tokens) == 3 + 4 + 2
    expected = -log_probabilities[range(len(tokens)), tokens].mean()
    assert model(**batch).loss.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_trainer_smooths_the_labels_of_the_completions_only(method, examples, tokenizer, tmp_path):
    without_dropout = tiny_gpt2(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = known_methods()[method]().apply(without_dropout, head=[])
    batch = CompletionCollator(tokenizer)(examples)
    log_probabilities, tokens = completion_log_probabilities(model, batch)
    nll = -log_probabilities[range(len(tokens)), tokens].mean()
    expected = 0.9 * nll + 0.1 * -log_probabilities.mean()
    arguments = TrainingArguments(
        str(tmp_path), label_smoothing_factor=0.1, max_steps=1, per_device_train_batch_size=3, logging_steps=1,
        report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True, remove_unused_columns=False,
        label_names=["labels"], learning_rate=0.0,
    )  # fmt: skip
    trainer = Trainer(model, args=arguments, train_dataset=examples, data_collator=CompletionCollator(tokenizer))
    trainer.model_accepts_loss_kwargs = False  # as in a run
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), abs=1e-4)
    assert expected.item() != pytest.approx(nll.item(), abs=1e-3)


# --- completions -----------------------------------------------------------------------------------------------------

GREEDY = Decoding(max_new_tokens=NEW_TOKENS)
BEAM = Decoding(max_new_tokens=NEW_TOKENS, beams=4, length_penalty=0.8, no_repeat_ngram=2)
SAMPLE = Decoding(max_new_tokens=NEW_TOKENS, sample=True, temperature=1.3, top_p=0.9)
ENDED = Decoding(max_new_tokens=NEW_TOKENS, beams=3, length_penalty=2.0, end=("fine", "and the"))
DECODINGS = {"greedy": GREEDY, "beam": BEAM, "sample": SAMPLE, "ended": ENDED}
METHODS = {
    "full": {},
    "lora": {"rank": 4, "scaling": 2.0},
    "bottleneck_adapter": {"bottleneck_size": 8},
    "prefix_tuning": {"num_virtual_tokens": 8, "init_std": 1.0},
    "prefix_layer": {},
    "peft": {"type": "LORA", "options": {"r": 4, "task_type": "CAUSAL_LM"}},
}


def made_pairs(last_words, count, seed):
    """Two to six words, completed by all but the first from the end, and by one to three of the last words."""
    draw = random.Random(seed)
    pairs = []
    for _ in range(count):
        words = draw.sample(WORDS, draw.randint(2, 6))
        pairs.append((" ".join(words), " ".join([*words[:0:-1], *draw.choices(last_words, k=draw.randint(1, 3))])))
    return split_of(*pairs)


def train(model, tokenizer, split, steps, learning_rate):
    examples, _ = encode_completions(split, tokenizer, 32)
    collate, draw = CompletionCollator(tokenizer), random.Random(0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    model.train()
    for _ in range(steps):
        model(**collate(draw.sample(examples, 24))).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def base(tokenizer):
    """A language model that has learned to some degree what `made_pairs` makes."""
    torch.manual_seed(0)
    return train(tiny_gpt2(vocab_size=len(tokenizer)), tokenizer, made_pairs(GOOD, 400, 0), 90, 3e-3)


@pytest.fixture(scope="module", params=METHODS)
def adapted(request, base, tokenizer):
    """The same, taught by a method to close with one word."""
    torch.manual_seed(0)
    model = known_methods()[request.param](**METHODS[request.param]).apply(copy.deepcopy(base), head=[])
    return train(model, tokenizer, made_pairs(["great"], 400, 1), 25, 1e-2)


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return encode_prompts(made_pairs(GOOD, 16, 2), tokenizer, 24, NEW_TOKENS)[0]


def plain_search(model, prompt, decoding, end=END):
    """The search as it is defined, for one prompt: no batch, no padding, no cache, and nothing given up early."""
    running, best = [(0.0, [])], (-float("inf"), [])
    for length in range(1, decoding.max_new_tokens + 1):
        candidates = []
        for total, tokens in running:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, -1]
            n = decoding.no_repeat_ngram
            ngrams = [tokens[i : i + n] for i in range(len(tokens) - n + 1)] if n else []
            logits[[last for *first, last in ngrams if first == tokens[len(tokens) - n + 1 :]]] = -float("inf")
            candidates += [(total + p, [*tokens, token]) for token, p in enumerate(logits.log_softmax(-1).tolist())]
        candidates.sort(key=lambda candidate: -candidate[0])
        running = []
        for total, tokens in candidates[: decoding.beams]:
            if tokens[-1] != end and length < decoding.max_new_tokens:
                running.append((total, tokens))
            elif total / length**decoding.length_penalty > best[0]:
                best = (total / length**decoding.length_penalty, tokens)
    return [token for token in best[1] if token != end]


def plain_greedy(model, prompt):
    tokens = []
    while len(tokens) < NEW_TOKENS:
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, -1].argmax())
        if token == END:
            break
        tokens.append(token)
    return tokens


@pytest.mark.parametrize("name", DECODINGS)
def test_a_batch_writes_what_each_prompt_alone_is_completed_with(name, adapted, prompts, tokenizer):
    together = complete(adapted, prompts, tokenizer, DECODINGS[name], seed=3)
    assert together == [complete(adapted, [prompt], tokenizer, DECODINGS[name], seed=3)[0] for prompt in prompts]
    assert together == complete(adapted, prompts, tokenizer, DECODINGS[name], seed=3, batch_tokens=150)
    assert len(set(together)) > 8 and len({len(text.split()) for text in together}) > 1


def test_a_method_changes_the_texts(adapted, base, prompts, tokenizer):
    assert complete(adapted, prompts, tokenizer, BEAM, seed=0) != complete(base, prompts, tokenizer, BEAM, seed=0)


@pytest.mark.parametrize(
    ("beams", "length_penalty", "no_repeat_ngram"),
    [
        (2 if (place + no_repeat_ngram) % 2 else 4, length_penalty, no_repeat_ngram)
        for place, length_penalty in enumerate((-0.5, 0.0, 0.8, 2.0))
        for no_repeat_ngram in (0, 1, 2)
    ],
)
def test_beam_search_is_the_plain_search(beams, length_penalty, no_repeat_ngram, base, prompts, tokenizer):
    decoding = Decoding(
        max_new_tokens=8, beams=beams, length_penalty=length_penalty, no_repeat_ngram=no_repeat_ngram
    )  # fmt: skip
    expected = [tokenizer.decode(plain_search(base, prompt["input_ids"], decoding)) for prompt in prompts[:4]]
    assert complete(base, prompts[:4], tokenizer, decoding, seed=0) == expected


@pytest.mark.parametrize("decoding", [GREEDY, BEAM])
def test_the_plain_search_says_what_each_adapted_model_writes(decoding, adapted, prompts, tokenizer):
    if decoding.beams > 1:
        expected = [plain_search(adapted, prompt["input_ids"], decoding) for prompt in prompts[:4]]
    else:
        expected = [plain_greedy(adapted, prompt["input_ids"]) for prompt in prompts[:4]]
    assert complete(adapted, prompts[:4], tokenizer, decoding, seed=0) == [tokenizer.decode(ids) for ids in expected]


def test_beams_length_penalty_and_forbidden_repeats_each_change_texts(base, prompts, tokenizer):
    def texts(**changed):
        return complete(base, prompts, tokenizer, BEAM.model_copy(update=changed), seed=0)

    long = {"length_penalty": 3.0}
    variants = [{}, long, {**long, "beams": 2}, {"no_repeat_ngram": 0}, {"no_repeat_ngram": 1}]
    written = {tuple(texts(**changed)) for changed in variants}
    assert len(written) == len(variants)
    lengths = [sum(len(text.split()) for text in texts(length_penalty=p)) for p in (0.0, 1.0, 3.0)]
    assert lengths == sorted(lengths) and lengths[0] < lengths[-1]


def count_rows(model):
    """A list that gets the number of rows of every forward pass of *model*."""
    rows = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    return rows


@pytest.mark.parametrize("decoding", [GREEDY, BEAM])
def test_a_prompt_that_comes_many_times_is_completed_once(decoding, base, prompts, tokenizer):
    model = copy.deepcopy(base)
    rows = count_rows(model)
    once = complete(model, prompts[:3], tokenizer, decoding, seed=0)
    cost = sum(rows)
    assert rows[0] == 3  # whatever the number of beams: the hypotheses of a prompt share its keys and values
    rows.clear()
    assert complete(model, prompts[:3] * 5, tokenizer, decoding, seed=0) == once * 5
    assert sum(rows) == cost


def test_a_search_ends_as_soon_as_nothing_can_win_and_what_is_done_leaves_the_batch(base, prompts, tokenizer):
    model = copy.deepcopy(base)
    rows = count_rows(model)
    decoding = BEAM.model_copy(update={"max_new_tokens": 40})
    complete(model, prompts, tokenizer, decoding, seed=0)
    assert len(rows) < 40
    assert rows[1] == 4 * rows[0] and rows[-1] < rows[1]
    assert rows[1:] == sorted(rows[1:], reverse=True)


def test_transformers_has_the_names_that_the_search_relies_on():
    # Private: a loop of one's own for generate() is documented by the example of its own loop, which calls this.
    update = inspect.signature(GenerationMixin._update_model_kwargs_for_generation).parameters
    assert list(update)[1:3] == ["outputs", "model_kwargs"]
    assert "is_first_iteration" in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    assert "custom_generate" in inspect.signature(GenerationMixin.generate).parameters


def test_no_repeat_forbids_the_last_token_of_n_grams_that_are_there():
    scores = torch.zeros(2, 10)
    completions = torch.tensor([[5, 6, 7, 5, 6], [1, 1, 2, 3, 1]])

    def forbidden(size):
        rows = NoRepeat(size, 0)(completions, scores)
        return [row.isinf().nonzero().flatten().tolist() for row in rows]

    assert forbidden(3) == [[7], []]  # 5 6 was followed by 7; 3 1 never came before
    assert forbidden(2) == [[7], [1, 2]]  # 6 was followed by 7; 1 by 1 and by 2
    assert forbidden(1) == [[5, 6, 7], [1, 2, 3]]
    assert forbidden(6) == [[], []]
    assert not scores.isinf().any()


def test_no_repeat_leaves_the_prompt_out_of_account():
    row = torch.tensor([[5, 6, 7, 2, 5, 6]])
    assert not NoRepeat(3, 4)(row, torch.zeros(1, 10)).isinf().any()
    assert NoRepeat(3, 0)(row, torch.zeros(1, 10)).isinf().any()


def test_completions_never_repeat_what_they_may_not(base, prompts, tokenizer):
    for decoding in (BEAM, GREEDY, SAMPLE):
        once = decoding.model_copy(update={"no_repeat_ngram": 2})
        for text in complete(base, prompts, tokenizer, once, seed=0):
            pairs = list(zip(text.split(), text.split()[1:], strict=False))
            assert len(set(pairs)) == len(pairs)


def test_a_completion_ends_before_the_first_end_text(base, prompts, tokenizer):
    whole = complete(base, prompts, tokenizer, GREEDY, seed=0)
    cut = complete(base, prompts, tokenizer, GREEDY.model_copy(update={"end": ("very", "end fine")}), seed=0)
    assert cut == [text.partition("very")[0].partition("end fine")[0].strip() for text in whole]
    assert cut != whole


def test_an_end_text_stops_the_model(base, prompts, tokenizer):
    model = copy.deepcopy(base)
    rows = count_rows(model)
    # Every text has one of its words, so no step is taken for any prompt after it.
    complete(model, prompts[:1], tokenizer, GREEDY.model_copy(update={"end": tuple(WORDS + GOOD)}), seed=0)
    assert len(rows) == 1


def test_an_end_text_may_be_spread_over_tokens(gpt2_mini):
    _, tokenizer = gpt2_mini
    end = End(tokenizer, ["\n\n", "é!"], torch.device("cpu"))
    texts = ["one\n", "one\ntwo", "one\n\ntwo", "caf\u00e9", "caf\u00e9!", "caf\u00e9 !"]
    ended = [
        any(bool(end.reached(torch.tensor([ids[: count + 1]]))) for count in range(len(ids)))
        for ids in (tokenizer(text)["input_ids"] for text in texts)
    ]
    assert ended == [False, False, True, False, True, False]
    newline = tokenizer("\n")["input_ids"]
    assert end.reached(torch.tensor([newline * 2])).tolist() == [True]
    assert end.text_of(tokenizer(" one\n\ntwo")["input_ids"]) == "one"
    assert end.text_of([*tokenizer(" one ")["input_ids"], end.token, *newline]) == "one"


def test_draws_follow_the_probabilities():
    probabilities = torch.tensor([0.5, 0.3, 0.2, 0.0])
    draw = Draw([0] * 4000, [[number] for number in range(4000)], 1)
    drawn = draw(torch.zeros(4000, 1), probabilities.log().expand(4000, -1)).argmax(-1)
    shares = drawn.bincount(minlength=4) / 4000
    assert shares[3] == 0
    assert (shares - probabilities).abs().max() < 3 * (0.25 / 4000) ** 0.5


def test_samples_depend_on_the_seed_and_the_prompt_alone(base, prompts, tokenizer):
    first, again, other = (complete(base, prompts, tokenizer, SAMPLE, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    torch.manual_seed(99)
    assert complete(base, prompts[::-1], tokenizer, SAMPLE, seed=0) == first[::-1]


def test_a_small_temperature_and_a_small_top_p_take_the_likeliest(base, prompts, tokenizer):
    greedy = complete(base, prompts, tokenizer, GREEDY, seed=0)
    for changed in ({"temperature": 1e-4, "top_p": 1.0}, {"top_p": 1e-4}):
        assert complete(base, prompts, tokenizer, SAMPLE.model_copy(update=changed), seed=0) == greedy
    assert complete(base, prompts, tokenizer, SAMPLE, seed=0) != greedy


def test_sampling_with_beams_is_refused(base, prompts, tokenizer):
    with pytest.raises(LoraBenchError, match="samples with 4 beams"):
        complete(base, prompts, tokenizer, BEAM.model_copy(update={"sample": True}), seed=0)


def test_what_does_not_write_texts_is_refused(base, prompts, tokenizer):
    with pytest.raises(UnsupportedPair, match="GPT2ForSequenceClassification does not write texts"):
        complete(tiny_gpt2_classifier(), prompts, tokenizer, GREEDY, seed=0)
    peft = known_methods()["peft"](type="PROMPT_TUNING", options={"num_virtual_tokens": 4})
    with pytest.raises(UnsupportedPair, match="PROMPT_TUNING does not generate what it was trained to"):
        complete(peft.apply(copy.deepcopy(base), head=[]), prompts, tokenizer, GREEDY, seed=0)


def test_no_prompt_has_no_completion(base, tokenizer):
    assert complete(base, [], tokenizer, BEAM, seed=0) == []


@pytest.mark.parametrize("decoding", [GREEDY, BEAM])
def test_settings_of_the_checkpoint_are_left_out_of_account_and_stay(decoding, base, prompts, tokenizer):
    model = copy.deepcopy(base)
    model.generation_config.update(repetition_penalty=9.0, min_length=30, bad_words_ids=[[GREAT]], num_beams=2)
    model.train()
    expected = complete(base, prompts, tokenizer, decoding, seed=0)
    assert complete(model, prompts, tokenizer, decoding, seed=0) == expected
    assert model.generation_config.repetition_penalty == 9.0
    assert model.training


@pytest.mark.parametrize("decoding", [GREEDY, BEAM, SAMPLE])
def test_autocast_to_bfloat16_writes_texts_too(decoding, adapted, prompts, tokenizer):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        written = complete(adapted, prompts, tokenizer, decoding, seed=0)
    in_float32 = complete(adapted, prompts, tokenizer, decoding, seed=0)
    assert sum(ours == theirs for ours, theirs in zip(written, in_float32, strict=True)) > len(prompts) / 2


@pytest.mark.parametrize("decoding", [GREEDY, BEAM])
def test_a_model_whose_logits_are_no_number_writes_something(decoding, base, prompts, tokenizer):
    model = copy.deepcopy(base)
    torch.nn.init.constant_(model.transformer.ln_f.weight, float("nan"))
    assert len(complete(model, prompts, tokenizer, decoding, seed=0)) == len(prompts)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", DECODINGS)
def test_a_gpu_writes_the_same_texts(name, base, prompts, tokenizer):
    expected = complete(base, prompts, tokenizer, DECODINGS[name], seed=0)
    assert complete(copy.deepcopy(base).cuda(), prompts, tokenizer, DECODINGS[name], seed=0) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_a_gpu_samples_with_deterministic_algorithms_what_it_samples_without(
    top_p, base, prompts, tokenizer, monkeypatch
):
    decoding = SAMPLE.model_copy(update={"top_p": top_p})
    model = copy.deepcopy(base).cuda()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        written = complete(model, prompts, tokenizer, decoding, seed=0)
        assert complete(model, prompts, tokenizer, decoding, seed=0) == written
    finally:
        torch.use_deterministic_algorithms(False)
    assert complete(base, prompts, tokenizer, decoding, seed=0) == written


def test_pieces_of_words_and_a_padding_that_is_the_end_of_text_make_no_difference(gpt2_mini):
    model, tokenizer = gpt2_mini
    split = split_of(("The old man", "."), ("It was in the year of our Lord", "."), ("Yes", "."))
    prompts, _ = encode_prompts(split, tokenizer, 64, 6)
    decoding = Decoding(max_new_tokens=6, beams=2, length_penalty=0.9, no_repeat_ngram=4)
    together = complete(model, prompts, tokenizer, decoding, seed=0)
    assert together == [complete(model, [prompt], tokenizer, decoding, seed=0)[0] for prompt in prompts]
    expected = [plain_search(model, prompt["input_ids"], decoding, end=tokenizer.eos_token_id) for prompt in prompts]
    assert together == [tokenizer.decode(tokens).strip() for tokens in expected]
