"""The arithmetic of directions, on numbers by hand and against dense computations."""

import pytest
import torch

from lora_bench.analyse.subspaces import along, intruder_similarities, of_matrix, of_product, similarities

E = torch.eye(4, dtype=torch.float64)


def test_phi_of_known_subspaces():
    first = torch.stack([E[0], E[1]], dim=1)
    # Spans e1 and e3: the first directions agree, and of the second ones nothing.
    found = similarities(first, torch.stack([E[0], E[2]], dim=1), (1, 2), (1, 2))
    assert found.tolist() == [[1, 1], [1, 0.5]]
    # e1 lies half in the first direction and not at all in the second.
    turned = torch.stack([(E[0] + E[2]) / 2**0.5, E[3]], dim=1)
    assert similarities(first, turned, (1, 2), (1, 2)).flatten().tolist() == pytest.approx([0.5, 0.5, 0.5, 0.25])
    # The same subspace in another basis.
    rotated = torch.stack([(E[0] + E[1]) / 2**0.5, (E[0] - E[1]) / 2**0.5], dim=1)
    assert similarities(first, rotated, (1, 2), (1, 2)).flatten().tolist() == pytest.approx([0.5, 1, 1, 1])


def test_phi_of_random_subspaces_is_their_larger_number_over_the_width():
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.linalg.qr(torch.randn(40, 8, generator=generator, dtype=torch.float64))[0] for _ in range(400)]
    mean = torch.stack(
        [similarities(one[:, :2], other, (1, 2), (1, 8)) for one, other in zip(drawn[::2], drawn[1::2], strict=True)]
    ).mean(0)
    assert mean.flatten().tolist() == pytest.approx([1 / 40, 8 / 40, 2 / 40, 8 / 40], rel=0.15)


@pytest.mark.parametrize("shape", [(12, 3, 9), (5, 7, 9), (9, 4, 3)])
def test_factors_give_what_the_product_gives(shape):
    outputs, rank, inputs = shape
    generator = torch.Generator().manual_seed(1)
    B = torch.randn(outputs, rank, generator=generator, dtype=torch.float64)
    A = torch.randn(rank, inputs, generator=generator, dtype=torch.float64)
    thin, dense = of_product(B, A), of_matrix(B @ A)
    assert len(thin.values) == min(shape) and torch.allclose(thin.values, dense.values)
    assert torch.allclose((thin.left * thin.values) @ thin.right.T, B @ A)
    assert thin.norm == pytest.approx(float(torch.linalg.matrix_norm(B @ A)))
    assert thin.spectral_norm == pytest.approx(float(torch.linalg.matrix_norm(B @ A, 2)))
    # Vectors are those of the product up to their sign.
    assert torch.allclose((thin.right.T @ dense.right).abs(), torch.eye(min(shape)).double(), atol=1e-8)


def test_a_product_of_lower_rank_has_fewer_directions_and_zero_has_none():
    B = torch.outer(E[0], torch.tensor([1.0, 2.0]).double())
    assert len(of_product(B, torch.eye(2, 4).double()).values) == 1
    assert len(of_product(torch.zeros(4, 2), torch.ones(2, 4)).values) == 0
    assert of_product(torch.zeros(4, 2), torch.ones(2, 4)).norm == 0


def test_a_change_along_a_small_direction_of_the_weight_amplifies_it():
    W = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    delta = of_product(6 * E[3:].T, E[3:])
    assert along(W, delta) == pytest.approx(1)  # its norm is 6: six times as much as W has there
    assert of_matrix(W).first(1).norm == pytest.approx(4)


def test_a_vector_that_nothing_in_the_weight_points_to_is_an_intruder():
    W = torch.stack([4 * E[0], 3 * E[1]], dim=1)
    after = W + 10 * torch.outer(E[2], torch.tensor([1.0, 0.0]).double())
    # The first vector is now (4 e1 + 10 e3) / sqrt(116), the second still e2.
    assert intruder_similarities(of_matrix(W), of_matrix(after)) == pytest.approx([4 / 116**0.5, 1])
    assert intruder_similarities(of_matrix(W), of_matrix(W)) == pytest.approx([1, 1])
