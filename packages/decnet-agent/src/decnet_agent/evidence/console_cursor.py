"""Where one is in a container's console, so that each line becomes one event whatever crashes in between.

A cursor is `<engine's time in ns>.<ordinal>`: the lines of one nanosecond are counted, and a line that the engine
dated before its predecessor (its clock was set back) counts as one more of the predecessor's, so that cursors only
grow. After a pause the engine is asked for everything from the cursor's nanosecond on, the count begins again at the
first line of it, and what is not beyond the cursor was collected before.

If the first line that then comes is younger than the cursor, the engine has rotated its record away: `Place.gap`
says so once, as an event with the cursor `<time>.<ordinal>.1`, between what was read and what comes next.

What it cannot do: while nobody reads and the clock stands behind the cursor's time, lines are younger in truth and
older by their date; the engine then leaves them out.
"""

from __future__ import annotations

from decnet_core.events import cursor_key


class Place:
    """The place in one console, from one request to the engine on.

    Args:
        cursor: the last that the log holds; None when nothing of this console was collected.
    """

    def __init__(self, cursor: str | None) -> None:
        self._known: tuple[int, ...] | None = None if cursor is None else cursor_key(cursor)
        self._at_ns = -1
        self._ordinal = 0
        self.gap: str | None = None
        """Cursor for the event that tells of lost lines, once `step` has found that there are some."""

    @property
    def since_ns(self) -> int:
        """What to ask the engine for."""
        return 0 if self._known is None else self._known[0]

    def step(self, at_ns: int) -> str | None:
        """Take the next line's time; return its cursor, or None when the log holds it already."""
        first = self._at_ns < 0
        if at_ns > self._at_ns:
            self._at_ns, self._ordinal = at_ns, 0
        else:
            self._ordinal += 1
        if self._known is not None:
            if first and at_ns > self._known[0]:
                self.gap = ".".join(str(number) for number in (*self._known[:2], 1))
            if (self._at_ns, self._ordinal) <= self._known[:2]:
                return None
        return f"{self._at_ns}.{self._ordinal}"
