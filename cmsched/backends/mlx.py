"""MLX, whose namespace is the array API's but for devices, which its arrays do not have."""

import mlx.core as mx

from cmsched.backends.base import Backend


class MlxBackend(Backend):
    """MLX."""

    def owns(self, cls: type) -> bool:
        """Tell whether arrays of this type belong to MLX."""
        return issubclass(cls, mx.array)


BACKEND = MlxBackend("mlx.core", "mlx")
