"""How near the samples of a store are to data: Frechet distance, precision and coverage."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Score", "frechet", "moments", "precision_and_coverage", "score"]

Features = Callable[[np.ndarray], np.ndarray]


class Score(NamedTuple):
    """What samples are worth beside data.

    Args:
        frechet: the squared distance of the normal distributions with their means and covariances.
        precision: the part of the samples that lies within the data.
        coverage: the part of the data that has a sample near it.
    """

    frechet: float
    precision: float
    coverage: float


def score(
    samples: Iterable[np.ndarray], data: np.ndarray, features: Features | None = None, k: int = 5
) -> Score:
    """Return the distances of samples, batch by batch, from data.

    Frechet distance alone is blind where features are few: normal samples with the data's mean and
    covariance have none. So all three, of pixels or of the features of a network.

    Args:
        samples: arrays (n, ...), such as `(arrays["samples"] for _, arrays in store)`.
        data: (n, ...).
        features: of such an array its features (n, d); by default all its numbers.
        k: the neighbour whose distance says what is near.
    """
    features = features or (lambda x: x.reshape(len(x), -1))
    own = np.concatenate([np.asarray(features(x), dtype=np.float64) for x in samples])
    real = np.asarray(features(data), dtype=np.float64)
    if own.shape[1] != real.shape[1]:
        raise ValueError(
            f"the samples have {own.shape[1]} features, the data {real.shape[1]}: compare arrays of"
            " the same shape"
        )
    distance = frechet(moments(own), moments(real))
    return Score(distance, *precision_and_coverage(own, real, k))


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the covariance of features (n, d)."""
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))


def frechet(one: tuple[np.ndarray, Any], other: tuple[np.ndarray, Any]) -> float:
    """Return the Frechet distance of two normal distributions (arXiv:1706.08500, eq. 6).

    |m - m'|^2 + trace(S + S' - 2 (S S')^(1/2)), the last by the eigenvalues of S^(1/2) S' S^(1/2).
    """
    (m, S), (n, T) = one, other
    values, vectors = np.linalg.eigh(S)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ T @ root), 0, None)).sum()
    return float(np.sum((m - n) ** 2) + np.trace(S) + np.trace(T) - 2 * cross)


def precision_and_coverage(
    samples: np.ndarray, data: np.ndarray, k: int = 5
) -> tuple[float, float]:
    """Return the part of samples within the k-nearest balls of data, and of these balls not empty.

    Precision as of arXiv:1904.06991, section 2; coverage as of arXiv:2002.09797, eq. 8.

    Raises:
        ValueError: there are not more than k data.
    """
    if len(data) <= k:
        raise ValueError(f"{len(data)} data have no {k} neighbours each; give more, or a smaller k")
    radius = np.concatenate([np.sort(d, axis=1)[:, k] for d in _distances(data, data)])
    inside, hit = [], np.zeros(len(data), bool)
    for d in _distances(samples, data):
        near = d <= radius
        inside.append(near.any(axis=1))
        hit |= near.any(axis=0)
    return float(np.concatenate(inside).mean()), float(hit.mean())


def _distances(rows: np.ndarray, columns: np.ndarray, block: int = 512) -> Iterable[np.ndarray]:
    """Yield squared distances, some rows at a time."""
    squares = np.sum(columns**2, axis=1)
    for first in range(0, len(rows), block):
        part = rows[first : first + block]
        d = np.sum(part**2, axis=1)[:, None] + squares - 2 * part @ columns.T
        yield np.maximum(d, 0)
