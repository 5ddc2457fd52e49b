"""Channels, of either kind, and what every call says of itself."""
from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import Any, List, Optional, Tuple

import grpc

Metadata = Optional[List[Tuple[str, str]]]


@dataclass(frozen=True)
class Connection:
    """Arguments of Client and AsyncClient."""

    address: str
    api_key: Optional[str]
    tls: bool
    ca: Optional[str]
    certificate: Optional[str]
    key: Optional[str]

    def open(self, kind: Any) -> Any:
        """A channel; `kind` is grpc or grpc.aio."""
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        # gRPC would ask a proxy that the environment names even for this machine.
        host = self.address.rsplit(":", 1)[0]
        if self.address.startswith("unix:") or host in ("localhost", "[::1]") or host.startswith("127."):
            options.append(("grpc.enable_http_proxy", 0))
        if not (self.tls or self.ca or self.certificate):
            return kind.insecure_channel(self.address, options=options)
        credentials = grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.certificate))
        return kind.secure_channel(self.address, credentials, options=options)

    def metadata(self) -> Metadata:
        return [("authorization", f"Bearer {self.api_key}")] if self.api_key else None


def _read(path: Optional[str]) -> Optional[bytes]:
    return None if path is None else pathlib.Path(path).read_bytes()
