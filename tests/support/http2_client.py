"""HTTP/2 by hand: frames that no library would send."""
import socket
import struct

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING = 0, 1, 2, 3, 4, 6
WINDOW_UPDATE, CONTINUATION = 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
GENERATE = "/tessera.v1.Inference/Generate"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name, value):
    """A header field that no table keeps, without Huffman coding (RFC 7541, 6.2.2)."""
    out = b"\x00"
    for text in (name.encode(), value.encode()):
        assert len(text) < 127
        out += bytes([len(text)]) + text
    return out


def call_headers(method, authority="localhost"):
    return b"".join(literal(name, value) for name, value in (
        (":method", "POST"), (":scheme", "http"), (":path", method), (":authority", authority),
        ("te", "trailers"), ("content-type", "application/grpc")))


def begin_call(stream):
    return frame(HEADERS, END_HEADERS, stream, call_headers(GENERATE))


class Connection:
    """After the preface and its SETTINGS. Bytes that come back are read and thrown away only by
    drain(): who never calls it does not read."""

    def __init__(self, port, settings=b""):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.alive = True
        self.send(PREFACE + frame(SETTINGS, 0, 0, settings))

    def send(self, data, patience=2.0):
        """False once the peer has closed the connection or takes no more bytes for `patience`
        seconds."""
        if not self.alive:
            return False
        self.socket.settimeout(patience)
        try:
            self.socket.sendall(data)
        except OSError:
            self.alive = False
        return self.alive

    def drain(self):
        """Reads what is there; False once the peer has closed."""
        self.socket.setblocking(False)
        try:
            while data := self.socket.recv(1 << 16):
                del data
            self.alive = False
        except BlockingIOError:
            pass
        except OSError:
            self.alive = False
        return self.alive

    def close(self):
        self.socket.close()


def repeat(port, block, times, reads=True, first=b""):
    """`block` so often on one connection, by a client that reads what comes back, or does not."""
    connection = Connection(port)
    connection.send(first)
    for _ in range(times):
        if not connection.send(block):
            break
        if reads and not connection.drain():
            break
    return connection


def resets(port, reads=True):
    """20,000 calls, each reset in the moment it begins."""
    reset = struct.pack(">I", 8)
    connection = Connection(port)
    for first in range(1, 40001, 200):
        if not connection.send(b"".join(begin_call(stream) + frame(RST_STREAM, 0, stream, reset)
                                        for stream in range(first, first + 200, 2))):
            break
        if reads and not connection.drain():
            break
    return connection


def endless_headers(port):
    """16 MiB of header fields that never end."""
    return repeat(port, frame(CONTINUATION, 0, 1, literal("a", "b" * 100) * 150), 1024, True,
                  frame(HEADERS, 0, 1, call_headers(GENERATE)))
