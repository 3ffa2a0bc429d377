"""Paddle, which has some functions as methods, or under another name than the array API."""

import paddle

from cmsched.backends.adapted import AdaptedBackend

BACKEND = AdaptedBackend(
    "paddle",
    paddle.Tensor,
    paddle,
    astype=paddle.cast,
    expand_dims=paddle.unsqueeze,
    permute_dims=paddle.transpose,
    std=lambda x, axis, keepdims: paddle.std(x, axis, unbiased=False, keepdim=keepdims),
    take=lambda x, indices, axis=0: paddle.index_select(x, indices, axis),
)
