"""How many requests does a server finish that keeps one batch running?

A worked example, to be copied: an asyncio server with continuous batching over one PyTorch model.
Requests come at random times, with their own plans and seeds. The server steps all the requests it
has as one batch. Between any two steps it admits those that wait, as new rows, and answers those
that are over, whose rows go. A plan that the stack has not yet makes a new stack, of the plans in
use: the table never grows. Each row has portable noise of its own, so that its result does not
depend on who else was there: it is compared with the request's separate run.

It is raced against a server with one loop per request, which takes the same requests, at the same
times, one after the other (as many at once as it has threads). With `--free n`, that many requests
of free step counts and strengths are served once, and what grew is printed.
"""

import asyncio
import math
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from timing import agree, header, options, race, ratio, report, table

import cmsched
from cmsched import Rng

SHAPE = (4, 8, 8)  # of a sample
STEPS = (10, 20, 30)  # that a request asks for
MOST_STEPS = 30
TOLERANCE = 1e-4  # of results: a convolution of a batch is rounded in another order


@dataclass(frozen=True)
class Request:
    """What a client asks for, and when."""

    steps: int
    seed: int
    arrival: float  # seconds after the first could have come
    strength: float = 1.0  # a part of the way: the start is noise all the same, to keep it short

    @property
    def noise(self) -> torch.Tensor:
        """The start noise, a batch of one."""
        return Rng(self.seed).normal((1, *SHAPE), xp="torch")


