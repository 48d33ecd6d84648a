"""Every private name of Ray and vLLM that we touch, in one place.

Read from ray 2.60.0 (``ray/llm/_internal/serve/engines/vllm/vllm_engine.py``) and vllm 0.29.0
(``vllm/entrypoints/openai/models/``). ``tests/infra`` asks a served model by its aliases, which fails when they change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


def add_model_names(engine: Any, names: Iterable[str]) -> None:
    """Let a started engine answer to more names than its model id.

    ray.serve.llm passes exactly one ``served_model_name`` and refuses the argument in ``engine_kwargs``, so the names
    are added to vLLM's registry of base models, which its handlers read on every request.

    Args:
        engine: the ``VLLMEngine`` of a started ``LLMServer``.
        names: the names to add.

    Raises:
        AttributeError: this version of Ray or vLLM keeps its registry elsewhere.
    """
    from vllm.entrypoints.openai.models.protocol import BaseModelPath

    paths = engine._oai_models.base_model_paths
    known = {path.name for path in paths}
    paths.extend(BaseModelPath(name=name, model_path=paths[0].model_path) for name in names if name not in known)
