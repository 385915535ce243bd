"""From the columns of a source to the rows of a task, one reader for each kind of task."""
