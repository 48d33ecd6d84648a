"""Measures a node's GPUs, and what joins them to each other and to other nodes, against what their makers publish.

``playbooks/gpu_check.yml`` copies it to the nodes and runs it with the serving runtime's Python, once on each node at
the same time. It writes one JSON object to its standard output.

Sources of the table: NVIDIA's data sheets (peak of dense matrix products in 16 bits, without sparsity, in TFLOPS;
bandwidth of the memory in GB/s). Power limits and clocks keep a GPU below its peak, so a share of it is expected; a GPU
in a slot of half the lanes, at the wrong power limit, or with a hot memory is far below that.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class Peak:
    """What a data sheet says of a GPU.

    Attributes:
        tflops: dense matrix products in 16 bits.
        memory_gbps: bandwidth of its memory, GB/s.
    """

    tflops: float
    memory_gbps: float


# The longest name that begins the one of nvidia-smi counts.
PEAKS = {
    "Tesla T4": Peak(65, 320),
    "NVIDIA A10": Peak(125, 600),
    "NVIDIA A30": Peak(165, 933),
    "NVIDIA A40": Peak(150, 696),
    "NVIDIA A100-PCIE-40GB": Peak(312, 1555),
    "NVIDIA A100-SXM4-40GB": Peak(312, 1555),
    "NVIDIA A100 80GB PCIe": Peak(312, 1935),
    "NVIDIA A100-SXM4-80GB": Peak(312, 2039),
    "NVIDIA L4": Peak(121, 300),
    "NVIDIA L40": Peak(181, 864),
    "NVIDIA L40S": Peak(362, 864),
    "NVIDIA RTX 6000 Ada": Peak(364, 960),
    "NVIDIA H100 PCIe": Peak(756, 2000),
    "NVIDIA H100 NVL": Peak(835, 3900),
    "NVIDIA H100 80GB HBM3": Peak(989, 3350),
    "NVIDIA H200": Peak(989, 4800),
    "NVIDIA B200": Peak(2250, 8000),
}
# The least share of the peak. Small cards are held back by their power limit in a long product.
_LEAST_TFLOPS, _LEAST_MEMORY = 0.45, 0.7
# Of the median of the node's GPUs, for what no data sheet says of the machine: lanes, NVLink.
_LEAST_OF_MEDIAN = 0.8
_MIB = 1 << 20
_MATRIX, _BYTES, _SECONDS = 8192, 512 * _MIB, 1.0


@dataclass(frozen=True)
class Measured:
    """What a GPU does.

    Attributes:
        index: of the GPU on its node.
        name: of the product.
        tflops: matrix products in bfloat16.
        memory_gbps: read and written by a copy inside of its memory, GB/s.
        to_device_gbps: from pinned memory of the host, GB/s.
        from_device_gbps: to pinned memory of the host, GB/s.
        peer_gbps: from the node's next GPU; None where there is only one.
    """

    index: int
    name: str
    tflops: float
    memory_gbps: float
    to_device_gbps: float
    from_device_gbps: float
    peer_gbps: float | None


def per_second(step: Callable[[], Any], wait: Callable[[], Any], seconds: float) -> float:
    """How often a step can be done in a second.

    Args:
        step: what to do; may return before it is done.
        wait: returns when all steps are done.
        seconds: how long to measure.
    """
    step()
    wait()
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(4):
            step()
        wait()
        steps += 4
    return steps / (time.perf_counter() - began)


def measure(device: str, index: int, count: int, *, matrix: int, size: int, seconds: float) -> Measured:
    """Measure one GPU.

    Args:
        device: ``cuda``, or ``cpu`` where there is none.
        index: of the GPU.
        count: how many the node has.
        matrix: rows and columns of the factors.
        size: bytes that are copied.
        seconds: for each of the measurements.
    """
    on_gpu = device == "cuda"
    place = torch.device(device, index) if on_gpu else torch.device(device)
    wait: Callable[[], Any] = (lambda: torch.cuda.synchronize(place)) if on_gpu else (lambda: None)
    one, two = (torch.rand(matrix, matrix, device=place, dtype=torch.bfloat16) for _ in range(2))
    product = torch.empty_like(one)
    source, target = (torch.empty(size, device=place, dtype=torch.uint8) for _ in range(2))
    host = torch.empty(size, dtype=torch.uint8, pin_memory=on_gpu)

    def rate(to: torch.Tensor, of: torch.Tensor) -> float:
        return per_second(lambda: to.copy_(of, non_blocking=True), wait, seconds) * size / 1e9

    peer = None
    if count > 1:
        neighbour = torch.device(device, (index + 1) % count) if on_gpu else place
        peer = rate(target, torch.empty(size, device=neighbour, dtype=torch.uint8))
    return Measured(
        index=index,
        name=torch.cuda.get_device_name(place) if on_gpu else "CPU",
        tflops=per_second(lambda: torch.mm(one, two, out=product), wait, seconds) * 2 * matrix**3 / 1e12,
        # Each byte is read and written.
        memory_gbps=2 * rate(target, source),
        to_device_gbps=rate(source, host),
        from_device_gbps=rate(host, source),
        peer_gbps=peer,
    )


def judge(measured: Sequence[Measured], least_of_median: float = _LEAST_OF_MEDIAN) -> list[str]:
    """What is too slow: below what is expected of the product, or far below the node's other GPUs.

    Args:
        measured: the node's GPUs.
        least_of_median: the share of the median of the node's GPUs that each must reach.
    """
    found = []
    for gpu in measured:
        names = [name for name in PEAKS if gpu.name.startswith(name)]
        if names:
            peak = PEAKS[max(names, key=len)]
            for what, value, unit, expected, share in (
                ("matrix products", gpu.tflops, "TFLOPS", peak.tflops, _LEAST_TFLOPS),
                ("memory", gpu.memory_gbps, "GB/s", peak.memory_gbps, _LEAST_MEMORY),
            ):
                if value < expected * share:
                    found.append(
                        f"GPU {gpu.index} ({gpu.name}), {what}: {value:.0f} {unit}; at least {expected * share:.0f} of"
                        f" {expected:.0f} is expected. See nvidia-smi -q -d CLOCK,POWER,TEMPERATURE,PERFORMANCE"
                    )
    for field in ("tflops", "memory_gbps", "to_device_gbps", "from_device_gbps", "peer_gbps"):
        values = sorted(value for gpu in measured if (value := getattr(gpu, field)) is not None)
        for gpu in measured:
            value = getattr(gpu, field)
            if value is not None and value < values[len(values) // 2] * least_of_median:
                found.append(
                    f"GPU {gpu.index} ({gpu.name}), {field}: {value:.3g}, and the node's median is"
                    f" {values[len(values) // 2]:.3g}. See nvidia-smi -q for its link's width and generation"
                )
    return found


def describe(measured: Sequence[Measured], bandwidth: float | None, nodes: int) -> list[str]:
    """The figures as lines of text.

    Args:
        measured: the node's GPUs.
        bandwidth: of the all-reduce in GB/s, where this node has it.
        nodes: how many took part in that.
    """
    lines = []
    for gpu in measured:
        peer = f", {gpu.peer_gbps:.1f} from the next GPU" if gpu.peer_gbps is not None else ""
        lines.append(
            f"GPU {gpu.index} ({gpu.name}): {gpu.tflops:.1f} TFLOPS; GB/s: {gpu.memory_gbps:.0f} memory,"
            f" {gpu.to_device_gbps:.1f} to it, {gpu.from_device_gbps:.1f} from it{peer}"
        )
    if bandwidth is not None:
        lines.append(f"All-reduce over the GPUs of {nodes} host{'s' if nodes > 1 else ''}: {bandwidth:.2f} GB/s")
    return lines


def _all_reduce(
    local: int, device: str, local_size: int, nodes: int, node: int, meeting: str, size: int, seconds: float, out: str
) -> None:
    """One process of the all-reduce; the first one writes the bandwidth."""
    world, rank = nodes * local_size, node * local_size + local
    if device == "cuda":
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", init_method=meeting, rank=rank, world_size=world)
    values = torch.ones(size // 4, device=device)
    flag = torch.ones(1, device=device)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    dist.all_reduce(values)
    wait()
    began, steps = time.perf_counter(), 0
    # The first process says when it is enough, so that all do the same number.
    while flag.item() > 0:
        dist.all_reduce(values)
        wait()
        steps += 1
        flag.fill_(1 if time.perf_counter() - began < seconds else 0)
        dist.broadcast(flag, 0)
    took = time.perf_counter() - began
    # What each link carries, NCCL's "bus bandwidth": it doesn't depend on the number of GPUs.
    bus = steps * size * 2 * (world - 1) / world / took / 1e9
    if rank == 0:
        Path(out).write_text(str(bus), encoding="utf-8")
    dist.destroy_process_group()


def all_reduce(
    device: str, local_size: int, nodes: int, node: int, meeting: str, *, size: int, seconds: float
) -> float | None:
    """Add up tensors of all GPUs of all nodes, as tensor parallelism does after each layer.

    Args:
        device: ``cuda`` (over NCCL), or ``cpu`` (over Gloo).
        local_size: GPUs of this node.
        nodes: how many nodes take part.
        node: which one this is, from 0.
        meeting: where they find each other, such as ``tcp://10.0.0.11:18393``.
        size: bytes of each tensor.
        seconds: how long.

    Returns:
        NCCL's bus bandwidth in GB/s, on the first node; None on the others, and where there is only one GPU.
    """
    if nodes * local_size < 2:
        return None
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "bandwidth"
        mp.spawn(
            _all_reduce,
            (device, local_size, nodes, node, meeting, size, seconds, str(out)),
            nprocs=local_size,
        )
        return float(out.read_text(encoding="utf-8")) if out.exists() else None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--processes", type=int, default=2, help="that stand for GPUs, with --device cpu")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--node", type=int, default=0)
    parser.add_argument("--meeting", default="tcp://127.0.0.1:18393")
    parser.add_argument("--matrix", type=int, default=_MATRIX)
    parser.add_argument("--mib", type=int, default=_BYTES // _MIB)
    parser.add_argument("--seconds", type=float, default=_SECONDS)
    parser.add_argument(
        "--least-of-median",
        type=float,
        default=_LEAST_OF_MEDIAN,
        help="share of the node's median that each GPU must reach",
    )
    given = parser.parse_args(arguments)
    count = torch.cuda.device_count() if given.device == "cuda" else given.processes
    if count == 0:
        print("torch finds no GPU; see nvidia-smi, and llm-gpu-health status", file=sys.stderr)
        return 1
    size = given.mib * _MIB
    gpus = [
        measure(given.device, index, count, matrix=given.matrix, size=size, seconds=given.seconds)
        for index in range(count)
    ]
    if given.device == "cuda":
        torch.cuda.empty_cache()
    bandwidth = all_reduce(
        given.device, count, given.nodes, given.node, given.meeting, size=size, seconds=given.seconds
    )
    result = {
        "gpus": [asdict(gpu) for gpu in gpus],
        "all_reduce_gbps": bandwidth,
        "lines": describe(gpus, bandwidth, given.nodes),
        "findings": judge(gpus, given.least_of_median),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
