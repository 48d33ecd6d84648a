"""A small Qwen2-architecture model with random weights, made in seconds and without PyTorch.

It runs through the real loading and serving code, so that a service can be shown and tested on a machine without a GPU.
What it says is a random sequence of words from `words.txt`: it has learned nothing.
"""

from __future__ import annotations

from ._model import make_model

__all__ = ["make_model"]
