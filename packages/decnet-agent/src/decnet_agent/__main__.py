"""`python -m decnet_agent`: the same as the console script."""

from decnet_agent.cli import main

main()
