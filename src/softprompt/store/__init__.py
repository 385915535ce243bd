"""Versioned names over immutable, content-addressed prompt files, in one folder.

- `objects/ab/cdef...`: the files, each named by the sha256 of its bytes.
- `names/NAME/versions/000001`: one line, the digest of that version, or `removed`.
- `names/NAME/tags/TAG`: one line, the version it stands on.
- `evaluations/DIGEST/NAME.json`: evaluations made after training.
- `index.sqlite`: a table for listing, which may be deleted at any time; `lock`: what writers hold.
"""
