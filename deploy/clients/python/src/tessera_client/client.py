"""The client of programs without asyncio."""
from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Iterator, List, Optional, Sequence, Type

import grpc

from . import _answers, _request, _schema
from ._connection import Connection
from ._request import Options, Prompt
from .errors import Cancelled, TesseraError, from_rpc
from .retry import Attempts, Retry
from .types import Answer, Load, ModelInfo, Piece, ServerInfo

try:
    from typing import Unpack
except ImportError:  # Python before 3.11
    from typing_extensions import Unpack


class Stream(Iterator[Piece]):
    """An answer that is being written. Iterate once; leaving its `with` early cancels the call."""

    def __init__(self, start: Any, num_choices: int, attempts: Attempts) -> None:
        self._start = start
        self._attempts = attempts
        self._gatherer = _answers.Gatherer(num_choices)
        self._pieces: List[Piece] = []
        self._cancelled = threading.Event()
        self._has_begun = False
        self._call = start(attempts.time_left())

    @property
    def answer(self) -> Answer:
        """The whole so far; complete once the iteration has ended."""
        return self._gatherer.answer

    def cancel(self) -> None:
        """The server stops working on it. May be called from another thread."""
        self._cancelled.set()
        self._call.cancel()

    def __next__(self) -> Piece:
        while not self._pieces:
            self._read()
        return self._pieces.pop(0)

    def _read(self) -> None:
        try:
            message = next(self._call)
        except StopIteration:
            self._gatherer.check_end()
            raise
        except grpc.RpcError as rpc:
            self._again_or_raise(from_rpc(rpc))
            return
        self._has_begun = True
        self._pieces.extend(self._gatherer.add(message))

    def _again_or_raise(self, error: TesseraError) -> None:
        wait = None if self._has_begun else self._attempts.wait_after(error)
        if wait is None:
            raise error
        if self._cancelled.wait(wait):
            raise Cancelled("CANCELLED", "cancelled while it waited to be sent again")
        self._call = self._start(self._attempts.time_left())

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.cancel()


class Client:
    """Thread-safe: one for a program, for as many calls at a time as it likes."""

    def __init__(self, address: str, *, api_key: Optional[str] = None, tls: bool = False,
                 ca: Optional[str] = None, certificate: Optional[str] = None, key: Optional[str] = None,
                 retry: Retry = Retry()) -> None:
        """`address`: HOST:PORT or unix:PATH. The files are PEM; any of them implies TLS."""
        self._connection = Connection(address, api_key, tls, ca, certificate, key)
        self._channel = self._connection.open(grpc)
        self._retry = retry

    def close(self) -> None:
        """Ends the calls under way, too."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()

    def generate(self, prompt: Prompt, *, timeout: Optional[float] = None,
                 **options: Unpack[Options]) -> Answer:
        """The whole answer. `timeout` in seconds covers repetitions."""
        request = _request.generate_request(prompt, options)
        gatherer = _answers.Gatherer(max(1, request.n))
        gatherer.add(self._ask("Generate", request, timeout))
        return gatherer.answer

    def stream(self, prompt: Prompt, *, timeout: Optional[float] = None,
               **options: Unpack[Options]) -> Stream:
        """The answer in pieces, as they come."""
        request = _request.generate_request(prompt, options)
        method = _schema.callable_of(self._channel, "StreamGenerate")
        return Stream(lambda left: method(request, timeout=left, metadata=self._connection.metadata()),
                      max(1, request.n), Attempts(self._retry, timeout))

    def tokenize(self, prompt: Prompt, *, model: Optional[str] = None,
                 timeout: Optional[float] = None) -> List[int]:
        """Token ids of a text, or of messages as the model's template renders them."""
        return list(self._ask("Tokenize", _request.tokenize_request(prompt, model), timeout).token_ids)

    def detokenize(self, token_ids: Sequence[int], *, timeout: Optional[float] = None) -> str:
        request = _schema.message("DetokenizeRequest")(token_ids=token_ids)
        text: str = self._ask("Detokenize", request, timeout).text
        return text

    def model_info(self, *, timeout: Optional[float] = None) -> ModelInfo:
        return _answers.model_info(self._ask("GetModelInfo", _schema.message("GetModelInfoRequest")(), timeout))

    def server_info(self, *, timeout: Optional[float] = None) -> ServerInfo:
        return _answers.server_info(self._ask("GetServerInfo", _schema.message("GetServerInfoRequest")(), timeout))

    def load(self, *, timeout: Optional[float] = None) -> Load:
        return _answers.load(self._ask("GetLoad", _schema.message("GetLoadRequest")(), timeout))

    def abort(self, request_id: str, *, timeout: Optional[float] = None) -> bool:
        """Ends somebody's request; whether there was one."""
        found: bool = self._ask("Abort", _schema.message("AbortRequest")(request_id=request_id), timeout).found
        return found

    def _ask(self, name: str, request: Any, timeout: Optional[float]) -> Any:
        method = _schema.callable_of(self._channel, name)
        attempts = Attempts(self._retry, timeout)
        while True:
            try:
                return method(request, timeout=attempts.time_left(), metadata=self._connection.metadata())
            except grpc.RpcError as rpc:
                error = from_rpc(rpc)
            wait = attempts.wait_after(error)
            if wait is None:
                raise error
            threading.Event().wait(wait)
