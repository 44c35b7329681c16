"""GFlowNet training beside other methods: which runs, in which order, and the pages they make.

Every number on a page is read from a run's summary. Knows no Ray: a cell of the table is a job of
its own process.
"""
