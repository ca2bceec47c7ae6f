#!/usr/bin/env bash
# From nothing to any-to-any generation: scenes are rendered, tokenizers and a small model are trained on them, and a
# gallery shows every modality made from others. About twelve minutes on two CPU cores; no accelerator needed.
source "$(dirname "$0")/env.sh"

config=configs/quickstart.py
root=runs/quickstart

# The commands share what JAX has compiled.
export JAX_COMPILATION_CACHE_DIR="$PWD/$root/compiled"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1

mmtok data "$config"
mmtok tokenizer train "$config"
mmtok tokenizer eval "$config"
mmtok tokenize "$config"
mmtok train "$config"
mmtok eval "$config"

echo "The model just trained: the picture gives everything else, and a sentence gives a scene." >&2
photo=mmtok/pretrained/photo.png
mmtok sample --model "$root/model" --given rgb="$photo" \
    --to depth,normal,label,instance,edge,feature,caption,box,palette,metadata,camera --out "$root/from_rgb"
mmtok sample --model "$root/model" --given caption="a large red sphere left of a blue cube" \
    --to rgb,depth,normal,label,box --samples 3 --out "$root/from_caption"

echo "The model that ships with mmtok, trained longer:" >&2
mmtok sample --given rgb="$photo" \
    --to depth,normal,label,instance,edge,feature,caption,box,palette,metadata,camera --out "$root/shipped_from_rgb"
mmtok sample --given caption="two red spheres left of a small blue cube" \
    --to rgb,depth,normal,label,box --samples 3 --out "$root/shipped_from_caption"

echo "Done. Table: $root/eval/test.md   Pictures: $root/eval/*.png $root/*/gallery.png" >&2
