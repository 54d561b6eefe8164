"""Octet-counted frames: how syslog messages follow one another on a TLS stream.

On the wire, a frame is the payload's length in decimal octets, one space, the payload:

    SYSLOG-FRAME = MSG-LEN SP SYSLOG-MSG       MSG-LEN = NONZERO-DIGIT *DIGIT

This room is sans-IO and total: any bytes, cut anywhere, give payloads or one `RemoteProtocolError`.

Bounds. A decoder is made with the largest payload that it accepts. A length is judged by its digits, before a byte
of the payload is waited for or allocated, and as soon as they cannot become a good one: a peer that sends letters is
refused at the first letter. So an unfinished frame never holds more than the digits of the bound, the space and
`max_frame_bytes - 1` bytes, whatever the peer does; `pending_bytes` says how many it holds now. At the end of a
stream a `pending_bytes` other than 0 means that its last frame was torn.

Errors. After a bad length nothing can be found again in the stream, so the decoder is dead from there on. The frames
before it were good and are not lost: the `feed` that meets both returns the good payloads and sets `error`; every
later `feed` raises. A caller who wants to know at once looks at `error` after he has handled the payloads.

Cost. Payloads are sliced out of the very bytes object that was fed; only a frame that straddles two feeds is copied,
and only once, however small the pieces are that it comes in. Frames of 100 to 999 bytes, which lines mostly are, are
recognised by their four bytes of length and space in a table, without looking for either: half the time of a frame.

It does not look into payloads (control frames of the shipping protocol are payloads here), and does not know the
newline framing of RFC 6587 §3.4.2, which cannot carry a newline.

Source: RFC 5425 §4.3, RFC 6587 §3.4.1.
"""

from __future__ import annotations

from collections.abc import Iterable

from decnet_core.errors import LocalProtocolError, RemoteProtocolError

LARGEST_FRAME_BYTES = 9_999_999
"""No bound may be larger: seven digits are all that a length is ever read from (the largest line of ours is 1 MB)."""

_ZERO = ord("0")

_USUAL = {b"%d " % length: length for length in range(100, 1000)}
_USUAL_BYTES = 4
_LARGEST_USUAL = max(_USUAL.values())
_NO_LENGTHS: dict[bytes, int] = {}


def encode_frame(payload: bytes) -> bytes:
    """Put one payload into its frame.

    Raises:
        LocalProtocolError: the payload is empty (a length of 0 cannot be written) or above `LARGEST_FRAME_BYTES`.
    """
    return encode_frames((payload,))


def encode_frames(payloads: Iterable[bytes]) -> bytes:
    """Put payloads into frames that follow one another, in one allocation.

    Raises:
        LocalProtocolError: a payload is empty or above `LARGEST_FRAME_BYTES`.
    """
    parts: list[bytes] = []
    for payload in payloads:
        length = len(payload)
        if not 0 < length <= LARGEST_FRAME_BYTES:
            raise LocalProtocolError(f"A frame of {length} bytes cannot be written")
        parts.append(b"%d " % length)
        parts.append(payload)
    return b"".join(parts)


class FrameDecoder:
    """Cut a byte stream back into payloads.

    Args:
        max_frame_bytes: the largest payload accepted, 1 to `LARGEST_FRAME_BYTES`.

    Raises:
        LocalProtocolError: the bound is outside of that range.
    """

    __slots__ = ("_error", "_max_digits", "_max_frame_bytes", "_pending", "_wanted_bytes")

    def __init__(self, max_frame_bytes: int) -> None:
        if not 0 < max_frame_bytes <= LARGEST_FRAME_BYTES:
            raise LocalProtocolError(f"A frame bound of {max_frame_bytes} bytes is outside 1..{LARGEST_FRAME_BYTES}")
        self._max_frame_bytes = max_frame_bytes
        self._max_digits = len(str(max_frame_bytes))
        self._pending = bytearray()  # the unfinished frame, from its first digit on
        self._wanted_bytes = 0  # how long `_pending` must become before looking at it again can give more
        self._error: str | None = None

    @property
    def pending_bytes(self) -> int:
        """How many bytes of an unfinished frame are held; 0 between frames and after an error."""
        return len(self._pending)

    @property
    def error(self) -> RemoteProtocolError | None:
        """What killed the decoder, or None while it lives."""
        if self._error is None:
            return None
        return RemoteProtocolError(self._error, "Close the connection; the sender must use octet-counted framing.")

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes of the stream.

        Args:
            data: any number of bytes, also none.

        Returns:
            the payloads that these bytes completed, in order. They are whole and good also when a bad frame
            follows them: then `error` is set already and the next call raises it.

        Raises:
            RemoteProtocolError: a length is malformed or above the bound, now with no good frame before it, or
                in an earlier call.
        """
        if self._error is None:
            payloads = self._cut(self._joined(data))
            if payloads:
                return payloads
        error = self.error
        if error is not None:
            raise error
        return []

    def _joined(self, data: bytes) -> bytes:
        """Put the data behind the unfinished frame; empty while that frame cannot be told further."""
        if not self._pending:
            return data
        self._pending += data
        if len(self._pending) < self._wanted_bytes:
            return b""
        joined = bytes(self._pending)
        self._pending.clear()
        return joined

    def _cut(self, buffer: bytes) -> list[bytes]:
        """Slice every whole frame out of the buffer and keep the rest for the next feed."""
        payloads: list[bytes] = []
        append, find = payloads.append, buffer.find
        max_digits, max_frame_bytes = self._max_digits, self._max_frame_bytes
        at, end = 0, len(buffer)
        usual = _USUAL.get if max_frame_bytes > _LARGEST_USUAL else _NO_LENGTHS.get
        while at < end:
            known = usual(buffer[at : at + _USUAL_BYTES])
            if known is not None and (at_next := at + _USUAL_BYTES + known) <= end:
                append(buffer[at + _USUAL_BYTES : at_next])
                at = at_next
                continue
            space = find(b" ", at, at + max_digits + 1)
            digits = buffer[at:space] if space > 0 else buffer[at : at + max_digits + 1]
            # bytes.isdigit knows ASCII digits alone, so int() never sees a sign, a space or an underscore.
            if not digits.isdigit() or digits[0] == _ZERO:
                self._error = "The length of a syslog frame is malformed"
                return payloads
            length = int(digits)
            if length > max_frame_bytes:  # more digits than the bound has are always above it
                self._error = f"A syslog frame is larger than {max_frame_bytes} bytes"
                return payloads
            if space < 0:
                self._keep(buffer[at:], end - at + 1)
                return payloads
            start = space + 1
            at_next = start + length
            if at_next > end:
                self._keep(buffer[at:], at_next - at)
                return payloads
            append(buffer[start:at_next])
            at = at_next
        return payloads

    def _keep(self, rest: bytes, wanted_bytes: int) -> None:
        self._pending += rest
        self._wanted_bytes = wanted_bytes
