"""`python -m decnet_logship`: the same as the console script."""

from decnet_logship.cli import main

main()
