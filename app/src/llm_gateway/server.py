"""The replica of a model: ray.serve.llm's server, with what the platform adds."""

from __future__ import annotations

from ray.serve.llm import LLMServer

from llm_gateway._ray_private import add_model_names


class ModelServer(LLMServer):  # type: ignore[misc]  # Ray ships no types for it
    """ray.serve.llm's server, answering to the model's aliases too."""

    async def start(self) -> None:
        """Start the engine, then make its aliases known.

        Raises:
            Exception: whatever the engine raises when it can't start; Serve puts it into the deployment's message.
        """
        await super().start()
        add_model_names(self.engine, self._llm_config.experimental_configs.get("aliases", ()))
