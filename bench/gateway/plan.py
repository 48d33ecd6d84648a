"""What is asked of each arm: the cells, and how many requests make one."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

INPUT_TOKENS = 128
OUTPUT_TOKENS = 128
# Of the 128 tokens of a prompt, those that all prompts of a cell begin with.
SHARED_TOKENS = 96
CONCURRENCIES = (1, 8, 32, 128)
_ONE_CONCURRENCY = 32
# Enough for the load to be steady, few enough for a run to end.
_REQUESTS = {
    "mock": {1: 5, 8: 16, 32: 64, 128: 256},
    "real": {1: 12, 8: 64, 32: 192, 128: 384},
}
_LONG_INPUT_TOKENS = 24000  # of the tiny model: 100 kB of text
_LONG_REQUESTS = 40


@dataclass(frozen=True)
class Cell:
    """One measurement of one arm.

    Attributes:
        prompts: ``random``, ``prefix`` (most of it shared), or ``long`` (100 kB, and a single token back).
        stream: whether the answers are streamed.
        concurrency: requests in flight.
        requests: how many are sent.
    """

    prompts: str
    stream: bool
    concurrency: int
    requests: int

    @property
    def name(self) -> str:
        """Such as ``random-stream-32``."""
        return f"{self.prompts}-{'stream' if self.stream else 'plain'}-{self.concurrency}"

    def argv(self, url: str, model: str, tokenizer: str, seed: int) -> list[str]:
        """The arguments of ``vllm bench serve``."""
        shared = SHARED_TOKENS if self.prompts == "prefix" else 0
        own = _LONG_INPUT_TOKENS if self.prompts == "long" else INPUT_TOKENS - shared
        argv = [
            *("--backend", "openai-chat-counted" if self.stream else "openai-chat-plain"),
            *("--base-url", url, "--endpoint", "/v1/chat/completions", "--model", model, "--tokenizer", tokenizer),
            *("--dataset-name", "random", "--random-input-len", str(own), "--random-prefix-len", str(shared)),
            *("--random-output-len", str(1 if self.prompts == "long" else OUTPUT_TOKENS)),
            *("--num-prompts", str(self.requests), "--max-concurrency", str(self.concurrency), "--seed", str(seed)),
            *("--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,95,99"),
            *("--temperature", "0", "--ready-check-timeout-sec", "0", "--disable-tqdm"),
        ]
        # Without the mock's wait, which would hide what the way costs.
        return [*argv, "--extra-body", '{"mock_ttft_ms": 0}'] if self.prompts == "long" else argv


# Short and over in a moment: connections, caches and branches get warm.
WARM_UP = Cell("random", True, 8, 8)
# What routing by a model's name costs on a big body. Only the mock, and only where a part of the way can be left out.
LONG = Cell("long", False, 1, _LONG_REQUESTS)


def cells(engine: str, concurrencies: tuple[int, ...], full: bool) -> list[Cell]:
    """The cells of an engine.

    Args:
        engine: ``mock`` or ``real``.
        concurrencies: those that are wanted.
        full: every combination; else streams of random prompts everywhere, and the rest where it says something new:
            plain answers from the mock at every concurrency and from the real engine at one, and a shared prefix,
            which the mock doesn't look at, from the real engine at one.
    """
    found = []
    for concurrency in concurrencies:
        requests = _REQUESTS[engine].get(concurrency, 2 * concurrency)
        at_one = concurrency == _ONE_CONCURRENCY
        found.append(Cell("random", True, concurrency, requests))
        if full or engine == "mock" or at_one:
            found.append(Cell("random", False, concurrency, requests))
        if full or (engine == "real" and at_one):
            found.append(Cell("prefix", True, concurrency, requests))
        if full:
            found.append(Cell("prefix", False, concurrency, requests))
    return found


def seed(*parts: object) -> int:
    """A seed that is the same in every run, and another for each arm: engines keep the prompts that they have seen."""
    return zlib.crc32(repr(parts).encode()) & 0x7FFFFFFF
