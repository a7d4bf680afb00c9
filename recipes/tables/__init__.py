"""The paper's tables: rows as TOML, and what trains, tests and reports them."""