class Network(torch.nn.Module):
    """A small convolutional network that is told the time, in place of a real one."""

    def __init__(self, width: int = 32) -> None:
        """Make layers with random weights."""
        super().__init__()
        self.time = torch.nn.Linear(1, width)
        self.first = torch.nn.Conv2d(SHAPE[0], width, 3, padding=1)
        self.middle = torch.nn.ModuleList(
            torch.nn.Conv2d(width, width, 3, padding=1) for _ in range(4)
        )
        self.last = torch.nn.Conv2d(width, SHAPE[0], 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return the output at times of shape () or (batch,)."""
        h = self.first(x) + self.time(t.reshape(-1, 1) / 1000)[:, :, None, None]
        for layer in self.middle:
            h = h + layer(torch.nn.functional.silu(h))
        return self.last(h)


class Server(Protocol):
    """What answers requests."""

    async def submit(self, request: Request) -> torch.Tensor:
        """Return the sample that was asked for."""

    async def run(self) -> None:
        """Work until cancelled."""


# the server


@dataclass
class Row:
    """A row of the batch: whose it is, and how many steps are left."""

    request: Request
    plan: cmsched.Plan
    answer: asyncio.Future[torch.Tensor]
    left: int


class Batching:
    """One batch, whose rows come and go between its steps."""

    def __init__(self, model: Network, scheduler: Any, most: int) -> None:
        """Take the most rows there may be at once."""
        self.model, self.scheduler, self.most = model, scheduler, most
        self.capacity = most * (MOST_STEPS + 1)  # columns: each row may have a plan of its own
        self.stack = cmsched.stack([scheduler.plan(MOST_STEPS)], self.capacity)
        self.state = cmsched.init(self.stack, torch.empty(0, *SHAPE), which=[])
        with torch.inference_mode():
            cmsched.warm(self.stack, torch.empty(1, *SHAPE))
        self.rows: list[Row] = []
        self.waiting: asyncio.Queue[Row] = asyncio.Queue()

    async def submit(self, request: Request) -> torch.Tensor:
        """Return the sample that was asked for."""
        if request.steps > MOST_STEPS:
            raise ValueError(f"steps={request.steps} is not offered: at most {MOST_STEPS}")
        plan = self.scheduler.plan(request.steps, strength=request.strength)
        answer = asyncio.get_running_loop().create_future()
        self.waiting.put_nowait(Row(request, plan, answer, len(plan)))
        return await answer

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            new = [] if self.rows else [await self.waiting.get()]
            while len(self.rows) + len(new) < self.most and not self.waiting.empty():
                new.append(self.waiting.get_nowait())
            for row, sample in self.turn(new):
                if not row.answer.done():  # somebody may have given up
                    row.answer.set_result(sample)
            await asyncio.sleep(0)  # what came during the step is heard now

    @torch.inference_mode()
    def turn(self, new: Sequence[Row]) -> list[tuple[Row, torch.Tensor]]:
        """Admit new rows, take one step of all, and return those that are over."""
        self.rows += new
        if not {row.plan for row in new} <= set(self.stack.plans):
            old, plans = self.stack, dict.fromkeys(row.plan for row in self.rows)
            self.stack = cmsched.stack([*plans], self.capacity, pad=True)
            self.state = cmsched.move(self.state, old, self.stack)
        state = self.state
        if new:
            noise = torch.cat([row.request.noise for row in new])
            which = [self.stack.plans.index(row.plan) for row in new]
            state = cmsched.join([state, cmsched.init(self.stack, noise, which=which)])

        output = self.model(*cmsched.model_input(self.stack, state))
        rng = [Rng(row.request.seed) for row in self.rows]
        state = cmsched.step(self.stack, state, output, rng=rng)
        for row in self.rows:
            row.left -= 1

        last = [k for k, row in enumerate(self.rows) if not row.left]
        over = [(self.rows[k], state.sample[k : k + 1].clone()) for k in last]
        going = [row.left > 0 and not row.answer.done() for row in self.rows]
        if not all(going):
            state, self.rows = cmsched.take(state, going, self.rows)
        self.state = state
        return over


# what it is compared with


class Separate:
    """One loop per request."""

    def __init__(self, model: Network, scheduler: Any, threads: int) -> None:
        """Take how many loops may run at once."""
        self.model, self.scheduler = model, scheduler
        self.pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    async def submit(self, request: Request) -> torch.Tensor:
        """Return the sample that was asked for."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, self.loop, request)

    async def run(self) -> None:
        """Work until cancelled: the pool does."""

    @torch.inference_mode()
    def loop(self, request: Request) -> torch.Tensor:
        """Run the whole loop of a request."""
        plan = self.scheduler.plan(request.steps, strength=request.strength)
        return cmsched.sample(self.model, plan, request.noise, rng=Rng(request.seed))


@dataclass(frozen=True)
class Served:
    """What became of the requests: their samples, and the seconds each took from its arrival."""

    samples: list[torch.Tensor]
    latencies: list[float]


async def serve(server: Server, requests: Sequence[Request]) -> Served:
    """Send every request when its time has come, and wait for all."""
    start = time.perf_counter()

    async def send(request: Request) -> tuple[torch.Tensor, float]:
        await asyncio.sleep(start + request.arrival - time.perf_counter())
        sample = await server.submit(request)
        return sample, time.perf_counter() - start - request.arrival

    async with asyncio.TaskGroup() as group:
        working = group.create_task(server.run())
        answers = await asyncio.gather(*map(send, requests))
        working.cancel()
    samples, latencies = map(list, zip(*answers, strict=True))
    return Served(samples, latencies)


def drawn(count: int, rate: float) -> list[Request]:
    """Return requests that come independently of each other, so many a second."""
    random = np.random.default_rng(0)
    arrivals = np.cumsum(random.exponential(1 / rate, count)).tolist()
    steps = random.choice(STEPS, count).tolist()
    return [Request(n, seed, at) for seed, (n, at) in enumerate(zip(steps, arrivals, strict=True))]


def serve_free(model: Network, scheduler: Any, count: int, most: int) -> str:
    """Serve requests of free step counts and strengths, and say what grew."""
    random = np.random.default_rng(1)
    requests = [
        Request(int(random.integers(4, MOST_STEPS + 1)), seed, 0.0, float(random.uniform(0.5, 1)))
        for seed in range(count)
    ]
    server = Batching(model, scheduler, most)
    layouts, memory = set(), []
    begin = time.perf_counter()
    for first in range(0, count, 500):
        served = asyncio.run(serve(server, requests[first : first + 500]))
        layouts.add(tuple(server.stack.on(server.state.sample).numbers.shape))
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        server.waiting = asyncio.Queue()  # of the next event loop
    rate = count / (time.perf_counter() - begin)
    alone = Separate(model, scheduler, 1)
    pairs = [(r, x) for r, x in zip(requests[first:], served.samples, strict=True)][:20]
    off = max(agree({"alone": alone.loop(r), "served": x}, TOLERANCE) for r, x in pairs)
    grown = memory[-1] - memory[min(1, len(memory) - 1)]
    return (
        f"{count} requests of 4 to {MOST_STEPS} steps and any strength from 0.5 to 1, {rate:.0f} a"
        f" second: tables of the shapes {sorted(layouts)}, and {grown:.1f} MB more than after the"
        f" first thousand; the last equal their separate runs to {off:.1g}."
    )


def seconds_alone(separate: Separate) -> float:
    """Return how long a request takes that is alone, on average."""
    loops = {
        str(n): lambda n=n: separate.loop(Request(n, 0, 0.0))  # type: ignore[misc]
        for n in STEPS
    }
    return statistics.mean(found.median for found in race(loops, rounds=5).values())


def main() -> None:
    """Race and print."""
    given = options(
        __doc__,
        free={"type": int, "default": 0, "help": "requests of free plans to serve (0)"},
        most={"type": int, "default": 16, "help": "rows of the batch at once (16)"},
        load={
            "type": float,
            "default": 8.0,
            "help": "requests that come while one, alone, is answered (8)",
        },
    )
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    model = Network().eval()
    scheduler = cmsched.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    free = serve_free(model, scheduler, given.free, given.most) if given.free else ""
    separate = Separate(model, scheduler, given.threads)
    rate = given.load / seconds_alone(separate)
    requests = drawn(60 if given.short else 120, rate)

    servers: dict[str, Callable[[], Server]] = {
        "one batch": lambda: Batching(model, scheduler, given.most),
        "one loop each": lambda: separate,
    }
    runs: dict[str, list[Served]] = {name: [] for name in servers}

    def contestant(name: str) -> Callable[[], None]:
        return lambda: runs[name].append(asyncio.run(serve(servers[name](), requests)))

    times = race(
        {name: contestant(name) for name in servers}, rounds=given.rounds, calls=len(requests)
    )
    off = max(
        agree({"one loop each": alone, "one batch": row}, TOLERANCE)
        for served in runs["one batch"]
        for alone, row in zip(runs["one loop each"][0].samples, served.samples, strict=True)
    )

    rows, records = [], []
    for name, time_each in times.items():
        # the first two warm up
        latencies = sorted(t for served in runs[name][2:] for t in served.latencies)
        late = latencies[math.ceil(0.95 * len(latencies)) - 1]
        found = [1 / time_each.median, 1e3 * statistics.median(latencies), 1e3 * late]
        rows.append([name, *found])
        records.append(dict(zip(("server", "requests/s", "median ms", "95 % ms"), rows[-1])))  # noqa: B905
    value, (low, high) = ratio(times, "one loop each", "one batch")
    titles = ["", "requests a second", "median latency, ms", "95 % of latencies below, ms"]
    text = (
        f"{len(requests)} requests of {STEPS[0]}, {STEPS[1]} or {STEPS[2]} steps, {rate:.0f} a"
        f" second on average; at most {given.most} rows at once.\n\n{table(rows, titles)}\n\nOne"
        f" batch answers {value:.2f} ({low:.2f} to {high:.2f}) times as many requests a second."
        f" Every result equals that of its separate run to {off:.1g} of its scale.\n\n{free}"
    )
    about = header("torch", "numpy", threads=given.threads)
    record = {"servers": records, "ratio": value, "interval": [low, high], "off": off}
    report("serving", about, text, record, given.keep)


if __name__ == "__main__":
    main()
