"""A small vocabulary file of the same layout as 4M's."""

import json


def small_vocabulary() -> bytes:
    """Returns the file: specials, sentinels, bins of four axes, two class names, a few pieces."""
    special = ["[PAD]", "[UNK]", "[SOS]", "[EOS]", *(f"[S_{i}]" for i in range(64))]
    special += [f"v{axis}={bin}" for axis in range(4) for bin in range(1000)]
    special += ["person", "traffic light"]
    words = [
        "a",
        "red",
        "dog",
        "##s",
        "##house",
        "none",
        "human",
        "pose",
        "global",
        "camera",
        "shape",
        "point",
        "polygon",
    ]
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {
                    "id": number,
                    "content": word,
                    "single_word": number > 3,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": True,
                }
                for number, word in enumerate(special)
            ],
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": True,
                "strip_accents": None,
                "lowercase": True,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": None,
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": {word: number for number, word in enumerate([*special, *words])},
            },
        }
    ).encode()
