"""Maps of amounts."""

import numpy as np

from mmtok.show import amount_map
from mmtok.show.canvas import UNDEFINED
from mmtok.show.colours import amount_colours


def test_bright_is_much_and_grey_is_undefined():
    amounts = np.array([[0.0, 1.0], [2.0, np.nan]])
    colours = amount_colours(amounts, most=2.0).astype(int).sum(-1)
    assert colours[0, 0] < colours[0, 1] < colours[1, 0]
    assert amount_colours(amounts, most=2.0)[1, 1].tolist() == [*UNDEFINED]
    tile = amount_map(amounts, size=64)
    assert tile.shape == (64, 64, 3)
    assert tile[8, 8].sum() < tile[8, 40].sum()


def test_amounts_of_all_kinds_are_drawn():
    for amounts in (np.zeros((3, 5)), np.full((2, 2), np.nan), np.arange(5.0), np.zeros((2, 2, 2)), np.float32(3)):
        assert amount_map(np.asarray(amounts), size=48).shape == (48, 48, 3)
