#!/usr/bin/env python3
"""Campaigns against a real server; see README.md beside this file."""
import argparse
import asyncio
import pathlib
import random
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))

import doors as doors_of  # noqa: E402
from harness import NANO, Server, chat_request, grpc, load_jsonl  # noqa: E402
import neighbours  # noqa: E402
from books import Books, long_request  # noqa: E402
from calls import CHANNELS, STALLING, Clients, consume, finish  # noqa: E402

async def streams(server, books, count, rng):
    """Many streams at once over 10 connections: all OK or clean RESOURCE_EXHAUSTED."""
    async with Clients(server) as stubs:
        request = long_request(64)
        results = await asyncio.wait_for(asyncio.gather(
            *(consume(stubs[i % CHANNELS].StreamGenerate(request)) for i in range(count))), 300)
    problems = []
    for code, tokens in results:
        books.saw("StreamGenerate", code)
        if code not in (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED):
            problems.append(f"a stream ended with {code}")
        if code == grpc.StatusCode.OK and tokens != results[0][1]:
            problems.append("a stream had other tokens")
    return problems


async def random_cancels(server, books, count, rng):
    """Half of the requests are cancelled at a random moment."""
    gate = asyncio.Semaphore(128)
    problems = []

    async def one(stub, delay, streaming, tokens):
        async with gate:
            request = long_request(tokens)
            method = "StreamGenerate" if streaming else "Generate"
            call = getattr(stub, method)(request)
            work = asyncio.ensure_future(consume(call) if streaming else finish(call))
            if delay is not None:
                await asyncio.sleep(delay)
                call.cancel()
            code = await asyncio.wait_for(work, 60)
            books.saw(method, code[0] if streaming else code)
            if delay is None and (code[0] if streaming else code) != grpc.StatusCode.OK:
                problems.append(f"an undisturbed call ended with {code}")

    async with Clients(server) as stubs:
        await asyncio.gather(*(one(
            rng.choice(stubs), rng.choice([None, rng.random() ** 3 * 0.5]), rng.random() < 0.7,
            rng.choice([1, 8, 60])) for _ in range(count)))
    return problems


async def deadlines(server, books, count, rng):
    """Deadlines that pass at any stage, in the queue as well."""
    gate = asyncio.Semaphore(256)
    problems = []

    async def one(stub):
        async with gate:
            started = time.monotonic()
            limit = rng.choice([0.001, 0.02, 0.2, 1.0]) * (0.5 + rng.random())
            code = await finish(stub.Generate(long_request(2000), timeout=limit))
            books.saw("Generate", code)
            if time.monotonic() - started > limit + 5:
                problems.append(f"a deadline of {limit:.3f} s took "
                                f"{time.monotonic() - started:.1f} s")
            if code not in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.OK,
                            grpc.StatusCode.RESOURCE_EXHAUSTED):
                problems.append(f"a call with a deadline ended with {code}")

    async with Clients(server) as stubs:
        await asyncio.gather(*(one(rng.choice(stubs)) for _ in range(count)))
    return problems


async def overload(server, books, count, rng):
    """Far more requests than may wait: refused at once, with a retry hint; the others succeed."""
    problems, refused = [], []

    async def one(stub):
        started = time.monotonic()
        call = stub.Generate(long_request(48))
        code = await finish(call)
        books.saw("Generate", code)
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            refused.append(time.monotonic() - started)
            keys = [key for key, _ in await call.trailing_metadata()]
            if not {"grpc-retry-pushback-ms", "grpc-status-details-bin"} <= set(keys):
                problems.append(f"a refusal without a retry hint: {keys}")
        elif code != grpc.StatusCode.OK:
            problems.append(f"a call ended with {code}")

    async with Clients(server) as stubs:
        await asyncio.gather(*(one(rng.choice(stubs)) for _ in range(count)))
    if not refused:
        problems.append("nothing was refused")
    return problems


