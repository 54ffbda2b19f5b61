"""Published decoding systems: from predicted features to images and captions."""
