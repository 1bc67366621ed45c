"""The database: tables, transactions, and plain functions over rows."""
