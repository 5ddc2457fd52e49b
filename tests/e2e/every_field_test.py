"""Hostile values in every field of every request, found in the protocol's own descriptors: a field
that is added tomorrow is tested tomorrow."""
import math
import unittest

import grpc
from google.protobuf.descriptor import FieldDescriptor as Field

from harness import HostileTest, chat_request, pb, violations

INTEGERS = [0, 1, -1, 2**31 - 1, -(2**31), 2**32, 2**63 - 1, -(2**63)]
FLOATS = [0.0, 1.0, -1.0, 5e-324, 1e-300, 1e300, -1e300, math.nan, math.inf, -math.inf]
ENUMS = [0, 1, -1, 99, 2**31 - 1, -(2**31)]
TEXTS = ["", " ", "\u0000", "../../etc/passwd", "%s%n", "\U0010ffff" * 50, "x" * 100_000]
BAD_UTF8 = [b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"ok\xf4\x90\x80\x80"]
RANGES = {Field.CPPTYPE_INT32: (-(2**31), 2**31 - 1), Field.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
          Field.CPPTYPE_UINT32: (0, 2**32 - 1), Field.CPPTYPE_UINT64: (0, 2**64 - 1)}
REFUSED = grpc.StatusCode.INVALID_ARGUMENT
SERVICE = pb.DESCRIPTOR.services_by_name["Inference"]


def is_map(field):
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def leaves(descriptor, above=()):
    """The ways to every scalar field below a message, as tuples of descriptors."""
    for field in descriptor.fields:
        way = (*above, field)
        if field.message_type is None or is_map(field):
            yield way
        else:
            yield from leaves(field.message_type, way)


def name_of(way):
    return ".".join(field.name for field in way)


def values_of(field):
    if field.cpp_type in RANGES:
        low, high = RANGES[field.cpp_type]
        return [value for value in INTEGERS if low <= value <= high]
    return {Field.CPPTYPE_DOUBLE: FLOATS, Field.CPPTYPE_FLOAT: FLOATS, Field.CPPTYPE_ENUM: ENUMS,
            Field.CPPTYPE_STRING: TEXTS, Field.CPPTYPE_BOOL: [False, True]}[field.cpp_type]


def set_leaf(message, way, value):
    for field in way[:-1]:
        message = getattr(message, field.name)
        if field.label == Field.LABEL_REPEATED:
            message = message.add()
    field = way[-1]
    if field.label == Field.LABEL_REPEATED:
        getattr(message, field.name).append(value)
    else:
        setattr(message, field.name, value)


def cases(request, way):
    """(value, request with this value in the field at `way`)."""
    if not is_map(way[-1]):
        for value in values_of(way[-1]):
            changed = type(request).FromString(request.SerializeToString())
            set_leaf(changed, way, value)
            yield value, changed
        return
    key, value = (way[-1].message_type.fields_by_name[name] for name in ("key", "value"))
    pairs = [(k, 1) for k in values_of(key)] + [(5, v) for v in values_of(value)]
    for pair in pairs:
        changed = type(request).FromString(request.SerializeToString())
        message = changed
        for field in way[:-1]:
            message = getattr(message, field.name)
        getattr(message, way[-1].name)[pair[0]] = pair[1]
        yield pair, changed


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def wire(way, content):
    """A message in which the string at `way` has these bytes."""
    for field in reversed(way):
        content = varint(field.number << 3 | 2) + varint(len(content)) + content
    return content


def base_requests(method):
    """Valid requests to spoil."""
    if method.input_type.name != "GenerateRequest":
        return [getattr(pb, method.input_type.name)()]
    requests = [chat_request("Hi"), pb.GenerateRequest(text="Hi")]
    for request in requests:
        request.stopping.max_tokens = 4
    return requests


class EveryFieldTest(HostileTest):
    def call(self, method, data):
        """(status code or None, fields named) of a call with these bytes."""
        path = f"/{SERVICE.full_name}/{method.name}"
        make = (self.server.channel.unary_stream if method.name == "StreamGenerate"
                else self.server.channel.unary_unary)
        try:
            reply = make(path)(data, timeout=20)
            if method.name == "StreamGenerate":
                for _ in reply:
                    pass
        except grpc.RpcError as error:
            return error.code(), violations(error)
        return None, []

    def check(self, method, way, value, request):
        code, named = self.call(method, request.SerializeToString())
        allowed = {None, REFUSED}
        if way[0].name == "model":
            allowed.add(grpc.StatusCode.NOT_FOUND)
        self.assertIn(code, allowed)
        if code == REFUSED:
            self.assertTrue(named, "no field is named")
        is_number = isinstance(value, float) or isinstance(value, tuple)
        if is_number and not all(math.isfinite(v) for v in (value if isinstance(value, tuple)
                                                            else (value,))):
            self.assertEqual(code, REFUSED)

    def test_hostile_values(self):
        seen = set()
        for method in SERVICE.methods:
            for request in base_requests(method):
                for way in leaves(method.input_type):
                    seen.add(name_of(way))
                    for value, changed in cases(request, way):
                        with self.subTest(method=method.name, field=name_of(way),
                                          value=str(value)[:40]):
                            self.check(method, way, value, changed)
        # The walk finds what it should.
        self.assertLessEqual({"sampling.top_k", "constraints.logit_bias", "token_ids.ids",
                              "chat.messages.tool_calls.index", "stopping.stop_token_ids",
                              "reasoning.mode"}, seen)

    def test_strings_that_are_not_utf8(self):
        for method in SERVICE.methods:
            for way in leaves(method.input_type):
                if is_map(way[-1]) or way[-1].cpp_type != Field.CPPTYPE_STRING:
                    continue
                for content in BAD_UTF8:
                    with self.subTest(method=method.name, field=name_of(way), content=content):
                        code, _ = self.call(method, wire(way, content))
                        self.assertEqual(code, REFUSED)

    def test_unknown_fields_are_ignored(self):
        unknown = varint(1999 << 3 | 2) + varint(3) + b"abc"
        for method in SERVICE.methods:
            request = base_requests(method)[0].SerializeToString()
            self.assertEqual(self.call(method, request + unknown)[0], self.call(method, request)[0])


if __name__ == "__main__":
    unittest.main()
