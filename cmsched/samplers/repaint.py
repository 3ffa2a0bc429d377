"""RePaint: inpainting by going back and forth."""

from collections import Counter

from .formulas import ancestral, forward_kernel
from .registry import register
from .requests import Evaluate


@register(
    "repaint",
    paper="arXiv:2201.09865, algorithm 1, with the step of DDIM",
    stochastic=True,
    given=("image", "mask"),
    variants=(
        {"jump_length": 2, "jump_n_sample": 2},
        {"jump_length": 3, "jump_n_sample": 3, "eta": 0.5},
    ),
)
def repaint(x, grid, noise, *, image, mask, eta=0.0, jump_length=10, jump_n_sample=10, late=0.0):
    """DDIM inside the mask's 0, the given image with noise inside its 1; then up again.

    From every jump_length-th point the sample is noised up by jump_length steps and comes down
    again, jump_n_sample - 1 times. The noise of a jump is that between levels `late` in model time
    (the reference goes up by the betas of one step later).
    """
    points, left, done = grid.points, len(grid), Counter()
    while left:
        left -= 1
        grid.step = len(grid) - 1 - left
        a, b = points[grid.step], points[grid.step + 1]
        x, x0, eps = yield Evaluate(x, a, eps=True)
        down, up = ancestral(a, b, eta)
        unknown = b.alpha * x0 + down * eps
        known = b.alpha * image
        if b.sigma > 0:
            z = noise()
            known = known + b.sigma * z
            unknown = unknown + up * z if up > 0 else unknown
        x = mask * known + (1 - mask) * unknown
        jumps = left % jump_length == 0 and left < len(grid) - jump_length
        if jumps and done[left] < jump_n_sample - 1:
            done[left] += 1
            left += jump_length
            to = points[len(grid) - left]
            if late:
                b, to = grid.at(t=b.t + late) if b.sigma > 0 else b, grid.at(t=to.t + late)
            part, std = forward_kernel(b, to)
            x = part * x + std * noise()
    return x
