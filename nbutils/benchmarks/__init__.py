"""How fast the networks run and how much memory they take, on a GPU or on this processor."""
