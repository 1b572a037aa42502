"""`python -m tests.crdt.make_vectors`: test vectors that any other client must agree with.

Each vector has two encodings and the encoding of both merged, and what each shows. Bytes are hex;
in `value` they are an object `{"bytes": hex}`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from monolite.crdt import (
    CrdtError,
    GCounter,
    HybridClock,
    LwwMap,
    LwwRegister,
    OrSet,
    PnCounter,
    Rga,
    State,
    VectorClock,
    decode,
    encode,
)

FILE = Path(__file__).parent / "vectors.json"
VALUES = (
    None, False, True, 0, 1, -1, 127, 128, -129, 2**53 - 1, -(2**53 - 1), 0.5, -1.25e-7, 1e300, 3.0,
    "", "a", "å𝄞", b"", b"\x00\xff", [], [1, ["x", None]], {"b": 1, "a": {"å": False}, "": []},
)  # fmt: skip


def vectors() -> dict[str, Any]:
    merges = [_merge(name, *pair) for name, pair in _pairs().items()]
    return {
        "version": 1,
        "now_ms": NOW,
        "values": [_value(value) for value in VALUES],
        "merges": merges,
        "refused": [{"why": why, "bytes": data.hex()} for why, data in _refused()],
    }


NOW = 1_700_000_000_000


def _clock(name: str, ms: int = NOW) -> HybridClock:
    return HybridClock(name, lambda: ms)


def _value(value: Any) -> dict[str, Any]:
    register = LwwRegister()
    register.assign(value, _clock("a"))
    return {"value": shown(register.value), "bytes": encode(register).hex()}


def shown(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, list):
        return [shown(item) for item in value]
    if isinstance(value, dict):
        return {key: shown(item) for key, item in value.items()}
    return value


def _merge(name: str, a: State, b: State) -> dict[str, Any]:
    merged = a.copy()
    merged.merge(b, NOW)
    sides = {"a": a, "b": b, "merged": merged}
    return {
        "name": name,
        "kind": a.KIND,
        **{side: encode(state).hex() for side, state in sides.items()},
        **{
            f"{side}_value": shown(getattr(state, "value", None))
            for side, state in sides.items()
            if not isinstance(state, VectorClock)
        },
    }


def _pairs() -> dict[str, tuple[State, State]]:
    pairs: dict[str, tuple[State, State]] = {}
    first, second = LwwRegister(), LwwRegister()
    pairs["registers, one never set"] = (first.copy(), first.assign("x", _clock("a")))
    second.assign(["y"], _clock("b"))
    pairs["registers of one moment: the higher node wins"] = (first, second)

    g, h = GCounter(), GCounter()
    g.increment("a", 300)
    h.increment("b", 2)
    g.merge(h)
    pairs["counters"] = (g.copy(), h.increment("b", 5))
    p = PnCounter()
    p.increment("a", 3)
    q = p.copy()
    q.decrement("b", 10)
    p.increment("a")
    pairs["counters up and down"] = (p, q)
    pairs["clocks"] = (VectorClock({"a": 2, "b": 1}), VectorClock({"b": 3, "replica-7": 200}))

    s = OrSet()
    for element in (1, "one", True, None, b"\x01", [1]):
        s.add(element, "a")
    t = s.copy()
    s.remove("one")
    t.add("one", "b")
    t.remove(1)
    pairs["sets: the addition wins"] = (s.copy(), t)
    s.add("two", "a")
    pairs["a set and a delta behind a gap"] = (OrSet(), s.add("three", "a"))
    pairs["a set and the delta of a removal"] = (s.copy(), s.remove("two"))

    r = Rga()
    r.insert(0, "hello", "a")
    x, y = r.copy(), r.copy()
    x.insert(5, " you", "a")
    y.insert(5, " all å𝄞", "b")
    y.delete(0, "b", 2)
    pairs["sequences: concurrent insertions behind one element"] = (x, y)
    early = y.insert(1, [1, None, "ab"], "b")
    pairs["a sequence and a delta that waits"] = (Rga(), early)
    pairs["a sequence and an early removal"] = (Rga(), y.delete(3, "b"))
    collected = y.copy()
    collected.collect(y.context)
    pairs["a sequence that was collected and one that was not"] = (y, collected)

    m, n = LwwMap(), LwwMap()
    m.ensure("set", OrSet, _clock("a")).add("x", "a")
    n.ensure("set", OrSet, _clock("b")).add("y", "b")
    n.ensure("text", Rga, _clock("b")).insert(0, "hi", "b")
    pairs["maps with one life in common"] = (m.copy(), n.copy())
    inner = LwwMap()
    inner.assign("å", first, _clock("a"))
    m.assign("inner", inner, _clock("a"))
    m.remove("set", _clock("a", NOW + 1))
    pairs["maps: a removal, and a map in a map"] = (m, n)
    return pairs


def _refused() -> list[tuple[str, bytes]]:
    import zlib

    def sealed(body: bytes) -> bytes:
        return body + zlib.crc32(body).to_bytes(4, "big")

    good = encode(_pairs()["sets: the addition wins"][0])
    found = [
        ("empty", b""),
        ("not of this library", b"hello world"),
        ("another version", sealed(b"MC\x02\x02\x00\x00")),
        ("an unknown kind", sealed(b"MC\x01\x63\x00\x00")),
        ("cut", good[:-1]),
        ("a byte changed", good[:9] + bytes((good[9] ^ 1,)) + good[10:]),
        ("bytes behind the end", sealed(good[:-4] + b"\x00")),
        ("a varint longer than it need be", sealed(b"MC\x01\x02\x00\x80\x00")),
        ("a name that nothing refers to", sealed(b"MC\x01\x02\x01\x01a\x00")),
        ("names out of order", sealed(b"MC\x01\x02\x02\x01b\x01a\x02\x00\x01\x01\x01")),
        ("a name with a space", sealed(b"MC\x01\x02\x01\x01 \x01\x00\x01")),
        ("a replica that the table lacks", sealed(b"MC\x01\x02\x00\x01\x00\x01")),
        ("a count of 0", sealed(b"MC\x01\x02\x01\x01a\x01\x00\x00")),
        ("a number that is whole, as a double", sealed(
            b"MC\x01\x01\x00\x00\x00\x00\x05\x3f\xf0\x00\x00\x00\x00\x00\x00")),
        ("text that is not UTF-8", sealed(b"MC\x01\x01\x00\x00\x00\x00\x06\x01\xff")),
        ("a set's dot outside its context", sealed(
            b"MC\x01\x04\x01\x01a\x01\x00\x01\x00\x00\x01\x00\x01\x00\x02")),
        ("a count beyond the end", sealed(b"MC\x01\x02\x00\xff\xff\xff\xff\xff\xff\x0f")),
    ]  # fmt: skip
    for why, data in found:
        try:
            decode(data)
        except CrdtError:
            continue
        raise AssertionError(why)
    return found


def text() -> str:
    return json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
