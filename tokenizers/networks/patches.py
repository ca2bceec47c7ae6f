"""Pictures to patches and back."""

from jaxtyping import Array, Float


def patchify(x: Float[Array, "B H W C"], *, patch: int) -> Float[Array, "B L P"]:
    """Cuts into patches, row-major; a patch is ordered (row, column, channel)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, patch * patch * channels)


def unpatchify(x: Float[Array, "B L P"], *, patch: int) -> Float[Array, "B H W C"]:
    """Puts the patches of a square picture together again."""
    grid = round(x.shape[1] ** 0.5)
    x = x.reshape(len(x), grid, grid, patch, patch, -1)
    return x.swapaxes(2, 3).reshape(len(x), grid * patch, grid * patch, -1)


def fold(x: Float[Array, "B H W C"], *, patch: int) -> Float[Array, "B h w P"]:
    """Moves each patch into the channels of one cell, ordered (channel, row, column)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // patch, width // patch, -1)


def unfold(x: Float[Array, "B h w P"], *, patch: int) -> Float[Array, "B H W C"]:
    """Undoes `fold`."""
    batch, height, width, _ = x.shape
    x = x.reshape(batch, height, width, -1, patch, patch)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(batch, height * patch, width * patch, -1)
