"""Which framework an array belongs to, and the few operations worth writing natively for each."""

from cmsched.backends.base import A, Array, Backend
from cmsched.backends.registry import from_device, named, pytree, register, resolve

__all__ = ["A", "Array", "Backend", "from_device", "named", "pytree", "register", "resolve"]
