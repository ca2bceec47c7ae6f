"""`mmtok.load(...)`: sampling, scoring and looking from Python, around a fake engine."""

import dataclasses
import functools
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mmtok.batch import TokenColumn
from mmtok.errors import MmtokError
from mmtok.generate import Generated, Sampler
from mmtok.inference import Answers, Job, Loaded, Stage, with_decoding_steps
from mmtok.inference.manifest import ModelRecord
from mmtok.modality import Modality, Vocabulary
from mmtok.tokenizers.artifact import Tokenizer


class Codec(Tokenizer):
    """Four ids from a picture of two rows and columns, and back; its config is the way to show it."""

    @functools.cached_property
    def modality(self) -> Modality:  # pyright: ignore[reportIncompatibleMethodOverride]
        vocabulary = Vocabulary(size=256)
        return Modality(
            name=self.name, kind="grid", shape=(2, 2), vocabulary=vocabulary, source=self.source, show=self.config
        )

    def encode(self, values):
        ids = [np.zeros((2, 2)) if value is None else np.asarray(value) for value in values]
        length = [0 if value is None else 4 for value in values]
        return TokenColumn(np.stack(ids).reshape(-1, 4, 1).astype(np.int32), np.array(length, np.int32))

    def decode(self, column):
        return [row.reshape(2, 2).astype(np.uint8) for row in column.values]


class Engine(Sampler):
    """Makes grids of the row's number, one step for one more draw, and remembers what it was asked."""

    def __init__(self, modalities):
        self.modalities = modalities
        self.asked = []

    def generate(self, known, plan, *, seed=0, samples=None, draws=None, batch_size=64):
        self.asked.append((known, plan, seed, list(zip(samples or (), draws or (), strict=True)), batch_size))
        values = np.repeat(np.asarray(samples, np.int32)[:, None, None], 4, axis=1)
        return {target.modality: _generated(values) for target in plan}

    def score(self, known, plan, outputs, *, seed=0, samples=None, draws=None, batch_size=64):
        self.asked.append((known, plan, seed, samples, batch_size))
        return {target.modality: _generated(outputs[target.modality].values) for target in plan}


def _generated(values):
    column = TokenColumn(values, np.full(len(values), 4, np.int32))
    return Generated(column, -values.astype(np.float32), np.zeros(values.shape, np.float32))


@pytest.fixture
def model():
    shows = {"grey": "grey", "depth": "grey", "mask": "mask"}
    codecs = {name: Codec(name=name, source=name, config=show) for name, show in shows.items()}
    return Loaded(Engine(tuple(codec.modality for codec in codecs.values())), codecs, {})


GREY = np.full((2, 2), 9, np.uint8)


def test_several_answers_to_several_samples(model):
    answers = model.sample([{"grey": GREY}, {}], ["depth", "mask"], draws=3, seed=5, temperature=0.5, numbers=[4, 7])
    assert isinstance(answers, Answers)
    assert len(answers) == 6
    assert [set(answer) for answer in answers] == [{"depth", "mask"}] * 6
    ((known, plan, seed, samples, _),) = model.sampler.asked
    assert [target.temperature for target in plan] == [0.5, 0.5]
    assert seed == 5
    assert samples == [(4, 0), (4, 1), (4, 2), (7, 0), (7, 1), (7, 2)]
    assert known["grey"].present.tolist() == [True] * 3 + [False] * 3
    assert answers.tokens["depth"].log_probs.shape == (6, 4, 1)
    assert [len(given) for given in answers.given] == [1, 1, 1, 0, 0, 0]
    assert answers[1:3] == (answers[1], answers[2])


def test_one_sample_and_one_target(model):
    (answer,) = model.sample({"grey": GREY}, "depth")
    assert answer.keys() == {"depth"}
    with pytest.raises(MmtokError, match="draws must be at least 1, it is 0"):
        model.sample({"grey": GREY}, "depth", draws=0)
    with pytest.raises(MmtokError, match="unknown target modality 'dept'"):
        model.sample({"grey": GREY}, "dept")
    with pytest.raises(MmtokError, match="unknown setting of a target 'temprature'"):
        model.sample({"grey": GREY}, "depth", temprature=1)
    with pytest.raises(MmtokError, match="unknown input field 'gray'"):
        model.sample({"gray": GREY}, "depth")


def test_a_notebook_shows_the_picture(model):
    answers = model.sample([{"grey": GREY}, {}], ["depth", "mask"], draws=2)
    with Image.open(io.BytesIO(answers._repr_png_())) as image:
        assert image.size == answers.picture().size
    columns, rows = 3, 4
    assert answers.picture().width > columns * 160
    assert rows * 160 < answers.picture().height < (rows + 1) * 160
    assert model.sample({}, "depth").picture().width < 2 * 160


def test_scores_are_sums_and_means_of_log_probabilities(model):
    outputs = [{"depth": GREY}, {"depth": GREY + 1}]
    scores = model.score([{"grey": GREY}, {}], outputs, steps=2)
    ((known, plan, *_),) = model.sampler.asked
    assert known.keys() == {"grey"}
    assert plan[0].steps == 2
    assert scores.total["depth"].tolist() == [-36.0, -40.0]
    assert scores.per_token["depth"].tolist() == [-9.0, -10.0]
    assert model.score({"grey": GREY}, {"depth": GREY}).total["depth"].shape == (1,)
    with pytest.raises(MmtokError, match="2 samples and 1 outputs: one output for each sample is needed"):
        model.score([{}, {}], outputs[:1])
    with pytest.raises(MmtokError, match="output 1: values of the targets depth were expected"):
        model.score([{}, {}], [outputs[0], {"mask": GREY}])


def test_importing_mmtok_is_light():
    program = (
        "import sys, mmtok; print(mmtok.load.__name__, sorted({'jax', 'numpy', 'flax', 'PIL'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "load []\n"


@dataclasses.dataclass(frozen=True)
class Diffusion(Codec):
    """Decodes to the number of its steps."""

    steps: int = 25

    @property
    def decoding_steps(self):
        return self.steps

    def with_decoding_steps(self, steps):
        return dataclasses.replace(self, steps=steps)

    def decode(self, column):
        return [np.full((2, 2), self.steps, np.uint8) for _ in column.values]


def test_decoders_by_diffusion_take_as_many_steps_as_asked_for(model):
    slow = Diffusion(name="depth", source="depth", config="grey")
    model = dataclasses.replace(model, tokenizers={**model.tokenizers, "depth": slow})
    stages = (Stage(model, model.plan(["depth", "mask"])), Stage(model, model.plan(["grey"])))
    faster = with_decoding_steps(stages, 3)
    assert [stage.model.decoding_steps(stage.targets) for stage in faster] == [{"depth": 3}, {}]
    answer = Job(stages=faster[:1]).run([{"grey": GREY}])[0]
    assert (answer["depth"] == 3).all()
    record = ModelRecord.of(faster[0], "somewhere")
    assert record.decoding_steps == {"depth": 3}
    with pytest.raises(MmtokError, match="5 decoder steps: every target is decoded in one pass"):
        with_decoding_steps(stages[1:], 5)
