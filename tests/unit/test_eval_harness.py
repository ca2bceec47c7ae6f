"""The harness tells models that learned from models that did not, and knows the tokenizer's bound."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.eval import Direction, Row, Table, evaluate, evaluate_tokenizer
from mmtok.eval.tokenizers import codebook_use, match
from mmtok.modality import Modality, Vocabulary

SIZE = 4


@dataclasses.dataclass(frozen=True)
class Coarse:
    """A codec whose tokens are the values divided by `step`, one per pixel."""

    name: str
    show: str
    step: int = 1
    size: int = SIZE

    @property
    def modality(self) -> Modality:
        shape = (self.size, self.size)
        vocabulary = Vocabulary(size=256)
        return Modality(
            name=self.name, kind="grid", shape=shape, vocabulary=vocabulary, source=self.name, show=self.show
        )

    def encode(self, values: Sequence[Any]) -> TokenColumn:
        factor = values[0].shape[0] // self.size
        ids = np.stack([value[factor // 2 :: factor, factor // 2 :: factor] // self.step for value in values])
        length = np.full(len(values), ids[0].size, np.int32)
        return TokenColumn(ids.reshape(len(values), -1, 1).astype(np.int32), length)

    def decode(self, column: TokenColumn) -> list[Any]:
        values = column.values.reshape(-1, self.size, self.size) * self.step
        return list(values.astype(np.uint8 if self.show == "label" else np.float32))


def _samples(count: int, *, seed: int, size: int = SIZE) -> list[dict[str, Any]]:
    """The label follows from the picture; `noise` does not."""
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    noise = rng.integers(0, 2, (count, size, size), dtype=np.uint8)
    return [{"rgb": rgb[i], "label": rgb[i, ..., 0] // 64, "noise": noise[i]} for i in range(count)]


CODECS = {name: Coarse(name, "label") for name in ("label", "noise", "red")}


def _run(generate, *, codecs=None, samples=None, targets=("label",), **options):
    return evaluate(
        samples or _samples(30, seed=1),
        training=_samples(30, seed=2),
        codecs=codecs or CODECS,
        generate=generate,
        directions=[Direction(given=("rgb",), targets=targets, **options)],
        batch_size=8,
    )


def _right(samples, targets):
    return [dict.fromkeys(targets, sample["rgb"][..., 0] // 64) for sample in samples]


def test_a_perfect_model_has_learned():
    result = _run(_right)
    row = result.table.rows[0]
    assert (row.direction, row.metric, row.samples) == ("rgb -> label", "mIoU", 30)
    assert row.model == row.tokenizer == 1
    assert row.standard_error == 0
    assert row.constant < 0.5
    assert row.shuffled < 0.3
    assert row.learned
    assert result.table.learned


@pytest.mark.parametrize("kind", ["constant", "random", "marginal"])
def test_models_that_ignore_their_input_have_not(kind):
    rng = np.random.default_rng(0)
    constant = _samples(1, seed=9)[0]["label"]

    def generate(samples, targets):
        made = {"constant": lambda: constant, "random": lambda: rng.integers(0, 4, (SIZE, SIZE)).astype(np.uint8)}
        made["marginal"] = lambda: np.full((SIZE, SIZE), rng.integers(0, 4), np.uint8)
        return [{"label": made[kind]()} for _ in samples]

    result = _run(generate)
    assert not any(row.learned for row in result.table.rows)
    assert not result.table.learned


def test_shuffled_means_another_input():
    """The control asks the model again; it does not only compare with another truth."""
    seen = []

    def generate(samples, targets):
        seen.append([sample["rgb"][0, 0, 0] for sample in samples])
        assert all(set(sample) == {"rgb"} for sample in samples)
        return _right(samples, targets)

    samples = _samples(8, seed=1)
    _run(generate, samples=samples)
    straight = [sample["rgb"][0, 0, 0] for sample in samples]
    assert seen == [straight, straight[1:] + straight[:1]]


def test_batches_have_one_size_and_all_samples_count():
    sizes = []

    def generate(samples, targets):
        sizes.append(len(samples))
        return _right(samples, targets)

    row = _run(generate, samples=_samples(19, seed=1)).table.rows[0]
    assert set(sizes) == {8}
    assert row.samples == 19
    assert row.model == 1


def test_chains_are_asked_for_as_chains():
    chains = []

    def generate(samples, targets):
        chains.append(tuple(targets))
        return _right(samples, targets)

    result = _run(generate, targets=("label", "noise"), through=("red",))
    assert set(chains) == {("red", "label"), ("red", "noise")}
    assert {row.direction for row in result.table.rows} == {"rgb -> red -> label", "rgb -> red -> noise"}
    assert not result.table.learned  # noise cannot be known
    assert [row.learned for row in result.table.rows if row.metric == "mIoU"] == [True, False]


def test_a_given_target_is_read_back_from_what_was_made_of_it():
    asked = []

    def generate(samples, targets):
        asked.append((tuple(samples[0]), tuple(targets)))
        if targets == ("red",):
            return [{"red": sample["label"] * 64} for sample in samples]
        return [{"label": sample["red"] // 64} for sample in samples]

    direction = Direction(given=("label",), through=("red",), targets=("label",))
    samples = _samples(10, seed=1)
    table = evaluate(samples, training=samples, codecs=CODECS, generate=generate, directions=[direction]).table
    assert set(asked) == {(("label",), ("red",)), (("red",), ("label",))}
    assert {row.direction for row in table.rows} == {"label -> red -> label"}
    assert table.learned
    assert table.rows[0].model == 1


def test_the_tokenizer_bound_is_that_of_the_reconstruction():
    codecs = {"label": Coarse("label", "label", step=2)}
    row = _run(_right, codecs=codecs).table.rows[0]
    assert row.model == 1
    assert row.tokenizer == pytest.approx((0.5 + 0 + 0.5 + 0) / 4, abs=0.05)


def test_truth_is_compared_at_the_size_of_the_prediction():
    codecs = {"label": Coarse("label", "label")}
    result = evaluate(
        _samples(6, seed=1, size=12),
        training=_samples(6, seed=2, size=12),
        codecs=codecs,
        generate=lambda samples, targets: [{"label": s["rgb"][1::3, 1::3, 0] // 64} for s in samples],
        directions=[Direction(given=("rgb",), targets=("label",))],
    )
    assert result.table.rows[0].model == 1
    assert result.table.rows[0].tokenizer == 1


def test_truth_is_cut_around_the_centre():
    wide = np.arange(8 * 12, dtype=np.int32).reshape(8, 12)
    assert np.array_equal(match(wide, np.zeros((4, 4))), wide[1::2, 3:10:2])
    assert match(wide, np.zeros((8, 12))) is wide
    assert match("text", None) == "text"
    colour = np.repeat(np.array([[0, 200]], np.uint8), 4, 0)[..., None].repeat(2, 1).repeat(3, 2)
    assert match(colour, np.zeros((2, 2, 3), np.uint8))[:, :, 0].tolist() == [
        [29, 171],
        [29, 171],
    ]  # 200 / 7: the triangle filter
    grey = np.ascontiguousarray(colour[..., 0])
    assert match(grey, np.zeros((2, 2), np.uint8)).tolist() == [[0, 200]] * 2
    assert match(grey, np.zeros((2, 2), np.uint8), smooth=True).tolist() == [[29, 171]] * 2


def test_samples_that_lack_a_field_are_left_out():
    samples = _samples(10, seed=1)
    del samples[3]["label"]
    samples[4]["rgb"] = None
    assert _run(_right, samples=samples).table.rows[0].samples == 8


def test_examples_for_a_picture():
    (example,) = _run(_right).examples
    assert (example.direction, example.target) == ("rgb -> label", "label")
    assert len(example.given) == len(example.predictions) == len(example.truths) == 8
    assert np.array_equal(example.predictions[3], example.truths[3])


def test_what_cannot_be_measured():
    with pytest.raises(MmtokError, match="did you mean 'label'"):
        _run(_right, targets=("lable",))
    with pytest.raises(MmtokError, match=r"unknown modality on the way 'rde'.*did you mean 'red'"):
        _run(_right, through=("rde",))
    given = Direction(given=("label",), targets=("label",))
    with pytest.raises(MmtokError, match="'label' is given already"):
        evaluate(_samples(3, seed=1), training=[], codecs=CODECS, generate=_right, directions=[given])
    with pytest.raises(MmtokError, match="rgb -> label: 1 held-out"):
        _run(_right, samples=_samples(1, seed=1))


def test_the_standard_error_is_that_of_a_mean():
    """For a metric that is a plain mean the bootstrap must agree with the textbook."""
    rng = np.random.default_rng(0)

    def generate(samples, targets):
        return [
            {"label": np.where(rng.random((SIZE, SIZE)) < 0.5, sample["rgb"][..., 0] // 64, 9).astype(np.uint8)}
            for sample in samples
        ]

    row = next(row for row in _run(generate, samples=_samples(200, seed=1)).table.rows if row.metric == "accuracy")
    assert row.standard_error == pytest.approx((0.25 / (200 * SIZE * SIZE)) ** 0.5, rel=0.2)


def test_the_table_reads_well():
    row = _run(_right).table.rows[0]
    table = Table(
        rows=(row, dataclasses.replace(row, direction="caption -> rgb", metric="PSNR dB", model=21.234, learned=False))
    )
    lines = table.text().splitlines()
    assert len(lines) == 4
    assert lines[0].index("model") + len("model") == lines[2].index("1.000") + 5 == lines[3].index("21.23") + 5
    assert lines[2].endswith("yes")
    assert lines[3].endswith("no")
    assert table.markdown().splitlines()[1].startswith("| --- | --- | ---: |")
    assert {line.count("|") for line in table.markdown().splitlines()} == {10}
    assert [Row(**item) for item in json.loads(json.dumps(table.to_json()))] == list(table.rows)


# --- tokenizers -------------------------------------------------------------------------------------------------


def test_tokenizer_report():
    values = [sample["label"] for sample in _samples(100, seed=1)]
    report = evaluate_tokenizer(Coarse("label", "label", step=2), [*values, None])
    assert report["samples"] == 100
    assert report["mIoU"] == pytest.approx(0.25, abs=0.02)
    assert report["constant mIoU"] < report["mIoU"]
    assert report["codes used"] == 2 / 256
    assert report["perplexity"] == pytest.approx(2, abs=0.01)
    with pytest.raises(MmtokError, match="label"):
        evaluate_tokenizer(Coarse("label", "label"), [None])


def test_codebook_use_counts_only_what_is_there():
    values = np.array([[[0, 3], [1, 3], [0, 0]], [[2, 3], [0, 0], [0, 0]]])
    columns = [TokenColumn(values, np.array([2, 1], np.int32))]
    use = codebook_use(columns, size=4)
    assert use["codes used"] == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert use["perplexity"] == pytest.approx((3 + 1) / 2)
