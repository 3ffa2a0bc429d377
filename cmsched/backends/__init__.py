"""Which framework an array belongs to, and the few operations worth writing natively for each."""

from cmsched.backends.base import Array, Backend
from cmsched.backends.registry import from_device, named, pytree, register, resolve

__all__ = ["Array", "Backend", "from_device", "named", "pytree", "register", "resolve"]
