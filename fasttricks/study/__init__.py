"""The instrument: declared studies, their runs, what the records say, and limits of speed."""
