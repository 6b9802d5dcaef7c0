"""One job under way: its context, its progress, and what stops or retries it."""
