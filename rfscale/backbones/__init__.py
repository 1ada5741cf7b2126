"""Networks, one folder each: what a user writes, what it costs, and the network itself."""
