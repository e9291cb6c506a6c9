"""Text that people and spreadsheets wrote, as it comes."""

from __future__ import annotations

import codecs

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def decoded(content: bytes) -> str:
    """The text without its byte-order mark, which says whether it is UTF-16.

    Bytes that are no UTF-8 become what Python makes of them in names of files, so that they name these.
    """
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    return content.decode(encoding, "replace" if encoding == "utf-16" else "surrogateescape")
