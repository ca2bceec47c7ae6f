"""Rules for sequences with gaps, against a search through all sequences."""

import functools
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtok.errors import MmtokError
from mmtok.generate.known import Known
from mmtok.generate.rules import Place, start
from mmtok.generate.spans import free_tokens, gaps
from mmtok.grammar import ILLEGAL, Grammar
from mmtok.modality import Modality, Vocabulary

WORDS = Vocabulary(size=13, sentinel_first=4, sentinel_count=6)  # words 10, 11, 12
LENGTH = 7
MODALITY = Modality(name="s", kind="sequence", shape=(LENGTH,), vocabulary=WORDS)


def grammar(step: list[list[int]], final: list[bool]) -> Grammar:
    """Of three words, each a class of its own."""
    classes = np.zeros(13, np.int32)
    classes[[10, 11, 12]] = 1, 2, 3
    table = np.array([[ILLEGAL, *row] for row in step], np.int32)
    return Grammar(classes, table, np.array(final))


PAIRS = grammar([[1, ILLEGAL, ILLEGAL], [ILLEGAL, 0, 0]], [True, False])  # 10 and then 11 or 12, any number of times
FOUR = grammar([[1, -1, -1], [2, 2, -1], [-1, -1, 3], [4, -1, -1], [-1, -1, -1]], [False] * 4 + [True])


@functools.cache
def well_formed(kind: str, longest: int) -> tuple[tuple[int, ...], ...]:
    chosen = {"pairs": PAIRS, "four": FOUR}[kind]
    every = (t for n in range(longest + 1) for t in itertools.product((10, 11, 12), repeat=n))
    return tuple(tokens for tokens in every if chosen.accepts(list(tokens)))


def fillings(template: list[int | None], kind: str, longest: int) -> set[tuple[tuple[int, ...], ...]]:
    """All ways to fill the gaps (None) of a template so that it is well formed and of at most `longest` tokens."""
    found = set()

    def match(rest: tuple[int, ...], template: list[int | None], runs: tuple) -> None:
        if not template:
            if not rest:
                found.add(runs)
        elif template[0] is None:
            for cut in range(len(rest) + 1):
                match(rest[cut:], template[1:], (*runs, rest[:cut]))
        elif rest and rest[0] == template[0]:
            match(rest[1:], template[1:], runs)

    for tokens in well_formed(kind, longest):
        match(tokens, template, ())
    return found


def known_of(template: list[int | None], *, ended: bool) -> Known:
    values, visible = np.zeros((1, LENGTH, 1), np.int32), np.zeros((1, LENGTH), bool)
    for position, token in enumerate([*template, 3] if ended else template):
        if token is not None:
            values[0, position], visible[0, position] = token, True
    return Known(values, visible)


def walk(rules, place: Place) -> set[tuple[tuple[int, ...], ...]]:
    """All fillings that the rules allow."""
    if int(place.span[0]) == int(rules.gaps[0]):
        return {()}
    found = set()
    for token in np.flatnonzero(np.asarray(rules.legal(place, WORDS))[0]).tolist():
        after = rules.move(place, jnp.array([token]), WORDS)
        for rest in walk(rules, after):
            if int(after.span[0]) > int(place.span[0]):
                found.add(((), *rest))
            else:
                found.add(((token, *rest[0]), *rest[1:]))
    return found


TEMPLATES = [
    ([], False),  # nothing known: one gap
    ([10, None], False),
    ([None, 11], False),
    ([10, None, 11, None], False),
    ([None, 10, None, 12], True),
    ([10, None], True),
]


@pytest.mark.parametrize(("template", "ended"), TEMPLATES)
@pytest.mark.parametrize("kind", ["pairs", "four"])
def test_exactly_the_well_formed_fillings_are_allowed(template, ended, kind):
    known, chosen = known_of(template, ended=ended), {"pairs": PAIRS, "four": FOUR}[kind]
    found = gaps(known, MODALITY, asked=np.ones(1, bool))
    free = np.minimum(free_tokens(known, found, longest=6), 4)
    seen = sum(token is not None for token in template)
    shape = [*template] if ended or (template and template[-1] is None) else [*template, None]
    expected = fillings(shape, kind, int(free[0]) + seen)
    if not expected:
        with pytest.raises(MmtokError, match="what is known of it cannot be completed to a well-formed sequence"):
            start(chosen, known, found, MODALITY, free=free, constrained=True)
        return
    rules, place = start(chosen, known, found, MODALITY, free=free, constrained=True)
    assert walk(rules, place) == expected


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 6))
def test_random_grammars_are_kept_within_any_limit(seed, longest):
    rng = np.random.default_rng(seed)
    states = int(rng.integers(1, 5))
    step = rng.integers(-1, states, (states, 3))
    final = rng.random(states) < 0.4
    chosen = grammar(step.tolist(), final.tolist())
    known = known_of([], ended=False)
    found = gaps(known, MODALITY, asked=np.ones(1, bool))
    reachable = any(
        chosen.accepts(list(tokens))
        for count in range(min(longest, 4) + 1)
        for tokens in itertools.product((10, 11, 12), repeat=count)
    )  # a way of at most 4 tokens exists if there is one at all: there are at most 4 states
    if not reachable:
        with pytest.raises(MmtokError, match="cannot be completed"):
            start(chosen, known, found, MODALITY, free=np.array([longest]), constrained=True)
        return
    rules, place = start(chosen, known, found, MODALITY, free=np.array([longest]), constrained=True)
    tokens: list[int] = []
    while not int(place.span[0]):
        legal = np.flatnonzero(np.asarray(rules.legal(place, WORDS))[0])
        assert len(legal)
        token = int(rng.choice(legal))
        tokens += [token] if token >= 10 else []
        place = rules.move(place, jnp.array([token]), WORDS)
    assert len(tokens) <= longest
    assert chosen.accepts(tokens)


def test_sequences_of_several_kinds_share_a_batch():
    known = [known_of(template, ended=ended) for template, ended in (([], False), ([10, None], False), ([], False))]
    whole = Known(np.array([10, 11, 3, 0, 0, 0, 0]).reshape(1, 7, 1), (np.arange(7) < 3)[None])
    batch = Known(*(np.concatenate(parts) for parts in zip(*((k.values, k.visible) for k in [*known, whole]))))
    found = gaps(batch, MODALITY, asked=np.ones(4, bool))
    rules, place = start(PAIRS, batch, found, MODALITY, free=np.full(4, 4), constrained=True)
    legal = np.asarray(rules.legal(place, WORDS))
    assert [np.flatnonzero(row).tolist() for row in legal[:3]] == [[3, 6, 10], [11, 12], [3, 6, 10]]
    assert rules.gaps.tolist() == [1, 1, 1, 0]
    after = rules.move(place, jnp.array([10, 12, 3, 11]), WORDS)
    assert (after.state.tolist(), after.span.tolist()) == ([1, 0, 0, 0], [0, 0, 1, 0])
    assert after.left.tolist() == [3, 3, 4, 4]
