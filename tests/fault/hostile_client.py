"""What strangers do to the control port of a group (see proto/tessera/v1/cluster.proto)."""
import hashlib
import hmac
import os
import queue
import random
import socket
import struct
import threading
from concurrent import futures

from harness import grpc
from tessera.v1 import cluster_pb2 as pb
from tessera.v1 import cluster_pb2_grpc as pb_grpc

PROTOCOL = 1
NAME = "hostile"


def mac(key, *parts):
    framed = b"".join(struct.pack("<Q", len(part)) + part for part in parts)
    return hmac.new(key, framed, hashlib.sha256).digest()


def hello(version, **fields):
    known = {"protocol_version": PROTOCOL, "software_version": version, "node_name": NAME,
             "nonce": os.urandom(32)}
    return pb.Hello(**{**known, **fields})


class Stream:
    """One Connect call whose frames are sent by hand."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1),
                              ("grpc.max_send_message_length", 64 << 20)])
        self.frames = queue.SimpleQueue()
        self.call = pb_grpc.ClusterControlStub(self.channel).Connect(
            iter(self.frames.get, None), timeout=30)

    def send(self, body, sequence=0, **fields):
        self.frames.put(pb.Frame(sequence=sequence, body=body, **fields))

    def receive(self):
        return next(self.call)

    def status(self):
        """How the head ends the stream: (code, reason)."""
        try:
            for _ in self.call:
                pass
        except grpc.RpcError as error:
            return error.code(), error.details()
        finally:
            self.close()
        return grpc.StatusCode.OK, ""

    def close(self):
        self.frames.put(None)
        self.channel.close()


def say(address, *bodies, first=0, **fields):
    """Sends bodies as frames; returns how the stream ends."""
    stream = Stream(address)
    for sequence, body in enumerate(bodies, first):
        stream.send(body, sequence, **fields)
    return stream.status()


def join(address, key, version, change=lambda facts: None, nonce_from=None):
    """A handshake with facts of one's own making; returns (status, the Join that was sent)."""
    stream = Stream(address)
    greeting = hello(version)
    stream.send(greeting.SerializeToString())
    challenge = pb.Challenge.FromString(stream.receive().body)
    group = pb.GroupFacts.FromString(challenge.group_facts)
    facts = pb.NodeFacts(node_index=-1, num_nodes=group.num_nodes, world_size=group.world_size,
                         config_hash=b"c" * 32, model_hash=b"m" * 32)
    change(facts)
    told = facts.SerializeToString()
    proof = mac(key, b"tessera node", greeting.nonce, nonce_from or challenge.nonce, told)
    message = pb.Join(node_facts=told, proof=proof)
    stream.send(message.SerializeToString(), 1)
    return stream.status(), (greeting, message)


