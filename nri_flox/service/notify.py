"""Telling systemd how the service is: sd_notify(3) over NOTIFY_SOCKET. Does nothing where that is not set."""

import os
import socket
import time


def ready(status: str) -> bool:
    """The service is up; also the end of a reload. `status` is for people."""
    return _send("READY=1", f"STATUS={status}")


def status(text: str) -> bool:
    """One line for `systemctl status`."""
    return _send(f"STATUS={text}")


def reloading() -> bool:
    """The config is being read again; `ready` must follow."""
    return _send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> bool:
    """The service is on its way out."""
    return _send("STOPPING=1")


def watchdog() -> bool:
    """The service is alive; to be said at least once in each `watchdog_interval`."""
    return _send("WATCHDOG=1")


def watchdog_interval() -> float | None:
    """Seconds after which systemd takes a silent service for dead; None when it watches another or none."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) else None


def _send(*fields: str) -> bool:
    """Whether systemd was told. Never blocks, never fails: a service does not end for want of a listener."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        # An abstract socket, without a file.
        address = "\0" + address[1:]
    message = "\n".join(field.replace("\n", " ") for field in fields)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.connect(address)
            sender.send(message.encode())
    except OSError:
        return False
    return True
