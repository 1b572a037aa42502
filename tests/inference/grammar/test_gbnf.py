from __future__ import annotations

import pytest

from monolite.inference.grammar import NotEnforceable, gbnf

SEED = r"""
root        ::= "{" ws "\"intent\":" ws string "," ws "\"confidence\":" ws number "," ws "\"entities\":" ws entities ws "}"

string      ::= "\"" [a-zA-Z0-9_ ]+ "\""

number      ::= "0" "." [0-9]+

entities    ::= "[" ws (entity ("," ws entity))? ws "]"

entity      ::= "{" ws "\"name\":" ws string "," ws "\"type\":" ws string ws "}"

ws          ::= [ \t\n]
"""  # noqa: E501

CHESS = r"""
# Specifies chess moves as a list in algebraic notation, using PGN conventions

# Force first move to "1. ", then any 1-2 digit number after, relying on model to follow the pattern
root    ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")+
move    ::= (pawn | nonpawn | castle) [+#]?

# piece type, optional file/rank, optional capture, dest file & rank
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]

# optional file & capture, dest file & rank, optional promotion
pawn    ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?

castle  ::= "O-O" "-O"?
"""

JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
"""


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        ('root ::= "a" | "b" "c"', ["a", "bc"], ["", "b", "ab", "abc", "bcc"]),
        ('root ::= "a" |', ["a", ""], ["aa", "b"]),
        ('root ::= "a"*', ["", "a", "aaaa"], ["b", "ab"]),
        ('root ::= "a"+', ["a", "aaa"], [""]),
        ('root ::= "a"?', ["", "a"], ["aa"]),
        ('root ::= "a"{3}', ["aaa"], ["", "aa", "aaaa"]),
        ('root ::= "ab"{2,}', ["abab", "ababab"], ["ab", "aba"]),
        ('root ::= "a"{1,3}', ["a", "aa", "aaa"], ["", "aaaa"]),
        ('root ::= "a"{0,2} "b"', ["b", "ab", "aab"], ["aaab"]),
        ('root ::= "a"{,2}', ["", "a", "aa"], ["aaa"]),
        ('root ::= "a"{0}', [""], ["a"]),
        ('root ::= ("a" | "b"){2} "c"', ["abc", "bbc"], ["ac", "abac"]),
        ("root ::= [a-cx]", ["a", "b", "c", "x"], ["d", "-", ""]),
        ("root ::= [a-]", ["a", "-"], ["b"]),
        ("root ::= [^a-c]", ["d", "é", "😀", "\n"], ["a", "b", ""]),
        ("root ::= [^\\n\\]]+", ["xyz["], ["x]", "x\n"]),
        ("root ::= .", ["a", "é", "日", "😀", "\n"], ["", "ab"]),
        ("root ::= [α-ω]+", ["αβγ"], ["a", "Α"]),
        ("root ::= [\\u3042-\\u3096]", ["あ"], ["日"]),
        ("root ::= [\\U0001F600-\\U0001F64F]", ["😀"], ["😀😀", "x"]),
        ('root ::= "\\x41\\u00e9\\U0001F600"', ["Aé😀"], ["A"]),
        ('root ::= "日本" | "\\t\\r\\n\\\\\\""', ["日本", '\t\r\n\\"'], ["日"]),
        (
            'root ::= a-b # says so\n# and this\na-b ::= "x" ( "y"\n  | "z" # inside\n )\n',
            ["xy", "xz"],
            ["x"],
        ),
        ('root ::= "a" |\n  "b"\n  | "c"', ["a", "b", "c"], ["d"]),
        ('root ::= "(" root ")" | "x"', ["x", "((x))"], ["(x", "x)", "()"]),
        ('root ::= "a" root "b" | ""', ["", "aabb"], ["aab", "abb", "ba"]),
        ('root ::= x y\nx ::= "a"*\ny ::= "a" "b"', ["ab", "aaab"], ["b", "aa"]),
        ('root ::= ("a"?)* "b"', ["b", "aaab"], ["a"]),
        ('root ::= (x*)* "b"\nx ::= "" | "a"', ["b", "aaab"], ["a"]),
        ('root ::= (("a" | "")+ | "")* "."', [".", "aa."], ["a"]),
        ('root ::= [ab]* "a" [ab]{10}', ["a" * 11, "ba" + "b" * 10], ["b" * 11, "a" * 10]),
        ('root ::= S\nS ::= "a" S | "a" S "b" | "c"', ["c", "aac", "aacb", "aacbb"], ["acbb"]),
        ("root ::= [\\x00-\\x1f]", ["\x00", "\x1f"], [" "]),
    ],
)
def test_a_grammar_takes_its_texts_and_no_others(opened, accepts, grammar, good, bad):
    constraint = opened(grammar)
    assert [text for text in good if not accepts(constraint, text)] == []
    assert [text for text in bad if accepts(constraint, text)] == []


def test_the_grammar_of_the_guide_runs_verbatim(opened, accepts):
    constraint = opened(SEED)
    empty = '{ "intent":\n"book a table", "confidence":\t0.85, "entities": [  ] }'
    two = empty.replace(
        "[  ]", '[ { "name": "bob", "type": "x_1" }, { "name": "b", "type": "q" } ]'
    )
    assert accepts(constraint, empty)
    assert accepts(constraint, empty.replace("[  ]", "[ \n]"))
    # (entity ("," ws entity))? is two entities or none, as it was written.
    assert accepts(constraint, two.replace("[ {", "[ {").replace("} ]", "} ]"))
    assert not accepts(constraint, empty.replace("0.85", "1.0"))
    assert not accepts(constraint, empty.replace("intent", "conf"))


def test_llama_cpps_own_grammars_parse(opened, accepts):
    chess = opened(CHESS)
    assert accepts(chess, "1. e4 e5\n2. Nf3 Nc6\n3. O-O-O exd8=Q+\n")
    assert not accepts(chess, "1. e4 e9\n2. Nf3 Nc6\n")
    json = opened(JSON)
    assert accepts(json, '{"a": [1, -2.5e+1, {"b": "xé\\n\\u00e9"}], "c": null}')
    assert not accepts(json, '{"a": [1,]}')
    assert not accepts(json, "[]")


@pytest.mark.parametrize(
    ("grammar", "construct", "pointer"),
    [
        ('root ::= root "a" | "b"', "rule root", ""),
        ('root ::= a\na ::= b "x"\nb ::= c? a | "y"\nc ::= "z"', "rule a", ""),
        ('root ::= "a"* root "b" | "c"', "rule root", ""),
        ("root ::= missing", "rule missing", "line 1"),
        ('root ::= "a"\nroot ::= "b"', "rule root", "line 2"),
        ('a ::= "a"', "root", ""),
        ("", "root", ""),
        ('root ::= "a', "literal", "line 1"),
        ('root ::= "x"\nb ::= [a', "class", "line 2"),
        ("root ::= [z-a]", "class", "line 1"),
        ('root ::= ("a"', "group", "line 1"),
        ('root ::= "a")', "rule root", "line 1"),
        ("root ::= *", "*", "line 1"),
        ('root ::= "a"{2,1}', "{2,1}", "line 1"),
        ('root ::= "a"{}', "{", "line 1"),
        ('root ::= "a"{99999}', "{99999}", "line 1"),
        ('root ::= "\\q"', "\\q", "line 1"),
        ('root ::= "\\x4"', "\\x", "line 1"),
        ('root ::= "\\ud800"', "\\ud800", "line 1"),
        ("root ::= <[1000]>", "token", "line 1"),
        ("root ::= !<think>", "token", "line 1"),
        ('root = "a"', "rule root", "line 1"),
        ('root ::= "x" root', "root", ""),
        ("root ::= []", "root", ""),
        ("root ::= " + "(" * 200 + '"a"' + ")" * 200, "group", "line 1"),
        ("root ::= ((([a]{1000}){1000}){1000}){1000}", "grammar", ""),
        ('root ::= (((""{9999}){9999}){9999}){9999}', "grammar", ""),
        ("#" * 300_000, "grammar", ""),
        ('root ::= "a"' * 1_000_000, "grammar", ""),
    ],
)
def test_what_is_no_grammar_is_refused_by_name(opened, grammar, construct, pointer):
    with pytest.raises(NotEnforceable) as refused:
        opened(grammar)
    assert (refused.value.construct, refused.value.pointer) == (construct, pointer)
    assert refused.value.code == "not_enforceable"


def test_left_recursion_shows_its_circle(opened):
    with pytest.raises(NotEnforceable, match="left recursion \\(a → b → a\\)"):
        opened('root ::= a\na ::= b "x"\nb ::= "" a | "y"')


def test_a_grammar_that_matches_everything_is_one(opened, accepts):
    constraint = opened("root ::= .*")
    assert constraint.may_end
    assert accepts(constraint, "any thing\n日本 😀")
    assert not accepts(constraint, b"\xff")


def test_a_circle_of_many_rules_is_found_at_once():
    rules = "\n".join(f"r{n} ::= r{n + 1} | r{n + 1} r{n + 1}" for n in range(5000))
    grammar = gbnf.parse(f"root ::= r0\n{rules}\nr5000 ::= r0")
    from monolite.inference.grammar.machine import Machine

    with pytest.raises(NotEnforceable, match="left recursion"):
        Machine(grammar)
