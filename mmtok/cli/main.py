"""`mmtok COMMAND ...`: finds the command and turns errors into one sentence."""

import errno
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from mmtok import __version__
from mmtok.errors import MmtokError, unknown

# Command -> (module of mmtok.cli that runs it, what it does). Modules are imported only when called.
COMMANDS = {
    "data": ("data", "CONFIG: make the project's raw data set"),
    "tokenizer train": ("tokenizers", "CONFIG [--only NAME ...]: train the tokenizers"),
    "tokenizer eval": ("tokenizers", "CONFIG [--only NAME ...]: reconstruction, codebook use, a picture"),
    "tokenizer inspect": ("tokenizers", "FOLDER: what a tokenizer artifact holds"),
    "tokenize": ("tokenize", "CONFIG: encode the data set into the token store"),
    "train": ("train", "CONFIG: train the any-to-any model, or resume it"),
    "inspect": ("ahead", "CONFIG --shardings [--target NAME]: where each parameter lies on the devices"),
    "compile": ("ahead", "CONFIG --target v5p-256|2xv5e-256|8xH100: does the training step fit, what does it send"),
    "bench train": ("bench", "CONFIG: speed of the training step on this machine's devices"),
    "bench data": ("bench", "CONFIG: speed of the input"),
    "bench sample": ("bench", "speed of sampling with a model of 4M-7's modalities and random weights"),
    "sample": ("sample", "--given FIELD=FILE_OR_TEXT --to NAMES --out DIR [--model DIR]: generate any from any"),
    "embed": ("embed", "FILES --model DIR --out FILE.npz: features of the encoder"),
    "import 4m": ("interop", "FILE ... --out DIR: a 4M model and its tokenizers as folders of mmtok"),
    "export 4m": ("interop", "FOLDER --out FILE: a model or a tokenizer as a 4M safetensors file"),
    "eval": ("evaluate", "CONFIG [--model-dir DIR]: evaluate on held-out samples, beside controls"),
}

USAGE = "mmtok {version}: any-to-any multimodal models\n\nusage: mmtok COMMAND ... [--debug]\n\n{commands}\n\n{tail}"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits: 0 done, 1 a user error, 75 stopped but resumable, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # the array_record and XLA libraries talk otherwise
    # orbax warns of what is as it should be, and logs long tracebacks of what we say in one sentence
    logging.getLogger("absl").setLevel(logging.ERROR if debug else logging.CRITICAL)
    warnings.showwarning = _show_warning
    try:
        name, rest = _command(words)
        module = importlib.import_module(f"mmtok.cli.{COMMANDS[name][0]}")
        module.run(name, rest)
    except MmtokError as error:
        if debug:
            raise
        print(f"mmtok: {' '.join(str(error).split())}", file=sys.stderr)  # libraries we quote may use several lines
        sys.exit(1)
    except OSError as error:
        if debug or error.errno != errno.ENOSPC:
            raise
        print("mmtok: the disk is full; free some space and run the command again", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("mmtok: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def _command(words: list[str]) -> tuple[str, list[str]]:
    if not words or words[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        lines = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
        tail = "`mmtok COMMAND --help` lists the options; with a CONFIG, every value in it is one."
        print(USAGE.format(version=__version__, commands=lines, tail=tail))
        sys.exit(0)
    if words[0] == "--version":
        print(__version__)
        sys.exit(0)
    for count in (2, 1):
        name = " ".join(words[:count])
        if name in COMMANDS:
            return name, words[count:]
    raise unknown(
        "command", " ".join(words[:2]) if words[0] in ("tokenizer", "bench", "import", "export") else words[0], COMMANDS
    )


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    """Warnings of ours as one line; those of libraries are for developers."""
    if issubclass(category, UserWarning) and not issubclass(category, DeprecationWarning | FutureWarning):
        print(f"mmtok: warning: {message}", file=sys.stderr)
