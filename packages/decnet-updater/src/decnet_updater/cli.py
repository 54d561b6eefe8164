"""The command `decnet-updater`.

Only the verb that was asked for imports what it needs: `--version` answers at once, also where a library is broken.
"""

from __future__ import annotations

import argparse
from typing import NoReturn

from decnet_core.program import EXIT_CODES, run_program
from decnet_updater import __version__


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    run_program(_main)


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="decnet-updater",
        description="Answers the master about the DECNET releases on this worker.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"decnet-updater {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    verbs.add_parser("serve", help="answer the master until a signal comes").set_defaults(run=_serve)
    parser.parse_args().run()


def _serve() -> None:
    import asyncio  # noqa: PLC0415 - as the module's text says

    from decnet_core import logs  # noqa: PLC0415
    from decnet_core.daemon import die_with_parent  # noqa: PLC0415
    from decnet_updater.app import App  # noqa: PLC0415
    from decnet_updater.settings import UpdaterSettings  # noqa: PLC0415

    die_with_parent()
    settings = UpdaterSettings.load()
    file = settings.log_directory / "decnet.updater.log" if settings.log_output == "file" else None
    logs.configure("updater", level=settings.log_level, file=file)
    asyncio.run(App.build(settings).run())
