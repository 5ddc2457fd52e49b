"""The messages of the API, made from the descriptors that the build put here."""
from __future__ import annotations

import functools
import pathlib
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "tessera.v1.Inference"


@functools.lru_cache(maxsize=None)
def _pool() -> descriptor_pool.DescriptorPool:
    # A pool of our own: another version of the API in the same process is no conflict.
    pool = descriptor_pool.DescriptorPool()
    data = (pathlib.Path(__file__).parent / "schema.binpb").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.Add(file)
    return pool


@functools.lru_cache(maxsize=None)
def message(name: str) -> Any:
    """The class of a message of tessera.v1."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"tessera.v1.{name}"))


def method(name: str) -> Any:
    """The descriptor of a method of the service: path, classes, whether it streams."""
    return _pool().FindServiceByName(SERVICE).FindMethodByName(name)


def callable_of(channel: Any, name: str) -> Any:
    """A method of the service on a channel of either kind."""
    found = method(name)
    make = channel.unary_stream if found.server_streaming else channel.unary_unary
    return make(f"/{SERVICE}/{name}",
                request_serializer=message(found.input_type.name).SerializeToString,
                response_deserializer=message(found.output_type.name).FromString)
