"""`decnet-logship serve`, `status` and `--version`; what is heavy is imported inside the verb that needs it."""

from __future__ import annotations

import argparse
from typing import NoReturn

from decnet_core.program import EXIT_CODES, run_program
from decnet_logship import __version__


def main() -> NoReturn:
    """Run the command line and end with its exit code."""
    run_program(_main)


def _main() -> int:
    arguments = _parser().parse_args()
    if arguments.verb == "status":
        return _status(as_json=arguments.json)
    return _serve()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="decnet-logship",
        description="Ships this worker's event log to its master, each line exactly once.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"decnet-logship {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="serve|status")
    verbs.add_parser("serve", help="ship until a signal comes")
    status = verbs.add_parser("status", help="show how shipping stands")
    status.add_argument("--json", action="store_true", help="as one JSON object")
    return parser


def _serve() -> int:
    import asyncio  # noqa: PLC0415

    from decnet_core import logs  # noqa: PLC0415
    from decnet_core.daemon import die_with_parent  # noqa: PLC0415
    from decnet_logship.app import build  # noqa: PLC0415
    from decnet_logship.settings import LogshipSettings  # noqa: PLC0415

    die_with_parent()
    settings = LogshipSettings.load()
    file = settings.log_directory / "decnet.logship.log" if settings.log_output == "file" else None
    logs.configure("logship", level=settings.log_level, file=file)
    asyncio.run(build(settings).run())
    return 0


def _status(*, as_json: bool) -> int:
    from decnet_core import logs  # noqa: PLC0415
    from decnet_logship.settings import LogshipSettings  # noqa: PLC0415
    from decnet_logship.status import print_status  # noqa: PLC0415

    logs.configure("logship", level="error")
    return print_status(LogshipSettings.load(), as_json=as_json)
