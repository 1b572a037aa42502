"""The columns of calls, in both databases."""

from __future__ import annotations

from monolite.inference.routing.budget import CloudCall

TENANT_TABLES = ("ai_calls", "ai_days", "ai_policies")

COLUMNS = CloudCall.__struct_fields__
"""The table's columns have the fields' names and order."""
