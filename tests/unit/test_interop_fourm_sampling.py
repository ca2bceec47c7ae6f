"""Greedy decisions of the original sampler, reproduced token by token by the ordinary one."""

import numpy as np
import pytest

from mmtok.generate import Known, Sampler, Target
from mmtok.interop.fourm.checkpoint import open_checkpoint
from mmtok.interop.fourm.model import read_model
from mmtok.modality import by_name
from mmtok.model import load_model
from reference import fourm


@pytest.fixture(scope="module")
def sampler(shared, tmp_path_factory) -> Sampler:
    folder = tmp_path_factory.mktemp("fm7")
    found = read_model(open_checkpoint(fourm.load_case(shared, "fm7_swiglu", folder)[2]))
    found.write(folder / "model", found.modalities, extra={})
    return Sampler(load_model(folder / "model")[0])


@pytest.fixture(scope="module")
def arrays(shared):
    return dict(np.load(shared / "oracle" / "sampling_fm7_swiglu.npz", allow_pickle=False))


@pytest.fixture(scope="module")
def photo(sampler, arrays) -> dict[str, Known]:
    item = by_name(sampler.modalities)["rgb@224"]
    patches = fourm.patches(arrays["in/rgb@224"], item).astype(np.float32)
    return {"rgb@224": Known(patches, np.ones(patches.shape[:2], bool))}


def greedy(sampler: Sampler, known: dict[str, Known], target: str, guidance: float, **settings):
    plan = (Target(modality=target, temperature=0.0, guidance=guidance, **settings),)
    return sampler.generate(known, plan)[target]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("target", ["tok_depth@224", "tok_clip@224"])
def test_grids_from_pixels_in_one_step(sampler, arrays, photo, target, guidance):
    made = greedy(sampler, photo, target, guidance, steps=1)
    np.testing.assert_array_equal(
        made.column.values[..., 0], arrays[f"out/rgb_to/{target}/one_step_argmax/cfg{guidance}"]
    )


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_captions_from_pixels(sampler, arrays, photo, guidance, constrained):
    made = greedy(sampler, photo, "caption", guidance, constrained=constrained).column
    want = arrays[f"out/rgb_to/caption/greedy/cfg{guidance}"]
    assert not arrays[f"out/rgb_to/caption/greedy/cfg{guidance}/input_mask"].any()
    np.testing.assert_array_equal(made.values[:, : want.shape[1], 0], want)
    assert (made.length == want.shape[1] + 1).all()  # the original may stop without an end, ours always has one


def test_the_rest_of_a_picture_from_a_caption(sampler, arrays):
    items = by_name(sampler.modalities)
    text, visible = arrays["in/caption/tensor"], ~arrays["in/caption/input_mask"]
    words = np.zeros((2, items["caption"].size, 1), np.int32)
    words[:, : text.shape[1], 0] = text
    shown = np.zeros(words.shape[:2], bool)
    shown[:, : text.shape[1]] = visible & (text != 5)  # the open end shows sentinel 1 by itself
    part = Known.nothing(items["tok_rgb@224"], samples=2)
    part.values[:, arrays["in/known_positions"], 0] = arrays["in/known_tokens"]
    part.visible[:, arrays["in/known_positions"]] = True
    known = {"caption": Known(words, shown), "tok_rgb@224": part}
    made = greedy(sampler, known, "tok_rgb@224", 4.0, steps=1)
    want = arrays["out/caption_and_60_known_to/tok_rgb@224/one_step_argmax/cfg4.0"]
    np.testing.assert_array_equal(made.column.values[..., 0], want)
