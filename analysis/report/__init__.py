"""Results -> figures -> one page. The only writer of figures."""
