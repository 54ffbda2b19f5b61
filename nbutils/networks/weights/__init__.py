"""The published weights: what there is, where it lies, how to get it and whether it is whole."""
