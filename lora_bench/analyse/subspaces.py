"""Directions of a change of a weight: the arithmetic of the LoRA paper's section 7 and of intruder dimensions.

W has shape (out_features, in_features); ΔW = B A is kept as its thin factors where a method has them, and their QR
decompositions give its singular values and vectors without the product. Hu et al. 2021 (https://arxiv.org/abs/2106.09685);
Shuttleworth et al. 2024 (https://arxiv.org/abs/2410.21228).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# The paper's largest rank; further directions of a full-rank change are not compared.
MOST_DIRECTIONS = 64

# Vectors of the tuned weight in which intruders are sought, as in the paper.
TOP = 10


@dataclass(frozen=True)
class Singular:
    """A singular value decomposition, without directions whose singular value is rounding.

    Args:
        left: U, shape (out_features, r).
        values: In falling order, shape (r,).
        right: V, shape (in_features, r).
    """

    left: Tensor
    values: Tensor
    right: Tensor

    @property
    def norm(self) -> float:
        """Frobenius norm."""
        return float(torch.linalg.vector_norm(self.values))

    @property
    def spectral_norm(self) -> float:
        """Largest singular value, 0 for a matrix of zeros."""
        return float(self.values[0]) if len(self.values) else 0.0

    def first(self, directions: int) -> "Singular":
        """Return the first directions alone."""
        return Singular(self.left[:, :directions], self.values[:directions], self.right[:, :directions])


def of_product(B: Tensor, A: Tensor) -> Singular:
    """Return the decomposition of B A from its factors, of shapes (out_features, rank) and (rank, in_features), without it."""
    left, of_b = torch.linalg.qr(B.double())
    right, of_a = torch.linalg.qr(A.double().T)
    u, values, vt = torch.linalg.svd(of_b @ of_a.T, full_matrices=False)
    return _without_rounding(Singular(left @ u, values, right @ vt.T))


def of_matrix(matrix: Tensor, rounding: float = 0.0) -> Singular:
    """Decompose a matrix of shape (out_features, in_features), whose singular values up to *rounding* count as 0."""
    u, values, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    return _without_rounding(Singular(u, values, vt.T), rounding)


def _without_rounding(found: Singular, rounding: float = 0.0) -> Singular:
    least = max(rounding, torch.finfo(torch.float32).eps * found.spectral_norm)
    return found.first(int((found.values > least).sum()))


def similarities(first: Tensor, second: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Return φ(i, j) = ‖U₁ᵀU₂‖² / min(i, j) over the first i and the first j directions (eq. 4 of the LoRA paper).

    *first* and *second* are orthonormal columns, of shapes (width, r₁) and (width, r₂); *rows* are values of i, at most r₁, and
    *columns* of j. The result, of shape (rows, columns), is 1 if one subspace contains the other, 0 if they are orthogonal.
    """
    squares = (first.T @ second).square().cumsum(0).cumsum(1)
    i, j = torch.tensor(rows), torch.tensor(columns)
    shared: Tensor = squares[i - 1][:, j - 1]
    return shared / torch.minimum(i.unsqueeze(1), j.unsqueeze(0))


def along(W: Tensor, delta: Singular) -> float:
    """Return ‖UᵀWV‖ over the directions of a change (Table 7 of the LoRA paper)."""
    return float(torch.linalg.matrix_norm(delta.left.T @ W.double() @ delta.right))


def intruder_similarities(before: Singular, after: Singular) -> list[float]:
    """Return, for the first left singular vectors of W + ΔW, the greatest cosine with any of W; an intruder has a small one."""
    found = (before.left.T @ after.left[:, :TOP]).abs().amax(dim=0)
    return [min(1.0, value) for value in found.tolist()]
