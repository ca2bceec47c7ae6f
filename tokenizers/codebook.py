"""How much of a codebook is in use."""

import numpy as np

from mmtok.batch import TokenColumn


def usage(column: TokenColumn, vocab: int) -> tuple[float, float]:
    """Returns how much of a vocabulary the tokens of a column use.

    Args:
      column: Tokens; positions beyond each length are left out.
      vocab: Number of ids of each code.

    Returns:
      Fraction of the ids that occur, and the perplexity exp(entropy) of the ids (1 .. vocab); both are means over the
      codes of a position, and 0 where there are no tokens.
    """
    present = np.arange(column.values.shape[1]) < column.length[:, None]
    ids = column.values[present]
    if not len(ids):
        return 0.0, 0.0
    counts = np.stack([np.bincount(code, minlength=vocab) for code in ids.T])
    shares = counts / counts.sum(axis=1, keepdims=True)
    entropy = -np.sum(shares * np.log(shares, where=shares > 0, out=np.zeros_like(shares)), axis=1)
    return float(np.mean(counts > 0)), float(np.mean(np.exp(entropy)))
