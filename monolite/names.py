"""What a resource may be called."""

from __future__ import annotations

import re

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
is_name = re.compile(NAME_PATTERN).fullmatch
