"""The client of programs with asyncio."""
from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, AsyncIterator, List, Optional, Sequence, Type

import grpc
import grpc.aio

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


class AsyncStream(AsyncIterator[Piece]):
    """An answer that is being written. Iterate once; leaving its `async with` early cancels the call."""

    def __init__(self, start: Any, num_choices: int, attempts: Attempts) -> None:
        self._start = start
        self._attempts = attempts
        self._gatherer = _answers.Gatherer(num_choices)
        self._pieces: List[Piece] = []
        self._has_begun = False
        self._is_cancelled = False
        self._call = start(attempts.time_left())

    @property
    def answer(self) -> Answer:
        """The whole so far; complete once the iteration has ended."""
        return self._gatherer.answer

    def cancel(self) -> None:
        """The server stops working on it."""
        self._is_cancelled = True
        self._call.cancel()

    async def __anext__(self) -> Piece:
        while not self._pieces:
            await self._read()
        return self._pieces.pop(0)

    async def _read(self) -> None:
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as rpc:
            await self._again_or_raise(from_rpc(rpc))
            return
        except asyncio.CancelledError:
            if self._is_cancelled:  # by cancel(), and not the task
                raise Cancelled("CANCELLED", "cancelled by the caller") from None
            self._call.cancel()
            raise
        if message is grpc.aio.EOF:
            self._gatherer.check_end()
            raise StopAsyncIteration
        self._has_begun = True
        self._pieces.extend(self._gatherer.add(message))

    async def _again_or_raise(self, error: TesseraError) -> None:
        wait = None if self._has_begun else self._attempts.wait_after(error)
        if wait is None:
            raise error
        await asyncio.sleep(wait)
        self._call = self._start(self._attempts.time_left())

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                        trace: Optional[TracebackType]) -> None:
        self.cancel()


class AsyncClient:
    """For one event loop, for as many calls at a time as it likes."""

    def __init__(self, address: str, *, api_key: Optional[str] = None, tls: bool = False,
                 ca: Optional[str] = None, certificate: Optional[str] = None, key: Optional[str] = None,
                 retry: Retry = Retry()) -> None:
        """`address`: HOST:PORT or unix:PATH. The files are PEM; any of them implies TLS."""
        self._connection = Connection(address, api_key, tls, ca, certificate, key)
        self._channel = self._connection.open(grpc.aio)
        self._retry = retry

    async def close(self) -> None:
        """Ends the calls under way, too."""
        await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                        trace: Optional[TracebackType]) -> None:
        await self.close()

    async def generate(self, prompt: Prompt, *, timeout: Optional[float] = None,
                       **options: Unpack[Options]) -> Answer:
        """The whole answer. `timeout` in seconds covers repetitions."""
        request = _request.generate_request(prompt, options)
        gatherer = _answers.Gatherer(max(1, request.n))
        gatherer.add(await self._ask("Generate", request, timeout))
        return gatherer.answer

    def stream(self, prompt: Prompt, *, timeout: Optional[float] = None,
               **options: Unpack[Options]) -> AsyncStream:
        """The answer in pieces, as they come."""
        request = _request.generate_request(prompt, options)
        method = _schema.callable_of(self._channel, "StreamGenerate")
        return AsyncStream(
            lambda left: method(request, timeout=left, metadata=self._connection.metadata()),
            max(1, request.n), Attempts(self._retry, timeout))

    async def tokenize(self, prompt: Prompt, *, model: Optional[str] = None,
                       timeout: Optional[float] = None) -> List[int]:
        """Token ids of a text, or of messages as the model's template renders them."""
        return list((await self._ask("Tokenize", _request.tokenize_request(prompt, model), timeout)).token_ids)

    async def detokenize(self, token_ids: Sequence[int], *, timeout: Optional[float] = None) -> str:
        request = _schema.message("DetokenizeRequest")(token_ids=token_ids)
        text: str = (await self._ask("Detokenize", request, timeout)).text
        return text

    async def model_info(self, *, timeout: Optional[float] = None) -> ModelInfo:
        return _answers.model_info(
            await self._ask("GetModelInfo", _schema.message("GetModelInfoRequest")(), timeout))

    async def server_info(self, *, timeout: Optional[float] = None) -> ServerInfo:
        return _answers.server_info(
            await self._ask("GetServerInfo", _schema.message("GetServerInfoRequest")(), timeout))

    async def load(self, *, timeout: Optional[float] = None) -> Load:
        return _answers.load(await self._ask("GetLoad", _schema.message("GetLoadRequest")(), timeout))

    async def abort(self, request_id: str, *, timeout: Optional[float] = None) -> bool:
        """Ends somebody's request; whether there was one."""
        request = _schema.message("AbortRequest")(request_id=request_id)
        found: bool = (await self._ask("Abort", request, timeout)).found
        return found

    async def _ask(self, name: str, request: Any, timeout: Optional[float]) -> Any:
        method = _schema.callable_of(self._channel, name)
        attempts = Attempts(self._retry, timeout)
        while True:
            try:
                return await method(request, timeout=attempts.time_left(),
                                    metadata=self._connection.metadata())
            except grpc.aio.AioRpcError as rpc:
                error = from_rpc(rpc)
            wait = attempts.wait_after(error)
            if wait is None:
                raise error
            await asyncio.sleep(wait)
