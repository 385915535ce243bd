"""The alphabet of tensor shapes, used in annotations, docstrings and comments.

B batch, T tokens, P virtual tokens, S slots of a shared prefix, D hidden, L layers, H key-value heads,
K head size, V vocabulary, C choices, N prompts.

Annotations are jaxtyping's; they cost nothing at run time and are checked while the tests run.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int

__all__ = ["Bool", "Float", "Int"]
