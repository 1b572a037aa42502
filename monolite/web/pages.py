"""The shape of every list."""

from __future__ import annotations

from typing import Annotated, Generic, TypeVar

import msgspec

T = TypeVar("T")

LIMIT_MAX = 1000


class PageQuery(msgspec.Struct):
    """`?limit=&cursor=`."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=LIMIT_MAX)] = 50
    cursor: Annotated[str, msgspec.Meta(max_length=4096)] | None = None


class Page(msgspec.Struct, Generic[T]):
    """One page; `next_cursor` is null on the last."""

    data: list[T]
    next_cursor: str | None
