# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""What models take of GPUs' memory, and what is left for requests: arithmetic, no GPU needed.

Sources: vllm 0.29.0, ``v1/worker/gpu_worker.py`` (``determine_available_memory``: the share of the GPU that may be
used, less the weights, the peak of a forward pass and what lies outside of torch), ``v1/kv_cache_interface.py`` (bytes
of a token's keys and values), ``engine/arg_utils.py`` (defaults). The peak and what lies outside are estimates; the
rest is exact.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .architecture import Architecture, UnknownModelError, read_architecture
from .models import gpus_per_replica, replicas

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MIB = 1 << 20
GIB = 1 << 30

# vLLM's default; config/cache.py.
_UTILIZATION = 0.92
# CUDA's context and the kernels; NCCL's buffers come on top where a replica has several GPUs.
_OUTSIDE_TORCH = 0.6 * GIB
_OUTSIDE_TORCH_NCCL = 0.6 * GIB
# vLLM rejects a length that its cache can't hold once; shorter than this, a model is of little use.
_SHORTEST_LENGTH = 1024
# A replica over more nodes than this is no advice.
_MOST_NODES = 8


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU.

    Attributes:
        name: as ``nvidia-smi`` has it, or shorter.
        memory_mib: what ``nvidia-smi`` calls ``memory.total``.
    """

    name: str
    memory_mib: int


@dataclass(frozen=True)
class Fit:
    """What one replica does to each of its GPUs, in bytes; where its GPUs differ, to the fullest.

    Attributes:
        gpu: the kind of GPU.
        usable: what vLLM may use, ``gpu_memory_utilization`` of the whole.
        weights: the share of the weights.
        overhead: peak of a forward pass, and what lies outside of torch; an estimate.
        request: keys and values of one request of full length.
        length: ``max_model_len``, in tokens.
    """

    gpu: Gpu
    usable: float
    weights: float
    overhead: float
    request: float
    length: int

    @property
    def cache(self) -> float:
        """Bytes for keys and values; negative where not even the weights fit."""
        return self.usable - self.weights - self.overhead

    @property
    def requests(self) -> float:
        """Requests of full length that the cache holds at once."""
        return max(0.0, self.cache / self.request)

    @property
    def tokens(self) -> int:
        """Tokens that the cache holds."""
        return int(self.requests * self.length)

    @property
    def fits(self) -> bool:
        """Whether vLLM would start: the cache must hold one request of full length."""
        return self.cache >= self.request


def fit(architecture: Architecture, model: Mapping[str, Any], gpu: Gpu, weights: float | None = None) -> Fit:
    """What one replica of a model does to its GPUs.

    Args:
        architecture: of the model.
        model: its entry in ``llm_models``.
        gpu: the kind of GPU.
        weights: bytes of all weights, where they are known better than from the architecture, such as from
            ``model.safetensors.index.json``.

    Raises:
        UnknownModelError: neither the model nor its ``max_model_len`` says how long a request may be.
    """
    engine = model.get("engine") or {}
    tensor, pipeline = int(model.get("tensor_parallel_size", 1)), int(model.get("pipeline_parallel_size", 1))
    length = engine.get("max_model_len") or architecture.longest
    if not isinstance(length, int) or length <= 0:
        raise UnknownModelError(
            "its config.json has no max_position_embeddings, and engine no max_model_len as a number"
        )
    total = gpu.memory_mib * MIB
    stage = math.ceil(architecture.layers / pipeline) / architecture.layers
    embedding = architecture.embedding_parameters * architecture.element_bytes / (1 if pipeline == 1 else 2)
    estimate = embedding + architecture.layer_parameters * architecture.weight_bytes * stage
    share = estimate if weights is None else weights * estimate / architecture.weights
    return Fit(
        gpu=gpu,
        usable=total * float(engine.get("gpu_memory_utilization", _UTILIZATION)),
        weights=share / tensor,
        overhead=_overhead(architecture, model, gpu),
        request=_request_bytes(architecture, model, length),
        length=length,
    )


def _overhead(architecture: Architecture, model: Mapping[str, Any], gpu: Gpu) -> float:
    engine = model.get("engine") or {}
    tensor = int(model.get("tensor_parallel_size", 1))
    batched = int(engine.get("max_num_batched_tokens") or _batched_tokens(gpu))
    at_once = int(engine.get("max_num_seqs") or model.get("max_ongoing_requests") or 256)
    layer = batched * (4 * architecture.hidden + architecture.widest / tensor) * architecture.element_bytes
    # The scores of all tokens, in 32 bits, and sorted once for sampling.
    scores = at_once * architecture.vocabulary * 4 * 2
    outside = _OUTSIDE_TORCH + (_OUTSIDE_TORCH_NCCL if tensor > 1 else 0)
    return layer + scores + outside


def _batched_tokens(gpu: Gpu) -> int:
    """vLLM's default of ``max_num_batched_tokens``; ``engine/arg_utils.py``."""
    if gpu.memory_mib >= 160 * 1024:
        return 16384
    return 8192 if gpu.memory_mib >= 70 * 1024 and "a100" not in gpu.name.lower() else 2048


def _request_bytes(architecture: Architecture, model: Mapping[str, Any], length: int) -> float:
    """Bytes of a request's keys and values on one GPU."""
    engine = model.get("engine") or {}
    tensor, pipeline = int(model.get("tensor_parallel_size", 1)), int(model.get("pipeline_parallel_size", 1))
    element = 1.0 if str(engine.get("kv_cache_dtype", "auto")).startswith("fp8") else architecture.element_bytes
    # A head can't be cut in two, so more GPUs than heads keep copies. Latents have no heads: each GPU keeps them all.
    width = architecture.latent or 2 * math.ceil(architecture.kv_heads / tensor) * architecture.head_dim
    sliding = architecture.sliding_layers
    tokens = (architecture.layers - sliding) * length + sliding * min(length, architecture.window or length)
    return tokens * width * element / pipeline


def smallest_change(
    architecture: Architecture,
    model: Mapping[str, Any],
    gpu: Gpu,
    gpus_per_node: int,
    weights: float | None = None,
) -> str:
    """The smallest change with which a model that doesn't fit would.

    Args:
        architecture: of the model.
        model: its entry in ``llm_models``.
        gpu: the kind of GPU.
        gpus_per_node: how many a node has.
        weights: see :func:`fit`.

    Returns:
        What to do, such as ``set tensor_parallel_size: 8``.
    """
    now = fit(architecture, model, gpu, weights)
    shorter = int(now.cache / (now.request / now.length)) // 1024 * 1024 if now.cache > 0 else 0
    if shorter >= _SHORTEST_LENGTH:
        return f"set engine: {{max_model_len: {shorter}}}"
    tensor = int(model.get("tensor_parallel_size", 1))
    sizes = [size for size in range(tensor, gpus_per_node + 1) if architecture.heads % size == 0]
    for size in sizes:
        if fit(architecture, {**model, "tensor_parallel_size": size}, gpu, weights).fits:
            return f"set tensor_parallel_size: {size}"
    # Not where it is quantised already.
    if architecture.weight_bytes >= architecture.element_bytes:
        lighter = replace(architecture, weight_bytes=1.0)
        share = None if weights is None else weights * lighter.weights / architecture.weights
        for size in sizes:
            if fit(lighter, {**model, "tensor_parallel_size": size}, gpu, share).fits:
                return (
                    f"serve it with weights of 8 bits (engine: {{quantization: fp8}}) and tensor_parallel_size: {size}"
                )
    for stages in range(2, _MOST_NODES + 1):
        wide = {**model, "tensor_parallel_size": sizes[-1], "pipeline_parallel_size": stages} if sizes else model
        if sizes and fit(architecture, wide, gpu, weights).fits:
            return f"set tensor_parallel_size: {sizes[-1]} and pipeline_parallel_size: {stages}, for {stages} nodes"
    utilization = float((model.get("engine") or {}).get("gpu_memory_utilization", _UTILIZATION))
    needed = (now.weights + now.overhead + now.request) / utilization
    return f"take GPUs of at least {math.ceil(needed / GIB)} GiB"


@dataclass(frozen=True)
class Node:
    """A host that runs replicas.

    Attributes:
        host: its name in the inventory.
        gpus: its GPUs.
    """

    host: str
    gpus: tuple[Gpu, ...]


def place(
    needs: Mapping[str, Sequence[int]], nodes: Sequence[Node]
) -> tuple[dict[str, list[tuple[str, ...]]], list[str]]:
    """A placement of replicas as Ray would choose it: each on the node that it fills best, over several where it must.

    Args:
        needs: model to the GPUs of each of its replicas.
        nodes: the nodes.

    Returns:
        model to the hosts of each of its replicas, and the models of which not all replicas found a place.
    """
    free = {node.host: len(node.gpus) for node in nodes}
    placed: dict[str, list[tuple[str, ...]]] = {model: [] for model in needs}
    left_over = []
    for model, gpus_of_replicas in needs.items():
        for gpus in gpus_of_replicas:
            hosts = _hosts_for(gpus, free)
            if not hosts:
                left_over.append(model)
                break
            placed[model].append(tuple(hosts))
            for host, number in hosts.items():
                free[host] -= number
    return placed, left_over


def _hosts_for(gpus: int, free: Mapping[str, int]) -> dict[str, int]:
    """Host to number of GPUs; empty where there are not enough."""
    whole = [host for host, number in free.items() if number >= gpus]
    if whole:
        return {min(whole, key=lambda host: free[host]): gpus}
    found: dict[str, int] = {}
    for host, number in sorted(free.items(), key=lambda item: -item[1]):
        take = min(number, gpus - sum(found.values()))
        if take > 0:
            found[host] = take
    return found if sum(found.values()) == gpus else {}


@dataclass(frozen=True)
class Row:
    """What the plan says of one model.

    Attributes:
        model: its id.
        replicas: how many; the largest number where Serve scales it.
        gpus: GPUs of one replica.
        fit: what a replica does to its GPUs; None where that isn't known.
        hosts: the hosts of each replica.
        note: why the fit isn't known; empty where it is.
    """

    model: str
    replicas: int
    gpus: int
    fit: Fit | None
    hosts: tuple[tuple[str, ...], ...]
    note: str


def capacity_plan(
    models: Sequence[Mapping[str, Any]],
    nodes: Sequence[Node],
    configs: Mapping[str, Mapping[str, Any]],
    weights: Mapping[str, float],
) -> tuple[list[Row], list[str]]:
    """What each model takes and leaves, where its replicas go, and what can't be.

    Args:
        models: the inventory's ``llm_models``, known to be right in themselves.
        nodes: the hosts that run replicas.
        configs: model id to the content of its ``config.json``, as far as they could be had.
        weights: model id to the bytes of its weights, as far as they are known.

    Returns:
        A row for each model, and the errors: each with the model, the cause and the smallest change that helps.
    """
    needs = {model["id"]: [gpus_per_replica(model)] * replicas(model)[1] for model in models}
    placed, left_over = place(needs, nodes)
    rows, errors = [], []
    for model in models:
        name = model["id"]
        found, note, change = None, "", ""
        try:
            found, change = _fit_everywhere(model, nodes, configs, weights)
        except UnknownModelError as error:
            note = str(error)
        gpus = gpus_per_replica(model)
        rows.append(Row(name, len(needs[name]), gpus, found, tuple(placed[name]), note))
        if found is not None and not found.fits:
            errors.append(_too_big(name, found, change))
        if name in left_over:
            before = sum(map(sum, list(needs.values())[: list(needs).index(name)]))
            free = max(0, sum(len(node.gpus) for node in nodes) - before)
            errors.append(
                f"{name}: {len(needs[name])} replicas of {gpus} GPUs need {len(needs[name]) * gpus}, and the models"
                f" before it leave {free}. Set replicas: {free // gpus}, or add GPUs."
            )
    return rows, errors


def _fit_everywhere(
    model: Mapping[str, Any],
    nodes: Sequence[Node],
    configs: Mapping[str, Mapping[str, Any]],
    weights: Mapping[str, float],
) -> tuple[Fit | None, str]:
    """The fit on the kind of GPU that holds least, as Ray doesn't choose among them, and what to change there."""
    name, known = model["id"], weights.get(model["id"])
    if name not in configs:
        raise UnknownModelError("its config.json could not be read")
    kinds = {gpu for node in nodes for gpu in node.gpus}
    if not kinds:
        raise UnknownModelError("no node has GPUs")
    architecture = read_architecture(configs[name], model.get("engine"))
    tightest = min((fit(architecture, model, gpu, known) for gpu in kinds), key=lambda one: one.cache / one.request)
    per_node = max(len([gpu for gpu in node.gpus if gpu == tightest.gpu]) for node in nodes)
    change = "" if tightest.fits else smallest_change(architecture, model, tightest.gpu, per_node, known)
    return tightest, change


def _too_big(name: str, found: Fit, change: str) -> str:
    needed = (found.weights + found.overhead + found.request) / GIB
    return (
        f"{name} doesn't fit: on each {found.gpu.name}, {found.weights / GIB:.1f} GiB of weights, about"
        f" {found.overhead / GIB:.1f} of work space and {found.request / GIB:.1f} for one request of {found.length}"
        f" tokens are {needed:.1f} GiB, and vLLM may use {found.usable / GIB:.1f}. Smallest change: {change}."
    )


def plan_table(rows: Iterable[Row]) -> list[str]:
    """The rows as lines of a table."""
    head = ("model", "replicas x GPUs", "GPU", "weights", "work", "cache", "tokens", "full requests", "nodes")
    cells = [head]
    for row in rows:
        shape = f"{row.replicas} x {row.gpus}"
        places = Counter("+".join(one) for one in row.hosts)
        hosts = ", ".join(place if times == 1 else f"{times} x {place}" for place, times in places.items()) or "-"
        if row.fit is None:
            cells.append((row.model, shape, f"not known: {row.note}", "", "", "", "", "", hosts))
            continue
        sizes = [f"{value / GIB:.1f} GiB" for value in (row.fit.weights, row.fit.overhead, max(0.0, row.fit.cache))]
        requests = f"{row.fit.requests:.1f} of {row.fit.length}"
        cells.append((row.model, shape, row.fit.gpu.name, *sizes, str(row.fit.tokens), requests, hosts))
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
