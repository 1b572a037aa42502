"""The rules of keys, limits and names, with a clock of the tests' own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolite.clock import Identifiers
from monolite.errors import RateLimited, Unauthenticated
from monolite.tenancy import credentials
from monolite.tenancy.principal import covers
from monolite.tenancy.quotas import RateWindow, tightest
from monolite.tenancy.secret import RootSecret
from monolite.tenancy.tokens import TokenSigner


class FakeClock:
    def __init__(self, now_ms: int = 1_795_000_000_000) -> None:
        self.ms = now_ms

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000


@given(st.lists(st.integers(min_value=-5000, max_value=5000), min_size=2, max_size=200))
def test_ids_grow_whatever_the_clock_does(steps: list[int]) -> None:
    clock = FakeClock()
    identifiers = Identifiers(clock)
    made = []
    for step in steps:
        clock.ms += step
        made.append(identifiers.new())
    assert made == sorted(set(made))
    assert all(len(one) == 36 and one[14] == "7" and one[19] in "89ab" for one in made)


def test_more_ids_than_a_millisecond_counts_still_grow() -> None:
    identifiers = Identifiers(FakeClock())
    made = [identifiers.new() for _ in range(10_000)]
    assert made == sorted(set(made))


def test_a_key_with_one_character_changed_fails_its_checksum() -> None:
    key_id, text = credentials.new_key()
    assert credentials.key_id_of(text) == key_id
    for index in range(len(text)):
        other = "x" if text[index] != "x" else "y"
        assert credentials.key_id_of(text[:index] + other + text[index + 1 :]) is None


@given(st.text(max_size=80))
def test_no_text_makes_the_parser_fail(text: str) -> None:
    assert credentials.key_id_of(text) is None


def test_a_key_is_stored_as_a_digest_that_needs_the_pepper() -> None:
    _, text = credentials.new_key()
    assert credentials.digest(b"one", text) != credentials.digest(b"two", text)
    assert text.encode() not in credentials.digest(b"one", text)


@pytest.mark.parametrize(
    ("resource", "path", "inside"),
    [
        (("sync", "doc-7"), "/v1/sync/doc-7", True),
        (("sync", "doc-7"), "/v1/sync/doc-7/states/phone", True),
        (("sync", "doc-7"), "/v1/sync/doc-70", False),
        (("sync", "doc-7"), "/v1/sync/doc-70/states/phone", False),
        (("sync", "doc-7", "states", "phone"), "/v1/sync/doc-7/states/phone", True),
        (("sync", "doc-7", "states", "phone"), "/v1/sync/doc-7/states/phone2", False),
        (("sync", "doc-7", "states", "phone"), "/v1/sync/doc-7", False),
        (("sync",), "/v1/sync/any", True),
        (("sync",), "/v1/syncs/any", False),
    ],
)
def test_resources_cover_whole_segments(resource: tuple[str, ...], path: str, inside: bool) -> None:
    assert covers(resource, path) is inside


def test_a_window_counts_down_refuses_and_opens_again() -> None:
    window = RateWindow(2)
    window.take(100.0)
    window.take(100.5)
    with pytest.raises(RateLimited) as refused:
        window.take(130.0)
    assert refused.value.retry_after_s == 30.0
    assert window.header(130.0) == b'"key";r=0;t=30'
    window.take(160.0)
    assert window.header(160.0) == b'"key";r=1;t=60'


def test_the_tightest_limit_holds() -> None:
    assert tightest(None, 600, 60) == 60
    assert tightest(100, None, None) == 100
    assert tightest(None, None) is None


def signer(clock: FakeClock, secret: RootSecret) -> TokenSigner:
    return TokenSigner(secret, clock, Identifiers(clock))


def minted(one: TokenSigner, clock: FakeClock, ttl_s: int) -> str:
    return one.mint(
        tenant_id=1,
        key_id="k",
        scopes=frozenset({"documents:read"}),
        subject=None,
        resource=None,
        expires_at_s=clock.ms // 1000 + ttl_s,
    )


def test_signing_keys_rotate_and_yesterdays_tokens_stay_good() -> None:
    period_ms = 30 * 24 * 3600 * 1000
    clock = FakeClock(700 * period_ms - 1000)
    one = signer(clock, RootSecret.new())
    token = minted(one, clock, 3600)
    clock.ms += 2000
    later = minted(one, clock, 3600)
    import jwt

    kids = [jwt.get_unverified_header(t)["kid"] for t in (token, later)]
    assert kids == ["699", "700"]
    assert one.verify(token).key == "k"
    clock.ms += 3600 * 1000
    with pytest.raises(Unauthenticated):
        one.verify(token)


def test_a_token_of_another_installation_is_refused() -> None:
    clock = FakeClock()
    token = minted(signer(clock, RootSecret.new()), clock, 60)
    with pytest.raises(Unauthenticated):
        signer(clock, RootSecret.new()).verify(token)


def test_a_secret_survives_its_text_and_never_its_repr() -> None:
    secret = RootSecret.new()
    assert RootSecret.parse(secret.text() + "\n").fingerprint() == secret.fingerprint()
    assert secret.text() not in repr(secret)
    for text in ("", "mrs_", "mrs_00", "abc", "mrs_" + "g" * 64):
        with pytest.raises(ValueError, match="root secret"):
            RootSecret.parse(text)
