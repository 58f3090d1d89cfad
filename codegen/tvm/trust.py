"""Machine code runs as the user: only what this user built is loaded, unless the user says otherwise.

``build`` signs each library with a key that lies in the user's cache and goes nowhere; ``load`` wants the
signature. Hashes in an artifact would not do: whoever changes the code changes the hash with it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Final

from platformdirs import user_cache_path

from adapass.cache import FOLDER_VARIABLE
from adapass.codegen.files import own_file
from adapass.codegen.tvm.plan import Library
from adapass.errors import ArtifactError, UsageError

ALLOW: Final = "ADAPASS_ALLOW_CODE"
MAX_LIBRARY_BYTES: Final = 4 << 30
_KEY_FILE: Final = "tvm-build-key"
_KEY_BYTES: Final = 32


def digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def sign(sha256: str) -> str:
    """Raises ``UsageError`` where the key cannot be kept."""
    return hmac.new(_key(), sha256.encode("ascii"), hashlib.sha256).hexdigest()


def require_trusted(file: Path, library: Library) -> None:
    """Check a library before it is opened.

    Raises:
        ArtifactError: it is missing, a link, damaged, or was built by someone else.

    """
    size = own_file(file).stat().st_size
    if size != library.size_bytes or size > MAX_LIBRARY_BYTES:
        raise ArtifactError(f"{file} has {size} bytes, expected {library.size_bytes}; build it again")
    if digest(file) != library.sha256:
        raise ArtifactError(f"{file} is damaged: its hash is another one than its plan says; build it again")
    if os.environ.get(ALLOW) == "1":
        return
    if not hmac.compare_digest(library.signature, sign(library.sha256)):
        raise ArtifactError(
            f"{file} is machine code that was not built by this user here; build it again from its model, or"
            f" set {ALLOW}=1 if you trust who built it"
        )


def _key() -> bytes:
    given = os.environ.get(FOLDER_VARIABLE)
    folder = Path(given) if given else user_cache_path("adapass")
    file = folder / _KEY_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            _create(file)
        key = file.read_bytes()
    except OSError as error:
        raise UsageError(f"the key for built machine code cannot be kept in {folder}: {error}") from error
    if len(key) != _KEY_BYTES:
        raise UsageError(f"{file} has {len(key)} bytes, expected {_KEY_BYTES}; delete it and build again")
    return key


def _create(file: Path) -> None:
    """Written beside its place and linked, so that of two processes one wins and both read the same."""
    scrap = file.with_name(f"{_KEY_FILE}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(scrap, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
        opened.write(secrets.token_bytes(_KEY_BYTES))
    try:
        os.link(scrap, file)
    except FileExistsError:
        pass
    finally:
        scrap.unlink()
