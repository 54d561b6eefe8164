"""The operator's command line: `decnet-master`.

    program    the application: verbs put together, the version, exit codes
    processes  how a daemon begins, without the command line's libraries
    daemons    serve, api, swarmctl, listener, ingester
    setup      init
    swarm      swarm enroll, list, check, decommission
    show       swarm show
    traits     swarm label, set
    bundle     swarm enroll --out-dir
    tokens     swarm tokens list, revoke
    pki        pki status, rotate, retire
    operators  operator request, sign, install, renew, list, revoke
    fleet      deploy, teardown, deckies
    apply      apply
    evidence   events
    artifacts  artifacts list, fetch
    database   db rebuild, retention
    journal    journal status, verify
    overview   status
    probes     ask the other ports whether they answer
    connection the one adapter that speaks to the controller
    operator_identity  an operator's key and certificate on its own machine
    client     what the controller can be asked
    options    options that many verbs have
    change     what a change of the fleet would do, and what it did
    progress   how far it is, on a terminal
    outcome    one exit code out of many workers' results
    terminal   tables, JSON, and foreign text made safe for a terminal

`--version` is answered before anything else is imported, a part that runs without options is started without this
application, and each verb imports what is heavy when it is called.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from decnet_master import __version__


def main() -> NoReturn:
    """Run `decnet-master` and end the process with its exit code."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"decnet-master {__version__}\n")
        sys.exit(0)
    from decnet_core import logs  # noqa: F401, PLC0415 -- before anyone else: it leaves out what structlog can do without
    from decnet_core.program import run_program  # noqa: PLC0415 -- see above
    from decnet_master.app import PARTS  # noqa: PLC0415

    if len(sys.argv) == 2 and sys.argv[1] in PARTS:
        from decnet_master.cli.processes import run_part  # noqa: PLC0415

        run_program(lambda: run_part(sys.argv[1]))
    from decnet_master.cli.program import run  # noqa: PLC0415

    run_program(run)
