"""Where private keys live, and the only way to use one."""
