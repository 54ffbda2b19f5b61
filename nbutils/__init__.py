"""From brain responses on disk to the images and captions decoded from them."""

from importlib.metadata import PackageNotFoundError, version

from nbutils.parameters import ParameterError
from nbutils.study import Study
from nbutils.world import World, find_world

try:
    __version__ = version("nbutils")
except PackageNotFoundError:  # a checkout on sys.path that was never installed
    __version__ = "0+unknown"

__all__ = ["ParameterError", "Study", "World", "find_world", "__version__"]
