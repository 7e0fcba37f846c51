"""The WebSocket beneath: opening it, and what its end means (docs/protocol.md, section 7). The only file that knows `websockets`."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from distributary.errors import ClientError, ClosedByEdgeError, ProtocolError, UnavailableError
from distributary.options import Options
from shared.extras import describe_lack

try:
    from websockets.asyncio.client import ClientConnection, connect
    from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI, WebSocketException
    from websockets.typing import Subprotocol
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(describe_lack(error, "client"), name=error.name) from None

PATH = "/v1/ws"
SUBPROTOCOLS = {"json": "distributary.v1.json", "msgpack": "distributary.v1.msgpack"}

_CLOSE_NAMES = {
    1000: "closed",
    1001: "going away",
    1003: "a frame of the wrong kind",
    1006: "the connection broke",
    1007: "not UTF-8",
    1009: "a frame too large",
    1011: "internal error",
    4001: "slow_consumer",
    4002: "ping_timeout",
    4003: "try_again",
    4101: "connect_timeout",
    4102: "too_many_errors",
}
_FOR_GOOD = {1003, 1007, 1009}
_TRY_AGAIN = 4003
_TRY_AGAIN_S = 5.0
_MAX_RETRY_AFTER_S = 300.0
_RETRIED_STATUSES = {408, 425, 429}
_NORMAL = 1000
_WRONG_FRAME = 1002


class LostError(Exception):
    """The connection ended in a way that allows to come back. `error` is what the application sees where it may not."""

    def __init__(self, error: ClientError, *, least_s: float = 0.0) -> None:
        super().__init__(str(error))
        self.error = error
        self.least_s = least_s
        """To be waited at least."""


class Link:
    """One open WebSocket: whole frames in and out, errors as ours."""

    def __init__(self, socket: ClientConnection, *, is_binary: bool) -> None:
        self._socket = socket
        self._is_binary = is_binary

    async def send(self, frame: bytes) -> None:
        """Send one frame. Raises LostError, or ClosedByEdgeError where there is no coming back."""
        try:
            await self._socket.send(frame, text=not self._is_binary)
        except ConnectionClosed as closed:
            raise _ended(closed) from closed

    async def receive(self) -> bytes:
        """The next frame. Raises as `send` does."""
        try:
            return await self._socket.recv(decode=False)
        except ConnectionClosed as closed:
            raise _ended(closed) from closed

    async def close(self, error: BaseException | None = None) -> None:
        """Say good-bye within the close time-out; a connection that ended already is left alone."""
        await self._socket.close(_WRONG_FRAME if isinstance(error, ProtocolError) else _NORMAL)


async def open_link(url: str, format_name: str, options: Options) -> Link:
    """Connect and shake hands, within `options.connect_timeout_s`.

    Raises LostError where another try may help, else ClosedByEdgeError or ClientError.
    """
    subprotocol = SUBPROTOCOLS[format_name]
    try:
        socket = await connect(
            _endpoint(url),
            subprotocols=[Subprotocol(subprotocol)],
            compression="deflate" if options.compression else None,
            proxy=None if options.proxy is False else options.proxy,
            open_timeout=options.connect_timeout_s,
            close_timeout=options.close_timeout_s,
            # The edge pings, and the application-level pings of ours also notice an edge that answers pings and nothing else.
            ping_interval=None,
            max_size=options.max_frame_bytes,
        )
    except InvalidStatus as refused:
        raise _refused(refused) from refused
    except InvalidURI as error:
        msg = f"{url!r} is no WebSocket URL: {error}"
        raise ClientError(msg) from error
    except InvalidHandshake as error:
        msg = f"{url} does not speak WebSocket: {error}"
        raise LostError(UnavailableError(msg)) from error
    except (OSError, TimeoutError, WebSocketException) as error:
        msg = f"cannot reach {url}: {str(error) or type(error).__name__}"
        raise LostError(UnavailableError(msg)) from error
    if format_name != "json" and socket.subprotocol is None:
        await socket.close(_WRONG_FRAME)
        msg = f"{url} does not speak {subprotocol}; is there another server?"
        raise ProtocolError(msg)
    return Link(socket, is_binary=format_name != "json")


def check_url(url: str) -> str:
    """Return `url` if it can be connected to; raise ValueError, saying why, if not."""
    parts = urlsplit(url)
    if parts.scheme not in {"ws", "wss"} or not parts.hostname:
        msg = f"{url!r} is no WebSocket URL; it looks like ws://HOST:PORT or wss://HOST"
        raise ValueError(msg)
    return url


def _endpoint(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=PATH)) if parts.path in {"", "/"} else url


def _ended(closed: ConnectionClosed) -> Exception:
    received, sent = closed.rcvd, closed.sent
    if sent is not None and sent.code == 1009 and not closed.rcvd_then_sent:
        return ClosedByEdgeError(1009, "the edge sent a frame larger than max_frame_bytes; raise it in Options")
    code = received.code if received is not None else 1006
    reason = (received.reason if received is not None else "") or _CLOSE_NAMES.get(code, "")
    if code in _FOR_GOOD or 4100 <= code <= 4199:
        return ClosedByEdgeError(code, reason)
    return LostError(UnavailableError(f"connection lost: {code} {reason}".rstrip()), least_s=_TRY_AGAIN_S if code == _TRY_AGAIN else 0.0)


def _refused(refused: InvalidStatus) -> Exception:
    response = refused.response
    status = response.status_code
    if 400 <= status < 500 and status not in _RETRIED_STATUSES:
        return ClosedByEdgeError(status, f"HTTP: {response.reason_phrase}")
    least_s = _retry_after_s(response.headers.get("Retry-After"))
    return LostError(UnavailableError(f"the edge refused the connection: HTTP {status} {response.reason_phrase}"), least_s=least_s)


def _retry_after_s(value: str | None) -> float:
    """The seconds of a Retry-After header, bounded. Its other form, a date, needs a clock that agrees with theirs: not used."""
    try:
        return min(max(float(value or 0), 0.0), _MAX_RETRY_AFTER_S)
    except ValueError:
        return 0.0
