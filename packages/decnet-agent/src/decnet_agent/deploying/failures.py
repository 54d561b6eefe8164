"""Whose failure a failed step is, and which later steps it makes pointless."""

from __future__ import annotations

from decnet_agent.deploying.planning import (
    BuildImage,
    CreateDecky,
    CreateNetwork,
    RemoveDecky,
    StartDecky,
    Step,
    image_set,
)


class Failures:
    """What failed so far while a plan is carried out; `of_deckies` is the reason by name."""

    def __init__(self) -> None:
        self.of_deckies: dict[str, str] = {}
        self._network = ""
        self._sets: dict[tuple[str, ...], str] = {}

    def stops(self, step: Step) -> bool:
        """Tell whether a step need not be tried, for something that it builds on has failed."""
        match step:
            case CreateDecky(decky):
                name, services = decky.spec.name, image_set(decky.spec)
                because = self.of_deckies.get(name) or self._network or self._sets.get(services)
                if because:
                    self.of_deckies[name] = because
                return bool(because)
            case StartDecky() | RemoveDecky():
                return step.name in self.of_deckies
        return False

    def add(self, step: Step, reason: str) -> None:
        """Take note of a step that failed."""
        match step:
            case CreateNetwork():
                self._network = reason
            case BuildImage(services):
                self._sets[services] = reason
            case CreateDecky(decky):
                self.of_deckies[decky.spec.name] = reason
            case RemoveDecky() | StartDecky():
                self.of_deckies[step.name] = reason
