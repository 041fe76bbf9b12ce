"""Status codes of an RPC, and the exception that carries one. The codes are gRPC's, which ttrpc shares."""

from enum import IntEnum


class Code(IntEnum):
    """How a call ended; numbers as in google.rpc.Code."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @classmethod
    def _missing_(cls, _value: object) -> "Code":
        # A peer may know codes that we do not; the call has failed all the same.
        return cls.UNKNOWN


class StatusError(Exception):
    """A failed call, with a text for people: raised by a handler to answer so, by a client that was."""

    def __init__(self, code: Code, message: str) -> None:
        if code == Code.OK:
            raise ValueError("an error cannot have the code OK")
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} ({self.code.name})"
