"""The inventory's ``llm_models`` and the package's ``ModelConfig`` say the same: names, requirements, defaults."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from pydantic_core import PydanticUndefined

from llm_gateway.config import Autoscaling, ModelConfig

if TYPE_CHECKING:
    from pydantic import BaseModel

_SPECS = Path(__file__).parents[2] / "roles" / "preflight" / "meta" / "argument_specs.yml"


def _spec() -> dict[str, Any]:
    specs = yaml.safe_load(_SPECS.read_text())["argument_specs"]["main"]["options"]["llm_models"]["options"]
    assert isinstance(specs, dict)
    return specs


def _default(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(
    ("spec", "model"),
    [(_spec(), ModelConfig), (_spec()["autoscaling"]["options"], Autoscaling)],
    ids=["model", "scaling"],
)
def test_spec_and_model_agree(spec: dict[str, Any], model: type[BaseModel]) -> None:
    fields = model.model_fields
    assert sorted(spec) == sorted(fields)
    for name, option in spec.items():
        field = fields[name]
        assert option.get("required", False) is field.is_required(), name
        if not field.is_required():
            default = field.get_default(call_default_factory=True)
            assert default is not PydanticUndefined
            assert option.get("default") == _default(default), name
