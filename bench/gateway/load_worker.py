"""The load: ``vllm bench serve`` of the serving runtime, one process for many cells, because its import takes 15 s.

Runs in the load host under the runtime's Python. Reads one JSON object a line from standard input, the arguments of
``vllm bench serve`` as a list under ``argv``, and writes one back with what it measured. The parser, the prompts, the
requests and the metrics are vLLM's own. Ours are two request functions:

- ``openai-chat-plain``: vLLM 0.29.0 streams every chat, so it has none for an answer that comes in one piece.
- ``openai-chat-counted``: vLLM's own ``openai-chat``, but where a gateway sends `usage` in a chunk that vLLM doesn't
  look for it in (LiteLLM), the tokens that were asked for count, not what a tokenizer makes of the text.

And one mend: of a stream, vLLM strips every piece that the network delivers before it joins them, so that a piece that
ends in the blank of ``data: `` makes the next one unreadable, and a whole answer counts as failed. It gets whole
events.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import aiohttp
    from vllm.benchmarks.lib.endpoint_request_func import RequestFuncInput, RequestFuncOutput

PLAIN = "openai-chat-plain"
COUNTED = "openai-chat-counted"
# What a cell's record keeps of vLLM's result: the numbers, not the texts.
_KEPT = (
    *("duration", "completed", "failed", "total_input_tokens", "total_output_tokens"),
    *("request_throughput", "output_throughput"),
    *(f"p{p}_{metric}_ms" for metric in ("ttft", "tpot", "itl", "e2el") for p in (50, 95, 99)),
)


async def request_counted_chat(
    request_func_input: RequestFuncInput, session: aiohttp.ClientSession, pbar: Any = None
) -> RequestFuncOutput:
    """Send one streamed chat; it generates as many tokens as were asked for, because it ignores the end of sequence."""
    from vllm.benchmarks.lib.endpoint_request_func import async_request_openai_chat_completions

    output = await async_request_openai_chat_completions(request_func_input, session, pbar)
    if output.success and not output.output_tokens:
        output.output_tokens = request_func_input.output_len
    return output


async def request_plain_chat(
    request_func_input: RequestFuncInput, session: aiohttp.ClientSession, pbar: Any = None
) -> RequestFuncOutput:
    """Send one chat that is not streamed; only its end-to-end latency and its tokens are known afterwards."""
    from vllm.benchmarks.lib.endpoint_request_func import RequestFuncOutput

    payload = {
        "model": request_func_input.model_name or request_func_input.model,
        "messages": [{"role": "user", "content": [{"type": "text", "text": request_func_input.prompt}]}],
        "max_completion_tokens": request_func_input.output_len,
        "ignore_eos": request_func_input.ignore_eos,
        **(request_func_input.extra_body or {}),
    }
    output = RequestFuncOutput(prompt_len=request_func_input.prompt_len, start_time=time.perf_counter())
    try:
        async with session.post(request_func_input.api_url, json=payload) as response:
            body = await response.read()
            output.latency = time.perf_counter() - output.start_time
            if response.status == 200:
                answer = json.loads(body)
                output.generated_text = answer["choices"][0]["message"]["content"] or ""
                output.output_tokens = answer["usage"]["completion_tokens"]
                output.success = True
            else:
                output.error = f"{response.status} {response.reason}"
    except Exception as error:  # whatever goes wrong is a failed request, and the others go on
        output.error = f"{type(error).__name__}: {error}"
    if pbar:
        pbar.update(1)
    return output


async def whole_events(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Cut a stream where events end, at empty lines, and nowhere else."""
    rest = b""
    async for piece in pieces:
        rest += piece
        end = rest.rfind(b"\n\n") + 2
        if end > 1:
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def _load() -> Callable[[list[str]], dict[str, Any]]:
    """Import vLLM's benchmark, with our request function in it, and return what runs a cell."""
    import aiohttp
    from vllm.benchmarks import serve
    from vllm.benchmarks.lib import endpoint_request_func
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    endpoint_request_func.ASYNC_REQUEST_FUNCS |= {PLAIN: request_plain_chat, COUNTED: request_counted_chat}
    endpoint_request_func.OPENAI_COMPATIBLE_BACKENDS += [PLAIN, COUNTED]
    as_delivered = aiohttp.StreamReader.iter_any
    aiohttp.StreamReader.iter_any = lambda reader: whole_events(as_delivered(reader))  # type: ignore[method-assign,assignment,return-value]
    parser = FlexibleArgumentParser()
    serve.add_cli_args(parser)
    return lambda argv: asyncio.run(serve.main_async(parser.parse_args(argv)))


def _kept(result: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {key: result[key] for key in _KEPT if key in result}
    # The last line of each kind of error, and how often.
    kinds = [text.strip().splitlines()[-1][:200] for text in result.get("errors", []) if text]
    kept["errors"] = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    return kept


def main() -> None:
    """Answer until standard input ends."""
    # vLLM prints on standard output, from its import on: that goes to standard error, and ours is a copy.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run = _load()
    answers.write(json.dumps({"ready": True}) + "\n")
    answers.flush()
    for line in sys.stdin:
        try:
            answer = _kept(run(json.loads(line)["argv"]))
        except (Exception, SystemExit) as error:  # the one who asked decides what to do about it
            answer = {"error": f"{type(error).__name__}: {error}"[-2000:]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
