"""The command line. Everything it does can be called from Python."""

from mmtok.cli.main import main

__all__ = ["main"]
