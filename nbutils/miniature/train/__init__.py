"""The recipe of the shipped weights: ``python -m nbutils.miniature.train --help``."""
