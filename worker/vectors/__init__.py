"""Where collections' vectors lie, and how they are searched. Knows numpy and the index libraries; no job, no model."""
