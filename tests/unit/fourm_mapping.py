"""4M checkpoints and masked samples in terms of this project: parameter names, modalities and batches."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmtok.batch import DecoderSlots, EncoderSlots, MaskedBatch
from mmtok.modality import Modality, Vocabulary
from mmtok.model import SIZES, ModelConfig

SENTINELS = 200


def modalities_of(description: Mapping[str, Any]) -> tuple[Modality, ...]:
    """Returns the modalities of a 4M model in the order of `domains_in`."""
    result = []
    for name in description["config"]["domains_in"]:
        info = description["modalities"][name]
        size, vocab = info["max_tokens"], info.get("vocab_size", 0)
        if info["type"] == "seq":
            vocabulary = Vocabulary(size=vocab, sentinel_count=SENTINELS)
            result.append(Modality(name=name, kind="sequence", shape=(size,), vocabulary=vocabulary))
        elif info["type"] == "seq_emb":
            result.append(Modality(name=name, kind="continuous", shape=(size,), channels=4096))
        elif info.get("pretokenized"):
            learned = f"encoder_embeddings.{name}.pos_emb"
            learned = description["state_dict"][learned]["kind"] == "param"
            shape = (size,) if learned else (round(size**0.5),) * 2
            vocabulary = Vocabulary(size=vocab)
            result.append(
                Modality(name=name, kind="grid", shape=shape, vocabulary=vocabulary, learned_positions=learned)
            )
        else:
            side = info["input_size"] // info["patch_size"]
            channels = info["num_channels"] * info["patch_size"] ** 2
            result.append(Modality(name=name, kind="continuous", shape=(side, side), channels=channels))
    return tuple(result)


def config_of(config: Mapping[str, Any], *, input_bias: bool) -> ModelConfig:
    """Returns the model configuration of a 4M configuration."""
    dim, gated = config["dim"], config.get("gated_mlp", False)
    hidden = int(config.get("mlp_ratio", 4.0) * dim)
    return ModelConfig(
        dim=dim,
        encoder_depth=config["encoder_depth"],
        decoder_depth=config["decoder_depth"],
        heads=config["num_heads"],
        head_dim=dim // config["num_heads"],
        mlp_hidden=int(2 * hidden / 3) if gated else hidden,
        gated=gated,
        activation="silu" if config["act_layer"] == "SiLU" else "gelu",
        norm_bias=config["norm_bias"],
        qkv_bias=config["qkv_bias"],
        proj_bias=config["proj_bias"],
        mlp_bias=config["mlp_bias"],
        input_bias=input_bias,
        qk_norm=config.get("qk_norm", False),
        registers=config.get("num_register_tokens", 0),
        norm_eps=SIZES["B"].norm_eps,
    )


def parameters_of(
    state: Mapping[str, np.ndarray], config: ModelConfig, modalities: tuple[Modality, ...]
) -> dict[str, np.ndarray]:
    """Returns our parameters, by name, of a 4M state dict."""
    ours: dict[str, np.ndarray] = {}

    def stack(target: str, source: str, depth: int, *, part: slice = slice(None)) -> None:
        for leaf, new in (("weight", "kernel"), ("bias", "bias")):
            names = [source.format(layer) + "." + leaf for layer in range(depth)]
            if names[0] in state:
                ours[f"{target}.{new}"] = np.stack([state[name][part].T for name in names])

    def norm(target: str, source: str, depth: int | None = None) -> None:
        for leaf, new in (("weight", "scale"), ("bias", "bias")):
            if new == "scale" or config.norm_bias:  # without bias, 4M stores zeros
                values = [state[source.format(layer) + "." + leaf] for layer in range(depth or 1)]
                ours[f"{target}.{new}"] = np.stack(values) if depth else values[0]

    def attention(target: str, source: str, depth: int, names: tuple[tuple[str, ...], ...]) -> None:
        width = config.heads * config.head_dim
        for fused, *parts in names:
            for index, part in enumerate(parts):
                rows = slice(index * width, (index + 1) * width)
                stack(f"{target}.{part}", f"{source}.{fused}", depth, part=rows)
        stack(f"{target}.out", f"{source}.proj", depth)
        if config.qk_norm:
            norm(f"{target}.query_norm", f"{source}.q_norm", depth)
            norm(f"{target}.key_norm", f"{source}.k_norm", depth)

    def mlp(target: str, source: str, depth: int) -> None:
        names = {"gate": "fc1", "up": "fc3", "down": "fc2"} if config.gated else {"up": "fc1", "down": "fc2"}
        for new, old in names.items():
            stack(f"{target}.{new}", f"{source}.{old}", depth)

    own = (("qkv", "query", "key", "value"),)
    depth = config.encoder_depth
    norm("encoder.blocks.attention_norm", "encoder.{}.norm1", depth)
    attention("encoder.blocks.attention", "encoder.{}.attn", depth, own)
    norm("encoder.blocks.mlp_norm", "encoder.{}.norm2", depth)
    mlp("encoder.blocks.mlp", "encoder.{}.mlp", depth)
    depth = config.decoder_depth
    norm("decoder.blocks.attention_norm", "decoder.{}.norm1", depth)
    attention("decoder.blocks.attention", "decoder.{}.self_attn", depth, own)
    norm("decoder.blocks.cross_norm", "decoder.{}.query_norm", depth)
    norm("decoder.blocks.context_norm", "decoder.{}.context_norm", depth)
    cross = (("q", "query"), ("kv", "key", "value"))
    attention("decoder.blocks.cross_attention", "decoder.{}.cross_attn", depth, cross)
    norm("decoder.blocks.mlp_norm", "decoder.{}.norm2", depth)
    mlp("decoder.blocks.mlp", "decoder.{}.mlp", depth)
    norm("encoder_norm", "encoder_norm")
    norm("decoder_norm", "decoder_norm")
    ours["context.kernel"] = state["decoder_proj_context.weight"].T
    ours["context.bias"] = state["decoder_proj_context.bias"]

    ours["embeddings.mask"] = state["mask_token"][0]
    if config.registers:
        ours["embeddings.registers"] = state["register_tokens"][0]
    names = [item.name for item in modalities]
    targets = [item.name for item in modalities if item.is_target]
    sequences = [item.name for item in modalities if item.kind == "sequence"]
    tables = {"encoder": ("encoder", "token_emb", targets), "decoder": ("decoder", "token_emb", sequences)}
    tables["head"] = ("decoder", "to_logits", targets)
    for table, (side, leaf, members) in tables.items():
        rows = [state[f"{side}_embeddings.{name}.{leaf}.weight"] for name in members]
        ours[f"embeddings.tokens.{table}"] = np.concatenate(rows)
    ours["embeddings.modality"] = np.concatenate([state[f"encoder_embeddings.{name}.mod_emb"][0] for name in names])
    learned = [item.name for item in modalities if item.learned_positions]
    for side in ("encoder", "decoder") if learned else ():
        rows = [state[f"{side}_embeddings.{name}.pos_emb"][0] for name in learned]
        ours[f"embeddings.{side}_position"] = np.concatenate(rows)
    for item in modalities:
        if item.kind == "continuous":
            prefix = f"encoder_embeddings.{item.name}."
            leaf = "proj" if prefix + "proj.weight" in state else "emb_proj"
            ours[f"embeddings.inputs.{item.name}.kernel"] = state[f"{prefix}{leaf}.weight"].T
            if config.input_bias:
                bias = state.get(f"{prefix}{leaf}.bias", np.zeros(config.dim, np.float32))
                ours[f"embeddings.inputs.{item.name}.bias"] = bias
    return ours


def batch_of(
    arrays: Mapping[str, np.ndarray],
    description: Mapping[str, Any],
    modalities: tuple[Modality, ...],
) -> MaskedBatch:
    """Returns 4M's masked modalities (True masks mean excluded) as a batch; decoder blocks in `domains_out` order."""
    index = {item.name: number for number, item in enumerate(modalities)}
    vectors, encoder, decoder = {}, [], []
    for name in description["modalities"]:  # the order of the data, which need not be that of `domains_in`
        item, hidden = modalities[index[name]], arrays[f"in/{name}/input_mask"]
        tensor, slots = arrays[f"in/{name}/tensor"], np.arange(hidden.shape[1])
        compact = item.kind == "sequence" or item.shape == (77,)
        position = np.where(hidden, 0, np.cumsum(~hidden, 1) - 1) if compact else np.tile(slots, (len(hidden), 1))
        if item.kind == "continuous":
            vectors[name] = tensor if tensor.ndim == 3 else _patches(tensor, item)
            tensor = np.tile(slots, (len(hidden), 1))
        encoder.append((~hidden, tensor, np.full(hidden.shape, index[name]), position))
    for name in description["config"]["domains_out"]:
        item, hidden = modalities[index[name]], arrays[f"in/{name}/target_mask"]
        tensor, codes = arrays[f"in/{name}/tensor"], arrays[f"in/{name}/decoder_attention_mask"]
        number = np.full(hidden.shape, index[name])
        if item.kind == "sequence":
            position = np.where(hidden, 0, np.cumsum(~hidden, 1) - 1)
            valid = ~(hidden[:, :-1] | hidden[:, 1:])
            row = (valid, tensor[:, :-1], number[:, 1:], position[:, :-1], codes[:, :-1], tensor[:, 1:])
        else:
            position = np.tile(np.arange(hidden.shape[1]), (len(hidden), 1))
            row = (~hidden, np.zeros_like(tensor), number, position, codes, tensor)
        decoder.append(row)
    valid, ids, number, position = _keep(encoder, description["num_encoder_tokens"])
    slots = EncoderSlots(ids[..., None], number, position, valid.astype(bool), vectors)
    valid, ids, number, position, codes, targets = _keep(decoder, description["num_decoder_tokens"])
    queries = DecoderSlots(ids[..., None], number, position, valid.astype(bool), np.cumsum(codes, 1, dtype=np.int32))
    return MaskedBatch(slots, queries, np.where(valid, targets, -1)[..., None])


def _keep(parts: list[tuple[np.ndarray, ...]], count: int) -> list[np.ndarray]:
    """Concatenates the modalities, moves valid slots first (stably) and keeps `count`, padding zeroed."""
    valid, *others = (np.concatenate(column, axis=1) for column in zip(*parts))
    order = np.argsort(~valid, axis=1, kind="stable")[:, :count]
    kept = np.take_along_axis(valid, order, 1)
    return [kept.astype(np.int32)] + [
        np.where(kept, np.take_along_axis(x, order, 1), 0).astype(np.int32) for x in others
    ]


def _patches(images: np.ndarray, item: Modality) -> np.ndarray:
    """(B, C, S, S) -> (B, patches, P * P * C), each patch in the order row, column, channel."""
    batch, channels, size, _ = images.shape
    side, patch = item.shape[0], size // item.shape[0]
    split = images.reshape(batch, channels, side, patch, side, patch)
    return split.transpose(0, 2, 4, 3, 5, 1).reshape(batch, side * side, -1)
