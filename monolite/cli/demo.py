"""`serve --demo`: a tenant to try, and a line to paste."""

from __future__ import annotations

from monolite.assembly import Installation
from monolite.errors import Conflict
from monolite.storage.data_directory import write_private

_NAME = "demo"


async def show_demo(installation: Installation, url: str) -> None:
    """Print a curl line that creates a document and reads it back."""
    file = installation.directory.path / "demo.key"
    if not file.exists():
        try:
            _, key = await installation.tenancy.create_tenant(_NAME)
        except Conflict:
            print("The tenant demo exists and its key is not here; make one with key create.")
            return
        write_private(file, key.encode() + b"\n")
    key = file.read_text().strip()
    document = f"{url}/v1/collections/notes/documents/hello"
    bearer = f"-H 'Authorization: Bearer {key}'"
    print(
        "\nThis creates a document and reads it back:\n\n"
        f"  curl -sX PUT {document} {bearer} -H 'Content-Type: application/json'"
        f' -d \'{{"title":"Hello"}}\' && curl -s {document} {bearer}\n\n'
        f"All operations: {url}/openapi.json. The operator's key: "
        f"{installation.directory.operator_key}",
        flush=True,
    )
