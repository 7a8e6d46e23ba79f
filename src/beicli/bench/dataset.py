"""The texts a benchmark sends: the bundled ones, or a file's."""

from beicli.datasets import BUNDLED_NAME, Dataset, bundled_dataset, read_dataset

__all__ = ["BUNDLED_NAME", "Dataset", "bundled_dataset", "read_dataset"]
