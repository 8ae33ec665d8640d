"""What a training step holds and computes: closed forms, independent counts, and prediction against measurement."""

import functools

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lora_bench.methods import known_methods
from lora_bench.models.base_precision import meet
from lora_bench.models.loading import load_model
from lora_bench.models.registry import find_model
from lora_bench.training.measure.bare_step import TrainingStep
from lora_bench.training.measure.step_bytes import Allocations, FusedAttention, predict_step, static_bytes, step_bytes
from tests.tiny import HEAD_MODULES, HEADS, HIDDEN, LAYERS, MODELS, VOCABULARY, tiny_batch

METHODS = ("full", "lora", "bottleneck_adapter", "prefix_tuning")
FAMILIES = ("roberta", "deberta-v3", "gpt2", "gpt2-lm")
ROWS, LENGTH, LABELS = 2, 8, 3
RANK, BOTTLENECK, PREFIX = 4, 6, 5

SIZED = {
    "full": {},
    "lora": {"rank": RANK},
    "bottleneck_adapter": {"bottleneck_size": BOTTLENECK},
    "prefix_tuning": {"num_virtual_tokens": PREFIX},
}


def adapted(family: str, method: str, *, on_meta: bool = False, **config) -> nn.Module:
    if family not in ("gpt2-lm",):
        # Otherwise DeBERTa looks at the labels to see what kind of problem it is, which fake numbers do not tell.
        config["problem_type"] = "single_label_classification"
    with torch.device("meta" if on_meta else "cpu"):
        model = MODELS[family](**config)
        return known_methods()[method](**SIZED[method]).apply(model, head=HEAD_MODULES[family])


def batch_for(family: str) -> dict[str, torch.Tensor]:
    batch = tiny_batch((LENGTH,) * ROWS, labels=True)
    return {**batch, "labels": batch["input_ids"]} if family == "gpt2-lm" else batch


@functools.cache
def observed(family: str, method: str, precision: str = "float32", **config):
    """A step, what it holds, and its operations."""
    step = TrainingStep(adapted(family, method, **config), batch_for(family), precision)
    return step, *step_bytes(step)


def predicted(family: str, method: str, precision: str = "float32", **config):
    shapes = {name: tuple(value.shape) for name, value in batch_for(family).items()}
    model = adapted(family, method, on_meta=True, **config)
    return predict_step(model, shapes, precision, fused_attention=False)


