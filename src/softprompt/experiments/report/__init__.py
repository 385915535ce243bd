"""The report of a comparison: from files of outcomes to words, tables and pictures."""
