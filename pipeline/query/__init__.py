"""SQL over the results of bulk runs: which runs, their tables as views, and the forms of a result."""
