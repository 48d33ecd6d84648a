"""What pydantic and vLLM's validators refuse, as the contract says it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llm_gateway._vllm_errors import from_validation


class System(BaseModel):
    role: str = Field(pattern="system")
    content: str


class User(BaseModel):
    role: str = Field(pattern="user")
    content: str | list[dict[str, str]]


class NamedError(ValueError):
    """As vLLM raises them: it knows the parameter."""

    def __init__(self, message: str, parameter: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class Chat(BaseModel):
    model_config = ConfigDict(extra="forbid")

    messages: list[System | User]
    temperature: float | None = None
    max_tokens: int | None = None
    logit_bias: dict[str, float] | None = None
    stream: bool = False
    stream_options: dict[str, bool] | None = None

    @model_validator(mode="before")
    @classmethod
    def _related(cls, data: Any) -> Any:
        if data.get("stream_options") and not data.get("stream"):
            raise NamedError("secret", "stream_options")
        if data.get("max_tokens") == 0:
            raise ValueError("max_tokens secret")
        return data


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({}, "messages", "missing"),
        ({"messages": "secret"}, "messages", "valid list"),
        ({"messages": [{"role": "secret", "content": "x"}]}, "messages[0].role", ""),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", ""),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "user"}]}, "messages[1].content", ""),
        ({"messages": [], "temperature": "secret"}, "temperature", "valid number"),
        ({"messages": [], "stream_options": {"a": True}}, "stream_options", "stream: true"),
        ({"messages": [], "logit_bias": {"secret": "secret"}}, "logit_bias", ""),
        ({"messages": [], "stream": "secret"}, "stream", "valid boolean"),
        ({"messages": [], "Free Text": 1}, None, ""),
        ({"messages": [], "max_tokens": 0}, None, ""),
    ],
)
def test_the_parameter_is_named_and_nothing_is_echoed(body: dict[str, Any], param: str | None, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Chat.model_validate(body)
    errors = [{**e, "loc": ("body", *e["loc"])} for e in caught.value.errors()]
    made = from_validation(errors)
    assert (made.status, made.code, made.param) == (400, None, param)
    assert said in made.message
    assert "secret" not in made.message
    assert "Free" not in made.message


def test_bad_json() -> None:
    made = from_validation([{"type": "json_invalid", "loc": ("body", 5), "msg": "secret", "ctx": {}}])
    assert (made.status, made.code, made.param) == (400, "invalid_json", None)
