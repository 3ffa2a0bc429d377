"""The samplers: loops over a grid, written as their papers print them, and the registry of them.

A sampler is a generator `loop(x, grid, noise, **options)`. It yields where it wants the network
evaluated and gets back the array that stands there and the network's clean-sample estimate:

    x, x0      = yield x, a                       evaluate at point a
    x, x0, eps = yield Evaluate(x, a, eps=True)   the noise estimate as well, before x0 was clipped
    x          = yield Store(x)                   store this as one array (it changes no result)
    size       = yield Rms(x)                     its root mean square (only if traced=False)
    yield Trial(...)                              a step that was tried (only if traced=False)
    z          = noise(a, b)                      Brownian increment from a to b, as a unit normal
    z          = noise()                          an independent unit normal

and returns the final sample. It may use only +, -, * and / by numbers on arrays (unless it is not
traced); whatever depends on the step is decided on the host. Loops are in native (alpha, sigma)
form, so they hold in every frame, and a deterministic one walks up from data to noise as well,
between finite levels above 0.

The families, one file each:

    first_order   Euler, DDIM, DDPM, consistency models, LCM, TCD, SDE solvers
    multistep     DPM-Solver and DPM-Solver++ multistep (2M, 3M) and their SDEs
    runge_kutta   Heun, DPM2, DPM++ 2S and SDE, singlestep DPM-Solver and DPM-Solver++
    adams         LMS, iPNDM, DEIS, PNDM, PLMS
    unipc         UniPC; `unic` is its corrector, for every deterministic sampler
    adaptive      DPM fast and DPM adaptive, which choose their own steps
    repaint       RePaint
"""

from . import adams, adaptive, first_order, multistep, repaint, runge_kutta, unipc  # noqa: F401
from .registry import REGISTRY, Loop, Sampler, get, register
from .requests import Evaluate, Rms, Store, Trial

__all__ = [
    "REGISTRY",
    "Evaluate",
    "Loop",
    "Rms",
    "Sampler",
    "Store",
    "Trial",
    "get",
    "register",
]
