"""XL with the modalities of 4M-21 on a pod: 256 + 256 tokens, global batch 8192, bfloat16.

    mmtok inspect configs/pods_xl.py --shardings --target v5p-256
    mmtok compile configs/pods_xl.py --target v5p-256      # no such hardware needed; docs/pods.md has the tables
    mmtok train   configs/pods_xl.py                       # on the pod, with tokens in data/4m-21

The preset `XL-tpu` has the widths that split over devices. Compiled for the slices of docs/pods.md; not trained
there.
"""

from mmtok.configs._pods import pods
from mmtok.project import Project


def config() -> Project:
    """Parameters are split over 16 devices, which the batch is, too."""
    return pods("XL-tpu", fsdp=16)
