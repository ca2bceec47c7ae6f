"""`redistribute=False` against draws of the 4M reference masker on the public mixtures."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mmtok.batch import DecoderSlots, EncoderSlots, TokenBatch, TokenColumn
from mmtok.masking import Component, Masker, MaskingConfig, Role
from mmtok.modality import Modality, Vocabulary

TEXT = dict.fromkeys(["caption", "color_palette", "det", "human_poses", "sam_instance"], 31) | {"t5_caption": 30}
LONGEST = {"color_palette": 23, "human_poses": 275, "sam_instance": 290, "metadata": 40, "t5_caption": 77}
SHAPES = {"tok_dinov2@224": (16, 16), "tok_imagebind@224": (16, 16)}


def modality(name: str) -> Modality:
    if name == "t5_caption":
        return Modality(name=name, kind="continuous", shape=(LONGEST[name],), channels=1, variable=True)
    if name in TEXT or name == "metadata":
        chunks = {"unit_first": 300, "unit_count": 10} if name == "metadata" else {}
        vocabulary = Vocabulary(size=1000, sentinel_count=200, **chunks)
        return Modality(name=name, kind="sequence", shape=(LONGEST.get(name, 256),), vocabulary=vocabulary)
    if name.startswith("rgb"):
        return Modality(name=name, kind="continuous", shape=(14, 14), channels=1)
    shape = (4, 4) if name.endswith("_global") else SHAPES.get(name, (14, 14))
    return Modality(name=name, kind="grid", shape=shape, vocabulary=Vocabulary(size=512))


def tokens(modalities: tuple[Modality, ...], batch: int) -> TokenBatch:
    """The samples of the reference draws: 30 one-token words and an end, 12 chunks of 2 tokens and an end."""
    columns = {}
    for item in modalities:
        length = item.size
        values = np.zeros((batch, item.size, 1), np.int32)
        if item.in_spans:
            length = min(item.size, TEXT.get(item.name, 25))
            ids = np.tile([301, 999], item.size) if item.name == "metadata" else np.full(2 * item.size, 500)
            values[:, :length, 0] = ids[:length]
            if length in (31, 25):
                values[:, length - 1] = 3
        columns[item.name] = TokenColumn(values, np.full(batch, length, np.int32))
    return columns


def mixture(default: tuple[float, float], *, weight: float = 1.0, keep: str = "", **roles: tuple[float, float]):
    """`keep` names the modality that is kept whole; roles are (input alpha, target alpha)."""
    named = {}
    for name in {*roles, keep, "color_palette"} - {""}:
        given, asked = roles.get(name, default)
        how = "all" if name == keep else "binary" if name == "color_palette" else "random"
        named[name] = Role(input_alpha=given, target_alpha=asked, keep=how)
    return Component(weight=weight, default=Role(input_alpha=default[0], target_alpha=default[1]), roles=named)


def only_known(component: Component, names: list[str]) -> Component:
    roles = {"rgb@224" if name == "rgb" else name: role for name, role in component.roles.items()}
    return dataclasses.replace(component, roles={name: role for name, role in roles.items() if name in names})


def counts(slots: EncoderSlots | DecoderSlots, modalities: int) -> np.ndarray:
    return np.stack([(slots.valid & (slots.modality == m)).sum(axis=1) for m in range(modalities)], axis=1)


MOD7 = [mixture((0.0, 0.5), rgb=(1000.0, 0.0)), mixture((0.5, 0.5), rgb=(0.5, 0.0))]
MOD21 = [
    *[mixture((a, a), rgb=(a, 0.0)) for a in (0.01, 0.1, 1.0, 10.0)],
    mixture((0.0, 0.5), rgb=(1000.0, 0.0)),
    mixture((0.05, 0.5), weight=0.5, keep="caption", caption=(5.0, 0.0), rgb=(0.05, 0.0), t5_caption=(0.0, 0.5)),
    mixture((0.05, 0.5), weight=0.5, keep="t5_caption", t5_caption=(5.0, 0.0), rgb=(0.05, 0.0), caption=(0.0, 0.5)),
]


@pytest.mark.parametrize(("case", "components", "budget"), [("mod7_a05", MOD7, 128), ("mod21", MOD21, 256)])
def test_counts_agree_with_the_reference(shared, case, components, budget):
    oracle = np.load(shared / "oracle" / f"masking_{case}.npz", allow_pickle=False)
    names = [str(name) for name in oracle["modalities"]]
    modalities = tuple(modality(name) for name in names)
    config = MaskingConfig(
        input_tokens=budget,
        target_tokens=budget,
        components=tuple(only_known(component, names) for component in components),
        redistribute=False,
    )
    masker = Masker(config, modalities)
    batch, rounds = 1000, 12
    data = tokens(modalities, batch)
    visible, asked = [], []
    for step in range(rounds):
        masked = masker(data, seed=11, step=step, samples=np.arange(batch))
        visible.append(counts(masked.encoder, len(names)))
        asked.append(counts(masked.decoder, len(names)))
    visible, asked = np.concatenate(visible), np.concatenate(asked)
    for m, item in enumerate(modalities):
        assert_same_distribution(visible[:, m], oracle["visible"][:, m], f"{item.name} visible")
        expected = oracle["targets"][:, m].astype(int)
        if item.in_spans:  # the reference counts the opening sentinel, which is not predicted
            expected = np.maximum(expected - 1, 0)
        assert_same_distribution(asked[:, m], expected, f"{item.name} asked")
    total = oracle["visible"].astype(int).sum(1)
    assert_same_distribution(visible.sum(1), total, "all visible")


def assert_same_distribution(ours: np.ndarray, theirs: np.ndarray, what: str) -> None:
    """Two-sample tests of mean, of the share of zeros and of the distribution, at about one false alarm in 10 000."""
    theirs = theirs.astype(int)
    error = np.sqrt(ours.var() / len(ours) + theirs.var() / len(theirs))
    assert abs(ours.mean() - theirs.mean()) <= 4.2 * error, (
        f"{what}: mean {ours.mean():.3f}, reference {theirs.mean():.3f}"
    )
    if ours.max() == theirs.max() == 0:
        return
    assert p_value(stats.ks_2samp(ours, theirs)) > 1e-4, what
    edges = np.unique(np.concatenate([[0, 1], np.quantile(theirs, np.linspace(0, 1, 12)[1:-1]).astype(int) + 1]))
    table = np.stack(
        [np.bincount(np.searchsorted(edges, x, side="right"), minlength=len(edges) + 1) for x in (ours, theirs)]
    )
    table = table[:, table.sum(0) > 0]
    if table.shape[1] > 1:
        assert p_value(stats.chi2_contingency(table)) > 1e-4, what


def p_value(result: Any) -> float:
    return float(result.pvalue)
