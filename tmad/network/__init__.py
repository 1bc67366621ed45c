"""Who may join the network: RADIUS clients, policies, the live decision, sessions."""
