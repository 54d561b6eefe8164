"""Whether a peer's certificate is current, asked of the database for every connection, for many connections at once.

Questions that come while one query is under way are asked together by the next: a query begins after each of its
questions was put, so that the answer is as fresh as with a query of its own, and a thousand handshakes in three seconds
cost some dozen of them. Nothing is remembered from one question to the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime

from decnet_core.errors import DecnetError
from decnet_core.identity import Identity
from decnet_master.store import Store

Question = tuple[Identity, str]


class CurrentCertificates:
    """Answers for the adapters that dial workers."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: dict[Question, asyncio.Future[bool]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def __call__(self, identity: Identity, fingerprint: str) -> bool:
        """Tell whether a certificate that an identity presented is current.

        Raises:
            Unavailable, RetryLater: the database does not answer.
        """
        question = identity, fingerprint
        answer = self._open.get(question)
        if answer is None:
            answer = self._open[question] = asyncio.get_running_loop().create_future()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="certificates")
        return await asyncio.shield(answer)  # another connection may wait for the same

    async def _ask(self) -> None:
        while self._open:
            questions, self._open = self._open, {}
            try:
                current: Collection[Question] = await self._store.certificates.current_among(
                    questions, datetime.now(UTC)
                )
            except DecnetError as error:
                for answer in questions.values():
                    answer.set_exception(error)
                    answer.exception()  # who asked may be gone
            else:
                for question, answer in questions.items():
                    answer.set_result(question in current)
            finally:
                for answer in questions.values():
                    answer.cancel()
