"""What commands show: rows, pictures, sheets."""
