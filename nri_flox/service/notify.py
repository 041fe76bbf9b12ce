"""Telling systemd how the service is: sd_notify(3) over NOTIFY_SOCKET. Does nothing where that is not set."""

import os
import socket


def ready(status: str) -> bool:
    """The service is up. `status` is for people."""
    return _send("READY=1", f"STATUS={status}")


def status(text: str) -> bool:
    """One line for `systemctl status`."""
    return _send(f"STATUS={text}")


def stopping() -> bool:
    """The service is on its way out."""
    return _send("STOPPING=1")


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
