"""Raw files in, clean and split event tables out."""

from ouzel.data.dataset import Dataset
from ouzel.data.read import from_arrow, read
from ouzel.data.report import Problem, ReadReport

__all__ = ["Dataset", "Problem", "ReadReport", "from_arrow", "read"]
