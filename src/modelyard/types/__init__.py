"""The vocabulary every layer shares: plain values, standard library only, no behaviour beyond parsing a name."""
