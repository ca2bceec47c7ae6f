"""What the grammar of a tokenizer accepts, its `decode` reads as a whole; what its `encode` writes, it accepts."""

import dataclasses
import functools
from collections import Counter
from typing import Any

import numpy as np
import pytest

from mmtok.errors import MmtokError
from mmtok.grammar import ILLEGAL, Grammar
from mmtok.inference.opening import PRETRAINED
from mmtok.interop.fourm.forms import METADATA, PERSON
from mmtok.interop.fourm.texts import FourMTextConfig, FourMTextTokenizer
from mmtok.modality import Vocabulary
from mmtok.scenes import samples
from mmtok.tokenizers.artifact import Tokenizer, create, load
from mmtok.tokenizers.coordinates import BoxConfig, MetadataConfig, PaletteConfig
from mmtok.tokenizers.ids import IdConfig
from mmtok.tokenizers.networks.mlp import MLPConfig
from mmtok.tokenizers.quantizers import MemcodesConfig
from mmtok.tokenizers.sequences import AXES, pack
from mmtok.tokenizers.vectors import VectorConfig
from reference import fourm_vocabulary as vocabulary

SCENES = ("box", "palette", "metadata", "caption")
LENGTHS = {"boxes": 61, "metadata": 43, "palette": 23, "poses": 119, "instances": 120}
WALKS = 50


@functools.cache
def fourm(form: Any, content: bytes | None = None, **changes: Any) -> FourMTextTokenizer:
    config = FourMTextConfig(**{"form": form, "length": LENGTHS[form], **changes})
    empty = FourMTextTokenizer(name=form, source=form, config=config)
    made = empty.with_vocabulary(content or vocabulary.small_vocabulary())
    assert isinstance(made, FourMTextTokenizer)
    return made


def own(config: Any) -> Tokenizer:
    made: Any = create(name="own", source="own", config=config)
    return made if made.complete else made.fit([])


@functools.cache
def family(name: str) -> Tokenizer:
    kind, _, detail = name.partition(" ")
    match kind:
        case "scenes":
            return load(PRETRAINED / "scenes" / "tokenizers" / detail)
        case "4m":
            return fourm(detail)
        case "boxes":
            return own(BoxConfig(boxes=12, bins=int(detail), labels=("cone", "cube"), sentinels=64))
        case "palette":
            return own(PaletteConfig(bins=int(detail)))
        case "metadata":
            return own(MetadataConfig(ranges={"a": (0.0, 49.0), "b": (-1.0, 1.0), "c": (5.0, 5.5)}))
        case _:
            return own(IdConfig(kind="sequence", shape=(9,), vocabulary=Vocabulary(size=90, sentinel_count=7)))


FAMILIES = [
    *(f"scenes {name}" for name in SCENES),
    *(f"4m {form}" for form in LENGTHS),
    *("boxes 11", "boxes 100", "palette 256", "palette 16", "metadata", "ids"),
]


def distances(grammar: Grammar) -> np.ndarray:
    """Fewest ids from each state to a final one; infinite where there is no way."""
    found, changed = np.where(grammar.final, 0.0, np.inf), True
    while changed:
        ahead = np.where(grammar.step == ILLEGAL, np.inf, found[grammar.step])
        shorter = np.minimum(found, 1 + ahead.min(axis=1))
        changed, found = bool((shorter != found).any()), shorter
    return found


def walks(grammar: Grammar, *, limit: int, seed: int = 0) -> list[list[int]]:
    """Sequences of at most `limit` ids: classes drawn uniformly, ending with a chance of 1 in 8 where that is legal."""
    rng, ahead = np.random.default_rng(seed), distances(grammar)
    members = [np.flatnonzero(grammar.classes == index) for index in range(grammar.step.shape[1])]
    found = []
    for _ in range(WALKS):
        ids, state = [], 0
        while True:
            rows = grammar.step[state]
            legal = [
                c for c, to in enumerate(rows) if to != ILLEGAL and ahead[to] < limit - len(ids) and len(members[c])
            ]
            if grammar.final[state] and (not legal or rng.random() < 1 / 8):
                break
            choice = rng.choice(legal)
            ids.append(int(rng.choice(members[choice])))
            state = rows[choice]
        found.append(ids)
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_every_state_leads_to_an_end_within_the_length(name: str):
    tokenizer = family(name)
    grammar = tokenizer.grammar
    assert grammar is not None
    assert tokenizer.grammar is grammar, "built once"
    assert len(grammar.classes) == tokenizer.modality.vocab_size
    ahead = distances(grammar)
    assert np.isfinite(ahead).all()
    assert ahead[0] < tokenizer.modality.size
    assert grammar.step.size < 2**21
    counts = np.bincount(grammar.classes, minlength=grammar.step.shape[1])
    assert (counts[1:] > 0).all()


