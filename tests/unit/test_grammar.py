"""Automata of patterns, against regular expressions."""

import itertools
import re

import numpy as np
import pytest

from mmtok.errors import MmtokError
from mmtok.grammar import ILLEGAL, Grammar, Pattern, either, free, maybe, one_of, sequence, some
from mmtok.modality import Vocabulary

A, B, C, BC = one_of((1,)), one_of((2,)), one_of((3,)), one_of(range(2, 4))
PATTERNS = {
    "": sequence(),
    "a": A,
    "[bc]a": sequence(BC, A),
    "a?": maybe(A),
    "(ab?)+": some(sequence(A, maybe(B))),
    "(a|b)+c?": sequence(some(either(A, B)), maybe(C)),
    "(a(b|c+))*": maybe(some(sequence(A, either(B, some(C))))),
    "(a?b?c?)": sequence(maybe(A), maybe(B), maybe(C)),
    "a[bc]*|b?": either(sequence(A, maybe(some(BC))), maybe(B)),
    "([bc]a|ab)*": maybe(some(either(sequence(BC, A), sequence(A, B)))),
    "(aa|b(a|b))+": some(either(sequence(A, A), sequence(B, either(A, B)))),
}


@pytest.mark.parametrize("expression", PATTERNS)
def test_automata_accept_what_the_regular_expression_matches(expression: str):
    grammar = PATTERNS[expression].grammar(5)
    letters = {1: "a", 2: "b", 3: "c", 0: "-", 4: "+"}  # the last two stand in no pattern
    for length in range(5):
        for ids in itertools.product(letters, repeat=length):
            text = "".join(letters[id] for id in ids)
            assert grammar.accepts(list(ids)) == bool(re.fullmatch(expression, text)), text


def test_ids_in_the_same_places_share_a_class():
    grammar = sequence(one_of(range(5, 10)), one_of(range(7, 12)), one_of((40, 41))).grammar(50)
    assert len({grammar.classes[id] for id in (5, 6)}) == 1
    assert len({grammar.classes[id] for id in (5, 7, 10, 40)}) == 4
    assert grammar.step.shape == (4, 5)
    assert set(np.flatnonzero(grammar.classes == 0)) == {*range(5), *range(12, 40), *range(42, 50)}


def test_ambiguous_patterns_are_refused():
    with pytest.raises(AssertionError, match="an id may stand at two places"):
        either(sequence(A, B), sequence(A, C)).grammar(5)


def test_free_words_are_all_but_the_specials():
    grammar = free(Vocabulary(size=10, sentinel_count=2))
    assert [id for id in range(10) if grammar.accepts([id])] == [1, 6, 7, 8, 9]
    assert grammar.accepts([])
    assert grammar.accepts([9, 6, 6, 1])


def test_tables_that_do_not_fit_are_refused():
    with pytest.raises(MmtokError, match="1 states and 2 classes do not fit"):
        Grammar(np.array([0, 2]), np.array([[ILLEGAL, 0]]), np.array([True]))
    with pytest.raises(MmtokError, match="a step leads to no state"):
        Grammar(np.array([0, 1]), np.array([[ILLEGAL, 1]]), np.array([True]))
    with pytest.raises(MmtokError, match="ids of class 0 lead to one"):
        one_of((0, 1)).grammar(2)


def test_nothing_at_all_is_a_pattern():
    assert Pattern(empty=True).grammar(3).accepts([])
    assert not either().grammar(3).accepts([])
