"""From a request to an accepted job, and from the job to an answer."""