async def slow_readers(server, books, count, rng):
    """Clients that never read are evicted, the others are served meanwhile."""
    problems = []
    request = long_request(200, n=16)
    request.response.logprobs = 20
    async with Clients(server, options=STALLING) as lazy_stubs, Clients(server, 1) as stubs:
        lazy = [rng.choice(lazy_stubs).StreamGenerate(request) for _ in range(count)]
        peak = 0.0
        deadline = time.monotonic() + 120
        while server.metrics()["tessera_slow_reader_evictions_total"] < count:
            peak = max(peak, server.metrics()["tessera_stream_buffer_bytes"])
            code = await finish(stubs[0].Generate(chat_request("What is 1 + 1?"), timeout=60))
            books.saw("Generate", code)
            if code != grpc.StatusCode.OK:
                problems.append(f"a normal request ended with {code}")
            if time.monotonic() > deadline:
                problems.append("not every client that does not read was evicted")
                break
        if peak > count * (300 << 10):
            problems.append(f"{peak} bytes were buffered for {count} clients")
        for call in lazy:
            call.cancel()
            books.saw("StreamGenerate", grpc.StatusCode.ABORTED)
    return problems


async def connections(server, books, count, rng):
    """Connections that say nothing, nonsense, or half of a request."""
    sockets = []
    for i in range(count):
        connection = socket.create_connection(("127.0.0.1", server.port))
        sockets.append(connection)
        nonsense = (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
                    rng.randbytes(200), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(64))
        connection.sendall(nonsense[i % len(nonsense)])
    pages = [socket.create_connection(("127.0.0.1", server.metrics_port)) for _ in range(16)]
    problems = []
    async with Clients(server, 1) as stubs:
        code = await finish(stubs[0].Generate(chat_request("What is 1 + 1?"), timeout=5))
        books.saw("Generate", code)
        if code != grpc.StatusCode.OK:
            problems.append(f"beside {count} odd connections a request ended with {code}")
        metadata = (("x-large", "a" * (64 << 10)),)
        code = await finish(stubs[0].Generate(chat_request("Hi"), metadata=metadata, timeout=5))
        if code != grpc.StatusCode.RESOURCE_EXHAUSTED:
            problems.append(f"64 KiB of metadata: {code}")
    for connection in sockets + pages:
        connection.close()
    return problems


async def doors(server, books, count, rng):
    """Mixed requests answer the same through every door, alone and 64 at a time."""
    loop = asyncio.get_running_loop()
    golden = load_jsonl(NANO / "golden.jsonl")
    cases = [doors_of.draw(rng, golden) for _ in range(count)]
    alone, problems = [], []
    for request, flags in cases:
        answer = doors_of.streamed(server.stub, request)
        alone.append(answer)
        if doors_of.whole(server.stub, request) != answer:
            problems.append(f"Generate differs from StreamGenerate: {request}")
        short = {i: (a["text"], a["reasoning"], a["ids"]) for i, a in answer.items()}
        for target in (("client", server.address), ("generate", NANO, "--dtype", "float32")):
            if doors_of.by_command(target, flags) != short:
                problems.append(f"tessera {target[0]} differs: {flags}")
    with ThreadPoolExecutor(64) as pool:
        together = await asyncio.gather(*(
            loop.run_in_executor(pool, [doors_of.streamed, doors_of.whole][i % 2], server.stub,
                                 request) for i, (request, _) in enumerate(cases)))
    for (request, _), one, many in zip(cases, alone, together):
        if one != many:
            problems.append(f"in company differs: {request}")
    return problems


