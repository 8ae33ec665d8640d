"""Keyed masks: the rate that is asked for, one mask for one place, and another for every other."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lora_bench.training.keyed_dropout import KeyedMasks, StepMasks, keep_mask, key_of, with_keyed_masks


def key(seed=0, step=0):
    return torch.tensor(key_of(seed, step), dtype=torch.int32)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.9])
def test_as_many_are_lost_as_is_asked_for_in_every_row_and_column(probability):
    kept = keep_mask(key(), 3, torch.Size((400, 500)), probability).double()
    # Four standard deviations of a mean of binomials: of all, of the worst of 400 rows, of the worst of 500 columns.
    deviation = (probability * (1 - probability)) ** 0.5
    assert abs(kept.mean().item() - (1 - probability)) <= 4 * deviation / 200_000**0.5
    assert (kept.mean(1) - (1 - probability)).abs().max() <= 4.5 * deviation / 500**0.5
    assert (kept.mean(0) - (1 - probability)).abs().max() <= 4.5 * deviation / 400**0.5


def test_a_mask_is_the_hash_of_its_place():
    """By whole numbers of Python: the finaliser that the module names, twice, with a half of the key each time."""

    def mixed(x):
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
            x = (x ^ x >> shift) * factor % 2**32
        return x

    low, high = (half % 2**32 for half in key_of(5, 2))
    shape, site, first = torch.Size((3, 4, 5)), 6, 7
    kept = keep_mask(key(5, 2), site, shape, 0.3, first_row=first)
    for row, column, depth in ((0, 0, 0), (2, 3, 4), (1, 0, 3), (2, 1, 0)):
        place = depth * 0x9E3779B1 + column * 0x85EBCA77 + (first + row) * 0xC2B2AE3D
        number = mixed((mixed(place % 2**32 ^ (low + site * 0x632BE5AB) % 2**32) + high) % 2**32)
        # As a signed number it lies in the upper 70 % of all.
        assert kept[row, column, depth] == ((number + 2**31) % 2**32 >= int(0.3 * 2**32))


@pytest.mark.parametrize("other", [("seed", 1, 0, 3), ("step", 0, 1, 3), ("site", 0, 0, 4)])
def test_masks_of_other_seeds_steps_and_sites_have_nothing_to_do_with_it(other):
    _, seed, step, site = other
    shape = torch.Size((300, 300))
    one, two = keep_mask(key(), 3, shape, 0.5).double(), keep_mask(key(seed, step), site, shape, 0.5).double()
    # Correlation of two independent masks, with a standard deviation of 1 / 300; and of neighbours within one.
    assert abs(((one - 0.5) * (two - 0.5)).mean().item() * 4) < 4 / 300
    for shifted in (one.roll(1, 0), one.roll(1, 1), one.roll((1, 1), (0, 1)), one.roll((1, -1), (0, 1))):
        assert abs(((one - 0.5) * (shifted - 0.5)).mean().item() * 4) < 4 / 300


def test_padding_on_the_right_changes_no_place_before_it():
    small, large = (keep_mask(key(), 0, torch.Size(shape), 0.3) for shape in ((2, 3, 5, 5), (4, 3, 9, 9)))
    assert torch.equal(small, large[:2, :, :5, :5])


def test_every_member_of_a_vmap_has_its_own_mask():
    keys = torch.tensor([key_of(seed, 7) for seed in range(3)], dtype=torch.int32)
    x = torch.ones(3, 4, 6)

    def dropped(one, key):
        with KeyedMasks(key):
            return F.dropout(one, 0.4)

    together = torch.func.vmap(dropped)(x, keys)
    assert torch.equal(together, torch.stack([dropped(one, own) for one, own in zip(x, keys, strict=True)]))
    assert len({tuple(one.flatten().tolist()) for one in together}) == 3


def test_attention_loses_what_a_written_out_attention_loses():
    query, keys, value = torch.randn(3, 2, 4, 5, 8, dtype=torch.float64).unbind()
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    expected = (query @ keys.mT / 8**0.5).masked_fill(~mask, -torch.inf).softmax(-1)
    expected = expected * keep_mask(key(), 0, expected.shape, 0.2) / 0.8 @ value
    for options in (
        {"attn_mask": mask},
        {"is_causal": True},
        {"attn_mask": torch.zeros(5, 5).double().masked_fill(~mask, -torch.inf)},
    ):
        with KeyedMasks(key()):
            torch.testing.assert_close(
                F.scaled_dot_product_attention(query, keys, value, dropout_p=0.2, **options), expected
            )


def test_without_a_dropout_attention_is_the_kernel_s_own():
    query, keys, value = torch.randn(3, 2, 4, 5, 8).unbind()
    with KeyedMasks(key()):
        found = F.scaled_dot_product_attention(query, keys, value)
    assert torch.equal(found, F.scaled_dot_product_attention(query, keys, value))


def test_a_dropout_without_keyed_masks_is_refused():
    with KeyedMasks(key()), pytest.raises(NotImplementedError, match="alpha_dropout has no keyed masks"):
        nn.AlphaDropout(0.5)(torch.ones(3))


def test_the_parts_of_a_batch_go_on_from_one_another_and_a_step_begins_anew():
    model, masks = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), StepMasks(0)
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2)), model[0].bias.fill_(1.0)
    with_keyed_masks(model, masks)
    x = torch.ones(50, 2)
    masks.begin(4)
    first, second = model(x), model(x)
    masks.begin(4)
    assert torch.equal(model(x), first) and not torch.equal(first, second)
    masks.begin(5)
    assert not torch.equal(model(x), first)
    assert torch.equal(model.eval()(x), torch.full((50, 2), 2.0))
