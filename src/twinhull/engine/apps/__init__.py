"""Applications on one engine: what is wanted, revision by revision, and the loop that makes it so."""
