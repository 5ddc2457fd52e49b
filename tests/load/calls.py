"""Calls over several connections to one server."""
import asyncio

import grpc
from harness import pb_grpc

CHANNELS = 10
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]  # channels do not share one connection
# The library reads ahead generously for a client that does not; this keeps it from doing so.
STALLING = OPTIONS + [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65535)]


class Clients:
    """Stubs over several connections to one server."""

    def __init__(self, server, count=CHANNELS, options=OPTIONS):
        self.channels = [grpc.aio.insecure_channel(server.address, options=options)
                         for _ in range(count)]
        self.stubs = [pb_grpc.InferenceStub(channel) for channel in self.channels]

    async def __aenter__(self):
        return self.stubs

    async def __aexit__(self, *_):
        for channel in self.channels:
            await channel.close()


async def consume(call):
    """(status, tokens) of a stream."""
    tokens = []
    try:
        async for message in call:
            for choice in message.choices:
                tokens += choice.token_ids
        return grpc.StatusCode.OK, tokens
    except grpc.aio.AioRpcError as error:
        return error.code(), tokens
    except asyncio.CancelledError:
        return grpc.StatusCode.CANCELLED, tokens


async def finish(call):
    try:
        await call
        return grpc.StatusCode.OK
    except grpc.aio.AioRpcError as error:
        return error.code()
    except asyncio.CancelledError:
        return grpc.StatusCode.CANCELLED
