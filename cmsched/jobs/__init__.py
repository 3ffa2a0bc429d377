"""Big jobs: any number of samples, in a store that any number of workers fill.

    from cmsched import jobs

    def build(place):  # once a worker
        return jobs.Sampler(plan, model, shape=(4, 64, 64))

    store = jobs.open("run.zarr", number=50_000, chunk=256, build=build)
    jobs.run(store, build, engine="processes", workers=2)  # the same call goes on where it was

A sample is a function of its number, so a job has the same samples however it is cut among workers.
"""

from .engines import ENGINES, Report, Stage, rank_and_world, run
from .export import FORMATS, export
from .manifest import Manifest
from .sampler import Sampler
from .score import Score, score
from .store import Conflict, Receipt, Store
from .worker import Place, again, work
from .worker import open_store as open

__all__ = [
    "ENGINES",
    "FORMATS",
    "Conflict",
    "Manifest",
    "Place",
    "Receipt",
    "Report",
    "Sampler",
    "Score",
    "Stage",
    "Store",
    "again",
    "export",
    "open",
    "rank_and_world",
    "run",
    "score",
    "work",
]
