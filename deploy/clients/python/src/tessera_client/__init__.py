"""Client of the Tessera inference server: `Client`, and `AsyncClient` for asyncio."""
from .aio import AsyncClient, AsyncStream
from .client import Client, Stream
from .errors import (Cancelled, DeadlineExceeded, FieldViolation, InvalidRequest, NotFound, Overloaded,
                     PermissionDenied, StreamLost, TesseraError, Unauthenticated, Unavailable)
from .retry import Retry
from .types import (Answer, Choice, Confidence, Load, Message, ModelInfo, Piece, ServerInfo, ToolCall, Usage, assistant,
                    system, tool_result, user)

__all__ = [
    "Answer", "AsyncClient", "AsyncStream", "Cancelled", "Choice", "Confidence", "Client", "DeadlineExceeded",
    "FieldViolation", "InvalidRequest", "Load", "Message", "ModelInfo", "NotFound", "Overloaded",
    "PermissionDenied", "Piece", "Retry", "ServerInfo", "Stream", "StreamLost", "TesseraError", "ToolCall",
    "Unauthenticated", "Unavailable", "Usage", "assistant", "system", "tool_result", "user",
]
