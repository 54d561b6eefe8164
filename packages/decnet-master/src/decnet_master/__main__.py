"""Run the operator's CLI as `python -m decnet_master`; `serve` starts its children this way."""

from decnet_master.cli import main

main()