def words_of(tokenizer: FourMTextTokenizer, ids: list[int]) -> list[str]:
    return [tokenizer._pieces.id_to_token(id) for id in ids]


@functools.cache
def walked(name: str) -> tuple[Any, list[list[int]], list[Any]]:
    """A family, sequences that its grammar accepts, and what they decode to."""
    tokenizer: Any = family(name)
    sequences = walks(tokenizer.grammar, limit=tokenizer.modality.size - 1)
    assert all(tokenizer.grammar.accepts(ids) for ids in sequences)
    assert len({*map(len, sequences)}) > 3
    return tokenizer, sequences, tokenizer.decode(pack(sequences, modality=tokenizer.modality))


@pytest.mark.parametrize(
    "name", ["scenes box", "scenes palette", "boxes 11", "palette 256", "palette 16", "metadata", "4m palette", "ids"]
)
def test_well_formed_ids_are_those_of_what_they_decode_to(name: str):
    tokenizer, sequences, values = walked(name)
    np.testing.assert_array_equal(tokenizer.encode(values).values, pack(sequences, modality=tokenizer.modality).values)


@pytest.mark.parametrize("name", ["scenes metadata", "boxes 100", "4m metadata", "4m poses", "4m instances"])
def test_well_formed_ids_decode_to_a_value_that_comes_back(name: str):
    tokenizer, _, values = walked(name)
    again = tokenizer.encode(values)
    assert all(tokenizer.grammar.accepts(row[: length - 1]) for row, length in zip(again.values[..., 0], again.length))
    assert tokenizer.decode(again) == values


@pytest.mark.parametrize("name", ["boxes 11", "boxes 100", "scenes box"])
def test_no_box_is_skipped(name: str):
    tokenizer, sequences, values = walked(name)
    names, first = tokenizer.coordinates.names, tokenizer.coordinates.axis(AXES).start
    for ids, boxes in zip(sequences, values):
        assert [box["label"] for box in boxes] == [names[id - first] for id in ids[4::5]]
        assert all(box["box"][0] <= box["box"][2] and box["box"][1] <= box["box"][3] for box in boxes)


def check_text_boxes(tokenizer: FourMTextTokenizer) -> None:
    sequences = walks(tokenizer.grammar, limit=tokenizer.config.length - 1)
    for ids, boxes in zip(sequences, tokenizer.decode(pack(sequences, modality=tokenizer.modality))):
        words = words_of(tokenizer, ids)
        starts = [index for index, word in enumerate(words) if word.startswith("v0=")]
        assert len(boxes) == len(starts)
        for box, start in zip(boxes, starts):
            assert box["label"]
            x, y, other_x, other_y = (int(word.partition("=")[2]) / 999 for word in words[start : start + 4])
            assert box["box"] == [min(x, other_x), min(y, other_y), max(x, other_x), max(y, other_y)]
    assert max(len(ids) for ids in sequences) > 20


def test_no_box_of_a_text_is_skipped():
    check_text_boxes(fourm("boxes"))


def test_no_box_of_a_text_is_skipped_whatever_its_class(shared):
    words = (shared / "text" / "text_tokenizer_4m_wordpiece_30k.json").read_bytes()
    tokenizer = fourm("boxes", words)
    check_text_boxes(tokenizer)
    dots = tokenizer._pieces.encode("v0=1 v1=2 v2=3 v3=4 . , v0=1 v1=2 v2=3 v3=4 isn't").ids
    assert tokenizer.grammar.accepts(dots)
    assert len(tokenizer.decode(pack([dots], modality=tokenizer.modality))[0]) == 2


def test_no_group_of_words_is_skipped():
    tokenizer, sequences, values = walked("4m metadata")
    for ids, value in zip(sequences, values):
        keys = [int(word.removeprefix("v1=")) for word in words_of(tokenizer, ids)[::2]]
        assert set(value) == {list(METADATA)[key] for key in keys}
    tokenizer, sequences, values = walked("4m poses")
    for ids, persons in zip(sequences, values):
        assert len(persons) == words_of(tokenizer, ids).count("human")
        assert all(set(person) == {"box", *PERSON} for person in persons)
    tokenizer, sequences, values = walked("4m instances")
    for ids, points in zip(sequences, values):
        counts = Counter(words_of(tokenizer, ids))
        assert len(points) == counts["point"]
        assert sum(len(point["instances"]) for point in points) == counts["polygon"]


