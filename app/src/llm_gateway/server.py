"""The replica of a model: ray.serve.llm's server, with what the platform adds."""

from __future__ import annotations

from ray.serve.llm import LLMServer
from ray.serve.llm.openai_api_models import CompletionRequest

from llm_gateway._ray_private import add_model_names


class ModelServer(LLMServer):  # type: ignore[misc]  # Ray ships no types for it
    """ray.serve.llm's server, answering to the model's aliases too, and ready only when a token came out."""

    async def start(self) -> None:
        """Start the engine, make its aliases known, and have it generate once.

        An engine compiles kernels at its first request: for half a minute, or never, where a compiler is missing. So
        the first request is ours, and a replica that can't answer never counts as running.

        Raises:
            Exception: whatever the engine raises when it can't start; Serve puts it into the deployment's message.
        """
        await super().start()
        add_model_names(self.engine, self._llm_config.experimental_configs.get("aliases", ()))
        request = CompletionRequest(model=self._llm_config.model_id, prompt="Hello", max_tokens=2)
        # A model that embeds or transcribes answers with an error, and is none the worse for it.
        async for _ in await self.completions(request):
            pass
        await self.check_health()
