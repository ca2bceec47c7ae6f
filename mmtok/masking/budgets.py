"""How many tokens each modality gets: random shares of a total, limited by what there is."""

import numpy as np
from jaxtyping import Bool, Float, Int

from mmtok.masking.random import Draws
from mmtok.masking.rows import put, take

_LOG_MOST = np.log(2.0**31)  # above any number of tokens; keeps exp from overflowing


def fill(
    log_weights: Float[np.ndarray, "B m"],
    *,
    caps: Int[np.ndarray, "B m"],
    total: Int[np.ndarray, " B"],
    rounding: Float[np.ndarray, "B 1"],
) -> Int[np.ndarray, "B m"]:
    """Divides `total` in proportion to the weights; what exceeds a cap goes to the others, in proportion again.

    The real-valued division min(cap, level * weight) is found exactly: modalities saturate in the order of
    cap / weight, so one sort gives the level. It is rounded by systematic sampling, which keeps the sum, the
    expectation and the caps.

    Args:
      log_weights: Finite logarithms of the weights; only their differences matter.
      caps: The most each modality can take, >= 0.
      total: What to divide, >= 0.
      rounding: Uniform in (0, 1).

    Returns:
      Integers between 0 and `caps` that sum to min(total, sum of caps).
    """
    total = np.minimum(total, caps.sum(axis=1))[:, None]
    with np.errstate(divide="ignore"):
        log_caps = np.log(caps)
        order = np.argsort(log_caps - log_weights, axis=1, kind="stable")
        weights = take(log_weights, order)
        sizes = take(caps, order)
        others = np.logaddexp.accumulate(weights[:, ::-1], axis=1)[:, ::-1]
        level = np.log(np.maximum(total - np.cumsum(sizes, axis=1) + sizes, 0)) - others
    # The tolerance covers the precision of huge logarithms; a share this close to its cap counts as the cap.
    full = level + weights >= take(log_caps, order) - 1e-6
    full = full.sum(axis=1, keepdims=True)
    level = take(level, np.minimum(full, caps.shape[1] - 1))
    share = np.where(np.arange(caps.shape[1]) < full, sizes, np.exp(np.minimum(level + weights, _LOG_MOST)))
    # In this order the last share is the furthest from its cap, so it can absorb what rounding errors leave.
    edges = np.floor(np.cumsum(share, axis=1) + rounding).astype(np.int64)
    edges = np.minimum(edges, total)
    edges[:, -1:] = total
    parts = edges.copy()
    parts[:, 1:] -= edges[:, :-1]
    return put(order, parts)


def drop(
    draws: Draws, alpha: Float[np.ndarray, "B m"], *, caps: Int[np.ndarray, "B m"], total: Int[np.ndarray, " B"]
) -> Int[np.ndarray, "B m"]:
    """Divides `total` by the rule of the 4M reference: what exceeds a cap is lost.

    Shares are rounded down; each token left over goes to the largest share of a fresh Dirichlet draw.
    """
    weights = draws.stream(0).log_gamma(alpha)
    shares = np.exp(weights - weights.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    budgets = np.floor(shares * total[:, None]).astype(np.int64)
    left = total - budgets.sum(axis=1)
    for extra in range(int(left.max(initial=0))):
        rows = np.nonzero(left > extra)[0]
        budgets[rows, draws[rows].stream(1, extra).log_gamma(alpha[rows]).argmax(axis=1)] += 1
    return np.minimum(budgets, caps)


def subset(
    draws: Draws, pool: Bool[np.ndarray, "B m"], *, cost: Int[np.ndarray, "B m"], total: Int[np.ndarray, " B"]
) -> Bool[np.ndarray, "B m"]:
    """Picks a random subset of the pool, non-empty where the pool is, that fits into `total`.

    The size is uniform in 1..pool size, the members are taken in random order while they fit; the first one
    is taken even if it does not.
    """
    priority = np.where(pool, draws.stream(0).uniform(pool.shape[1]), 2.0)
    order = np.argsort(priority, axis=1, kind="stable")
    size = np.ceil(draws.stream(1).uniform(1) * pool.sum(axis=1, keepdims=True))
    place = np.arange(pool.shape[1])
    fits = np.cumsum(take(cost, order), axis=1) <= total[:, None]
    return put(order, (place < size) & (fits | (place == 0))) & pool