CAMPAIGNS = {
    # function, default size, flags of the server, whether codes must be equal
    "doors": (doors, 128, [], True),
    "streams": (streams, 1000, ["--max-num-seqs", "128"], True),
    "cancels": (random_cancels, 5000, ["--max-concurrent-requests", "4096"], False),
    "deadlines": (deadlines, 1000, [], False),
    "overload": (overload, 600, ["--max-queued-requests", "32", "--max-num-seqs", "8"], True),
    "slow-readers": (slow_readers, 32, ["--max-num-seqs", "128"], False),
    "connections": (connections, 500, [], True),
    **neighbours.CAMPAIGNS,
}


def run_campaign(name, count, seed):
    function, default, flags, exact = CAMPAIGNS[name]
    count = count or default
    # A small KV cache: preemptions happen, and its pages do not blur the memory in the books.
    with Server("--dtype", "float32", "--kv-cache-memory", "48MiB", *flags, model=NANO) as server:
        books = Books(server)
        started = time.monotonic()
        problems = asyncio.run(function(server, books, count, random.Random(seed)))
        seconds = time.monotonic() - started
        problems += books.check(exact)
    print(f"{name}: {count} in {seconds:.1f} s, {dict(books.seen)}", flush=True)
    return problems


def run_drain(count, _seed):
    """SIGTERM under 200 streams: the server is no longer ready, every stream that has begun ends
    complete, the process with 0."""
    problems = []
    for cycle in range(count or 20):
        with Server("--dtype", "float32", "--max-num-seqs", "256", "--drain-delay", "0.3") as server:
            all_begun = cycle % 2 == 0
            ended, readiness = asyncio.run(drain_once(server, random.Random(cycle), all_begun))
            if readiness != 503:
                problems.append(f"cycle {cycle}: /readyz says {readiness} after SIGTERM")
            # Who has come too late is told so, and knows that nothing was lost.
            wrong = [end for end in ended if end != (grpc.StatusCode.OK, 64)
                     and (all_begun or end != (grpc.StatusCode.UNAVAILABLE, 0))]
            problems += [f"cycle {cycle}: a stream ended with {end}" for end in wrong]
            code = server.process.wait(60)
            if code != 0:
                problems.append(f"cycle {cycle}: exit code {code}")
    print(f"drain: {count or 20} cycles of 200 streams", flush=True)
    return problems


async def drain_once(server, rng, all_begun):
    async with Clients(server) as stubs:
        begun = asyncio.Semaphore(0)

        async def one(stub):
            call = stub.StreamGenerate(long_request(64))
            tokens = 0
            try:
                async for message in call:
                    if tokens == 0:
                        begun.release()
                    tokens += sum(len(choice.token_ids) for choice in message.choices)
                return grpc.StatusCode.OK, tokens
            except grpc.aio.AioRpcError as error:
                return error.code(), tokens

        work = [asyncio.ensure_future(one(stubs[i % CHANNELS])) for i in range(200)]
        for _ in range(200 if all_begun else rng.randrange(1, 150)):
            await begun.acquire()
        await asyncio.sleep(rng.random() * 0.02)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.15)  # half of the time that balancers have to notice
        readiness = (await asyncio.to_thread(server.get, "/readyz"))[0]
        return await asyncio.wait_for(asyncio.gather(*work), 60), readiness


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[*CAMPAIGNS, "drain"])
    parser.add_argument("--count", type=int, help="requests, connections or cycles")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        for name, (function, count, _, _) in CAMPAIGNS.items():
            print(f"{name:14} {count:6}  {function.__doc__}")
        print(f"{'drain':14} {20:6}  {run_drain.__doc__}")
        return 0
    failed = False
    for name in [options.only] if options.only else [*CAMPAIGNS, "drain"]:
        run = run_drain if name == "drain" else (lambda c, s, n=name: run_campaign(n, c, s))
        try:
            problems = run(options.count, options.seed)
        except AssertionError as wrong:  # before or after the campaign itself
            problems = [" ".join(str(wrong).split())]
        failed = failed or bool(problems)
        for problem in dict.fromkeys(problems):
            print(f"  PROBLEM {problem} ({problems.count(problem)} times)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
