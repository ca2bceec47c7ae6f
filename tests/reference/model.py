"""A plain float64 numpy program of the model, one sample at a time and without padding, and random batches for it."""

import math
from typing import Any

import numpy as np

from mmtok.batch import DecoderSlots, EncoderSlots, MaskedBatch
from mmtok.modality import Modality, Vocabulary
from mmtok.model import ModelConfig

MODALITIES = (
    Modality(name="image", kind="grid", shape=(3, 5), vocabulary=Vocabulary(size=11)),
    Modality(name="video", kind="grid", shape=(2, 3, 2), vocabulary=Vocabulary(size=11), codes=2),
    Modality(name="text", kind="sequence", shape=(9,), vocabulary=Vocabulary(size=40, sentinel_count=8)),
    Modality(name="pixels", kind="continuous", shape=(2, 2), channels=6, mean=(1.0, 2.0, 3.0), std=(2.0,), bias=True),
    Modality(name="vector", kind="grid", shape=(4,), vocabulary=Vocabulary(size=11), learned_positions=True),
    Modality(
        name="notes",
        kind="sequence",
        shape=(5,),
        vocabulary=Vocabulary(size=40, sentinel_count=8),
        position_limit=2,
    ),
    Modality(name="hint", kind="grid", shape=(3,), vocabulary=Vocabulary(size=7), role="input"),
    Modality(
        name="reply", kind="sequence", shape=(5,), vocabulary=Vocabulary(size=40, sentinel_count=8), role="target"
    ),
)


def config(**overrides) -> ModelConfig:
    fields = {"dim": 24, "encoder_depth": 2, "decoder_depth": 2, "heads": 3, "head_dim": 6, "mlp_hidden": 20}
    return ModelConfig(**{**fields, **overrides})


