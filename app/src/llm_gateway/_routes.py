"""The paths of the API, all of them: what is not here does not exist for a client.

``nginx_proxy`` has the same list (``__nginx_proxy_model_paths``); a contract test holds the two together. Source:
the routers of vllm 0.29.0 (``vllm/entrypoints``), less what steers an engine or exists for tests.
"""

from __future__ import annotations

# Each takes a JSON object by POST, and its `model` decides where it goes.
JSON_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/embeddings",
    "/v1/score",
    "/v1/rerank",
    "/v2/rerank",
    "/score",
    "/rerank",
    "/classify",
    "/pooling",
    "/tokenize",
    "/detokenize",
)
# The same as a form with a file in it.
FORM_PATHS = ("/v1/audio/transcriptions", "/v1/audio/translations")
MODEL_PATHS = JSON_PATHS + FORM_PATHS
