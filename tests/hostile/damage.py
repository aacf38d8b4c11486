"""What can become of a file: flipped bits, cut ends, headers that claim anything, JSON that says things twice."""

import itertools
import json
import random
import struct


def of_any_file(data, many):
    """(what was done, the bytes) of damage that any kind of file can take."""
    draw = random.Random(0)
    for bit in draw.sample(range(8 * len(data)), min(many, 8 * len(data))):
        yield f"bit {bit} flipped", flipped(data, bit)
    for bit in range(0, min(8 * 64, 8 * len(data)), 29):
        yield f"bit {bit} flipped", flipped(data, bit)
    for length in (0, 1, 7, len(data) // 2, len(data) - 1):
        yield f"cut to {length} bytes", data[:length]
    start = len(data) // 3
    yield "a hole of zeros", data[:start] + bytes(min(512, len(data) - start)) + data[start + 512 :]
    yield "bytes behind its end", data + b"\x00more"
    yield "twice", data + data
    yield "noise", draw.randbytes(len(data))
    yield "text", b"not what you think\n"


def of_json(data, many=60):
    """Damage that leaves bytes which a lenient reader of JSON might take: so many places, and what is no place."""
    text = data.decode()
    value = json.loads(text)
    yield "nested 100,000 deep", b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    yield "lists 100,000 deep", b"[" * 100_000 + b"]" * 100_000
    for other in (b"null", b"[]", b"{}", b"3", b'"text"', b"[[1]]"):
        yield f"only {other.decode()}", other
    yield "latin-1", text.replace("{", '{"caf\xe9": 1, ', 1).encode("latin-1")
    yield "UTF-16", text.encode("utf-16")
    many = many if len(data) < 50_000 else many // 4
    places = list(_places(value))
    random.Random(0).shuffle(places)
    values = itertools.cycle(
        (float("nan"), float("inf"), 10**400, -1, "x" * 10_000, None, [], {}, [[]], True, 1e300, 0.5)
    )
    for path in places[: many // 4]:
        key = path[-1]
        *_, holder = _along(value, path[:-1])
        if isinstance(key, str):
            yield f"{path} twice", _said_twice(value, path)
        before = holder[key]
        for other in itertools.islice(values, 2 if len(places) > many // 4 else 11):
            holder[key] = other
            yield f"{path} = {str(other)[:20]}", json.dumps(value).encode()
        holder[key] = before
        if isinstance(holder, dict):
            rest = {name: one for name, one in holder.items() if name != key}
            yield f"without {path}", _with(value, path[:-1], rest)


def of_safetensors(data):
    """Headers that claim what is not there."""
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    for claimed in (0, 1, length + 8, len(data), 2**31, 2**63, 2**64 - 1):
        yield f"a header of {claimed} bytes", struct.pack("<Q", claimed) + data[8:]
    name = next(name for name in header if name != "__metadata__")
    for change in (
        {"shape": [2**62, 2**62]},
        {"shape": [0]},
        {"shape": [-1]},
        {"data_offsets": [0, 2**60]},
        {"data_offsets": [8, 0]},
        {"dtype": "F128"},
        {"dtype": None},
    ):
        yield f"{name} with {change}", _packed({**header, name: {**header[name], **change}}, body)
    yield "a deep header", struct.pack("<Q", 200_000) + b"[" * 100_000 + b"]" * 100_000 + body
    yield (
        "a name twice",
        _raw(json.dumps(header)[:-1].encode() + f', "{name}": {json.dumps(header[name])}}}'.encode(), body),
    )
    yield "no tensors", _packed({}, b"")


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _packed(header, body):
    return _raw(json.dumps(header).encode(), body)


def _raw(text, body):
    return struct.pack("<Q", len(text)) + text + body


def _places(value, path=(), most=3):
    """Where in a value something stands; of a list its first entries."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for number, (key, one) in enumerate(entries):
        if isinstance(value, list) and number >= most:
            return
        yield (*path, key)
        yield from _places(one, (*path, key), 1)


def _along(value, path):
    yield value
    for key in path:
        value = value[key]
        yield value


def _with(value, path, part):
    if not path:
        return json.dumps(part).encode()
    *_, holder = _along(value, path[:-1])
    before, holder[path[-1]] = holder[path[-1]], part
    said = json.dumps(value).encode()
    holder[path[-1]] = before
    return said


def _said_twice(value, path):
    """The key once more, at the end of its object and with another value: most readers take the last."""
    *_, holder = _along(value, path[:-1])
    marked = {**holder, "\0again": 0}
    return _with(value, path[:-1], marked).replace(b'"\\u0000again": 0', json.dumps(path[-1]).encode() + b": 7")
