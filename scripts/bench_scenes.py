"""Measures how many built-in scenes one core makes per second, all modalities included.

python scripts/bench_scenes.py
"""

import time

import numpy as np

from mmtok.scenes import SETTINGS, samples

COUNT = 400


def main() -> None:
    print(f"{'setting':12} {'size':>4} {'scenes/s':>9}")
    for setting in SETTINGS:
        for size in (32, 64, 128):
            count = COUNT * 32 // size
            samples(setting, np.arange(8), size=size)
            start = time.process_time()  # of one thread: nothing here uses more
            samples(setting, np.arange(count), size=size)
            print(f"{setting:12} {size:4} {count / (time.process_time() - start):9.0f}")


if __name__ == "__main__":
    main()
