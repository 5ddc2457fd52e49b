"""Campaigns about what requests do to each other: memory, waiting, and readers of all kinds."""
import asyncio
import collections
import statistics
import time

import grpc
from books import long_request
from calls import CHANNELS, STALLING, Clients, consume, finish

LONG = 138  # with them about 3,900 tokens
LONG_PROMPT = "Sum up: " + "one two three four five six seven eight nine ten. " * LONG


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def thrash(server, books, count, rng):
    """Four times more KV blocks are wanted than there are: all finish, with the tokens of one alone."""
    request = long_request(1500)
    code, alone = await one_alone(server, request)
    books.saw("StreamGenerate", code)
    problems = [] if code == grpc.StatusCode.OK else [f"alone: {code}"]
    before = server.metrics()["tessera_num_preemptions_total"]
    async with Clients(server) as stubs:
        results = await asyncio.wait_for(asyncio.gather(
            *(consume(stubs[i % CHANNELS].StreamGenerate(request)) for i in range(count))), 300)
    for code, tokens in results:
        books.saw("StreamGenerate", code)
        if code != grpc.StatusCode.OK or tokens != alone:
            problems.append(f"a stream ended with {code} and {len(tokens)} tokens, or other ones")
    if server.metrics()["tessera_num_preemptions_total"] == before:
        problems.append("nothing was preempted: this tests nothing")
    return problems


async def one_alone(server, request):
    async with Clients(server, 1) as stubs:
        return await consume(stubs[0].StreamGenerate(request))


async def time_to_first(stub, request):
    """(seconds until the first message, seconds in all, status)."""
    begun, first = time.monotonic(), None
    try:
        async for _ in stub.StreamGenerate(request):
            first = first or time.monotonic() - begun
        return first, time.monotonic() - begun, grpc.StatusCode.OK
    except grpc.aio.AioRpcError as error:
        return first, time.monotonic() - begun, error.code()


async def starvation(server, books, count, rng):
    """Short prompts of a flood wait at most 3 times longer when long ones come too, and long ones end
    within 4 times of what they take alone."""
    prompts = {"short": long_request(4), "long": long_request(4, LONG_PROMPT)}
    seconds = collections.defaultdict(list)
    problems = []

    async def one(stub, kind, name):
        request = type(prompts[kind]).FromString(prompts[kind].SerializeToString())
        request.cache.salt = f"s{rng.getrandbits(60)}"  # not from the prefix cache
        first, whole, code = await time_to_first(stub, request)
        books.saw("StreamGenerate", code)
        if code != grpc.StatusCode.OK:
            problems.append(f"{name}: {code}")
        seconds[name].append(whole if kind == "long" else first)

    async def flood(stubs, name, until):
        async def client(stub):
            while not until.done():
                await one(stub, "short", name)
        await asyncio.gather(until, *(client(stub) for stub in stubs[:8]))

    async def longs(stub, name, number):
        for _ in range(number):
            await one(stub, "long", name)

    async with Clients(server) as stubs:
        await longs(stubs[9], "long alone", 5)
        await flood(stubs, "short alone", asyncio.ensure_future(asyncio.sleep(count / 10)))
        await flood(stubs, "short", asyncio.ensure_future(longs(stubs[9], "long", count // 4)))
    if problems:
        return problems
    for name, share, most in (("short", 0.99, 3), ("long", 0.5, 4)):
        alone = percentile(seconds[f"{name} alone"], share)
        beside = percentile(seconds[name], share)
        print(f"  {name}: {alone * 1e3:.1f} ms alone, {beside * 1e3:.1f} ms beside the others, "
              f"{beside / alone:.1f} x (limit {most})", flush=True)
        if beside > most * alone:
            problems.append(f"{name} prompts took {beside / alone:.1f} times as long as alone")
    return problems


async def readers(server, books, count, rng):
    """64 that never read and 64 at a token per second cost the others little."""
    gaps = {"alone": [], "beside": []}
    problems = []

    async def normal(stub, name):
        last = None
        try:
            async for _ in stub.StreamGenerate(long_request(64)):
                now = time.monotonic()
                if last is not None:
                    gaps[name].append(now - last)
                last = now
            books.saw("StreamGenerate", grpc.StatusCode.OK)
        except grpc.aio.AioRpcError as error:
            books.saw("StreamGenerate", error.code())
            problems.append(f"a normal stream ended with {error.code()}")

    async def slow(call):
        try:
            async for _ in call:
                await asyncio.sleep(1)
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass

    request = long_request(400)
    async with Clients(server, options=STALLING) as lazy_stubs, Clients(server) as stubs:
        await asyncio.gather(*(normal(stubs[i % CHANNELS], "alone") for i in range(32)))
        calls = [lazy_stubs[i % CHANNELS].StreamGenerate(request) for i in range(2 * count)]
        slow_ones = [asyncio.create_task(slow(call)) for call in calls[:count]]
        made = server.metrics()["tessera_generation_tokens_total"] + 2 * count * 400
        while server.metrics()["tessera_generation_tokens_total"] < made:
            await asyncio.sleep(0.05)  # what follows is about their reading alone
        await asyncio.gather(*(normal(stubs[i % CHANNELS], "beside") for i in range(32)))
        buffered = server.metrics()["tessera_stream_buffer_bytes"]
        if buffered > 2 * count * (256 << 10):
            problems.append(f"{buffered} bytes are buffered for {2 * count} clients")
        for call in calls:
            call.cancel()
            books.saw("StreamGenerate", grpc.StatusCode.CANCELLED)
        await asyncio.gather(*slow_ones)
    alone, beside = percentile(gaps["alone"], 0.99), percentile(gaps["beside"], 0.99)
    print(f"  gap between messages, p99: {alone * 1e3:.1f} ms alone, {beside * 1e3:.1f} ms beside "
          f"{2 * count} that do not read, {beside / alone:.2f} x (limit 1.1; median "
          f"{statistics.median(gaps['beside']) / statistics.median(gaps['alone']):.2f} x)", flush=True)
    if beside > 1.1 * alone + 0.01:
        problems.append(f"the gap between messages grew {beside / alone:.2f} times")
    return problems


CAMPAIGNS = {
    "thrash": (thrash, 64, [], True),
    "starvation": (starvation, 40, [], True),
    "readers": (readers, 64, ["--max-num-seqs", "160"], False),
}
