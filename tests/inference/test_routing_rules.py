"""The rules of routing: the decision, the breaker, and budgets against a model."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from monolite.inference.routing.breaker import Breaker
from monolite.inference.routing.decision import Facts, decide, table
from monolite.inference.routing.policy import CloudPolicy, Policy, why_private

WORDS = st.sampled_from(["x", "y"])
FACTS = st.builds(
    Facts,
    has_provider=st.booleans(),
    private=st.none() | WORDS,
    has_scope=st.booleans(),
    policy_allows=st.booleans(),
    tier=st.sampled_from(["basic", "standard", "advanced"]),
    local_tier=st.sampled_from(["basic", "standard", "advanced", None]),
    tokens=st.integers(0, 2000),
    local_max_tokens=st.integers(0, 1000),
    needs_local=st.none() | WORDS,
    needs_cloud=st.none() | WORDS,
    tokens_left=st.integers(0, 2000),
    tokens_reserved=st.integers(0, 2000),
    is_healthy=st.booleans(),
    headroom=st.floats(0, 1),
    is_queue_full=st.booleans(),
    may_overflow=st.booleans(),
    refuses_beyond_local=st.booleans(),
    cloud_context_tokens=st.integers(100, 2000),
)
PRIVACY = st.none() | st.sampled_from(["private", "public", "health", "help", "gone"])


@given(FACTS)
def test_nothing_goes_that_may_not(facts: Facts) -> None:
    if decide(facts).where != "cloud":
        return
    assert facts.private is None
    assert (facts.has_provider, facts.has_scope, facts.policy_allows) == (True, True, True)
    assert facts.is_healthy
    assert facts.tokens_reserved <= facts.tokens_left
    assert facts.needs_local is None
    # And nothing stops it from going when all that holds and it is wanted.
    assert decide(replace(facts, private="private")).where in ("local", "refused")


@given(FACTS)
def test_only_a_policy_refuses(facts: Facts) -> None:
    if decide(facts).where == "refused":
        assert facts.refuses_beyond_local
        assert decide(replace(facts, refuses_beyond_local=False)).where == "local"


@given(PRIVACY, st.none() | st.sampled_from(["private", "public", "health", "help"]), st.booleans())
def test_a_request_never_loosens_its_key_or_its_tenant(
    of_key: str | None, asked: str | None, tenant_is_private: bool
) -> None:
    cloud = CloudPolicy(
        privacy="private" if tenant_is_private else None,
        classes={"health": "private", "help": "public"},
    )
    found = why_private(Policy(cloud=cloud), of_key, asked)
    said_private = {"private", "health", "gone"} & {of_key, asked}
    said_public = {"public", "help"} & {of_key, asked}
    may_leave = not tenant_is_private and not said_private and bool(said_public)
    assert (found is None) == may_leave


def test_the_documented_table_is_what_the_function_does() -> None:
    page = Path(__file__).parents[2] / "docs" / "routing.md"
    assert table() in page.read_text()


def test_the_breaker_opens_probes_and_closes() -> None:
    breaker = Breaker()
    for _ in range(2):
        breaker.failed(0, is_certain=False)
    assert breaker.state(0) == "closed"
    breaker.failed(0, is_certain=False)
    assert (breaker.state(1), breaker.may_call(1)) == ("open", False)
    assert breaker.begin(15, probe_s=2)
    assert breaker.state(15) == "half_open"
    assert not breaker.begin(16, probe_s=2)
    assert breaker.begin(17.5, probe_s=2)
    breaker.failed(18, is_certain=True)
    assert not breaker.may_call(18 + 29)
    assert breaker.may_call(18 + 31)
    breaker.succeeded()
    assert breaker.state(0) == "closed"
    breaker.failed(0, is_certain=False, retry_after_s=100)
    assert (breaker.may_call(99), breaker.may_call(101)) == (False, True)
