"""Which tokens may be drawn next in a sequence with gaps, so that in the end it is well formed.

Host code measures, for every state of the tokenizer's grammar, how many tokens are needed at least to finish from
there, through all gaps and known runs still to come. Compiled code then draws only what leaves enough room, so that a
sequence is well formed whatever its limit.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from mmtok.errors import MmtokError
from mmtok.generate.known import Known
from mmtok.generate.spans import Gaps, vocabulary
from mmtok.grammar import ILLEGAL, Grammar
from mmtok.modality import Modality, Vocabulary

NEVER = 2**30  # tokens needed where no number of them helps


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Place:
    """Where B sequences stand.

    Attributes:
      span: Gaps closed so far.
      state: Of the grammar.
      left: Tokens besides the end id that may still be drawn.
    """

    span: Int[Array, " B"]
    state: Int[Array, " B"]
    left: Int[Array, " B"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WellFormed:
    """Rules of a grammar with S states and C classes, for B sequences of U kinds with at most J gaps.

    Attributes:
      classes: Class of each id; see `Grammar`.
      step: State after an id of a class; see `Grammar`.
      need: Least number of tokens still to draw in gap j from a state on, to the end of the sequence.
      close: The same where gap j is closed in that state.
      land: State behind the known run after gap j, where it is closed in a state.
      kind: Kind of each sequence.
      gaps: Gaps of each sequence.
      open: Whether its last gap runs to the end of the sequence.
    """

    classes: Int[Array, " V"]
    step: Int[Array, "S C"]
    need: Int[Array, "U J S"]
    close: Int[Array, "U J S"]
    land: Int[Array, "U J S"]
    kind: Int[Array, " B"]
    gaps: Int[Array, " B"]
    open: Bool[Array, " B"]

    def legal(self, place: Place, words: Vocabulary) -> Bool[Array, "B V"]:
        """Returns the tokens that may come next; its closing for a sequence whose gaps are all closed."""
        going = place.span < self.gaps
        gap = jnp.minimum(place.span, self.need.shape[1] - 1)
        closes = (self.close[self.kind, gap, place.state] <= place.left) | ~going
        after = self.step[place.state]
        cost = self.need[self.kind[:, None], gap[:, None], jnp.maximum(after, 0)]
        fits = (after != ILLEGAL) & (cost < place.left[:, None])
        ids = jnp.arange(words.size)[None]
        closing = (ids == (words.sentinel_first + place.span + 2)[:, None]) & closes[:, None]
        ending = (ids == words.end) & (closes & self.open & (place.span == self.gaps - 1))[:, None]
        return closing | ending | fits[:, self.classes]

    def move(self, place: Place, token: Int[Array, " B"], words: Vocabulary) -> Place:
        """Returns where the sequences stand after a token; those without open gaps stay."""
        going = place.span < self.gaps
        closes = (token == words.sentinel_first + place.span + 2) | (token == words.end)
        landed = self.land[self.kind, jnp.minimum(place.span, self.land.shape[1] - 1), place.state]
        state = jnp.maximum(jnp.where(closes, landed, self.step[place.state, self.classes[token]]), 0)
        return Place(
            span=place.span + (going & closes),
            state=jnp.where(going, state, place.state),
            left=place.left - (going & ~closes),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Anything:
    """No rules but the limit: any token until there is no room left, then the sentinel behind the last span.

    Attributes:
      gaps: Gaps of each sequence.
    """

    gaps: Int[Array, " B"]

    def legal(self, place: Place, words: Vocabulary) -> Bool[Array, "B V"]:
        """See `WellFormed.legal`."""
        return (place.left > 0)[:, None] | (jnp.arange(words.size) == self._closing(words)[:, None])

    def move(self, place: Place, token: Int[Array, " B"], words: Vocabulary) -> Place:
        """See `WellFormed.move`."""
        going, closes = place.span < self.gaps, token == self._closing(words)
        return Place(
            span=jnp.where(going & closes, self.gaps, place.span),
            state=place.state,
            left=place.left - (going & ~closes),
        )

    def _closing(self, words: Vocabulary) -> Int[Array, " B"]:
        return words.sentinel_first + self.gaps + 1


Rules = WellFormed | Anything


def start(
    grammar: Grammar,
    known: Known,
    found: Gaps,
    modality: Modality,
    *,
    free: Int[np.ndarray, " B"],
    constrained: bool,
) -> tuple[Rules, Place]:
    """Returns the rules for the gaps of a batch of sequences, and where these stand before the first token.

    Args:
      grammar: Of the modality's tokenizer.
      known: Of this modality.
      found: Its gaps.
      modality: The sequence.
      free: Tokens besides the end id that may be drawn.
      constrained: See `Target.constrained`.

    Raises:
      MmtokError: no filling of the gaps makes a well-formed sequence.
    """
    gaps, room = jnp.asarray(found.count, jnp.int32), jnp.asarray(free, jnp.int32)
    if not constrained:
        return Anything(gaps), Place(jnp.zeros_like(gaps), jnp.zeros_like(gaps), room)
    kinds: dict[tuple[bytes, bytes], int] = {}
    tables, kind, state = [], np.zeros(len(free), np.int32), np.zeros(len(free), np.int32)
    for row in np.flatnonzero(found.count).tolist():
        visible = known.visible[row]
        identity = visible.tobytes(), known.values[row, visible].tobytes()
        if identity not in kinds:
            kinds[identity] = len(tables)
            tables.append(_measure(grammar, _runs(known, found, modality, row)))
        kind[row] = kinds[identity]
        first = int(tables[kind[row]][0])
        if first == ILLEGAL or tables[kind[row]][1][0, first] > free[row]:
            raise MmtokError(
                f"known '{modality.name}', sample {row} of the batch: what is known of it cannot be completed to a"
                f" well-formed sequence with {free[row]} more tokens; correct it or raise the target's length"
            )
        state[row] = first
    need, close, land = (_padded([table[part] for table in tables]) for part in (1, 2, 3))
    rules = WellFormed(
        classes=jnp.asarray(grammar.classes, jnp.int32),
        step=jnp.asarray(grammar.step, jnp.int32),
        need=need,
        close=close,
        land=land,
        kind=jnp.asarray(kind),
        gaps=gaps,
        open=jnp.asarray(found.open),
    )
    return rules, Place(jnp.zeros_like(gaps), jnp.asarray(state), room)


Table = tuple[int, Int[np.ndarray, "J S"], Int[np.ndarray, "J S"], Int[np.ndarray, "J S"]]
"""State before the first gap; `need`, `close` and `land` of each gap."""


def _runs(known: Known, found: Gaps, modality: Modality, row: int) -> list[list[int]]:
    """Returns the known tokens before, between and behind the gaps of one sequence, without its end."""
    end, runs = vocabulary(modality).end, [[]]
    for position in np.flatnonzero(known.visible[row] | found.first[row]).tolist():
        if found.first[row, position]:
            runs.append([])
        elif known.values[row, position, 0] != end:
            runs[-1].append(int(known.values[row, position, 0]))
    return runs


def _measure(grammar: Grammar, runs: list[list[int]]) -> Table:
    """Measures the way to the end through the gaps between `runs`, from the last gap back to the first."""
    states = np.arange(len(grammar.final))
    rest = np.where(grammar.final, 0, NEVER)
    needs, closes, lands = [], [], []
    for run in reversed(runs[1:]):
        land = _follow(grammar, states, run)
        close = np.where(land == ILLEGAL, NEVER, rest[land])
        rest = _shortest(grammar, close)
        needs, closes, lands = [rest, *needs], [close, *closes], [land, *lands]
    (first,) = _follow(grammar, np.zeros(1, int), runs[0])
    return int(first), np.stack(needs), np.stack(closes), np.stack(lands)


def _follow(grammar: Grammar, states: Int[np.ndarray, " n"], run: list[int]) -> Int[np.ndarray, " n"]:
    for token in run:
        states = np.where(states == ILLEGAL, ILLEGAL, grammar.step[states, grammar.classes[token]])
    return states


def _shortest(grammar: Grammar, close: Int[np.ndarray, " S"]) -> Int[np.ndarray, " S"]:
    """Returns for each state the least number of tokens, and what closing costs then, over all ways through it."""
    need = close
    while True:
        onward = np.where(grammar.step == ILLEGAL, NEVER, need[grammar.step]).min(1)
        shorter = np.minimum(need, np.minimum(onward + 1, NEVER))
        if (shorter == need).all():
            return need
        need = shorter


def _padded(parts: list[np.ndarray]) -> Int[Array, "U J S"]:
    """Stacks tables with different numbers of gaps; sizes are powers of two, so that few are compiled."""
    kinds, gaps = (1 << (size - 1).bit_length() for size in (len(parts), max(map(len, parts))))
    rows = [np.pad(part, ((0, gaps - len(part)), (0, 0))) for part in parts]
    return jnp.asarray(np.stack(rows + rows[:1] * (kinds - len(rows))), jnp.int32)