def raw(address, data, wait=0.2):
    """Bytes on a bare TCP connection."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.settimeout(wait)
        try:
            connection.sendall(data)
            while connection.recv(4096):
                pass
        except OSError:
            pass


def loiter(address, count):
    """Connections and streams that say nothing; returns what keeps them open."""
    host, port = address.rsplit(":", 1)
    sockets = [socket.create_connection((host, int(port)), timeout=5) for _ in range(count)]
    for half in sockets[: count // 2]:
        half.sendall(b"PRI * HTTP/2.0\r\n")
    streams = [Stream(address) for _ in range(count // 4)]
    return sockets, streams


def leave(loiterers):
    sockets, streams = loiterers
    for connection in sockets:
        connection.close()
    for stream in streams:
        stream.close()


class Forger(pb_grpc.ClusterControlServicer):
    """A man in the middle: passes frames on, except what `forge` makes of the frames of a node.

    forge(frame, number) returns the frames to send instead.
    """

    def __init__(self, head, forge):
        self.head = head
        self.forge = forge
        self.server = grpc.server(futures.ThreadPoolExecutor(8),
                                  options=[("grpc.max_receive_message_length", 64 << 20)])
        pb_grpc.add_ClusterControlServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def Connect(self, frames, context):
        stream = Stream(self.head)

        def forward():
            try:
                for number, frame in enumerate(frames):
                    for forged in self.forge(frame, number):
                        stream.frames.put(forged)
            except Exception:  # the node has gone
                pass
            stream.frames.put(None)

        threading.Thread(target=forward, daemon=True).start()
        try:
            for frame in stream.call:
                yield frame
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())

    def stop(self):
        self.server.stop(0)


def forgeries():
    """{what a frame of an authenticated stream becomes: part of the head's reason}."""
    def corrupt(frame):
        body = bytearray(frame.body or b"x")
        body[len(body) // 2] ^= 1
        return [pb.Frame(sequence=frame.sequence, body=bytes(body), more=frame.more, mac=frame.mac)]

    def truncated(frame):
        return [pb.Frame(sequence=frame.sequence, body=frame.body[:-1], more=not frame.body,
                         mac=frame.mac)]

    def oversize(frame):
        return [pb.Frame(sequence=frame.sequence, body=bytes(2 << 20), mac=frame.mac)]

    return {"corrupt": (corrupt, "not authentic"), "truncated": (truncated, "not authentic"),
            "replayed": (lambda frame: [frame, frame], "repeated, lost or reordered"),
            "left out": (lambda frame: [], "repeated, lost or reordered"),
            "oversize": (oversize, "its control stream broke")}


def attack_once(address, key, version, rng=random):
    """Every attack a stranger can make; {what: (expected code, part of the reason, status)}."""
    code = grpc.StatusCode
    greeting = hello(version).SerializeToString()
    garbage = bytes(rng.randrange(256) for _ in range(300))
    _, (old_hello, old_join) = join(address, key, version)
    wrong_key, _ = join(address, b"z" * 32, version)
    wrong_hash, _ = join(address, key, version)
    wrong_size, _ = join(address, key, version, lambda facts: setattr(facts, "world_size", 77))
    other_nonce, _ = join(address, key, version, nonce_from=os.urandom(32))
    invalid_utf8 = b"\x08\x01\x1a\x04\xff\xfe\xfd\xfc"  # as the node's name
    return {
        "wrong key": (code.PERMISSION_DENIED, "cluster key", wrong_key),
        "proof of another challenge": (code.PERMISSION_DENIED, "cluster key", other_nonce),
        "replayed handshake": (code.PERMISSION_DENIED, "cluster key",
                               say(address, old_hello.SerializeToString(),
                                   old_join.SerializeToString())),
        "wrong config hash": (code.FAILED_PRECONDITION, "config hash", wrong_hash),
        "wrong group size": (code.FAILED_PRECONDITION, "group size", wrong_size),
        "wrong version": (code.FAILED_PRECONDITION, "version",
                          say(address, hello("99.9").SerializeToString())),
        "wrong protocol": (code.FAILED_PRECONDITION, "protocol",
                           say(address, hello(version, protocol_version=9).SerializeToString())),
        "garbage": (code.INVALID_ARGUMENT, "greeting", say(address, garbage)),
        "a name that is no text": (code.INVALID_ARGUMENT, "greeting", say(address, invalid_utf8)),
        "empty": (code.INVALID_ARGUMENT, "greeting", say(address, b"")),
        "truncated": (code.INVALID_ARGUMENT, "greeting", say(address, greeting[:-5])),
        "garbage as join": (code.INVALID_ARGUMENT, "join", say(address, greeting, garbage)),
        "wrong sequence": (code.INVALID_ARGUMENT, "frame 5", say(address, greeting, first=5)),
        "unfinished message": (code.INVALID_ARGUMENT, "", say(address, greeting, more=True)),
        "too long a greeting": (code.INVALID_ARGUMENT, "", say(address, greeting + bytes(5000))),
        "oversize": (code.RESOURCE_EXHAUSTED, "", say(address, bytes(8 << 20))),
    }