@pytest.mark.parametrize("name", SCENES)
def test_tokens_of_scenes_are_well_formed(name: str):
    tokenizer = family(f"scenes {name}")
    assert tokenizer.grammar is not None
    values = [sample[tokenizer.source] for sample in samples("scenes", np.arange(8), size=32, seed=1)]
    column = tokenizer.encode(values)
    for ids, length in zip(column.values[..., 0], column.length):
        assert tokenizer.grammar.accepts(ids[: length - 1])
        assert not tokenizer.grammar.accepts([4, *ids[: length - 1].tolist()])  # a sentinel


BODY = {"box": [0.1, 0.2, 0.7, 1.0], "pose": [0, 511, 512, 1023, 1, 2, 3, 4], "global": np.eye(3), "camera": [0, 1, 19]}
BODY["shape"] = np.linspace(-9, 9, 10)
INSTANCE = {"box": [0.0, 0.5, 0.25, 1.1], "mask": [*range(504, 520)]}
VALUES = {
    "boxes": [
        [],
        [{"label": "person", "box": [0.5, 0.5, 1.2, 1.0]}, {"label": "Red dogs, traffic light", "box": [0, 0, 1, 1]}],
        [{"label": "ü", "box": [0.1, 0.2, 0.3, 0.9]}],  # not in the vocabulary
    ],
    "metadata": [
        {},
        {"aesthetic_score": 4.5, "original_width": 64000, "brightness": 255},
        dict.fromkeys(METADATA, 1.0),
    ],
    "palette": [np.full((7, 3), 255, np.uint8), np.array([[1, 2, 3]])],
    "poses": [[], [BODY], [BODY, BODY]],
    "instances": [
        [],
        [{"point": [0.5, 0.25], "instances": [INSTANCE, INSTANCE]}, {"point": [0, 1], "instances": []}],
        [{"point": [0, 1], "instances": []}, {"point": [1.2, 0], "instances": [INSTANCE]}],
    ],
}


@pytest.mark.parametrize("form", LENGTHS)
def test_texts_that_are_written_are_well_formed(form: Any):
    tokenizer = fourm(form)
    column = tokenizer.encode(VALUES[form])
    for ids, length in zip(column.values[..., 0], column.length):
        assert tokenizer.grammar.accepts(ids[: length - 1]), words_of(tokenizer, ids[: length - 1])


@pytest.mark.parametrize(
    ("form", "value", "length", "kept"),
    [
        ("boxes", [{"label": "red dogs", "box": [0.1, 0.2, 0.3, 0.9]}] * 3, 20, 14),
        ("poses", [BODY] * 3, 100, 78),
        ("instances", [{"point": [1, 0], "instances": [INSTANCE] * 3}, *VALUES["instances"][1]], 60, 45),
    ],
)
def test_texts_are_cut_between_whole_parts(form: Any, value: Any, length: int, kept: int):
    tokenizer = fourm(form, length=length)
    with pytest.warns(UserWarning, match="truncated"):
        column = tokenizer.encode([value])
    assert column.length[0] == kept + 1
    assert tokenizer.grammar.accepts(column.values[0, :kept, 0])


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("boxes", "v0=1 v1=2 v2=3 v3=4"),
        ("boxes", "person"),
        ("boxes", "v0=1 v1=2 v2=3 person"),
        ("boxes", "v0=1 v1=2 v3=4 v2=3 person"),
        ("boxes", "v0=1 v1=2 v2=3 v3=4 person v0=1"),
        ("metadata", "v1=0"),
        ("metadata", "v0=3 v1=0"),
        ("metadata", "v1=21 v0=0"),  # there are keys 0 .. 20
        ("metadata", "v1=10 v0=50"),  # brightness has 50 bins
        ("metadata", "v1=19 v0=2"),  # the watermark score has two classes
        ("metadata", "v1=0 v0=20 person"),
        ("palette", ""),
        ("palette", "v1=0"),
        ("palette", "v1=1 v0=1 v0=2"),
        ("palette", "v1=1 v0=1 v0=2 v0=3 v0=4"),
        ("palette", "v1=1 v0=1 v0=2 v0=256"),
        ("palette", "v1=8" + " v0=1" * 24),
        ("poses", ""),
        ("poses", "none none"),
        ("poses", "human v0=1 v1=2 v2=3 v3=4"),
        ("poses", "human v0=1 v1=2 v2=3 v3=4 pose v0=1 v0=2 v0=3 v0=4 v0=5 v0=6 v0=7 v0=512"),
        ("instances", "point v0=1 v1=2"),
        ("instances", "point v0=1 v1=2 none none"),
        ("instances", "point v0=225 v1=2 none"),
        ("instances", "point v0=1 v1=2 none polygon v0=1 v1=2 v2=3 v3=4" + " v0=5" * 16),
        ("instances", "point v0=1 v1=2 polygon v0=1 v1=2 v2=3 v3=4" + " v0=5" * 15),
    ],
)
def test_ill_formed_texts(form: Any, text: str):
    tokenizer = fourm(form)
    assert not tokenizer.grammar.accepts(tokenizer._pieces.encode(text).ids)


