"""`python -m mmtok`."""

from mmtok.cli import main

main()
