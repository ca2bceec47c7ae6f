"""L with the modalities of 4M-21 on a pod: 256 + 256 tokens, global batch 8192, bfloat16.

    mmtok inspect configs/pods_l.py --shardings --target v5e-128
    mmtok compile configs/pods_l.py --target v5e-128      # no such hardware needed; docs/pods.md has the tables
    mmtok train   configs/pods_l.py                       # on the pod, with tokens in data/4m-21

The preset `L-tpu` has the widths that split over devices. Compiled for the slices of docs/pods.md; not trained
there.
"""

from mmtok.configs._pods import pods
from mmtok.project import Project


def config() -> Project:
    """Parameters are split over 8 devices, which the batch is, too."""
    return pods("L-tpu", fsdp=8)
