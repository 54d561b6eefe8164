"""What every piece of the lab has in common: it is brought up, taken down, and never left half up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Piece(ABC):
    """Something real that `with` brings up and takes down."""

    @abstractmethod
    def start(self) -> None:
        """Bring it up; what came up before it failed is taken down by `stop`."""

    @abstractmethod
    def stop(self) -> None:
        """Take down whatever is up; twice is harmless."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