# Static parts.


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_gradients_and_states_are_four_bytes_a_number(family, method):
    step, found, _ = observed(family, method)
    model = step.model
    # `parameters()` gives a shared weight once; buffers are position numbers, masks and the like.
    weights = list(model.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    buffers = {buffer.data_ptr(): buffer.nbytes for buffer in model.buffers()}
    assert found.weight_bytes == 4 * sum(weight.numel() for weight in weights) + sum(buffers.values())
    assert found.gradient_bytes == 4 * sum(weight.numel() for weight in trained)
    # AdamW: two moments a weight, and a step counter of four bytes a tensor.
    assert found.optimizer_bytes == 8 * sum(weight.numel() for weight in trained) + 4 * len(trained)


def test_a_tied_weight_is_counted_once():
    tied, untied = (static_bytes(MODELS["gpt2-lm"](tie_word_embeddings=tied)) for tied in (True, False))
    assert untied[0] - tied[0] == untied[1] - tied[1] == 4 * VOCABULARY * HIDDEN


def test_gradients_that_an_earlier_step_left_do_not_make_the_peak_smaller():
    step = TrainingStep(adapted("roberta", "full"), batch_for("roberta"), "float32")
    clean, _ = step_bytes(step)
    step.forward().backward()
    assert step_bytes(step)[0] == clean


# Activations.


def saved_bytes(step: TrainingStep) -> int:
    """What autograd saves in a forward pass, by its own hooks: unique storages, without weights, buffers and inputs."""
    held = (*step.model.parameters(), *step.model.buffers(), *step.batch.values())
    known = {tensor.untyped_storage().data_ptr() for tensor in held}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step.forward()
    del loss
    return sum(saved.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_are_what_autograd_saved_and_the_loss(family, method, precision):
    step, found, _ = observed(family, method, precision)
    the_loss = 4
    assert found.activation_bytes == saved_bytes(step) + the_loss


def test_a_number_that_python_makes_a_tensor_of_is_held_too():
    with Allocations() as held:
        number = torch.tensor(3.0)
        assert held.held == 4
        del number
    assert held.held == 0


def test_what_is_let_go_is_held_no_more_and_the_peak_remembers_it():
    with Allocations() as held:
        first = torch.ones(100)  # 400 bytes
        second = first + 1  # 800 together
        view = second[:10]
        del first
        assert (held.held, held.peak) == (400, 800)
        view.add_(1)
        del second
        assert held.held == 400  # the view keeps its storage
        del view
    assert (held.held, held.peak) == (0, 800)


# Prediction against measurement.


@pytest.mark.parametrize(
    ("family", "method", "precision"),
    [
        *((family, method, "float32") for family in FAMILIES for method in METHODS),
        *((family, method, "bfloat16") for family in ("roberta", "gpt2-lm") for method in ("lora", "prefix_tuning")),
    ],
)
def test_a_prediction_from_shapes_is_what_is_measured(family, method, precision):
    (one, flops), (_, other, other_flops) = predicted(family, method, precision), observed(family, method, precision)
    assert flops == other_flops
    assert (one.weight_bytes, one.gradient_bytes, one.optimizer_bytes, one.activation_bytes) == (
        other.weight_bytes,
        other.gradient_bytes,
        other.optimizer_bytes,
        other.activation_bytes,
    )
    # A model that sees that a mask hides nothing leaves it away; of fake numbers nobody can see it, so the prediction has
    # the mask at its peak: one byte for each query and key, and four more where it is made a mask of real numbers.
    mask = ROWS * LENGTH * (LENGTH + PREFIX)
    assert 0 <= one.peak_bytes - other.peak_bytes <= (1 + 4) * mask
    if family == "gpt2-lm" and method != "prefix_tuning":
        assert one.peak_bytes == other.peak_bytes  # causal attention needs its mask either way


def test_dropout_and_eager_attention_are_predicted_too():
    options = {"attn": "eager", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    one, other = predicted("roberta", "lora", **options)[0], observed("roberta", "lora", **options)[1]
    assert one.activation_bytes == other.activation_bytes
    assert 0 <= one.peak_bytes - other.peak_bytes <= 5 * ROWS * LENGTH * LENGTH


def test_labels_of_a_regression_are_real_numbers():
    model = MODELS["roberta"](num_labels=1, problem_type="regression")
    batch = {**batch_for("roberta"), "labels": torch.rand(ROWS)}
    shapes = {name: tuple(value.shape) for name, value in batch.items()}
    real, _ = step_bytes(TrainingStep(model, batch, "float32"))
    with torch.device("meta"):
        model = MODELS["roberta"](num_labels=1, problem_type="regression")
    shaped, _ = predict_step(model, shapes, "float32", fused_attention=False, real=("labels",))
    # torch's mean of squares puts its result into the room for all the squares; the fake one makes room for the result.
    assert real.activation_bytes - shaped.activation_bytes == 4 * (ROWS - 1)


def test_several_labels_are_a_row_of_real_numbers():
    made = {"num_labels": 5, "problem_type": "multi_label_classification"}
    batch = {**batch_for("roberta"), "labels": torch.ones(ROWS, 5)}
    shapes = {name: tuple(value.shape) for name, value in batch.items()}
    real, _ = step_bytes(TrainingStep(MODELS["roberta"](**made), batch, "float32"))
    with torch.device("meta"):
        model = MODELS["roberta"](**made)
    shaped, _ = predict_step(model, shapes, "float32", fused_attention=False, real=("labels",))
    assert abs(real.activation_bytes - shaped.activation_bytes) <= 4 * ROWS * 5


# Fused attention.


def attention_inputs(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    shape = (ROWS, HEADS, LENGTH, HIDDEN // HEADS)
    return [torch.empty(shape, dtype=dtype, requires_grad=True) for _ in range(3)]


def test_fused_attention_holds_its_output_and_a_sum_a_row_beside_its_inputs():
    with FakeTensorMode(), FusedAttention(), Allocations() as held:
        query, key, value = attention_inputs()
        before = held.held
        output = nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=0.1)
        rows = ROWS * HEADS * LENGTH
        assert held.held - before == 4 * rows * (HIDDEN // HEADS) + 4 * rows
        output.sum().backward()
        assert [one.grad.shape for one in (query, key, value)] == [query.shape] * 3


def test_fused_attention_under_autocast_holds_the_casts_of_its_inputs():
    with FakeTensorMode(), FusedAttention(), Allocations() as held, torch.autocast("cpu", torch.bfloat16):
        for dtype, casts in ((torch.float32, 3), (torch.bfloat16, 0)):
            query, key, value = attention_inputs(dtype)
            before = held.held
            output = nn.functional.scaled_dot_product_attention(query, key, value)
            rows = ROWS * HEADS * LENGTH
            assert held.held - before == (casts + 1) * 2 * rows * (HIDDEN // HEADS) + 4 * rows
            assert output.dtype == torch.bfloat16
            del output, query, key, value


def test_fused_attention_saves_less_than_eager_by_the_probabilities():
    shapes = {name: tuple(value.shape) for name, value in batch_for("roberta").items()}
    options = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    fused = predict_step(adapted("roberta", "full", on_meta=True, **options), shapes, "float32", fused_attention=True)[
        0
    ]
    eager = predicted("roberta", "full", attn="eager", **options)[0]
    rows = ROWS * HEADS * LENGTH
    # Both keep queries, keys, values and the output. Eager keeps the probabilities of every row beside them, and the kernel
    # one sum a row; it also keeps the mask, of one byte, which all layers share.
    saved = LAYERS * (4 * rows * LENGTH - 4 * rows) - ROWS * LENGTH * LENGTH
    assert eager.activation_bytes - fused.activation_bytes == saved


# True shapes.


@pytest.fixture(scope="module")
def at_true_shape():
    """Predictions for RoBERTa-base with two labels at 16 × 128 tokens, by method, and its number of weights and buffers."""
    base_model = find_model("shape:roberta-base", base=None)
    found = {}
    for name, options in (("full", {}), ("lora", {"rank": 8})):
        model, head = load_model(base_model, kind="classification", labels=2, on_meta=True)
        weights = sum(weight.numel() for weight in model.parameters())
        buffers = sum(buffer.nbytes for buffer in model.buffers())
        model = known_methods()[name](**options).apply(model, head=head)
        tensors = sum(weight.requires_grad for weight in model.parameters())
        shapes = {"input_ids": (16, 128), "attention_mask": (16, 128), "labels": (16,)}
        found[name] = (predict_step(model, shapes, "float32", fused_attention=True)[0], weights, buffers, tensors)
    return found


def test_full_fine_tuning_of_roberta_base_is_sixteen_bytes_a_weight(at_true_shape):
    found, weights, buffers, tensors = at_true_shape["full"]
    # RoBERTa-base as published: 124,055,040 in embeddings and layers, and a classifier of 768 × 768 + 768 and 768 × 2 + 2.
    assert weights == 124_055_040 + 768 * 768 + 768 + 768 * 2 + 2
    assert found.weight_bytes == 4 * weights + buffers
    assert found.gradient_bytes == 4 * weights
    assert found.optimizer_bytes == 8 * weights + 4 * tensors
    assert found.peak_bytes > 16 * weights


def test_lora_of_roberta_base_trains_its_published_number_of_weights_and_needs_less(at_true_shape):
    full, weights, buffers, _ = at_true_shape["full"]
    lora = at_true_shape["lora"][0]
    head = 768 * 768 + 768 + 768 * 2 + 2
    update = 12 * 2 * 2 * 8 * 768  # A and B of queries and values: 294,912, the paper's 0.3 M
    assert lora.gradient_bytes == 4 * (update + head)
    # PEFT keeps the head as it was beside the one that is trained.
    assert lora.weight_bytes == 4 * (weights + update + head) + buffers
    assert lora.peak_bytes < full.peak_bytes
    assert lora.activation_bytes < full.activation_bytes


# Matrix products.


class Products:
    """A count of matrix products: forward, and backward where a gradient is needed."""

    def __init__(self) -> None:
        self.forward = self.backward = 0

    def add(self, m: int, n: int, k: int, *, gradients: int, times: int = 1) -> None:
        """Products of (m, k) and (k, n), and *gradients* (0, 1 or 2) of the same cost: of their inputs that need one."""
        self.forward += times * 2 * m * n * k
        self.backward += times * gradients * 2 * m * n * k

    @property
    def step(self) -> int:
        return self.forward + self.backward


def products(family: str, method: str) -> Products:
    """Every matrix product of a step of a tiny RoBERTa classifier or GPT-2 language model."""
    count, tokens = Products(), ROWS * LENGTH
    full = method == "full"
    inner = {"roberta": 64, "gpt2-lm": 4 * HIDDEN}[family]
    frozen = (
        2 if full else 1
    )  # gradients of a product with a base weight: of the input, and of the weight if it is trained
    keys = LENGTH + (PREFIX if method == "prefix_tuning" else 0)
    for layer in range(LAYERS):
        first = layer == 0
        # Under frozen embeddings nothing needs a gradient until something trained joins in.
        reached = full or not first
        # Queries, keys and values; GPT-2 has one weight for all three, which comes to the same.
        count.add(tokens, HIDDEN, HIDDEN, gradients=frozen if reached else 0, times=3)
        if method == "lora":
            count.add(tokens, RANK, HIDDEN, gradients=2 if reached else 1, times=2)  # A, of queries and of values
            count.add(tokens, HIDDEN, RANK, gradients=2, times=2)  # B
        if method == "lora":
            # In GPT-2 queries, keys and values are slices of one tensor: if it needs a gradient, they all do.
            scores = 2 if reached or family == "gpt2-lm" else 1
        elif method == "prefix_tuning":
            scores = 2 if reached else 1  # the prefix's keys, and no queries in the first layer
        else:
            scores = 2 if reached else 0
        count.add(LENGTH, keys, HIDDEN // HEADS, gradients=scores, times=ROWS * HEADS)
        mixed = 0 if method == "bottleneck_adapter" and first else 2  # probabilities and values
        count.add(LENGTH, HIDDEN // HEADS, keys, gradients=mixed, times=ROWS * HEADS)
        count.add(tokens, HIDDEN, HIDDEN, gradients=0 if method == "bottleneck_adapter" and first else frozen)
        if method == "bottleneck_adapter":  # after attention: the first of all has an input that needs no gradient
            count.add(tokens, BOTTLENECK, HIDDEN, gradients=1 if first else 2)
            count.add(tokens, HIDDEN, BOTTLENECK, gradients=2)
        count.add(tokens, inner, HIDDEN, gradients=frozen)
        count.add(tokens, HIDDEN, inner, gradients=frozen)
        if method == "bottleneck_adapter":  # after the feed-forward block
            count.add(tokens, BOTTLENECK, HIDDEN, gradients=2)
            count.add(tokens, HIDDEN, BOTTLENECK, gradients=2)
    if family == "roberta":  # the head reads the first token, and every method trains it
        count.add(ROWS, HIDDEN, HIDDEN, gradients=2)
        count.add(ROWS, LABELS, HIDDEN, gradients=2)
    else:  # the output layer is the embedding
        count.add(tokens, VOCABULARY, HIDDEN, gradients=frozen)
    return count


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["roberta", "gpt2-lm"])
def test_flops_are_the_products_written_out(family, method):
    _, _, flops = observed(family, method, attn="eager")
    count = products(family, method)
    assert (flops.forward, flops.step) == (count.forward, count.step)


def test_flops_of_deberta_have_its_two_position_terms():
    _, _, flops = observed("deberta-v3", "full")
    count, tokens, buckets = Products(), ROWS * LENGTH, 2 * 8
    for _ in range(LAYERS):
        count.add(tokens, HIDDEN, HIDDEN, gradients=2, times=4)
        count.add(buckets, HIDDEN, HIDDEN, gradients=2, times=2)  # positions as queries and as keys
        count.add(
            LENGTH, LENGTH, HIDDEN // HEADS, gradients=2, times=ROWS * HEADS * 2
        )  # scores, and probabilities × values
        count.add(
            LENGTH, buckets, HIDDEN // HEADS, gradients=2, times=ROWS * HEADS * 2
        )  # content with positions, both ways
        count.add(tokens, 64, HIDDEN, gradients=2, times=2)
    count.add(ROWS, HIDDEN, HIDDEN, gradients=2)  # pooler
    count.add(ROWS, LABELS, HIDDEN, gradients=2)
    assert (flops.forward, flops.step) == (count.forward, count.step)


@pytest.mark.parametrize("method", ["lora", "full", "prefix_tuning"])
@pytest.mark.parametrize("family", ["roberta", "gpt2-lm"])
def test_a_base_in_sixteen_bits_is_predicted_as_measured(family, method):
    def model(device):
        head = HEAD_MODULES[family]
        config = {} if family == "gpt2-lm" else {"problem_type": "single_label_classification"}
        with torch.device(device):
            base = MODELS[family](**config).bfloat16()
            for name in head:
                base.get_submodule(name).float()
            adapted = known_methods()[method](**SIZED[method]).apply(base, head=list(head))
        meet(adapted, head, "bfloat16")
        return adapted

    batch = batch_for(family)
    measured, flops = step_bytes(TrainingStep(model("cpu"), batch, "float32"))
    shapes = {name: tuple(value.shape) for name, value in batch.items()}
    predicted, counted = predict_step(model("meta"), shapes, "float32", fused_attention=False)
    # A mask that hides nothing is kept on fake numbers, and a float32 one takes a copy in sixteen bits.
    assert predicted.peak_bytes == pytest.approx(measured.peak_bytes, rel=0.01)
    assert (predicted.model_copy(update={"peak_bytes": measured.peak_bytes}), counted) == (measured, flops)
    weights = list(model("cpu").parameters())
    # Trained weights are in float32, but for those of the base that `full` trains.
    trained = [weight for weight in weights if weight.requires_grad]
    assert measured.gradient_bytes == sum(weight.numel() * weight.itemsize for weight in trained)
    assert method == "full" or {weight.dtype for weight in trained} == {torch.float32}
    shorter = sum(weight.numel() for weight in weights if weight.dtype == torch.bfloat16)
    whole = observed(family, method)[1]
    assert measured.weight_bytes == whole.weight_bytes - 2 * shorter and measured.peak_bytes < whole.peak_bytes
