"""From the records of runs to statistics, tables, figures and a page; reads files and nothing else."""