def test_groups_of_a_person_come_once_in_any_order():
    tokenizer = fourm("poses")
    groups = {
        "pose": "pose" + " v0=1" * 8,
        "global": "global" + " v0=1" * 9,
        "camera": "camera" + " v0=1" * 3,
        "shape": "shape" + " v0=1" * 10,
    }

    def accepts(*names: str) -> bool:
        text = " ".join(["human v0=1 v1=2 v2=3 v3=4", *(groups[name] for name in names)])
        return tokenizer.grammar.accepts(tokenizer._pieces.encode(text).ids)

    assert accepts("pose", "global", "camera", "shape")
    assert accepts("shape", "camera", "pose", "global")
    assert not accepts("pose", "global", "camera")
    assert not accepts("pose", "global", "camera", "camera", "shape")


# boxes: 4 specials, 64 sentinels, 11 bins of v0, v1, v2, v3 from 68, 79, 90, 101, labels from 112
@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("boxes 11", [70, 80, 92, 103]),
        ("boxes 11", [70, 80, 91, 103, 112]),  # xmax < xmin
        ("boxes 11", [70, 82, 92, 103, 112]),  # ymax < ymin
        ("boxes 11", [70, 80, 92, 103, 112, 113]),
        ("boxes 11", [70, 80, 92, 103, 1]),
        ("boxes 100", [70, 80, 92, 103, 112]),
        ("palette 16", []),
        ("palette 16", [68 + 16 + 6] + [68] * 18),  # six colours
        ("palette 16", [68 + 16 + 1, 68, 68]),
        ("palette 16", [68 + 16, 68, 68, 68]),
        ("metadata", [68 + 50]),
        ("metadata", [68 + 50 + 1, 68, 68 + 50, 68]),  # keys out of order
        ("metadata", [68 + 50, 68, 68 + 50, 69]),  # the same key again
        ("metadata", [68 + 50 + 3, 68]),  # no such key
    ],
)
def test_ill_formed_ids(name: str, ids: list[int]):
    grammar = family(name).grammar
    assert grammar is not None
    assert not grammar.accepts(ids)


def test_well_formed_ids_by_hand():
    for name, ids in (
        ("boxes 11", [70, 80, 92, 103, 112, 69, 79, 91, 101, 113]),
        ("palette 16", [68 + 16]),
        ("metadata", [68 + 50 + 1, 68 + 49, 68 + 50 + 2, 68]),
    ):
        grammar = family(name).grammar
        assert grammar is not None
        assert grammar.accepts(ids)


def test_only_sequences_have_a_grammar():
    assert family("scenes camera").grammar is None


def test_a_vocabulary_without_coordinates_has_no_grammar():
    content = vocabulary.small_vocabulary().replace(b'"v2=7"', b'"w2=7"')
    with pytest.raises(MmtokError, match="the vocabulary file has no word 'v2=7'"):
        _ = fourm("boxes", content).grammar


def test_texts_hold_only_tokens_that_their_tokenizer_has():
    network = MLPConfig(width=8, depth=1)
    inner = VectorConfig(
        length=207, encoder=network, decoder=network, quantizer=MemcodesConfig(size=600, latent=16, codes=8)
    )
    tokenizer = fourm("poses")
    nested = dataclasses.replace(tokenizer, config=dataclasses.replace(tokenizer.config, inner=inner))
    ids = tokenizer.encode([[BODY]]).values[0, :39, 0]
    assert tokenizer.grammar.accepts(ids)
    assert not nested.grammar.accepts(ids)  # token 1023 of 600
    ids = tokenizer.encode([[{**BODY, "pose": [599, 0, 1, 2, 3, 4, 5, 6]}]]).values[0, :39, 0]
    assert nested.grammar.accepts(ids)