def random_batch(seed: int, *, samples: int = 3, encoder: int = 14, decoder: int = 16, modalities=MODALITIES):
    """Returns a MaskedBatch that obeys the contract, with every modality, padding and blocks of queries."""
    rng = np.random.default_rng(seed)
    codes = max(item.codes for item in modalities)
    vectors: dict[str, Any] = {
        item.name: rng.normal(2, 2, (samples, item.size, item.channels)).astype(np.float32)
        for item in modalities
        if item.kind == "continuous"
    }

    def ids(item: Modality) -> np.ndarray:
        row = np.full(codes, -1, np.int32)
        if item.kind != "continuous":
            row[: item.codes] = rng.integers(0, item.vocab_size, item.codes)
        return row

    readable = [m for m, item in enumerate(modalities) if item.is_input]
    e = {name: np.zeros((samples, encoder), np.int32) for name in ("modality", "position")}
    d = {name: np.zeros((samples, decoder), np.int32) for name in ("modality", "position", "limit")}
    e_ids, d_ids = np.zeros((samples, encoder, codes), np.int32), np.zeros((samples, decoder, codes), np.int32)
    targets = np.full((samples, decoder, codes), -1, np.int32)
    e_count = rng.integers(encoder // 2, encoder - 1, samples)
    d_count = np.zeros(samples, np.int32)
    for b in range(samples):
        for n in range(e_count[b]):
            m = int(rng.choice(readable))
            e["modality"][b, n], e["position"][b, n] = m, rng.integers(modalities[m].size)
            e_ids[b, n] = ids(modalities[m])
            if modalities[m].kind == "continuous":
                e_ids[b, n, 0] = rng.integers(modalities[m].size)
        wanted = [m for m in rng.permutation(len(modalities)) if modalities[m].is_target]
        for m in wanted[: len(wanted) - 1]:
            item, start = modalities[m], d_count[b]
            count = min(int(rng.integers(1, 5)), decoder - 2 - start)
            for rank in range(count):
                slot = start + rank
                d["modality"][b, slot] = m
                d["position"][b, slot] = rank if item.kind == "sequence" else rng.integers(item.size)
                d["limit"][b, slot] = slot + 1 if item.kind == "sequence" else start + count
                d_ids[b, slot] = ids(item) if item.kind == "sequence" else np.where(ids(item) < 0, -1, 0)
                targets[b, slot] = ids(item)
            d_count[b] += max(count, 0)
    return MaskedBatch(
        EncoderSlots(e_ids, e["modality"], e["position"], np.arange(encoder) < e_count[:, None], vectors),
        DecoderSlots(d_ids, d["modality"], d["position"], np.arange(decoder) < d_count[:, None], d["limit"]),
        targets,
    )


class Reference:
    """The forward pass as the specification says it, from the named parameters of a model."""

    def __init__(self, config: ModelConfig, modalities, parameters) -> None:
        self.c, self.modalities = config, modalities
        self.scale = config.dim**0.5 if config.scaled_embeddings else 1.0
        self.p = {name: np.asarray(value, np.float64) for name, value in parameters.items()}
        tied = config.tie == "all"
        self.starts = self.rows(lambda item: tied or item.is_input)
        self.output_starts = self.rows(lambda item: tied or item.is_target)
        self.sequence_starts = self.rows(lambda item: item.kind == "sequence" and item.is_target)

    def rows(self, member) -> list[int]:
        """First row of each modality in a table of those for which `member` holds."""
        sizes = [item.codes * item.vocab_size if member(item) else 0 for item in self.modalities]
        return np.cumsum([0, *sizes])[:-1].tolist()

    def linear(self, x, name, layer=None):
        kernel, bias = self.p[name + ".kernel"], self.p.get(name + ".bias")
        if layer is not None:
            kernel, bias = kernel[layer], None if bias is None else bias[layer]
        return x @ kernel + (0 if bias is None else bias)

    def norm(self, x, name, layer=None):
        scale, bias = self.p[name + ".scale"], self.p.get(name + ".bias")
        if layer is not None:
            scale, bias = scale[layer], None if bias is None else bias[layer]
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + self.c.norm_eps)
        return y * scale + (0 if bias is None else bias)

    def attention(self, x, context, allowed, name, layer):
        heads, outputs = self.c.heads, []
        q, k, v = (
            self.linear(y, f"{name}.{part}", layer).reshape(len(y), heads, -1)
            for y, part in ((x, "query"), (context, "key"), (context, "value"))
        )
        if self.c.qk_norm:
            q, k = self.norm(q, name + ".query_norm", layer), self.norm(k, name + ".key_norm", layer)
        for h in range(heads):
            scores = q[:, h] @ k[:, h].T / math.sqrt(self.c.head_dim)
            scores = np.where(allowed, scores, -1e300)
            weights = np.exp(scores - scores.max(1, keepdims=True))
            outputs.append(weights / weights.sum(1, keepdims=True) @ v[:, h])
        return self.linear(np.concatenate(outputs, 1), name + ".out", layer)

    def mlp(self, x, name, layer):
        def act(z):
            if self.c.activation == "silu":
                return z / (1 + np.exp(-z))
            return z * 0.5 * (1 + np.vectorize(math.erf)(z / math.sqrt(2)))

        up = self.linear(x, name + ".up", layer)
        hidden = act(self.linear(x, name + ".gate", layer)) * up if self.c.gated else act(up)
        return self.linear(hidden, name + ".down", layer)

    def place(self, m: int, position: int, side: str):
        item, dim = self.modalities[m], self.c.dim
        if item.learned_positions:
            before = sum(other.positions for other in self.modalities[:m] if other.learned_positions)
            row = self.p[f"embeddings.{side}_position"][before + position]
        else:
            rank = len(item.shape)
            coordinates = [position] if rank == 1 else np.unravel_index(position, item.shape)
            count = dim // (2 * rank)
            row = np.zeros(dim)
            for axis, coordinate in enumerate(coordinates):
                for k in range(count):
                    angle = coordinate / self.c.position_temperature ** (k / count)
                    row[2 * axis * count + k] = math.sin(angle)
                    row[(2 * axis + 1) * count + k] = math.cos(angle)
        own = side == "decoder" and self.c.decoder_modality
        return row + self.p["embeddings.decoder_modality" if own else "embeddings.modality"][m]

    def encode(self, slots: EncoderSlots, b: int):
        """Returns (encoder output, context) of sample `b`, registers and valid tokens only."""
        registers = self.p.get("embeddings.registers", np.zeros((0, self.c.dim)))
        content, places = list(registers), [np.zeros(self.c.dim)] * len(registers)
        for n in np.flatnonzero(slots.valid[b]):
            m = int(slots.modality[b, n])
            item = self.modalities[m]
            if item.kind == "continuous":
                vector = slots.vectors[item.name][b, slots.ids[b, n, 0]]
                repeated = np.tile(item.mean, len(vector) // len(item.mean))
                x = self.linear((vector - repeated) / item.std[0], f"embeddings.inputs.{item.name}")
            else:
                x = self.scale * sum(
                    self.p["embeddings.tokens.encoder"][self.starts[m] + k * item.vocab_size + slots.ids[b, n, k]]
                    for k in range(item.codes)
                )
            content.append(x)
            places.append(self.place(m, int(slots.position[b, n]), "encoder"))
        x = np.array(content) + places
        for layer in range(self.c.encoder_depth):
            y = self.norm(x, "encoder.blocks.attention_norm", layer)
            x = x + self.attention(y, y, True, "encoder.blocks.attention", layer)
            x = x + self.mlp(self.norm(x, "encoder.blocks.mlp_norm", layer), "encoder.blocks.mlp", layer)
        hidden = self.norm(x, "encoder_norm")
        return hidden, self.linear(hidden, "context") + places

    def decode(self, slots: DecoderSlots, context, b: int):
        """Returns the hidden states of the valid queries of sample `b`."""
        used = np.flatnonzero(slots.valid[b])
        x = []
        for t in used:
            m = int(slots.modality[b, t])
            if self.modalities[m].kind == "sequence":
                start = self.sequence_starts[m] if self.c.tie == "none" else self.output_starts[m]
                table = self.p["embeddings.tokens." + ("encoder" if self.c.tie == "all" else "decoder")]
                content = self.scale * table[start + slots.ids[b, t, 0]]
            else:
                content = self.p["embeddings.mask"][0]
            position, limit = int(slots.position[b, t]), self.modalities[m].position_limit
            x.append(content + self.place(m, 0 if limit and position >= limit else position, "decoder"))
        x = np.array(x)
        modality = slots.modality[b, used]
        allowed = (modality[:, None] == modality) & (used < slots.limit[b, used][:, None])
        for layer in range(self.c.decoder_depth):
            name = "decoder.blocks."
            y = self.norm(x, name + "attention_norm", layer)
            x = x + self.attention(y, y, allowed, name + "attention", layer)
            y, z = self.norm(x, name + "cross_norm", layer), self.norm(context, name + "context_norm", layer)
            x = x + self.attention(y, z, True, name + "cross_attention", layer)
            x = x + self.mlp(self.norm(x, name + "mlp_norm", layer), name + "mlp", layer)
        return self.norm(x, "decoder_norm")

    def losses(self, batch: MaskedBatch) -> dict[str, tuple[float, int]]:
        table = self.p["embeddings.tokens." + {"none": "head", "head": "decoder", "all": "encoder"}[self.c.tie]]
        sums = {item.name: [0.0, 0] for item in self.modalities if item.is_target}
        for b in range(len(batch.targets)):
            hidden = self.decode(batch.decoder, self.encode(batch.encoder, b)[1], b)
            for row, t in enumerate(np.flatnonzero(batch.decoder.valid[b])):
                m = int(batch.decoder.modality[b, t])
                item = self.modalities[m]
                for k in range(item.codes):
                    start = self.output_starts[m] + k * item.vocab_size
                    logits = table[start : start + item.vocab_size] @ hidden[row]
                    sums[item.name][0] += np.log(np.exp(logits).sum()) - logits[batch.targets[b, t, k]]
                    sums[item.name][1] += 1
        return {name: (total, count) for name, (total, count) in sums.items()}
