"""DeBERTa's relative positions that no row reaches: what is left out of the products changes nothing."""

import copy
import pickle

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention, build_relative_position

from lora_bench.execute.run_suite import run_suite
from lora_bench.methods import known_methods
from lora_bench.models.deberta_positions import ReachedSelfAttention, cut_to_reach, reached
from lora_bench.training.process_cache import WARM
from tests.project import SUITE, write_project
from tests.tiny import tiny_deberta_v2, tiny_roberta

SHAPES = {
    "shared keys": {"share_att_key": True},
    "own keys": {"share_att_key": False},
    "content to position alone": {"pos_att_type": ["c2p"]},
    "position to content alone": {"pos_att_type": ["p2c"]},
    "no buckets": {"position_buckets": -1, "max_relative_positions": 64},
    "few buckets": {"position_buckets": 4, "max_relative_positions": 64},
}


def both(**config):
    plain = tiny_deberta_v2(**config).double()
    cut = copy.deepcopy(plain)
    cut_to_reach(cut)
    return plain, cut


def passed(model, rows, *, seed=None):
    """Logits and gradients of one pass; with dropout where there is a seed."""
    model.train(seed is not None)
    torch.manual_seed(seed or 0)
    logits = model(input_ids=rows, attention_mask=(rows != 1).long()).logits
    logits.pow(2).sum().backward()
    return logits, {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def rows_of(tokens):
    rows = torch.randint(4, 20, (3, tokens), generator=torch.Generator().manual_seed(tokens))
    rows[1, tokens // 2 + 1 :] = 1
    return rows


@pytest.mark.parametrize("tokens", [1, 2, 3, 9, 60])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_and_gradients_are_those_of_the_whole_table(shape, tokens):
    plain, cut = both(**SHAPES[shape])
    (logits, gradients), (cut_logits, cut_gradients) = passed(plain, rows_of(tokens)), passed(cut, rows_of(tokens))
    torch.testing.assert_close(cut_logits, logits, rtol=0, atol=1e-12)
    assert cut_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(cut_gradients[name], gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "options"),
    [("lora", {}), ("lora", {"dropout": 0.3}), ("bottleneck_adapter", {}), ("prefix_tuning", {})],
)
def test_they_are_with_dropout_and_a_method_too_since_the_same_masks_are_drawn(method, options):
    models = []
    for model in both(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3):
        torch.manual_seed(1)
        models.append(known_methods()[method](**options).apply(model, head=["pooler", "classifier"]).double())
    models[1].load_state_dict(models[0].state_dict())
    plain, cut = (passed(model, rows_of(9), seed=5)[0] for model in models)
    torch.testing.assert_close(cut, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("most", [64, 512])
@pytest.mark.parametrize("buckets", [-1, 4, 32, 256])
def test_no_position_lies_beyond_what_is_reached(buckets, most):
    for tokens in (1, 2, 3, 15, 16, 17, 18, 31, 63, 64):
        farthest = build_relative_position(torch.zeros(tokens, 1), torch.zeros(tokens, 1), buckets, most).abs().max()
        # Rows of the cut table are -reached … reached - 1.
        assert farthest < reached(tokens, buckets, most)


def test_a_short_row_multiplies_fewer_rows_of_the_table():
    counts = []
    for model in both(position_buckets=32, max_relative_positions=64):
        with FlopCounterMode(display=False) as counter:
            model(input_ids=rows_of(8), attention_mask=torch.ones(3, 8))
        counts.append(counter.get_total_flops())
    assert counts[1] < 0.75 * counts[0]


def test_a_model_that_was_cut_is_copied_and_pickled_as_it_is_and_others_are_left_alone():
    _, cut = both()
    again = pickle.loads(pickle.dumps(copy.deepcopy(cut)))
    assert sum(type(module) is ReachedSelfAttention for module in again.modules()) == again.config.num_hidden_layers
    assert not any(type(module) is DisentangledSelfAttention for module in again.modules())
    roberta = tiny_roberta()
    kinds = [type(module) for module in roberta.modules()]
    cut_to_reach(roberta)
    assert [type(module) for module in roberta.modules()] == kinds


def test_runs_on_a_frozen_base_are_cut_unless_an_option_says_no_and_score_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    loads = []
    monkeypatch.setattr(
        "lora_bench.training.process_cache.cut_to_reach", lambda model: loads.append("cut") or cut_to_reach(model)
    )
    suite = write_project(
        tmp_path, SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[lora]"), "deberta-v2"
    )
    found = {}
    for cut in (True, False):
        WARM.keep_base_for(None)
        (found[cut],) = run_suite(suite, runs=tmp_path / f"cut-{cut}", workers=0, cut=cut).records
    assert loads == ["cut"]
    assert found[True].run_id == found[False].run_id
    assert [point.loss for point in found[True].curve] == pytest.approx(
        [point.loss for point in found[False].curve], abs=1e-6
    )
    assert (found[True].scores, found[True].predictions) == (found[False].scores, found[False].predictions)
