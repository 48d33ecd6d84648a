"""Every private name of Ray and vLLM that we touch, in one place.

Read from ray 2.60.0 (``ray/llm/_internal/serve/engines/vllm/vllm_engine.py``,
``ray/llm/_internal/serve/core/server/llm_server.py``) and vllm 0.29.0 (``vllm/entrypoints/openai/models/``,
``vllm/entrypoints/openai/chat_completion/serving.py``, ``vllm/v1/engine/output_processor.py``).
``tests/infra`` asks a served model by its aliases, and ``tests/contract`` and the tests that kill an engine see the
rest: they fail when these change. ``server.py`` overrides ``LLMServer.__serve_build_asgi_app__``, Serve's own hook.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm_gateway._errors import ApiError
from llm_gateway._usage import Tokens, current

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastapi import FastAPI


_ROLES = ("developer", "system", "user", "assistant", "tool", "function")


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
    if not names:
        return
    from vllm.entrypoints.openai.models.protocol import BaseModelPath

    paths = engine._oai_models.base_model_paths
    known = {path.name for path in paths}
    paths.extend(BaseModelPath(name=name, model_path=paths[0].model_path) for name in names if name not in known)


def add_check_of_roles(app: FastAPI, engine: Any) -> None:
    """Refuse a chat with a role that the model doesn't know; vLLM would make it part of the prompt.

    Known are OpenAI's, and those that the model's chat template names.

    Args:
        app: vLLM's application.
        engine: the ``VLLMEngine`` of a started ``LLMServer``.
    """
    chat = getattr(app.state, "openai_serving_chat", None)
    if chat is None:
        return
    template = str(chat.chat_template or getattr(engine._engine_client.tokenizer, "chat_template", ""))
    create = chat.create_chat_completion

    async def create_checked(request: Any, *rest: Any, **more: Any) -> Any:
        for index, message in enumerate(request.messages):
            role = message["role"] if isinstance(message, dict) else message.role
            if role not in _ROLES and f"'{role}'" not in template and f'"{role}"' not in template:
                param = f"messages[{index}].role"
                raise ApiError(400, f"`{param}` must be one of {', '.join(_ROLES)}.", None, param)
        return await create(request, *rest, **more)

    chat.create_chat_completion = create_checked


class _RequestWork:
    """What vLLM's frontend keeps of one prompt and answer; its metrics are made of the same numbers."""

    def __init__(self, processor: Any, state: Any) -> None:
        self._processor = processor
        self._state = state

    def tokens(self) -> Tokens:
        state = self._state
        if state.is_prefilling:
            return Tokens(0, 0, 0)
        made = state.stats.num_generation_tokens if state.stats else len(state.detokenizer.output_token_ids)
        return Tokens(state.prompt_len, state.num_cached_tokens, made)

    def is_over(self) -> bool:
        return self._processor.request_states.get(self._state.request_id) is not self._state


def add_usage(engine: Any) -> None:
    """Let each request of the API know what the engine counts for it, also where its client leaves early.

    A response tells only of what was sent to its end, so the frontend's own states are kept hold of: whoever asks the
    engine to work in the context of a request gets them.

    Args:
        engine: the ``VLLMEngine`` of a started ``LLMServer``.

    Raises:
        AttributeError: this version of Ray or vLLM keeps its states elsewhere.
    """
    processor = engine._engine_client.output_processor
    add_request = processor.add_request

    def add_known_request(request: Any, *rest: Any, **more: Any) -> None:
        add_request(request, *rest, **more)
        usage = current()
        if usage is not None:
            usage.add(_RequestWork(processor, processor.request_states[request.request_id]))

    processor.add_request = add_known_request


def engine_is_dead(engine: Any) -> bool:
    """Whether an engine has failed for good; its own health check says the same, but only when it is awaited.

    Args:
        engine: the ``VLLMEngine`` of a started ``LLMServer``.
    """
    return bool(getattr(getattr(engine, "_engine_client", None), "errored", False))


def add_middleware(app: FastAPI, kind: type, **options: object) -> None:
    """Add a middleware to vLLM's application, which has built its stack already.

    Args:
        app: the application; its stack is built again at the next request.
        kind: an ASGI middleware class.
        options: its arguments, without the application.
    """
    app.middleware_stack = None
    app.add_middleware(kind, **options)  # type: ignore[arg-type]
