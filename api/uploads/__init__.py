"""Pictures and archives that are sent to the API: looked at before they are stored."""
