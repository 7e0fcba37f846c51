"""Every error that the client raises on purpose.

DistributaryError
+-- ClientError                 `retry` tells whether the same may succeed later
    +-- UnavailableError        retry: no edge could be reached, or the connection was lost and reconnecting is off
    +-- CallTimeoutError        retry: the edge did not answer in time
    +-- RefusedError            the edge said no to a command; `code` and `retry` are the edge's words
    +-- ClosedByEdgeError       no retry: the edge closed with a code that means "do not come back unchanged"
    +-- ProtocolError           no retry: the edge sent what docs/protocol.md does not allow, again and again
    +-- PayloadError            no retry: a payload is not what its content type says
    +-- AlreadySubscribedError  no retry: the caller's; one client has one subscription a channel
    +-- ClientClosedError       no retry: the caller's; the client is closed or was never opened
"""

from __future__ import annotations

from typing import ClassVar

from shared.errors import DistributaryError


class ClientError(DistributaryError):
    """Base of the client's errors."""

    retry: bool
    """Whether the same call may succeed later."""
    _retry: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.retry = self._retry


class UnavailableError(ClientError):
    """No edge could be reached, or the connection was lost and the client was told not to come back."""

    _retry = True


class CallTimeoutError(ClientError):
    """The edge did not answer in time."""

    _retry = True


class RefusedError(ClientError):
    """The edge refused a command or ended a subscription. `code` is from the table of errors in docs/protocol.md."""

    def __init__(self, code: str, message: str, *, retry: bool, channel: str | None = None) -> None:
        where = f"{channel}: " if channel else ""
        super().__init__(f"{where}{message or 'refused by the edge'} ({code})")
        self.code = code
        self.retry = retry
        self.channel = channel


class ClosedByEdgeError(ClientError):
    """The edge closed the connection, or refused it, in a way that means: do not come back unchanged."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the edge closed the connection for good: {code} {reason}".rstrip())
        self.code = code
        """A WebSocket close code, or the HTTP status where the handshake was refused."""
        self.reason = reason


class ProtocolError(ClientError, ValueError):
    """The edge sent what docs/protocol.md does not allow: the edge's fault, or something on the way changes frames."""


class PayloadError(ClientError, ValueError):
    """A payload is not what its content type says: whoever wrote the record is to blame."""


class AlreadySubscribedError(ClientError):
    """This client already has a subscription to the channel: share its publications within the application."""


class ClientClosedError(ClientError):
    """The client is closed, or was not opened with `async with`."""
