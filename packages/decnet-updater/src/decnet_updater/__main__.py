"""Run the updater as `python -m decnet_updater`, where its console script is not on the PATH."""

from decnet_updater.cli import main

main()
