"""Puts a finished model where it ships with mmtok: weights in bfloat16, tokenizers, log, evaluation.

    python scripts/ship_model.py runs/scenes mmtok/pretrained/scenes

The first argument is the root of the project that was trained and evaluated (`configs/scenes.py`).
"""

import json
import shutil
from pathlib import Path

import tyro

from mmtok.files import new_folder
from mmtok.model import load_model, save_model
from mmtok.show import curves


def main(root: tyro.conf.Positional[Path], target: tyro.conf.Positional[Path]) -> None:
    model, description = load_model(root / "model")
    extra = {key: value for key, value in description.items() if key not in ("config", "modalities", "weights")}
    with new_folder(target) as folder:
        save_model(folder, model, extra=extra, dtype="bfloat16")
        shutil.copytree(root / "model" / "tokenizers", folder / "tokenizers")
        shutil.copy(root / "model" / "log.jsonl", folder)
        for path in (root / "eval").glob("*.md"):
            shutil.copy(path, folder / f"eval_{path.name}")
        draw_losses(folder / "log.jsonl", folder / "losses.png")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size / 2**20:.1f} MiB")


def draw_losses(log: Path, picture: Path) -> None:
    """Loss of each modality over the steps; dashed, the entropy of its tokens."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    names = [key.removeprefix("loss/") for key in entries[-1] if key.startswith("loss/")]
    lines, entropies = {}, {}
    for name in names:
        seen = [entry for entry in entries if f"loss/{name}" in entry]
        lines[name] = ([entry["step"] for entry in seen], [entry[f"loss/{name}"] for entry in seen])
        entropies[name] = seen[-1][f"entropy/{name}"]
    curves(picture, lines, references=entropies)


if __name__ == "__main__":
    tyro.cli(main)
