"""In which order the positions of a grid are revealed."""

import functools

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key
from scipy.stats import qmc

ORDER = 2**31 - 1  # folded into a sample's key for its order; the slots that are drawn have smaller numbers


@functools.partial(jax.jit, static_argnames="size")
def random_ranks(keys: Key[Array, " B"], *, size: int) -> Float[Array, "B size"]:
    """Returns a random number per position, by which `roar` orders them."""
    return jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, ORDER), (size,)))(keys)


@functools.cache
def halton(height: int, width: int) -> Int[np.ndarray, "height width"]:
    """Returns the rank of each cell of a grid in the order in which the Halton sequence of bases 2 and 3 visits them.

    However many cells come first, they lie evenly over the grid (Besnier et al. 2025, arXiv 2503.17076, section 3.3).
    """
    ranks = np.full((height, width), -1)
    sequence, count = qmc.Halton(2, scramble=False), 0
    while count < height * width:
        for row, column in np.floor(sequence.random(height * width) * (height, width)).astype(int):
            if ranks[row, column] < 0:
                ranks[row, column] = count
                count += 1
    return ranks


def halton_ranks(keys: Key[Array, " B"], *, shape: tuple[int, int]) -> Int[np.ndarray, "B L"]:
    """Returns the rank of each position of each sample, by which `halton` orders them.

    Every sample shifts the pattern, around the edges, by a random number of cells (Cranley & Patterson 1976): so no
    position always comes first.
    """
    shifts = np.floor(np.asarray(random_ranks(keys, size=2)) * shape).astype(int)
    rows, columns = (np.arange(size) + shift[:, None] for size, shift in zip(shape, shifts.T))
    ranks = halton(*shape)[rows[:, :, None] % shape[0], columns[:, None, :] % shape[1]]
    return ranks.reshape(len(ranks), -1)
