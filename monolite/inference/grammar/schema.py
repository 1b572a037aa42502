"""JSON Schema (draft 2020-12) as a grammar: every answer that the grammar allows is valid.

Some valid instances are not written, which costs no caller anything: members come in the order of
`properties` and none beside them, literals are spelled one way, white space has bounds, numbers
have at most 16 digits. A keyword that can't be enforced is refused by its name and place: nothing
is passed over but annotations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from monolite.inference.grammar.errors import NotEnforceable
from monolite.inference.grammar.expression import (
    CODE_POINT_MAX,
    EMPTY,
    NOTHING,
    SURROGATES,
    Call,
    Characters,
    Expression,
    Grammar,
    Repeat,
    chain,
    choice,
    optional,
    text,
)

RULE_COUNT_MAX = 10_000
LITERAL_COUNT_MAX = 10_000
DIGITS_MAX = 16
INTEGER_MAX = 10**DIGITS_MAX - 1

ANNOTATIONS = frozenset(
    (
        *("$schema", "$id", "$anchor", "$comment", "$defs", "definitions", "$vocabulary"),
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
        *("contentEncoding", "contentMediaType", "contentSchema"),
    )
)
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
_OF_TYPE = {
    "string": frozenset({"minLength", "maxLength", "format"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "number": frozenset({"minimum", "maximum"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "null": frozenset[str](),
    "boolean": frozenset[str](),
}
"""The keywords that are enforced, by the type they speak of."""

_ALONE = ("$ref", "enum", "const", "anyOf", "oneOf", "allOf")
"""Keywords that stand for the whole schema beside annotations, and `type` with the literals."""


def parse(source: str) -> Grammar:
    """A schema's text as a grammar.

    Raises:
        NotEnforceable: it can't be enforced exactly; names the keyword and its place.
    """
    try:
        schema = msgspec.json.decode(source)
    except (msgspec.DecodeError, RecursionError) as error:
        raise NotEnforceable("schema", f"it is no JSON: {error}", "#") from None
    return _Compiler(schema).grammar()


def _class(*ranges: tuple[int, int]) -> Characters:
    return Characters(tuple(ranges))


_DIGIT = _class((48, 57))
_HEX = _class((48, 57), (65, 70), (97, 102))
_SPACE = Repeat(_class((10, 10), (32, 32)), 0, 2)
_PLAIN = _class((32, 33), (35, 91), (93, SURROGATES[0] - 1), (SURROGATES[1] + 1, CODE_POINT_MAX))
_NOT_D = _class((48, 57), (65, 67), (69, 70), (97, 99), (101, 102))
_CHARACTER = choice(
    _PLAIN,
    chain(
        text("\\"),
        choice(
            # The ones of one letter: " / \ b f n r t
            _class((34, 34), (47, 47), (92, 92), (98, 98), (102, 102), (110, 110), (114, 114),
                   (116, 116)),
            chain(text("u"), _NOT_D, Repeat(_HEX, 3, 3)),
        ),
    ),
)  # fmt: skip
_QUOTE = text('"')
_NATURAL = choice(text("0"), chain(_class((49, 57)), Repeat(_DIGIT, 0, DIGITS_MAX - 1)))
_FRACTION = chain(text("."), Repeat(_DIGIT, 1, DIGITS_MAX))
_EXPONENT = chain(
    _class((69, 69), (101, 101)), optional(_class((43, 43), (45, 45))), Repeat(_DIGIT, 1, 2)
)
_UNSIGNED = chain(_NATURAL, optional(_FRACTION), optional(_EXPONENT))


def _two(least: int, most: int) -> Expression:
    return choice(*(text(f"{value:02d}") for value in range(least, most + 1)))


# Days to the 28th, which every month has.
_DATE = chain(Repeat(_DIGIT, 4, 4), text("-"), _two(1, 12), text("-"), _two(1, 28))
_TIME = chain(
    *(_two(0, 23), text(":"), _two(0, 59), text(":"), _two(0, 59)),
    *(optional(chain(text("."), Repeat(_DIGIT, 1, 6))), text("Z")),
)
_BYTE = choice(
    chain(text("25"), _class((48, 53))),
    chain(text("2"), _class((48, 52)), _DIGIT),
    chain(text("1"), _DIGIT, _DIGIT),
    chain(_class((49, 57)), _DIGIT),
    _DIGIT,
)
_DASH, _DOT = text("-"), text(".")
FORMATS: Mapping[str, Expression] = {
    "date": _DATE,
    "time": _TIME,
    "date-time": chain(_DATE, text("T"), _TIME),
    "uuid": chain(
        *(Repeat(_HEX, 8, 8), _DASH, Repeat(_HEX, 4, 4), _DASH, Repeat(_HEX, 4, 4), _DASH),
        *(Repeat(_HEX, 4, 4), _DASH, Repeat(_HEX, 12, 12)),
    ),
    "ipv4": chain(_BYTE, _DOT, _BYTE, _DOT, _BYTE, _DOT, _BYTE),
}


class _Compiler:
    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._rules: dict[str, Expression] = {}
        self._made: dict[str, str] = {}

    def grammar(self) -> Grammar:
        self._rules["root"] = chain(self._at("#", self._schema))
        return Grammar(self._rules)

    # ── Rules ──────────────────────────────────────────────────────────────────────────────────

    def _rule(self, name: str, made: Callable[[], Expression]) -> Call:
        """A rule of this name, made once; it may call itself while it is made."""
        if name not in self._made:
            if len(self._made) >= RULE_COUNT_MAX:
                raise NotEnforceable("schema", f"it has over {RULE_COUNT_MAX} parts", "#")
            self._made[name] = f"r{len(self._made)}"
            self._rules[self._made[name]] = NOTHING
            self._rules[self._made[name]] = made()
        return Call(self._made[name])

    def _at(self, pointer: str, schema: Any) -> Call:
        return self._rule(pointer, lambda: self._made_of(pointer, schema))

    def _any(self) -> Call:
        def made() -> Expression:
            return choice(*(self._typed("#", kind, {}) for kind in TYPES if kind != "integer"))

        return self._rule("any value", made)

    # ── A schema ───────────────────────────────────────────────────────────────────────────────

    def _made_of(self, pointer: str, schema: Any) -> Expression:
        if schema is True or schema == {}:
            return self._any()
        if schema is False:
            return NOTHING
        if not isinstance(schema, dict):
            raise NotEnforceable("schema", "it is neither an object nor a boolean", pointer)
        words = set(schema) - ANNOTATIONS
        for word in _ALONE:
            if word in words:
                return self._alone(pointer, word, schema, words - {word})
        kinds = self._kinds(pointer, schema)
        enforced = frozenset({"type"}).union(*(_OF_TYPE[kind] for kind in kinds))
        for word in sorted(words - enforced):
            raise NotEnforceable(word, self._why(word), f"{pointer}/{word}")
        return choice(*(self._typed(pointer, kind, schema) for kind in kinds))

    @staticmethod
    def _why(word: str) -> str:
        known = frozenset().union(*_OF_TYPE.values())
        if word in known:
            return "it can't be enforced for this type"
        return "it can't be enforced while decoding"

    def _kinds(self, pointer: str, schema: Mapping[str, Any]) -> Sequence[str]:
        given = schema.get("type")
        if given is None:
            # Keywords of a type bind that type alone: any other one is valid, and left out.
            implied = [
                kind for kind in ("object", "array", "string") if _OF_TYPE[kind] & set(schema)
            ]
            if len(implied) == 1:
                return implied
            if implied or {"minimum", "maximum"} & set(schema):
                raise NotEnforceable("type", "it is missing", pointer)
            return [kind for kind in TYPES if kind != "integer"]
        kinds = [given] if isinstance(given, str) else given
        if not isinstance(kinds, list) or not kinds or any(kind not in TYPES for kind in kinds):
            raise NotEnforceable("type", f"it is none of {', '.join(TYPES)}", f"{pointer}/type")
        if "number" in kinds:
            kinds = [kind for kind in kinds if kind != "integer"]
        return list(dict.fromkeys(kinds))

    def _alone(
        self, pointer: str, word: str, schema: Mapping[str, Any], others: set[str]
    ) -> Expression:
        value, place = schema[word], f"{pointer}/{word}"
        is_literal = word in ("enum", "const")
        beside = others - {"type", "enum", "const"} if is_literal else others
        if beside:
            other = min(beside)
            raise NotEnforceable(other, f"it can't be enforced beside {word}", f"{pointer}/{other}")
        if word == "$ref":
            return self._referred(place, value)
        if word in ("enum", "const"):
            return self._literals(pointer, schema)
        if not isinstance(value, list) or not value:
            raise NotEnforceable(word, "it is a list of schemas", place)
        if word == "allOf" and len(value) > 1:
            raise NotEnforceable(word, "only one schema of it can be enforced", place)
        if word == "oneOf" and not _are_apart(value):
            raise NotEnforceable(
                word, "its schemas are not apart by type or by a required constant", place
            )
        return choice(*(self._at(f"{place}/{at}", one) for at, one in enumerate(value)))

    def _referred(self, place: str, reference: Any) -> Expression:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise NotEnforceable("$ref", "only references within the schema are followed", place)
        found = self._schema
        for step in reference[1:].split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                raise NotEnforceable("$ref", f"there is no {reference}", place)
        return self._at(reference if reference != "#/" else "#", found)

    def _literals(self, pointer: str, schema: Mapping[str, Any]) -> Expression:
        values = schema.get("enum", [schema.get("const")])
        if not isinstance(values, list) or not values or len(values) > LITERAL_COUNT_MAX:
            why = f"it is a list of 1 to {LITERAL_COUNT_MAX} values"
            raise NotEnforceable("enum", why, f"{pointer}/enum")
        if "const" in schema:
            values = [value for value in values if _same(value, schema["const"])]
        if "type" in schema:
            kinds = self._kinds(pointer, schema)
            values = [value for value in values if any(_is_of(value, kind) for kind in kinds)]
        return choice(*(text(msgspec.json.encode(value).decode()) for value in values))

    # ── Types ──────────────────────────────────────────────────────────────────────────────────

    def _typed(self, pointer: str, kind: str, schema: Mapping[str, Any]) -> Expression:
        if kind == "null":
            return text("null")
        if kind == "boolean":
            return choice(text("true"), text("false"))
        if kind == "integer":
            return _integer(pointer, schema)
        if kind == "number":
            return _number(pointer, schema)
        if kind == "string":
            return _string(pointer, schema)
        if kind == "array":
            return self._array(pointer, schema)
        return self._object(pointer, schema)

    def _array(self, pointer: str, schema: Mapping[str, Any]) -> Expression:
        first = schema.get("prefixItems", [])
        if not isinstance(first, list):
            raise NotEnforceable("prefixItems", "it is a list", f"{pointer}/prefixItems")
        least, most = _bounds(pointer, schema, "minItems", "maxItems")
        items = [self._at(f"{pointer}/prefixItems/{at}", one) for at, one in enumerate(first)]
        if most is not None:
            items = items[:most]
        comma = chain(text(","), _SPACE)
        if schema.get("items") is False:
            most = len(items) if most is None else min(most, len(items))
        if most is not None and least > most:
            return NOTHING
        rest: Expression = EMPTY
        beyond = None if most is None else most - len(items)
        if schema.get("items") is not False and beyond != 0:
            item = (
                self._at(f"{pointer}/items", schema["items"]) if "items" in schema else self._any()
            )
            more = max(0, least - len(items))
            if items:
                rest = Repeat(chain(comma, item), more, beyond)
            else:
                following = None if beyond is None else beyond - 1
                whole = chain(item, Repeat(chain(comma, item), max(0, more - 1), following))
                rest = whole if more else optional(whole)
        # From the last one back: what follows an item that may be missing may be missing too.
        for at in range(len(items) - 1, -1, -1):
            one = items[at] if at == 0 else chain(comma, items[at])
            rest = chain(one, rest)
            if at >= least:
                rest = optional(rest)
        return chain(text("["), _SPACE, rest, _SPACE, text("]"))

    def _object(self, pointer: str, schema: Mapping[str, Any]) -> Expression:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        more = schema.get("additionalProperties", True)
        if not isinstance(properties, dict):
            raise NotEnforceable("properties", "it is an object", f"{pointer}/properties")
        if not isinstance(required, list) or not all(isinstance(one, str) for one in required):
            raise NotEnforceable("required", "it is a list of names", f"{pointer}/required")
        comma = chain(text(","), _SPACE)
        members: list[tuple[Expression, bool]] = []
        for name, value in properties.items():
            if value is False and name not in required:
                continue
            step = name.replace("~", "~0").replace("/", "~1")
            made = self._at(f"{pointer}/properties/{step}", value)
            members.append((_member(_text(name), made), name in required))
        place = f"{pointer}/additionalProperties"
        beside = self._at(place, more) if isinstance(more, dict) else self._any()
        for name in dict.fromkeys(required):
            if name not in properties:
                if more is False:
                    raise NotEnforceable("required", f"{name!r} may not be there", pointer)
                members.append((_member(_text(name), beside), True))
        if not members:
            if more is False or "properties" in schema:
                return chain(text("{"), _SPACE, text("}"))
            one = _member(_any_text(), beside)
            body = optional(chain(one, Repeat(chain(comma, one), 0, None)))
            return chain(text("{"), _SPACE, body, _SPACE, text("}"))
        name = f"{pointer} {id(schema)}"
        rest: Expression = EMPTY
        first: Expression = EMPTY
        for at in range(len(members) - 1, -1, -1):
            member, is_required = members[at]
            after = self._rule(f"{name} after {at}", lambda rest=rest: rest)  # type: ignore[misc]
            begun = chain(member, after)
            first = begun if is_required else choice(begun, first)
            following = chain(comma, member)
            rest = chain(following if is_required else optional(following), after)
        return chain(text("{"), _SPACE, first, _SPACE, text("}"))


def _member(name: Expression, value: Expression) -> Expression:
    return chain(name, text(":"), _SPACE, value)


def _text(value: str) -> Expression:
    return text(msgspec.json.encode(value).decode())


def _any_text() -> Expression:
    return chain(_QUOTE, Repeat(_CHARACTER, 0, None), _QUOTE)


def _string(pointer: str, schema: Mapping[str, Any]) -> Expression:
    least, most = _bounds(pointer, schema, "minLength", "maxLength")
    form = schema.get("format")
    if form is not None:
        if form not in FORMATS:
            raise NotEnforceable("format", f"{form!r} can't be enforced", f"{pointer}/format")
        if least or most is not None:
            raise NotEnforceable("format", "it doesn't go with a length", f"{pointer}/format")
        return chain(_QUOTE, FORMATS[form], _QUOTE)
    if most is not None and least > most:
        return NOTHING
    return chain(_QUOTE, Repeat(_CHARACTER, least, most), _QUOTE)


def _number(pointer: str, schema: Mapping[str, Any]) -> Expression:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is None and most is None:
        return chain(optional(text("-")), _UNSIGNED)
    if least == 0 and most is None:
        return _UNSIGNED
    if least == 0 and most == 1:
        below = chain(text("0"), optional(_FRACTION))
        return choice(below, chain(text("1"), optional(chain(text("."), Repeat(text("0"), 1, 4)))))
    word = "minimum" if least not in (None, 0) else "maximum"
    raise NotEnforceable(
        word, "of numbers, only 0 and more, and 0 to 1, are enforced", f"{pointer}/{word}"
    )


def _integer(pointer: str, schema: Mapping[str, Any]) -> Expression:
    least, most = -INTEGER_MAX, INTEGER_MAX
    for word, sign, step in (
        ("minimum", 1, 0),
        ("exclusiveMinimum", 1, 1),
        ("maximum", -1, 0),
        ("exclusiveMaximum", -1, 1),
    ):
        value = schema.get(word)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
            raise NotEnforceable(word, "it is an integer here", f"{pointer}/{word}")
        if sign > 0:
            least = max(least, int(value) + step)
        else:
            most = min(most, int(value) - step)
    options = []
    if least < 0 and least <= most:
        options.append(chain(text("-"), _between(max(1, -most), -least)))
    if most >= 0 and least <= most:
        options.append(_between(max(0, least), most))
    return choice(*options)


def _between(least: int, most: int) -> Expression:
    """Decimals from `least` to `most`, without zeros in front."""
    options = []
    for digits in range(len(str(least)), len(str(most)) + 1):
        low = max(least, 0 if digits == 1 else 10 ** (digits - 1))
        options.append(_of_length(str(low), str(min(most, 10**digits - 1))))
    return choice(*options)


def _of_length(low: str, high: str) -> Expression:
    """Decimals between two of the same length."""
    if set(low) <= {"0"} and set(high) <= {"9"}:
        return Repeat(_DIGIT, len(low), len(low))
    if len(low) == 1:
        return _class((ord(low), ord(high)))
    if low[0] == high[0]:
        return chain(text(low[0]), _of_length(low[1:], high[1:]))
    rest = len(low) - 1
    options = [chain(text(low[0]), _of_length(low[1:], "9" * rest))]
    if ord(high[0]) - ord(low[0]) > 1:
        between = _class((ord(low[0]) + 1, ord(high[0]) - 1))
        options.append(chain(between, Repeat(_DIGIT, rest, rest)))
    options.append(chain(text(high[0]), _of_length("0" * rest, high[1:])))
    return choice(*options)


def _bounds(
    pointer: str, schema: Mapping[str, Any], least: str, most: str
) -> tuple[int, int | None]:
    found = []
    for word in (least, most):
        value = schema.get(word)
        if value is not None and (
            not isinstance(value, int) or isinstance(value, bool) or value < 0
        ):
            raise NotEnforceable(word, "it is a count", f"{pointer}/{word}")
        found.append(value)
    return found[0] or 0, found[1]


def _are_apart(schemas: Sequence[Any]) -> bool:
    """Whether no value can be valid by two of them: by type, or by a required constant."""
    if not all(isinstance(one, dict) for one in schemas):
        return False
    kinds = [one.get("type") for one in schemas]
    if all(isinstance(kind, str) for kind in kinds) and len(set(kinds)) == len(kinds):
        return not {"integer", "number"} <= set(kinds)
    if any(kind != "object" for kind in kinds):
        return False
    for name in schemas[0].get("required", []):
        values = []
        for one in schemas:
            about = one.get("properties", {}).get(name)
            if name in one.get("required", []) and isinstance(about, dict) and "const" in about:
                values.append(msgspec.json.encode(about["const"]))
        if len(values) == len(schemas) == len(set(values)):
            return True
    return False


def _same(one: Any, other: Any) -> bool:
    return msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")


def _is_of(value: Any, kind: str) -> bool:
    if kind == "null":
        return value is None
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in ("integer", "number"):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and (kind == "number" or value == int(value))
    return isinstance(value, {"string": str, "array": list, "object": dict}[kind])
