"""`decnet-agent`: what an operator or a unit file calls on a worker.

Each verb imports what it needs when it runs, so that `--version` and `--help` stay fast.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from decnet_agent import __version__
from decnet_core.program import EXIT_CODES, run_program

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from decnet_agent.settings import AgentSettings

TOKEN_VARIABLE = "DECNET_JOIN_TOKEN"  # noqa: S105 -- a variable's name, not a secret
_FROM_STDIN = "-"


def main() -> NoReturn:
    """Run the console script."""
    run_program(lambda: run(sys.argv[1:]))


def run(arguments: list[str]) -> int | None:
    """Parse the arguments and do what they say; return the exit code.

    Raises:
        DecnetError: it cannot be done.
    """
    chosen = _parser().parse_args(arguments)
    verbs: dict[str, Callable[[argparse.Namespace], int | None]] = {
        "join": _join,
        "renew": _renew,
        "setup": _setup,
        "seen": _seen,
        "serve": _serve,
        "tap": _tap,
        "containment": _containment,
        "status": _status,
        "doctor": _doctor,
        "images": _images,
    }
    return verbs[chosen.verb](chosen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="decnet-agent",
        description="Runs and watches the decoy hosts of a DECNET deception network on a worker.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"decnet-agent {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    join = verbs.add_parser("join", help="enrol this host with the token that `decnet-master swarm enroll` printed")
    join.add_argument(
        "token", nargs="?", help=f"the token, or - to read it from standard input (also {TOKEN_VARIABLE})"
    )
    join.add_argument("--token-file", metavar="FILE", help="read the token from a file")
    join.add_argument("--bundle", metavar="DIR", help="join from a folder that `swarm enroll --out-dir` wrote")
    join.add_argument(
        "--address", metavar="HOST", help="where the master reaches this worker, if not where it comes from"
    )
    renew = verbs.add_parser(
        "renew", help="renew this worker's certificates, if that is due; `serve` does it by itself"
    )
    renew.add_argument("--now", action="store_true", help="renew them though it is not due")
    setup = verbs.add_parser("setup", help="make user, folders, configuration and units of a worker (root)")
    setup.add_argument("--programs", metavar="DIR", help="where the units start the programs from; default: this one's")
    setup.add_argument(
        "--without",
        action="append",
        default=[],
        choices=("containment", "logship", "tap", "updater"),
        help="a unit to leave out",
    )
    seen = verbs.add_parser("seen", help="ask the master whether it reaches this agent")
    seen.add_argument("--wait", type=float, default=0.0, metavar="SECS", help="ask again for so long")
    serve = verbs.add_parser("serve", help="run the agent")
    serve.add_argument("--no-forwarder", action="store_true", help="do not bring up decnet-logship beside the agent")
    serve.add_argument("--no-tap", action="store_true", help="do not bring up the tap beside the agent")
    serve.add_argument(
        "--no-containment", action="store_true", help="do not bring up what contains the deckies beside the agent"
    )
    contain = verbs.add_parser(
        "containment", help="keep deckies from attacking anybody (CAP_NET_ADMIN, CAP_NET_RAW); `verify` tries them"
    )
    verify = contain.add_subparsers(dest="containment_verb", metavar="VERB").add_parser(
        "verify", help="attack from every decky that runs, and tell what got out"
    )
    verify.add_argument(
        "--target", metavar="ADDRESS", type=_address, help="whom to attack; default: the router, and another decky"
    )
    verify.add_argument("--json", action="store_true", help="for scripts")
    verbs.add_parser("tap", help="watch the deckies through the kernel (root)")
    status = verbs.add_parser("status", help="show what this worker is and runs")
    status.add_argument("--json", action="store_true", help="for scripts")
    verbs.add_parser("doctor", help="check what the agent needs, and say what to do about what is missing")
    _add_images(verbs.add_parser("images", help="the images that deckies are made of: build, list, export, import"))
    return parser


def _address(text: str) -> IPv4Address:
    from ipaddress import IPv4Address  # noqa: PLC0415 - see above

    return IPv4Address(text)


def _add_images(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="images_verb", required=True, metavar="VERB")
    build = verbs.add_parser("build", help="make images, and the Debian below them where there is none")
    build.add_argument("--mirror", metavar="URL", help="a Debian mirror for that Debian; default: Debian's own")
    listing = verbs.add_parser("list", help="show which images are there")
    listing.add_argument("--json", action="store_true", help="for scripts")
    export = verbs.add_parser("export", help="write images into a file, for a worker without a mirror")
    export.add_argument("file", metavar="FILE")
    for verb in (build, export):
        verb.add_argument(
            "sets", nargs="*", metavar="SERVICES", help="such as ssh or ssh+telnet; default: each service alone"
        )
    bring = verbs.add_parser("import", help="bring in what `export` wrote; it is verified first")
    bring.add_argument("file", metavar="FILE")
    bring.add_argument("--sha256", metavar="HEX", help="the hash that `export` printed: refuse any other file")


def _settings() -> AgentSettings:
    from decnet_agent.settings import AgentSettings  # noqa: PLC0415 - see above

    return AgentSettings.load()


def _renew(chosen: argparse.Namespace) -> int | None:
    from decnet_agent.renewal import renew  # noqa: PLC0415 - see above
    from decnet_core.pki.live import renewal_due  # noqa: PLC0415 - see above

    done = renew(_settings(), forced=chosen.now)
    until = f"good until {done.agent.not_after:%Y-%m-%d %H:%M} UTC"
    if done.renewed:
        print(f"The certificates of {done.agent.identity.host} were renewed: {until}.")  # noqa: T201
    else:
        print(f"Nothing is due before {renewal_due(done.agent):%Y-%m-%d %H:%M} UTC: {until}.")  # noqa: T201
    return None


def _setup(chosen: argparse.Namespace) -> int | None:
    from pathlib import Path  # noqa: PLC0415 - see above

    from decnet_agent.host_setup import install  # noqa: PLC0415 - see above

    programs = Path(chosen.programs or Path(sys.argv[0]).absolute().parent)
    for step in install(programs, frozenset(chosen.without)):
        print(f"{step.what}: {step.outcome}")  # noqa: T201
    return None


def _seen(chosen: argparse.Namespace) -> int | None:
    from decnet_agent.seen import be_seen  # noqa: PLC0415 - see above

    print(f"The master reaches the agent of {be_seen(_settings(), chosen.wait)}.")  # noqa: T201
    return None


def _join_from(folder: str) -> int | None:
    from pathlib import Path  # noqa: PLC0415 - see above

    from decnet_agent.bundles import join_from  # noqa: PLC0415 - see above

    identity = join_from(_settings(), Path(folder))
    print(  # noqa: T201
        f"This host is {identity}. Remove {folder} and its copies: they hold its keys until they are renewed. "
        "Start it: decnet-agent serve, or systemctl enable --now decnet-agent"
    )
    return None


def _join(chosen: argparse.Namespace) -> int | None:
    if chosen.bundle is not None:
        return _join_from(chosen.bundle)
    from decnet_agent.joining import has_joined, join  # noqa: PLC0415 - see above
    from decnet_core.enrolment import JoinToken  # noqa: PLC0415 - see above

    settings, token = _settings(), JoinToken.parse(_token_text(chosen))
    if has_joined(settings, token):
        print(f"This host has joined already, as {token.host}; nothing was changed.")  # noqa: T201
        return None
    identity = join(settings, token, address=chosen.address)
    print(f"This host is {identity}. Start it: decnet-agent serve, or systemctl enable --now decnet-agent")  # noqa: T201
    return None


def _token_text(chosen: argparse.Namespace) -> str:
    from decnet_core.enrolment import MAX_TOKEN_CHARS  # noqa: PLC0415 - see above
    from decnet_core.errors import ConfigError  # noqa: PLC0415 - see above

    if chosen.token not in (None, _FROM_STDIN):
        return str(chosen.token)
    if chosen.token is None and chosen.token_file is None:
        if text := os.environ.get(TOKEN_VARIABLE):
            return text
        raise ConfigError(
            "No join token was given",
            f"Give it as an argument, with --token-file, in {TOKEN_VARIABLE}, or - for standard input.",
        )
    try:
        if chosen.token == _FROM_STDIN:
            if sys.stdin.isatty():
                sys.stderr.write("Paste the token and press Enter: ")
                sys.stderr.flush()
            return sys.stdin.readline(MAX_TOKEN_CHARS + 1)
        with open(chosen.token_file, encoding="ascii", errors="replace") as file:  # noqa: PTH123 - imports nothing
            return file.read(MAX_TOKEN_CHARS + 1)
    except OSError as cause:
        raise ConfigError(f"The token cannot be read: {cause.strerror}", "Correct --token-file.") from cause


def _serve(chosen: argparse.Namespace) -> int | None:
    from decnet_core import logs  # noqa: PLC0415 - see above
    from decnet_core.daemon import die_with_parent  # noqa: PLC0415 - see above

    die_with_parent()
    settings = _settings()
    file = settings.log_directory / "decnet.agent.log" if settings.log_output == "file" else None
    logs.configure("agent", level=settings.log_level, file=file)
    from decnet_agent.app import build  # noqa: PLC0415 - half a second that a refused configuration need not wait

    build(
        settings, forwarder=not chosen.no_forwarder, tap=not chosen.no_tap, containment=not chosen.no_containment
    ).run()
    return None


def _containment(chosen: argparse.Namespace) -> int | None:
    if chosen.containment_verb == "verify":
        return _verify(chosen)
    import asyncio  # noqa: PLC0415 - see above

    from decnet_agent.containment.app import serve  # noqa: PLC0415 - see above
    from decnet_core import logs  # noqa: PLC0415 - see above
    from decnet_core.daemon import die_with_parent  # noqa: PLC0415 - see above

    die_with_parent()
    settings = _settings()
    file = settings.log_directory / "decnet.containment.log" if settings.log_output == "file" else None
    logs.configure("containment", level=settings.log_level, file=file)
    asyncio.run(serve(settings.run_directory, settings.data_directory))
    return None


def _tap(_chosen: argparse.Namespace) -> int | None:
    import asyncio  # noqa: PLC0415 - see above

    from decnet_agent.tap.app import serve  # noqa: PLC0415 - see above
    from decnet_core import logs  # noqa: PLC0415 - see above
    from decnet_core.daemon import die_with_parent  # noqa: PLC0415 - see above

    die_with_parent()
    settings = _settings()
    file = settings.log_directory / "decnet.tap.log" if settings.log_output == "file" else None
    logs.configure("tap", level=settings.log_level, file=file)
    asyncio.run(serve(settings.run_directory, settings.data_directory, recording_bytes=settings.recording_bytes))
    return None


def _verify(chosen: argparse.Namespace) -> int | None:
    from decnet_agent.containment.verifying import verify  # noqa: PLC0415 - see above

    return verify(_settings(), chosen.target, as_json=chosen.json)


def _status(chosen: argparse.Namespace) -> int | None:
    from decnet_agent.inspection import print_status  # noqa: PLC0415 - see above

    return print_status(_settings(), as_json=chosen.json)


def _doctor(_chosen: argparse.Namespace) -> int | None:
    from decnet_agent.inspection import examine  # noqa: PLC0415 - see above

    return examine(_settings())


def _images(chosen: argparse.Namespace) -> int | None:
    from decnet_agent import image_verbs  # noqa: PLC0415 - see above

    settings = _settings()
    match chosen.images_verb:
        case "build":
            return image_verbs.build_images(settings, chosen.sets, chosen.mirror)
        case "export":
            return image_verbs.export_images(settings, chosen.file, chosen.sets)
        case "import":
            return image_verbs.import_images(settings, chosen.file, chosen.sha256)
        case _:
            return image_verbs.list_images(settings, as_json=chosen.json)
