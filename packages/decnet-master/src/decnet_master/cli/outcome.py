"""From many workers' results to one exit code: 0 when all did it, 3 when some failed, 1 when all did or none exist."""

from __future__ import annotations

from collections.abc import Sequence

from decnet_core.errors import DecnetError, PartialFailure

_SHOWN = 10


def judge(results: Sequence[tuple[str, bool]], what: str, *, none_is_fine: bool = False) -> None:
    """Return when every worker did it.

    Args:
        results: worker and whether it did.
        what: the verb in the message, as in "2 of 3 workers answered".
        none_is_fine: whether there may be nothing to do.

    Raises:
        PartialFailure: some did not.
        DecnetError: none did, or there is none.
    """
    failed = [host for host, ok in results if not ok]
    if not failed and (results or none_is_fine):
        return
    if not results:
        raise DecnetError("There is no worker that this concerns", "`decnet-master swarm list` shows them.")
    names = ", ".join(failed[:_SHOWN]) + (", …" if len(failed) > _SHOWN else "")
    message = f"{len(results) - len(failed)} of {len(results)} workers {what}; not {names}"
    advice = "Mend what is named above; `decnet-master deploy --count 0` sends again what is missing."
    raise (DecnetError if len(failed) == len(results) else PartialFailure)(message, advice)
