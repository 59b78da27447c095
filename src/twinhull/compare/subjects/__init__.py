"""What is measured: the hulls of Twinhull, and other engines beside them."""
