"""A request's way to the model that answers it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from monolite.errors import FieldError, Invalid
from monolite.inference.chat import Ask, Chat, Read
from monolite.inference.routing import messages as said
from monolite.inference.routing.decision import TIERS, Facts, Route, Tier, decide
from monolite.inference.routing.ledger import Asker, Ledger
from monolite.inference.routing.policy import PRIVATE, PUBLIC, Policy, why_private
from monolite.models.registry import DEFAULT, NoSuchModel

if TYPE_CHECKING:
    from monolite.inference.request import Answering
    from monolite.inference.routing.answering import CloudAnswers
    from monolite.models.decoder import Vocabulary

LOCAL = "local"
BEYOND = "beyond_local"
MUCH_LEFT = 1 << 62


class RoutedWish(NamedTuple):
    """What is asked; messages, tools and their choice in OpenAI's shape. `needs_local` names what
    of it only the local model does.
    """

    model: str
    messages: Sequence[dict[str, Any]]
    ask: Ask
    privacy: str | None = None
    tier: Tier | None = None
    tools: Sequence[dict[str, Any]] = ()
    tool_choice: str | dict[str, Any] | None = None
    needs_local: str | None = None
    is_streamed: bool = False


class Answers(NamedTuple):
    """A choice each, and who makes them, why. `vocabulary` is the local model's."""

    model: str
    choices: Sequence[Answering]
    vocabulary: Vocabulary | None
    provider: str
    reason: str


class Router:
    """Everything a chat goes through. `cloud` is None where no provider is configured."""

    def __init__(
        self,
        chat: Chat,
        ledger: Ledger,
        cloud: CloudAnswers | None,
        headroom: Callable[[], float],
    ) -> None:
        self.ledger = ledger
        self.cloud = cloud
        self.routed: Counter[tuple[str, str]] = Counter()
        self._chat = chat
        self._headroom = headroom

    async def chat(self, asker: Asker, wish: RoutedWish) -> Answers:
        """Begin the answers to messages.

        Raises:
            NoSuchModel: the model is not installed.
            BadModelFile: it can't be used.
            Invalid: the messages can't be read, or `beyond_local` and the tenant's policy.
        """
        said.require_readable(wish.messages)
        policy = await self._policy(asker, wish)
        private = why_private(policy, asker.privacy, wish.privacy)
        read = await self._read(wish, may_be_missing=self.cloud is not None and private is None)
        route = decide(await self._facts(asker, wish, policy, private, read))
        if route.where == "refused":
            why = (
                "it is more than the model on this machine is for, and may not leave it"
                f" ({route.reason}): the tenant's policy has beyond_local refuse"
            )
            raise Invalid(f"The request is refused: {why}.", [FieldError("#", why)], code=BEYOND)
        if route.where == "cloud":
            answers = await self._from_cloud(asker, wish, policy, read, route.reason)
            if isinstance(answers, Answers):
                return answers
            route = Route("local", answers)
        said.require_text(wish.messages, route.reason)
        _require_no_call(wish, route.reason)
        if read is None:
            read = await self._chat.read(wish.model, [said.plain(one) for one in wish.messages])
        model, choices, vocabulary = await self._chat.answer(asker.tenant_id, read, wish.ask)
        self.routed[LOCAL, route.reason] += 1
        return Answers(model, choices, vocabulary, LOCAL, route.reason)

    async def _policy(self, asker: Asker, wish: RoutedWish) -> Policy:
        if self.cloud is None and wish.privacy in (None, PRIVATE, PUBLIC):
            return Policy()  # nothing can leave, whatever it says
        return await self.ledger.policy(asker.tenant_id)

    async def _read(self, wish: RoutedWish, *, may_be_missing: bool) -> Read | None:
        plain = [said.plain(one) for one in wish.messages]
        try:
            return await self._chat.read(self._local_name(wish), plain)
        except NoSuchModel:
            if may_be_missing and wish.model == DEFAULT:
                return None
            raise

    def _local_name(self, wish: RoutedWish) -> str:
        """An unmodified client may ask for the cloud's model by its name."""
        named = self.cloud is not None and wish.model == self.cloud.model
        return DEFAULT if named else wish.model

    async def _facts(
        self, asker: Asker, wish: RoutedWish, policy: Policy, private: str | None, read: Read | None
    ) -> Facts:
        cloud = self.cloud
        tier = self._tier(asker, wish)
        counted = None if read is None else len(read.tokens)
        tokens = counted or 0
        facts: dict[str, Any] = {}
        if cloud is not None and private is None:
            balance = await self.ledger.balance(asker.tenant_id, policy)
            left = balance.left(self.ledger.limits(policy))
            facts = {
                "tokens_left": MUCH_LEFT if left is None else left,
                "tokens_reserved": cloud.reserved(wish, counted),
                "is_healthy": cloud.cloud.is_healthy,
                "cloud_context_tokens": cloud.cloud.model.context_tokens,
            }
            if counted is None:
                tokens = cloud.prompt_tokens(wish, None)
        return Facts(
            has_provider=cloud is not None,
            private=private,
            has_scope=asker.has_cloud_scope,
            policy_allows=policy.cloud.allowed,
            tier=tier,
            local_tier=None if read is None else self._chat.models.tier(read.model),
            tokens=tokens + (wish.ask.tokens_max or 0),
            local_max_tokens=policy.local_max_tokens,
            needs_local=wish.needs_local,
            needs_cloud=_needs_cloud(wish),
            headroom=self._headroom() if policy.cloud.overflow else 1.0,
            is_queue_full=read is not None and read.is_queue_full,
            may_overflow=policy.cloud.overflow,
            refuses_beyond_local=policy.cloud.beyond_local == "refuse",
            **facts,
        )

    def _tier(self, asker: Asker, wish: RoutedWish) -> Tier:
        if wish.tier is not None:
            return wish.tier
        if self.cloud is not None and wish.model == self.cloud.model:
            return self.cloud.cloud.model.tier
        return next((one for one in TIERS if one == asker.tier), "basic")

    async def _from_cloud(
        self, asker: Asker, wish: RoutedWish, policy: Policy, read: Read | None, reason: str
    ) -> Answers | str:
        """The cloud's answers; or the word for why there are none."""
        assert self.cloud is not None  # the route leads there
        counted = None if read is None else len(read.tokens)
        choices = await self.cloud.begin(
            asker, policy, wish, tier=self._tier(asker, wish), reason=reason, counted=counted
        )
        if isinstance(choices, str):
            return choices
        provider = self.cloud.cloud.model.provider
        self.routed[provider, reason] += 1
        return Answers(self.cloud.model, choices, None, provider, reason)


def _needs_cloud(wish: RoutedWish) -> str | None:
    """What of a wish the local model does not do."""
    if said.has_image(wish.messages):
        return "image"
    return "tools" if wish.tools and wish.tool_choice != "none" else None


def _require_no_call(wish: RoutedWish, reason: str) -> None:
    """Raise Invalid where a tool has to be called, which the local model can't."""
    if wish.tools and (wish.tool_choice == "required" or isinstance(wish.tool_choice, dict)):
        why = f"the model on this machine calls no tools, and the request stays here ({reason})"
        raise Invalid(f"tool_choice: {why}.", [FieldError("#/tool_choice", why)])
