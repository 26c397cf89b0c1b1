"""The page served to this machine alone: nothing is loaded from elsewhere, nothing is told to anybody."""

import errno
import ipaddress
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pipeline.errors import ConfigError

Message = MutableMapping[str, Any]
Application = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; object-src 'none';"
    " base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
"""The browser refuses whatever is not of this server: fonts, scripts, counters, frames around the page."""
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


def listening(host: str, port: int) -> socket.socket:
    """The port, taken before anything else is done. Raises ConfigError where somebody has it, or the address is none of ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.getaddrinfo(host, port, family)  # by itself: create_server makes an unknown name an OSError like any other
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port: {port} of {host} is in use; say another one, or port=0 for any that is free") from error
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(f"host: {host!r} is no address of this machine; the default is 127.0.0.1") from error
        raise ConfigError(f"host, port: cannot listen at {host}, port {port}: {error.strerror or error}") from error


def address(host: str, port: int) -> str:
    """What a browser is told."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Only this machine reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def guarded(application: Application, host: str) -> Application:
    """The application with our headers on every answer; at a loopback address it answers to no other name, so that no page of
    somebody else's reaches it by a name that leads here."""

    async def with_headers(
        scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in _HEADERS}
                kept = [pair for pair in message.get("headers", ()) if bytes(pair[0]).lower() not in names]
                message = {**message, "headers": [*kept, *_HEADERS]}
            await send(message)

        await application(scope, receive, told)

    if not is_loopback(host):
        return with_headers
    return TrustedHostMiddleware(with_headers, allowed_hosts=["127.0.0.1", "localhost", "[::1]", host])


def serve(application: Application, listener: socket.socket) -> None:
    """Serve until the process is told to end: signals stay with the main thread, which waits."""
    config = uvicorn.Config(application, log_level="error", access_log=False, ws="none", lifespan="on")
    server, ended = uvicorn.Server(config), threading.Event()

    def work() -> None:
        try:
            server.run(sockets=[listener])
        finally:
            ended.set()

    thread = threading.Thread(target=work, name="lab", daemon=True)
    thread.start()
    try:
        ended.wait()
    finally:  # it has to be over before its socket is closed; what it says of visitors whom it leaves is no news
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        server.should_exit = True
        thread.join(0.5)
        server.force_exit = True  # an open page, an attack that runs
        thread.join(1.0)
