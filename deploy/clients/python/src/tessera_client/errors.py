"""Errors by kind, with what the server says beside the text."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple, Type

import grpc

from . import _schema


@dataclass(frozen=True)
class FieldViolation:
    """A field of the request ("sampling.top_p") and what is wrong with it."""

    field: str
    description: str


class TesseraError(Exception):
    """`code` is gRPC's name of the status, `retry_after` seconds if the server named them."""

    def __init__(self, code: str, message: str, fields: Tuple[FieldViolation, ...] = (),
                 retry_after: Optional[float] = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.fields = fields
        self.retry_after = retry_after


class InvalidRequest(TesseraError):
    """The request is wrong; `fields` says where."""


class NotFound(TesseraError):
    """The server serves another model."""


class Overloaded(TesseraError):
    """Refused for want of room, or too large to be taken at all (no `retry_after`)."""


class Unavailable(TesseraError):
    """Nobody answers, or the server loads, drains or failed."""


class DeadlineExceeded(TesseraError):
    """`timeout` passed."""


class Cancelled(TesseraError):
    """This side ended the call."""


class Unauthenticated(TesseraError):
    """No API key, or one that the server does not know."""


class PermissionDenied(TesseraError):
    """The API key is for other things."""


class StreamLost(TesseraError):
    """A stream ended, maybe with OK, before the last piece: something between lost it."""


_KINDS: Dict[str, Type[TesseraError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "NOT_FOUND": NotFound,
    "RESOURCE_EXHAUSTED": Overloaded,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Cancelled,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": PermissionDenied,
}


def from_rpc(error: Any) -> TesseraError:
    """Of a grpc.RpcError of either kind of channel."""
    fields: Tuple[FieldViolation, ...] = ()
    retry_after = None
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            fields, retry_after = _details(value)
    code: grpc.StatusCode = error.code()
    kind = _KINDS.get(code.name, TesseraError)
    return kind(code.name, error.details() or "", fields, retry_after)


def _details(value: bytes) -> Tuple[Tuple[FieldViolation, ...], Optional[float]]:
    fields: Tuple[FieldViolation, ...] = ()
    retry_after = None
    for detail in _schema.message("StatusDetails").FromString(value).details:
        if detail.type_url.endswith("/google.rpc.BadRequest"):
            bad = _schema.message("BadRequest").FromString(detail.value)
            fields = tuple(FieldViolation(each.field, each.description) for each in bad.field_violations)
        elif detail.type_url.endswith("/google.rpc.RetryInfo"):
            delay = _schema.message("RetryInfo").FromString(detail.value).retry_delay
            retry_after = delay.seconds + delay.nanos / 1e9
    return fields, retry_after
