"""`python -m ouzel.cli`: the command line without its script."""

from ouzel.cli import main

main()
