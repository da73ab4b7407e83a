"""`python -m dispatcher.cli` is the `dispatcher` command."""

from dispatcher.cli import main

main()
