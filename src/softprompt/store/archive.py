"""Zip archives that others wrote, read in memory: few members, each as large as it says, none ever unpacked to disk."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import PurePosixPath
from struct import error as StructError

from softprompt.prompts.header import MAX_FILE, refused

SIGNATURE = b"PK\x03\x04"
"""The first bytes of an archive."""

_MAX_MEMBERS = 64
_ENCRYPTED = 1
_PACKINGS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflate", zipfile.ZIP_LZMA: "lzma"}
# What reading a damaged archive raises, `BadZipFile` first; whatever is raised, the archive is damaged.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, StructError, EOFError, OSError, RuntimeError, ValueError, KeyError,
    ArithmeticError, MemoryError,
)  # fmt: skip


class Archive:
    """The members of an archive, their names, sizes and packing checked before one is read.

    Args:
        data: the archive's bytes.
        name: what to call it in an error.
        packings: how members may be packed: of `stored`, `deflate` and `lzma`.

    Raises:
        PromptFileError: no archive, too many members, a name twice or one that leads elsewhere, encryption, another
            packing, or more bytes than a prompt may have.
    """

    def __init__(self, data: bytes, name: str, packings: Collection[str] = ("stored",)) -> None:
        self._name = name
        with self._reading():
            if not data.startswith(SIGNATURE):
                raise ValueError("it does not begin as one")
            self._zip = zipfile.ZipFile(BytesIO(data))
        self._members = {member.filename: member for member in self._zip.infolist()}
        self._check(packings)

    @property
    def names(self) -> list[str]:
        """The members' names, in the archive's order."""
        return list(self._members)

    def read(self, member: str, limit: int = MAX_FILE) -> bytes:
        """Return the bytes of a member, its checksum compared.

        Raises:
            PromptFileError: no such member, more than `limit` bytes, or damage.
        """
        if member not in self._members:
            raise refused(self._name, f"the archive has no `{member}`; it has {self._listed()}")
        size = self._members[member].file_size
        if size > limit:
            raise refused(self._name, f"`{member}` has {size:,} bytes of at most {limit:,}")
        with self._reading(), self._zip.open(member) as stream:
            data = stream.read(size + 1)
            if len(data) != size:
                raise ValueError(f"`{member}` has other than the {size:,} bytes it claims")
        return data

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            told = str(error) or type(error).__name__
            raise refused(self._name, f"it is a damaged zip archive ({told}); save or fetch it again") from error

    def _check(self, packings: Collection[str]) -> None:
        members = self._zip.infolist()
        if len(members) > _MAX_MEMBERS:
            raise refused(self._name, f"the archive has {len(members)} members, and a prompt at most {_MAX_MEMBERS}")
        if min((member.header_offset for member in members), default=0) != 0:
            raise refused(self._name, "the archive stands behind other bytes; save it again")
        if len(self._members) != len(members):
            raise refused(self._name, "the archive has two members of one name; save it again")
        for member in members:
            path = PurePosixPath(member.filename)
            if path.is_absolute() or ".." in path.parts or "\\" in member.filename or ":" in member.filename:
                raise refused(self._name, f"the archive's member `{member.filename}` leads out of it; do not trust it")
            if member.flag_bits & _ENCRYPTED:
                raise refused(self._name, f"the archive's member `{member.filename}` is encrypted; save it without")
            if _PACKINGS.get(member.compress_type) not in packings:
                how = _PACKINGS.get(member.compress_type, f"method {member.compress_type}")
                raise refused(
                    self._name,
                    f"the archive's member `{member.filename}` is packed by {how}, not {', '.join(packings)}",
                )
        total = sum(member.file_size for member in members)
        if total > MAX_FILE:
            raise refused(self._name, f"the archive unpacks to {total:,} bytes, and a prompt has at most {MAX_FILE:,}")

    def _listed(self) -> str:
        return ", ".join(f"`{name}`" for name in self.names[:5]) or "nothing"
